"""Start method fork: the job is a copy of its owner and sees all of the owner's memory.

Nothing is pickled on the way to the job, so closures, lambdas and open objects work.
Costs grow with the owner's memory, and a lock that another thread holds at that moment is
never released in the job; for an owner with threads, forkserver is the better method.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from .. import _job, _native
from .. import _multiprocessing as mp
from .._work import Work
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future


class Fork(Starter):
    def __init__(self) -> None:
        self._count = 0
        self.after_fork()

    def after_fork(self) -> None:
        self._identity = _job.Identity("fork")
        self._stdin = _job.Stdin()

    def prepare(self, work: Work) -> Work:
        return work

    def start(
        self, jobs: _native.Jobs, future: Future[Any], slot: _native.Slot | None, prepared: Work
    ) -> None:
        self._count += 1
        sys.audit("os.fork")
        mp.util._flush_std_streams()
        channel = jobs.fork(future, slot)
        if channel is not None:
            self._run(channel, prepared)
        elif sys.version_info >= (3, 12) and threading.active_count() > 1:
            warnings.warn(
                f"this process (pid {os.getpid()}) has threads: a job forked from it may "
                'deadlock; Jobserver(context="forkserver") is safe',
                DeprecationWarning,
                stacklevel=4,
            )

    def _run(self, channel: _native.Channel, work: Work) -> None:
        def load() -> Work:
            self._identity.assume(f"Job-{self._count}", channel)
            self._stdin.assume()
            _job.apply_environment(work.env)
            return work

        _job.run(channel, load)
