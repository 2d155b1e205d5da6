"""Futures: the result of one job, and the callbacks that wait for it.

The binding holds a Future's state, and a scan puts the `_outcome` into it
(rust/python/src/promise.rs). The first request for a result unpickles it; a scan does not, because
unpickling runs the user's code and may be slow.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Generator,
    Generic,
    NoReturn,
    TypeVar,
)

from . import _arguments, _death, _native, _wording
from ._exceptions import Blocked, CallbackRaised, OwnersOnly
from ._native import getpid
from ._signals import raised_by_handler
from ._wire import result

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

T = TypeVar("T")


class Future(_native.Promise, Generic[T]):
    """The result of a job. A :class:`Jobserver` makes Futures; programs do not.

    Every method that waits also collects all other finished jobs of its Jobserver, and runs the
    callbacks that are due, unless another thread is running them. If a callback raises an
    exception, the method raises :class:`CallbackRaised`; call the method again to go on.

    A process that was forked from the owner can use a Future only if the job had finished before
    the fork; for other jobs the methods raise RuntimeError.
    """

    __slots__ = ("__weakref__",)

    @property
    def pid(self) -> int:
        """The process id of the job."""
        return self._pid

    def __repr__(self) -> str:
        if self._outcome is None:
            state = "running"
        else:
            state = "died" if isinstance(self._outcome, _native.Death) else "finished"
        return f"<Future of {self._described()}: {state}>"

    def _described(self) -> str:
        """The job's pid, and its function's name if it has one, for messages."""
        return f"job {self._pid} of {self._name}" if self._name else f"job {self._pid}"

    if not TYPE_CHECKING:
        add_done_callback = _arguments.Foreign()
        cancel = _arguments.Foreign()

    def __copy__(self) -> NoReturn:
        raise TypeError("a Future cannot be copied: its result belongs to one place")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        raise OwnersOnly(
            "a Future cannot be pickled: only the process that submitted a job can have its result"
        )

    def done(self, timeout: float | None = 0) -> bool:
        """Returns whether the job has finished, by a result or otherwise, within `timeout` seconds.

        0 does not wait, None waits without limit. Never raises Blocked.

        Raises:
            CallbackRaised: a callback that was due raised an exception.
        """
        return self.wait(timeout)

    def wait(self, timeout: float | None = None, *, signal: int | None = None) -> bool:
        """Waits until the job has finished, and returns whether it has.

        Args:
            timeout: in seconds; None waits without limit.
            signal: the number of a signal, which is sent to the job's process before the wait if
                the job still runs.

        Raises:
            CallbackRaised: a callback that was due raised an exception.
        """
        owner = self._owner
        number = None if signal is None else _arguments.signal_number(signal)
        if self._owner_pid != getpid():
            return done_elsewhere(self)
        if number is not None:
            owner.signal(self, number)
        return owner.wait_for(self, timeout)

    def kill(self, *, grace: float = 5.0) -> None:
        """Ends the job's process and all processes below it, and waits until the job has finished.

        First, all these processes are stopped. Each process gets SIGTERM, and is continued, when
        all processes that it started have ended, or after half of `grace`. After all of `grace`
        the processes that remain are killed. The Future then usually has SubmissionDied; a job
        that handles SIGTERM may still send its result.

        If the job has finished before, but its process still runs, this ends that process and all
        processes below it. If that process has ended too, processes that it left behind run on.

        Args:
            grace: in seconds; 0 kills at once.

        Raises:
            CallbackRaised: a callback that was due raised an exception.
        """
        seconds = _arguments.seconds(grace, "grace")
        if self._owner_pid != getpid():
            done_elsewhere(self)
            return
        self._owner.kill(self, seconds)

    def result(self, timeout: float | None = None) -> T:
        """Returns what the job's function returned. Waits up to `timeout` seconds for it.

        Raises:
            Blocked: the job has not finished in time; call this again.
            SubmissionDied: the job's process ended without a result.
            CallbackRaised: a callback that was due raised an exception.
            BaseException: the exception that the job's function raised, at each call of this
                method; its ``__cause__`` has the traceback in the job.
        """
        if not self.wait(timeout):
            within = f" within {timeout} seconds" if timeout and timeout > 0 else ""
            raise Blocked(f"job {self._pid} has not finished{within}")
        try:
            return value_of(self)
        except BaseException:
            self = repr(self)  # type: ignore[assignment]  # see `value_of`
            raise

    def __await__(self) -> Generator[Any, None, T]:
        """Waits for the job in a task of asyncio or trio; the loop goes on meanwhile. Returns and
        raises what `result` does, but never Blocked.

        Raises:
            RuntimeError: no event loop runs in this thread.
            NotImplementedError: the system has no descriptor that a loop could wait for.
        """
        from ._await import until_done  # imports asyncio

        if self._owner_pid != getpid():
            done_elsewhere(self)
        yield from until_done(self).__await__()
        try:
            return value_of(self)
        except BaseException:
            self = repr(self)  # type: ignore[assignment]  # see `value_of`
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Returns the exception that `result` would raise for the job, or None if the job's
        function returned. Waits like `result`, and raises Blocked and CallbackRaised like it."""
        if not self.wait(timeout):
            raise Blocked(f"job {self._pid} has not finished within {timeout} seconds")
        return load(self)[1]

    def output(self) -> str:
        """Returns what the job has written so far to its standard output and standard error, both
        together, in the order written. For jobs submitted with ``output="capture"``.

        Does not wait: after `result`, it is what the job had written when its function returned.
        What is not valid UTF-8 is replaced. What programs that the job has left behind write after
        its end is not there.

        Raises:
            RuntimeError: the job was not submitted with ``output="capture"``.
            OSError: this program has closed the file with the output.
        """
        records = self._records
        captured = None if records is None else records.captured()
        if captured is None:
            raise RuntimeError(
                f"the output of {self._described()} was not captured: submit the job with "
                'output="capture"'
            )
        text: str = captured.text()
        return text

    def when_done(self, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> int:
        """Registers a callback, ``fn(*args, **kwargs)``, which runs after the job has finished.

        The thread whose call into this package finds the job finished runs the callback. If the
        job is known to have finished, the callback runs before this method returns; if another
        thread is running callbacks of this Future, that thread runs it. Callbacks of one Future
        run in the order of their registration. Callbacks of different Futures run in the order in
        which the jobs finished.

        A callback may call this package. Within that call, callbacks of other Futures may run. If
        a callback registers another callback with its own Future, this method runs first the
        callbacks that were registered before and still wait, then the new one, and then returns.

        If a callback raises an exception that is not an Exception (SystemExit, KeyboardInterrupt),
        the call that ran the callback raises that exception, and not CallbackRaised.

        Returns:
            The sequence number of this callback among the callbacks of this Future, from 0.

        Raises:
            CallbackRaised: the job has finished, and a callback of this or another Future raised
                an exception. The new callback is registered: call `wait` to go on.
            RuntimeError: another process submitted the job, and it had not finished at the fork.
        """
        _arguments.function(fn)
        if self._owner_pid != getpid():
            done_elsewhere(self)
        callbacks: _Callbacks = self._callbacks or self._callbacks_or(_Callbacks())
        callbacks.forget_parents()
        seqno = callbacks.add(functools.partial(fn, *args, **kwargs))
        if self._outcome is not None:
            self._owner.issue_callbacks_of(self)
        return seqno


def value_of(future: Future[T]) -> T:
    """What `result` returns or raises for a job that has finished.

    The error must not refer to the Future, which has it, through its traceback: so a frame that it
    passes has a text in the place of the Future, for tools that show the arguments of frames."""
    value: T
    value, error = load(future)
    if error is None:
        return value
    told: Any = repr(future)
    try:
        if future._owner.options.method == "inline":
            raise error  # its traceback has the job's frames
        raise error.with_traceback(None)
    finally:
        del error  # otherwise the traceback would refer to itself through this frame
        future = told


def load(future: Future[Any]) -> tuple[Any, BaseException | None]:
    """The value that the job of a finished Future returned, and None; or None, and its error."""
    outcome = future._outcome  # read before `_loaded`, because `_keep` replaces it by the loaded
    loaded: tuple[Any, BaseException | None] | None = future._loaded
    return future._keep(_decode(future, outcome)) if loaded is None else loaded


def _decode(future: Future[Any], outcome: Any) -> tuple[Any, BaseException | None]:
    records = future._records
    if records is not None and future._owner_pid == getpid():
        records.settle()
    if isinstance(outcome, _native.Death):
        if future._consume > 1:
            _native.sweep_homes()  # that of the pool for programs below the job
        return None, _death.error_of(outcome, future._pid, future._name, records)
    if isinstance(outcome, BaseException):
        return None, outcome
    return result.load(outcome)


def done_elsewhere(future: Future[Any]) -> bool:
    """For a process that was forked from the owner. True if the job had finished before the fork.
    Otherwise RuntimeError, because this process never gets the result."""
    if future._outcome is None:
        raise RuntimeError(
            f"{future!r} belongs to process {future._owner_pid}, which submitted the job; "
            "this is another process, forked from it"
        )
    return True


def issue_callbacks(future: Future[Any]) -> None:
    """Runs the callbacks of this Future that wait, unless another thread is running them."""
    if future._callbacks is not None:
        future._callbacks.issue(future)


class _Callbacks:
    """The callbacks of one Future: numbered, in order, and run by one thread at a time."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner = getpid()
        self._numbers = itertools.count()
        self._waiting: deque[functools.partial[Any]] = deque()
        #: Under "whose": the thread that runs callbacks, and an object that is unique to its call.
        self._turn: dict[str, tuple[int, object]] = {}

    def forget_parents(self) -> None:
        """In a forked child: drops the callbacks that wait in the parent, which runs them."""
        if self._owner != getpid():
            self._begin()

    def add(self, callback: Any) -> int:
        seqno = callback.seqno = next(self._numbers)
        self._waiting.append(callback)
        return seqno

    def issue(self, future: Future[Any]) -> None:
        # Not a lock: it would stay locked if Ctrl-C came between its acquisition and the `try`.
        me = threading.get_ident(), object()
        try:
            # The loop looks again after the turn ends, for callbacks registered in the meantime.
            while self._waiting and self._is_ours():
                turn = self._turn.setdefault("whose", me)
                if turn[0] != me[0]:
                    return  # the other thread runs them
                while self._waiting and self._is_ours():
                    self._issue_next(future)
                if turn is not me:
                    return  # a callback called this method, and the outer call ends the turn
                self._turn.clear()
        finally:
            # No Python function is called before `clear`: a signal handler could run in it.
            if "whose" in self._turn and self._turn["whose"] is me:
                self._turn.clear()

    def _is_ours(self) -> bool:
        """False in a child that a callback has forked."""
        return self._owner == getpid()

    def _issue_next(self, future: Future[Any]) -> None:
        callback: Any = self._waiting[0]
        taken = itertools.starmap(self._waiting.popleft, ((),))
        try:
            # One C call takes and calls the callback. No signal handler can run between the two
            # steps, so at Ctrl-C a callback either still waits or has begun.
            next(map(functools.partial.__call__, taken))
        except Exception as e:
            if raised_by_handler(e):
                raise
            text = f"callback {callback.seqno} of {future!r} raised {_wording.converted(repr, e)}"
            raise CallbackRaised(callback.seqno, future, text) from e
