"""The Futures of an executor. A thread that waits for one waits for the job itself: so it need not
wait until the executor's thread has run. Not here: who starts the jobs (`runner.py`).

Each Future gets one outcome, which is decided once (`_read`). Usually the executor's thread then
gives it to CPython's part of the Future, which wakes waiters and runs callbacks. A thread in
:meth:`JobFuture.result` does so itself if there is nobody to wake and nothing to run, and tells the
executor's thread otherwise. It takes the job off the lists only afterwards: so an exception of a
signal handler, anywhere in between, leaves the rest to the executor's thread, and a shutdown, which
waits for the lists, returns when the Future is done.
"""

from __future__ import annotations

import threading
import time
import weakref
from concurrent import futures
from typing import TYPE_CHECKING, Any

from .. import _native
from .._future import Future, load
from .deaths import InitializerFailed, as_executors

if TYPE_CHECKING:
    from .runner import Runner

#: CPython's name of a state that its own functions compare with.
_FINISHED = "FINISHED"


class JobFuture(futures.Future):  # type: ignore[type-arg]
    """A Future of concurrent.futures that tells its runner when it is cancelled: those that wait
    for it must hear of that at once."""

    #: Whether it was cancelled, and those that wait for it know.
    told = False

    #: Its job, from its start until CPython's part has the outcome.
    job: Future[Any] | None = None

    #: What the job returned, or its error. (CPython's part may have it a moment later.)
    outcome: tuple[Any, BaseException | None] | None = None

    #: Whether the executor's thread gives the outcome to CPython's part.
    _is_claimed = False

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self._runner = weakref.ref(runner)
        #: Held while the outcome is read and decided, which may run code of the user. A thread may
        #: come back to it, by a signal handler.
        self._deciding = threading.RLock()

    # For users.

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        runner = self._runner()
        if runner is not None:
            runner.cancelled.append(self)
            runner.wake()
        return True

    def done(self) -> bool:
        return self.outcome is not None or super().done()

    def running(self) -> bool:
        return self.outcome is None and super().running()

    def result(self, timeout: float | None = None) -> Any:
        left = self._wait_for_job(timeout)
        if self.outcome is None:
            return super().result(left)
        value, error = self.outcome
        if error is None:
            return value
        try:
            raise error
        finally:
            del self, error  # otherwise its traceback would refer to it

    def exception(self, timeout: float | None = None) -> BaseException | None:
        left = self._wait_for_job(timeout)
        return super().exception(left) if self.outcome is None else self.outcome[1]

    def _wait_for_job(self, timeout: float | None) -> float | None:
        """Waits for the job in this thread, if it has started. Returns how long to wait for the
        executor's thread if there is no outcome then."""
        runner, job = self._runner(), self.job
        if runner is None or job is None or self.outcome is not None or not runner.may_wait(job):
            return timeout
        if timeout is None:
            runner.wait_for(job, None, self._take)
            return None
        begun = time.monotonic()
        runner.wait_for(job, timeout, self._take)
        return max(0.0, timeout - (time.monotonic() - begun))

    # In a thread that waits.

    def _take(self) -> bool:
        """After the job's end. Returns whether nothing is left to the executor's thread."""
        runner, job = self._runner(), self.job
        if job is None or runner is None:
            return True
        return _native.locked(self._deciding, self._finish, job) and runner.forget(job)

    def _finish(self, job: Future[Any]) -> bool:
        """Reads the outcome, and gives it to CPython's part if that wakes nobody and runs nothing.
        Returns whether it has."""
        if self._read(job) is not None or self._is_claimed:
            return False
        # (Not by `with`: a handler that raises in a Condition's `__enter__` leaves it locked.)
        return _native.locked(self._condition, self._set)

    def _set(self) -> bool:
        if self._waiters or self._done_callbacks or self.outcome is None:  # type: ignore[attr-defined]
            return False
        self._result, self._exception = self.outcome
        self._state = _FINISHED  # the last step, which makes them valid
        self._condition.notify_all()
        self.job = None
        return True

    def _read(self, job: Future[Any]) -> InitializerFailed | None:
        """Decides the outcome by what the job has sent, unless it is decided; or returns what
        breaks the executor."""
        if self.outcome is None:
            value, error = load(job)
            if isinstance(error, InitializerFailed):
                return error
            self.outcome = value, None if error is None else as_executors(error)
        return None

    # In the executor's thread.

    def read(self, job: Future[Any]) -> InitializerFailed | None:
        """Decides the outcome after the job's end. Returns an error that breaks the executor."""
        return _native.locked(self._deciding, self._read, job)

    def settle(self, error: BaseException | None = None) -> None:
        """Gives the outcome to CPython's part; if it is not decided, this error."""
        is_set = _native.locked(self._deciding, self._claim, error)
        self.job = None
        if is_set:
            with self._condition:
                self._condition.notify_all()  # in case the thread that set it was interrupted
            return
        assert self.outcome is not None
        value, error = self.outcome
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)

    def _claim(self, error: BaseException | None) -> bool:
        """Returns whether another thread has set it."""
        self._is_claimed = True
        if self.outcome is None:
            self.outcome = None, error
        return bool(self._state == _FINISHED)
