"""A nestable process pool: jobs may submit jobs, and all of them share one set of slots.

A :class:`Jobserver` is a handle of the pool. A submission runs a function in a separate process
and returns a :class:`Future`. The package starts no threads: it collects finished jobs, and calls
callbacks, inside the calls that the program makes.

    with Jobserver(slots=2) as js:
        futures = [js(pow, 2, n) for n in range(8)]
        print([f.result() for f in futures])

Ready-made gates for ``sleep_fn`` are in :mod:`jobserver.gates`.
"""

import sys
from typing import TYPE_CHECKING, Any

if "t" in sys.abiflags:
    raise ImportError(
        "jobserver needs the GIL, and this is a free-threaded build of CPython: use a standard one"
    )

from . import _namesake, _native
from ._arguments import StartMethod
from ._current import CurrentJob, current
from ._exceptions import Blocked, CallbackRaised, SubmissionDied, TimeLimitExceeded
from ._future import Future
from ._jobserver import Jobserver
from ._shared import Shared, share

if TYPE_CHECKING:
    from ._executor import JobserverExecutor

_namesake.warn_if_beside()

__version__ = _native.VERSION

__all__ = [
    "Blocked",
    "CallbackRaised",
    "CurrentJob",
    "Future",
    "Jobserver",
    "JobserverExecutor",
    "Shared",
    "StartMethod",
    "SubmissionDied",
    "TimeLimitExceeded",
    "current",
    "share",
]


def __getattr__(name: str) -> Any:
    # Imported at its first use, because it imports `concurrent.futures`, which no job needs.
    if name == "JobserverExecutor":
        from ._executor import JobserverExecutor

        return JobserverExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
