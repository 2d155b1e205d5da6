"""The launch: the message that starts a job in a worker.

The changes to the environment come first. The worker applies them before it loads the rest, so the
import of the function's module sees all changes. Not here: how a process is introduced
(`introduction.py`), and how it loads a launch (`loading.py`).
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Tuple

from .. import _native
from .._wire import pickling
from .._wire.segments import Payload

if TYPE_CHECKING:
    from ._starter import Starter

#: The message that launches a job, and the descriptors that are sent with it.
Launch = Tuple[Payload, _native.Descriptors]

#: The pickle of no changes to a job's environment, which is the usual case.
UNCHANGED = pickle.dumps(None, pickle.HIGHEST_PROTOCOL)

NO_DESCRIPTORS = _native.Descriptors()


def dump(
    name: str, work: _native.Work, starter: Starter | None = None, explains: bool = True
) -> Launch:
    """The message that launches a job of this starter, and its descriptors. `explains`: an error
    says what cannot be pickled."""
    fn, args, kwargs = work.function, work.args, work.kwargs
    if not (work.env or work.preexec_fn or kwargs) and pickling.are_simple(fn, args):
        call = (name, work.time_limit, None, fn, args, None)
        message = pickling.dump_simply(call, starter is not None and starter.copies)
        if message is not None:
            progress = work.progress
            sent = _native.Descriptors(progress) if progress else NO_DESCRIPTORS
            return UNCHANGED + message, sent
    args, kwargs = pickling.arguments_apart(args, kwargs)
    # A plain tuple: a job must look up no class for it.
    rest = (name, work.time_limit, work.preexec_fn, fn, args, kwargs)
    return pickling.dump_launch(
        work.env, rest, starter=starter, progress=work.progress, explains=explains
    )
