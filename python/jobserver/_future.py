"""Futures: one job's result, to come or there; and the callbacks that wait for it.

A Future's state, in which scans put its `_outcome`, is the binding's (rust/python/src/promise.rs).
The result is unpickled when it is first asked for, not during a scan:
unpickling runs the user's code, and may be slow.
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
    """The result of a job, once it is there. Made by :class:`Jobserver`, not by users.

    Every method that waits also looks at everything else of its Jobserver that has
    finished, and issues the callbacks that are due, unless another thread is doing so; an error in
    one of them is raised as :class:`CallbackRaised`, after which the method can simply be called
    again. In a process that was forked from the owner's, they raise RuntimeError for a job that
    had not finished by then.
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
        return f"<Future of {self._called()}: {state}>"

    def _called(self) -> str:
        """The job, in words."""
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
        """Whether the job has finished, well or not, within `timeout` seconds.

        0 only looks, None waits for ever. Never raises Blocked.

        Raises:
            CallbackRaised: a callback that was due has raised.
        """
        return self.wait(timeout)

    def wait(self, timeout: float | None = None, *, signal: int | None = None) -> bool:
        """Waits until the job has finished, and says whether it has.

        Args:
            timeout: seconds; None waits for ever.
            signal: a signal's number, sent to the job's process first if it still runs.

        Raises:
            CallbackRaised: a callback that was due has raised.
        """
        owner = self._owner
        number = None if signal is None else _arguments.signal_number(signal)
        if self._owner_pid != getpid():
            return done_elsewhere(self)
        if number is not None:
            owner.signal(self, number)
        return owner.wait_for(self, timeout)

    def kill(self, *, grace: float = 5.0) -> None:
        """Ends the job and everything that it has started, programs of its shells included.

        They are asked first, by SIGTERM: each when nothing runs any more that it has started,
        or after half of `grace`; until then it is stopped. What has not ended after all of
        `grace` is killed. Returns when the job has finished, which is mostly as
        SubmissionDied: a job that handles SIGTERM may still send its result. If it has
        finished already, but its process still lives, that is ended with what it has started;
        what a process that has ended had left behind is not.

        Args:
            grace: seconds; 0 kills at once.

        Raises:
            CallbackRaised: a callback that was due has raised.
        """
        seconds = _arguments.seconds(grace, "grace")
        if self._owner_pid != getpid():
            done_elsewhere(self)
            return
        self._owner.kill(self, seconds)

    def result(self, timeout: float | None = None) -> T:
        """What the job's function returned, waiting up to `timeout` seconds for it.

        Raises:
            Blocked: it is not there in time; ask again.
            SubmissionDied: the job's process ended without a result.
            CallbackRaised: a callback that was due has raised.
            BaseException: whatever the function raised, each time, with the job's own
                traceback as its cause.
        """
        if not self.wait(timeout):
            within = f" within {timeout} seconds" if timeout and timeout > 0 else ""
            raise Blocked(f"job {self._pid} has not finished{within}")
        value: T
        value, error = load(self)
        if error is None:
            return value
        told: Any = repr(self)  # for who shows the arguments of frames
        try:
            raise error.with_traceback(None)
        finally:
            del error  # or the traceback would refer to itself through this frame
            self = told

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise for the job itself, or None; waits like `result`."""
        if not self.wait(timeout):
            raise Blocked(f"job {self._pid} has not finished within {timeout} seconds")
        return load(self)[1]

    def when_done(self, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> int:
        """Registers a callback, ``fn(*args, **kwargs)``, for when the job has finished.

        Callbacks of one Future run in the order of their registration, in whichever thread calls
        into the library when the job's end is noticed; at once if it already has been. Those of
        other Futures come in the order in which the jobs have finished, and may also run within
        a callback that calls the library. Called by a
        callback of this Future, that is before this method returns, after those that were
        registered before it and wait; while another thread runs them, that goes on with it.

        What a callback raises that is no Exception (SystemExit, KeyboardInterrupt) is not
        CallbackRaised, but leaves the call that has issued the callback as it is.

        Returns:
            This callback's sequence number among this Future's, from 0.

        Raises:
            CallbackRaised: the job has finished, and a callback, of this or of another Future, has
                raised. This one is registered all the same: go on with `wait`.
            RuntimeError: the job is another process's, and has not finished.
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


def load(future: Future[Any]) -> tuple[Any, BaseException | None]:
    """What the job of a finished Future returned, and None; or None, and its error."""
    outcome = future._outcome  # before the look at what is loaded, which takes its place
    loaded: tuple[Any, BaseException | None] | None = future._loaded
    return future._keep(_decode(future, outcome)) if loaded is None else loaded


def _decode(future: Future[Any], outcome: Any) -> tuple[Any, BaseException | None]:
    if isinstance(outcome, _native.Death):
        return None, _death.error_of(outcome, future._pid, future._name)
    if isinstance(outcome, BaseException):
        return None, outcome
    return result.load(outcome)


def done_elsewhere(future: Future[Any]) -> bool:
    """In a process that was forked from the owner's: what was finished by then stays so; of what
    was not, nobody will say more."""
    if future._outcome is None:
        raise RuntimeError(
            f"{future!r} belongs to process {future._owner_pid}, which submitted the job; "
            "this is another process, forked from it"
        )
    return True


def issue_callbacks(future: Future[Any]) -> None:
    """Runs the callbacks that wait, unless another call is already doing so."""
    if future._callbacks is not None:
        future._callbacks.issue(future)


class _Callbacks:
    """The callbacks of one Future: numbered, in order, and run by one call at a time."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner = getpid()
        self._numbers = itertools.count()
        self._waiting: deque[functools.partial[Any]] = deque()
        #: Under "whose": the thread whose turn it is, and something that no other call has.
        self._turn: dict[str, tuple[int, object]] = {}

    def forget_parents(self) -> None:
        """In a forked child: those that wait in its parent are for that to call."""
        if self._owner != getpid():
            self._begin()

    def add(self, callback: Any) -> int:
        seqno = callback.seqno = next(self._numbers)
        self._waiting.append(callback)
        return seqno

    def issue(self, future: Future[Any]) -> None:
        # A lock would stay locked if Ctrl-C came between its taking and the `try`.
        me = threading.get_ident(), object()
        try:
            # Looked at again after the turn ends, for what was registered in the meantime.
            while self._waiting and self._is_ours():
                turn = self._turn.setdefault("whose", me)
                if turn[0] != me[0]:
                    return  # the other thread will see it
                while self._waiting and self._is_ours():
                    self._issue_next(future)
                if turn is not me:
                    return  # called by a callback
                self._turn.clear()
        finally:
            # No call before the clearing, since a signal handler could run after it.
            if "whose" in self._turn and self._turn["whose"] is me:
                self._turn.clear()

    def _is_ours(self) -> bool:
        """Whether no callback has forked, and this is its child."""
        return self._owner == getpid()

    def _issue_next(self, future: Future[Any]) -> None:
        callback: Any = self._waiting[0]
        taken = itertools.starmap(self._waiting.popleft, ((),))
        try:
            # It is taken and called within one C call, where no signal handler can run, so
            # that Ctrl-C finds a callback either still waiting or begun.
            next(map(functools.partial.__call__, taken))
        except Exception as e:
            if raised_by_handler(e):
                raise
            text = f"callback {callback.seqno} of {future!r} raised {_wording.called(repr, e)}"
            raise CallbackRaised(callback.seqno, future, text) from e
