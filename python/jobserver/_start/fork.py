"""Start method fork: the job is a copy of its owner and sees all of the owner's memory.

The job's function and arguments are not pickled, so closures, lambdas and open objects work. The
cost grows with the owner's memory. A lock that another thread holds at the fork is never released
in the job; for an owner with threads, forkserver is the better method.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from .. import _job, _main, _native, _wording
from . import launch
from ._starter import HiringStarter, Starter
from .loading import JobLoader

if TYPE_CHECKING:
    from .._future import Future
    from .._options import Options
    from ._starter import First


class Fork(Starter):
    """Starts a new process for each job."""

    sends = False
    copies = True

    def __init__(self, options: Options, identity: _job.Identity | None = None) -> None:
        super().__init__(options)
        self.identity = identity or _job.Identity("fork", _unread_stdin())

    def renewed(self, is_job: bool) -> Fork:
        identity = self.identity.renewed(_unread_stdin(is_job)) if is_job else None
        made = Fork(self._options, identity)
        if self._tracker is not None and self._tracker.is_within_reach():
            made._tracker = self._tracker
        return made

    def start(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: _native.Work,
    ) -> int:
        state = owner.admit(admission)
        if state:
            return state
        self.identity.process.number += 1
        _main.remember_start()
        if self._tracker is None:
            self.share_tracker()
        sys.audit("os.fork")
        if sys.version_info >= (3, 12):
            _warn_of_threads()
        initializer = self._options.initializer
        return owner.fork(future, admission, self.identity.setup, packed, initializer)


class ForkedWorkers(HiringStarter):
    """Workers that run several jobs one after the other; their jobs are sent as messages. A job
    that cannot be pickled has a new process, to which nothing must be sent."""

    copies = True

    def __init__(self, options: Options, fresh: Fork | None = None) -> None:
        super().__init__(options)
        self._fresh = fresh or Fork(options)
        #: How many names the main module had at the last submission, and those that it defined.
        self._names = 0
        self._defined: frozenset[str] = frozenset()

    def renewed(self, is_job: bool) -> ForkedWorkers:
        return ForkedWorkers(self._options, self._fresh.renewed(is_job))

    def pack(self, work: _native.Work) -> Any:
        process = self._fresh.identity.process
        _main.remember_start()
        with contextlib.suppress(pickle.PicklingError):
            packed = launch.dump(f"Job-{process.number + 1}", work, self, explains=False)
            process.number += 1
            return packed
        return work

    def check(self, work: _native.Work) -> None:
        pass  # a job that cannot be pickled has a new process

    def start(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: Any,
    ) -> int:
        if isinstance(packed, _native.Work):
            return self._fresh.start(owner, future, admission, packed)
        self._dismiss_older(owner)
        return super().start(owner, future, admission, packed)

    def _dismiss_older(self, owner: _native.Owner) -> None:
        """Dismisses the workers if the main module has defined functions since, which these would
        not find."""
        names = _main.count()
        if names == self._names:
            return
        self._names = names
        defined = _main.defined()
        if defined != self._defined:
            self._defined = defined
            owner.dismiss_idle()

    def start_at_once(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: Any,
    ) -> bool:
        if isinstance(packed, _native.Work):
            return False
        self._dismiss_older(owner)
        return super().start_at_once(owner, future, admission, packed)

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        assert first is None  # a new process for one job is forked with that job
        self.share_tracker()
        sys.audit("os.fork")
        _warn_of_threads()
        tasks, initializer = self._options.max_tasks, self._options.initializer
        load_initializer = None if initializer is None else lambda: initializer
        loader = JobLoader(owner.pool, self._fresh.identity, tasks, load_initializer)
        owner.fork_worker(self._fresh.identity.setup, loader)
        return 0

    def stop(self) -> None:
        self._fresh.stop()
        super().stop()


def _warn_of_threads() -> None:
    """From CPython 3.12 on, `os.fork` warns if there are threads; this package does too."""
    # `threading.active_count` is not used: if a signal handler raises in it, its lock can stay
    # locked, and then no thread can start any more.
    known: Any = threading
    if sys.version_info >= (3, 12) and len(known._active) + len(known._limbo) > 1:
        warnings.warn(
            f"this process (pid {os.getpid()}) has threads: a job forked from it may "
            'deadlock; Jobserver(context="forkserver") is safe',
            DeprecationWarning,
            skip_file_prefixes=(_wording.PACKAGE,),
        )


#: The last stdin that was made.
_stdin: Any = None


def _unread_stdin(is_job: bool = False) -> Any:
    """A file object on descriptor 0 that has read nothing yet, as stdin for jobs. In a job,
    descriptor 0 is the null device, because two readers of one input would get half each. None if
    there is no stdin."""
    global _stdin
    if sys.stdin is None:
        return None
    # A job has inherited this object from its owner; it refers to the null device, so it is empty.
    if not (is_job and _native.reads_nothing() and _is_open(_stdin)):
        _stdin = None
        with contextlib.suppress(OSError):
            _stdin = open(0, closefd=False)
    return _stdin


def _is_open(file: Any) -> bool:
    try:
        return file is not None and not file.closed
    except ValueError:
        return False  # the job has detached its buffer
