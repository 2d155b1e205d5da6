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

from .. import _job, _native, _pools
from .._work import Work
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future

#: From CPython 3.12 on, `os.fork` warns where there are threads; so do we.
_WARNS = sys.version_info >= (3, 12)


class Fork(Starter):
    def __init__(self) -> None:
        self._count = 0
        self._identity = _job.Identity("fork")
        self._stdin = _unread_stdin()

    def renewed(self) -> Fork:
        return Fork()

    def prepare(self, work: Work, home: str) -> Work:
        return work

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: Work,
    ) -> None:
        self._count += 1
        sys.audit("os.fork")
        _job.flush()  # or what is buffered would be printed twice
        if _WARNS and threading.active_count() > 1:
            warnings.warn(
                f"this process (pid {os.getpid()}) has threads: a job forked from it may "
                'deadlock; Jobserver(context="forkserver") is safe',
                DeprecationWarning,
                stacklevel=4,
            )
        owner = os.getpid()
        try:
            channel = jobs.fork(future, slot)
            if channel is not None:
                _job.run(channel, self._load, jobs, prepared)
        except BaseException:
            if os.getpid() != owner:
                os._exit(1)  # interrupted before or after its work: never on into the owner's
            raise

    def _load(self, channel: _native.Channel, jobs: _native.Jobs, work: Work) -> Work:
        """In the job: makes it one. Its work is there already."""
        self._identity.assume(f"Job-{self._count}", channel)
        if self._stdin is not None:
            # Two readers of one input would get half each.
            _native.nullify_stdin()
            sys.stdin = self._stdin
        _pools.run_in(jobs.pool)
        if work.env:
            _job.apply_environment(work.env)
        return work


def _unread_stdin() -> Any:
    """A file object on descriptor 0 that nobody has read from, for jobs to have as stdin;
    None where this process has no standard input."""
    if sys.stdin is None:
        return None
    with contextlib.suppress(OSError):
        return open(0, closefd=False)
    return None
