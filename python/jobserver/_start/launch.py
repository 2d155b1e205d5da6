"""The launch: what tells a process, for each job, what to run.

First stand the changes to the environment; then, loaded only when those have been applied, the
rest, so that importing the function's module sees it all. Not here: how a process is introduced
(`introduction.py`), and how it loads a launch (`loading.py`).
"""

from __future__ import annotations

import pickle
from typing import Tuple

from .. import _native
from .._wire import pickling
from .._wire.segments import Payload

#: What launches a job, and the descriptors that go with it.
Launch = Tuple[Payload, _native.Descriptors]

#: What mostly are the changes to a job's environment, as it is pickled.
UNCHANGED = pickle.dumps(None, pickle.HIGHEST_PROTOCOL)

NO_DESCRIPTORS = _native.Descriptors()


def dump(name: str, work: _native.Work, forked: bool = False) -> Launch:
    """The message that launches a job, and what goes with it; in a process that is `forked` from
    this one, or in another."""
    fn, args, kwargs = work.function, work.args, work.kwargs
    if not (work.env or work.preexec_fn or kwargs) and pickling.are_simple(fn, args):
        message = pickling.dump_simply((name, work.time_limit, None, fn, args, None))
        if message is not None:
            return UNCHANGED + message, NO_DESCRIPTORS
    args, kwargs = pickling.arguments_apart(args, kwargs)
    # A plain tuple, for which no class has to be looked up in each job.
    rest = (name, work.time_limit, work.preexec_fn, fn, args, kwargs)
    return pickling.dump_launch(work.env, rest, forked=forked)
