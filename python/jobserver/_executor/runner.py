"""The thread of an executor: it admits, starts and delivers the executor's jobs.

Users of :mod:`concurrent.futures` expect that `submit` returns at once, and that callbacks run
though nobody calls. So this thread makes the calls of the owner. It sleeps in the core until a job
has ended, a slot is free, or another thread wakes it; there are no wake-ups for nothing.

Other threads append to deques, and wake it if it would not look by itself. If nothing waits and a
worker is idle, `submit` starts the job in its own thread: that never waits, and saves the thread's
waking. They have no lock, so neither a fork nor a signal handler can find one locked.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
import time
from collections import deque
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Callable

from .. import _arguments, _job, _main, _native
from .._future import Future
from .._native import getpid
from .._submission import Submission, prepare
from .future import JobFuture

if TYPE_CHECKING:
    from .._jobserver import Jobserver

#: The runners whose threads run, in this process or in one that it was forked from.
_running: dict[Runner, None] = {}

#: Whether the interpreter ends: then no thread can be started.
_exiting = False

#: How threads are waited for at the interpreter's end: by a hook that runs before Python joins
#: them, which `concurrent.futures` uses too. Python 3.8 has none.
_at_exit = getattr(threading, "_register_atexit", None)

NO_MORE = "cannot schedule new futures after shutdown"
NO_MORE_AT_EXIT = "cannot schedule new futures after interpreter shutdown"


class _Item:
    """One submission. `packed` is what the starter has packed, once it is the next to start."""

    __slots__ = ("admission", "asleep", "future", "gate", "job", "packed", "work")

    def __init__(self, future: JobFuture, submission: Submission, consume: int) -> None:
        self.future = future
        self.job, self.gate = submission.future, submission.gate
        self.work: _native.Work | None = submission.work
        self.admission = _native.Admission(consume, False, None)
        self.packed: Any = None
        #: The time before which the gate is not called again.
        self.asleep = 0.0


class Runner:
    """The state of one executor in one process, and its thread."""

    def __init__(self, js: Jobserver, is_own: bool) -> None:
        """`is_own`: the Jobserver is the executor's own, and is closed at its end."""
        _main.remember_file()
        self.pid = getpid()
        self._js = js
        self._owner, self._defaults = js._owner, js._defaults
        self._is_own = is_own
        self.cancelled: deque[JobFuture] = deque()
        self._waiting: deque[_Item] = deque()
        #: Whether the thread sleeps, or is about to, and does not wait for slots anyway.
        self._listens = False
        self._running: dict[Future[Any], JobFuture] = {}
        self._finished: deque[Future[Any]] = deque()
        #: A job lends or yields its slot while it waits, and only the thread does that for it.
        self._is_job = _job.is_this_process()
        self.closing = False
        self.cancels = False
        #: The signal for all running jobs, at a forced shutdown.
        self._signal: int | None = None
        self.broken: BrokenProcessPool | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="JobserverExecutor")
        if _at_exit is None:
            self._thread.daemon = True  # exit functions run after Python has joined the others
        #: One object, which the first call takes that starts the thread.
        self._unstarted = [True]

    # In other threads.

    def submit(self, fn: Any, args: Any, kwargs: Any) -> JobFuture:
        submission = prepare(self._owner, self._defaults, fn, args, kwargs)
        _main.remember_start()
        consume = self._owner.slots_for(submission.future._consume)
        item = _Item(JobFuture(self), submission, consume)
        self._start()
        if self._start_at_once(item):
            return item.future
        self._waiting.append(item)
        if self._listens:
            self.wake()
        if self._ended:  # perhaps before it could see this submission
            with contextlib.suppress(ValueError):
                self._waiting.remove(item)
                self._refuse()
        return item.future

    def _start_at_once(self, item: _Item) -> bool:
        """Starts a submission if it need not wait for anything. Otherwise, returns False."""
        native, job = self._owner.native, item.job
        if self._waiting or item.gate is not None or native.runs_on_several or self.closing:
            return False
        starts = self._owner.starter.start_at_once
        try:
            if not native.admit_beside(item.admission):
                return False
            self._pack(item)
            job._watch(self._finished)
            item.future.set_running_or_notify_cancel()
            item.future.job = job
            self._running[job] = item.future
            if not self._ended and starts(native, job, item.admission, item.packed):
                return True
        except BaseException as e:
            if job.pid:
                raise  # a signal handler's, after the start
            self._withdraw(item)
            if not isinstance(e, Exception):
                raise
            item.future.set_exception(e)
            return True
        self._withdraw(item)
        return False

    def _withdraw(self, item: _Item) -> None:
        """No worker was idle: the thread is to start it, and nobody has seen its Future yet."""
        self._running.pop(item.job, None)
        self._owner.native.conclude(item.admission)
        item.admission = _native.Admission(item.admission.consume, False, None)
        item.future = JobFuture(self)

    def check_open(self) -> None:
        if self.closing or self.broken is not None:
            self._refuse()
        if _exiting:
            raise RuntimeError(NO_MORE_AT_EXIT)

    def _refuse(self) -> None:
        if self.broken is not None:
            raise BrokenProcessPool(*self.broken.args) from self.broken.__cause__
        raise RuntimeError(NO_MORE)

    def wake(self) -> None:
        if self.pid == getpid():
            self._owner.here().wake()

    def _start(self) -> None:
        if not self._unstarted:
            return
        with contextlib.suppress(IndexError):
            self._unstarted.pop()
            _running[self] = None
            try:
                self._thread.start()
            except BaseException:
                _running.pop(self, None)
                self._unstarted.append(True)
                raise

    def stop(self, cancel_futures: bool = False) -> None:
        """Has the thread end when all jobs have ended."""
        self.cancels = self.cancels or cancel_futures
        self.closing = True
        if self._unstarted:
            self._close()
        else:
            self.wake()

    def signal_all(self, number: int) -> None:
        """Cancels what waits, and sends a signal to all running jobs."""
        self._signal = number
        self.stop(cancel_futures=True)

    def may_wait(self, job: Future[Any]) -> bool:
        """Whether the calling thread may wait for a job by `wait_for`: it has started, and nobody
        relies on this thread, or on the wait of the executor's."""
        if self._is_job or self.pid != getpid() or not job.pid:
            return False
        return self._thread.ident != threading.get_ident()

    def wait_for(self, job: Future[Any], timeout: float | None, handle: Callable[[], bool]) -> None:
        """Waits for a job, and has its outcome handled in the calling thread. The executor's thread
        hears of it if `handle` returns False or raises."""
        self._owner.native.wait_for_own(job, timeout, handle)

    def forget(self, job: Future[Any]) -> bool:
        """Takes a job that is over off the lists. Returns False if the thread waits for that."""
        self._running.pop(job, None)
        with contextlib.suppress(ValueError):
            self._finished.remove(job)
        return not self.closing

    def join(self) -> None:
        if not self._unstarted and self._thread is not threading.current_thread():
            self._thread.join()

    # In the thread.

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as e:
            self._break("its thread failed", e)
            raise
        finally:
            self._ended = True
            with contextlib.ExitStack() as each:
                each.callback(_running.pop, self, None)
                each.callback(self._close)
                each.callback(self._refuse_rest)

    def _step(self) -> bool:
        """One look at everything, and a sleep if there was nothing to do. Returns False at the
        end."""
        owner = self._owner
        look = owner.look()
        self._deliver()
        while self.cancelled:
            _begins(self.cancelled.popleft())
        admission, seconds = self._start_waiting()
        if self._is_forced():
            admission = seconds = None
        if self._finished:
            return True
        if self.closing and self._may_end():
            return False
        # By what it found, and not by what waits now: that may have come since.
        self._listens = admission is None and seconds is None
        if self._listens and self._waiting:
            return True  # a submission that has not woken this thread
        owner.sleep_beside(look, seconds, admission)
        self._listens = False
        return True

    def _may_end(self) -> bool:
        """Whether nothing is left. From then on submissions are refused."""
        self._ended = True
        self._ended = not (self._waiting or self._running)
        return self._ended

    def _deliver(self) -> None:
        """Gives the outcomes of jobs to their Futures, which run their callbacks. A job is taken
        off the list when its outcome is read: if that raises, `_break` finds it there."""
        while self._finished:
            try:
                job = self._finished.popleft()
            except IndexError:
                return  # a thread that has waited for it has taken the last
            future = self._running.get(job)
            if future is None:
                continue  # the executor is broken, or that thread has handled it
            failure = future.read(job)
            if failure is not None:
                self._break("its initializer failed", failure.cause)
            elif self._running.pop(job, None) is not None:
                future.settle()
            del job, future, failure

    def _is_forced(self) -> bool:
        """Whether a shutdown has asked for more than an end: then cancels what waits, and sends the
        signal to the running jobs."""
        if self.cancels:
            while self._waiting:
                future = self._waiting.popleft().future
                futures.Future.cancel(future)
                _begins(future)
        if self._signal is not None:
            for job in [*self._running]:
                self._send(job, self._signal)
            self._signal = None
        return self.cancels

    def _send(self, job: Future[Any], number: int) -> None:
        if number == signal.SIGKILL:
            self._owner.native.kill(job._job, 0.0)  # with all that is below it
        else:
            self._owner.native.signal(job._job, number)

    def _start_waiting(self) -> tuple[_native.Admission | None, float | None]:
        """Starts the submissions for which there are slots, in their order. Returns what the next
        one waits for: slots, by its admission, or its gate, for so many seconds."""
        while self._waiting:
            item = self._waiting.popleft()
            try:
                if not item.future.cancelled():
                    seconds = self._obtain(item)
                    if seconds is not None:
                        self._waiting.appendleft(item)
                        return (None, seconds) if seconds else (item.admission, None)
                    self._begin(item)
            except BaseException as e:
                if _begins(item.future):
                    item.future.set_exception(e)
        return None, None

    def _obtain(self, item: _Item) -> float | None:
        """Gets a submission its slots. Returns None if it has them; otherwise the seconds to wait
        for its gate, or 0 if it waits for slots."""
        owner = self._owner
        self._pack(item)
        if item.gate is not None:
            left = item.asleep - time.monotonic()
            if left > 0:
                return left
            if not owner.native.could_admit(item.admission, True):
                return 0.0
            delay = _arguments.delay(item.gate())
            if delay is not None:
                item.asleep = time.monotonic() + delay
                return delay
        if owner.native.runs_on_several:
            return None  # the start waits, and gives the slots away meanwhile
        return None if owner.native.admit_beside(item.admission) else 0.0

    def _pack(self, item: _Item) -> None:
        if item.packed is None:
            work, item.work = item.work, None
            assert work is not None
            item.packed = self._owner.pack(work) if self._owner.starter.sends else work

    def _begin(self, item: _Item) -> None:
        """Starts an admitted submission, unless its Future was cancelled."""
        owner, job = self._owner, item.job
        if not _begins(item.future):
            owner.native.conclude(item.admission)
            return
        job._watch(self._finished)
        item.future.job = job
        self._running[job] = item.future
        packed, item.packed = item.packed, None
        try:
            owner.submit(job, None, None, False, None, packed, item.admission)
        except BaseException as e:
            if self._running.pop(job, None) is not None:  # otherwise `_break` has told it
                item.future.settle(e)
        finally:
            del packed

    def _break(self, why: str, cause: BaseException) -> None:
        """Nothing runs any more: the executor is of no more use."""
        self.broken = BrokenProcessPool(f"this executor is not usable any more: {why}: {cause!r}")
        self.broken.__cause__ = cause
        with contextlib.ExitStack() as each:  # also if a callback of one raises
            each.callback(self._refuse_rest)
            for job in reversed([*self._running]):
                each.callback(self._give_up, job)

    def _give_up(self, job: Future[Any]) -> None:
        future = self._running.pop(job, None)
        if future is None:
            return  # its start has failed, and `submit` tells that; or it is over
        try:
            future.settle(self.broken)  # before a thread that waits for the job sees it die
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                self._owner.native.kill(job._job, 0.0)

    def _refuse_rest(self) -> None:
        """Refuses what waits: the executor is broken, or its thread has ended."""
        refused = []
        with contextlib.suppress(IndexError):
            while True:
                refused.append(self._waiting.popleft().future)
        with contextlib.ExitStack() as each:
            for future in reversed(refused):
                each.callback(self._refuse_future, future)

    def _refuse_future(self, future: JobFuture) -> None:
        if _begins(future):
            future.set_exception(self.broken or RuntimeError(NO_MORE))

    def _close(self) -> None:
        if self._is_own:
            self._owner.begin_close()
            self._owner.drain(callbacks=False)
            self._owner.stop_helpers()


def _begins(future: JobFuture) -> bool:
    """Sets a Future running. Returns False if it was cancelled, and tells those that wait for
    it."""
    if future.told:
        return False
    future.told = not future.set_running_or_notify_cancel()
    return not future.told


def _end_all() -> None:
    """When the interpreter ends: waits for all jobs, as ProcessPoolExecutor does."""
    global _exiting
    _exiting = True
    _main.put_file_back()
    ours = [runner for runner in [*_running] if runner.pid == getpid()]
    for runner in ours:
        runner.stop()
    for runner in ours:
        runner.join()


(_at_exit or atexit.register)(_end_all)
