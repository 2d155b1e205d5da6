"""Start method fork: the job is a copy of its owner and sees all of the owner's memory.

Nothing is pickled on the way to the job, so closures, lambdas and open objects work.
Costs grow with the owner's memory, and a lock that another thread holds at that moment is
never released in the job; for an owner with threads, forkserver is the better method.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from .. import _job, _native
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future

#: From CPython 3.12 on, `os.fork` warns where there are threads; so do we.
_WARNS = sys.version_info >= (3, 12)


class Fork(Starter):
    def __init__(self) -> None:
        self._identity = _job.Identity("fork")
        self._setup = self._identity.setup(_unread_stdin())

    def renewed(self) -> Fork:
        return Fork()

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> _native.Work:
        return work

    def check(self, work: _native.Work, jobs: _native.Jobs) -> None:
        pass

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: _native.Work,
    ) -> None:
        self._identity.process.number += 1
        sys.audit("os.fork")
        if _WARNS and threading.active_count() > 1:
            warnings.warn(
                f"this process (pid {os.getpid()}) has threads: a job forked from it may "
                'deadlock; Jobserver(context="forkserver") is safe',
                DeprecationWarning,
                stacklevel=5,
            )
        jobs.fork(future, slot, self._setup, prepared)


def _unread_stdin() -> Any:
    """A file object on descriptor 0 that nobody has read from, for jobs to have as stdin,
    since two readers of one input would get half each; None where there is none."""
    if sys.stdin is None:
        return None
    with contextlib.suppress(OSError):
        return open(0, closefd=False)
    return None
