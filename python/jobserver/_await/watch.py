"""How an event loop waits for the jobs of an owner: by one descriptor, which is readable whenever a
call has something to do (`Readiness`, in rust/core/src/owner/readiness.rs).

When the descriptor is readable, the loop calls :meth:`Watch.serve`. It scans, runs the callbacks
that are due, and resumes the tasks whose jobs have ended or whose submissions have their slots. A
task costs nothing until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol

from .. import _native
from .._exceptions import CallbackRaised
from .._native import getpid
from . import loops

if TYPE_CHECKING:
    from .._future import Future
    from .._owner import Owner


class Awaiter(Protocol):
    """What is told that a job has ended, or that a callback of its Future has raised."""

    def set(self) -> None: ...

    def fail(self, error: BaseException) -> bool:
        """Returns whether some task will raise this error."""


class Waiter(NamedTuple):
    """A submission that waits for slots: what is told that it has them, and what is called before,
    once it is the first of those that wait."""

    awaiter: Awaiter
    prepare: Callable[[], Any]


class Listener:
    """An awaiter for many jobs, one of which has its task resumed."""

    def __init__(self) -> None:
        self._event: loops.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()

    def fail(self, error: BaseException) -> bool:
        return self._event is not None and self._event.fail(error)

    async def wait(self, event: loops.Event, seconds: float | None) -> None:
        self._event = event
        try:
            await event.wait(seconds)
        finally:
            self._event = None


class _Serving:
    """What the loop calls. It keeps the watch, and so the owner, only while tasks wait: a Jobserver
    that is dropped is freed, and the loop may run for long."""

    def __init__(self, watch: Watch) -> None:
        self._known = weakref.ref(watch)
        self.kept: Watch | None = None

    def __call__(self) -> None:
        watch = self._known()
        if watch is not None:
            watch.serve()


class _Forgetting:
    """Has a loop forget the descriptor of a watch that is no more, and closes it."""

    def __init__(self, loop: loops.Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd

    def __call__(self) -> None:
        if self._fd >= 0:
            self._loop.end(self._fd)
            self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close  # its loop was closed before it could call this


class Watch:
    """One owner, watched by one loop."""

    def __init__(self, owner: Owner, loop: loops.Loop) -> None:
        self._owner = owner
        self._loop = loop
        #: Awaited Futures whose jobs have ended.
        self._finished: deque[Future[Any]] = deque()
        self._awaited: dict[Future[Any], list[Awaiter]] = {}
        #: The submissions that wait for slots, and what is told that they have them.
        self._queue: OrderedDict[_native.Admission, Waiter] = OrderedDict()
        self._pid = getpid()
        self._readiness = _native.Readiness(owner.native)
        # A duplicate, because the loop must forget a descriptor before its number is free again.
        self._fd = fcntl.fcntl(self._readiness.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        self._serving = _Serving(self)
        loop.begin(self._fd, self._serving)

    @property
    def is_over(self) -> bool:
        return self._fd < 0 or self._loop.is_over()

    def event(self) -> loops.Event:
        return self._loop.event()

    # In tasks.

    async def until_done(self, future: Future[Any]) -> None:
        """Waits until the job has ended.

        Raises:
            CallbackRaised: a callback of this Future raised an exception.
        """
        event = self._loop.event()
        self.follow(future, event)
        try:
            if future._outcome is None:
                await event.wait()
        finally:
            self.unfollow(future, event)

    async def until_killed(self, future: Future[Any]) -> None:
        """Kills the job and all that is below it, and waits for its end."""
        self._owner.native.kill(future._job, 0.0)
        await self._loop.finish(self.until_done(future))

    def follow(self, future: Future[Any], awaiter: Awaiter) -> None:
        """Has the awaiter told when the job has ended; not if it has ended before."""
        if self._owner.yields:
            # (Not in `serve`, which perhaps no event calls before the job itself needs the slot.)
            self._owner.native.give_slots_away()
        awaiters = self._awaited.get(future)
        if awaiters is None:
            awaiters = self._awaited[future] = []
            future._watch(self._finished)
        awaiters.append(awaiter)
        self._serving.kept = self

    def unfollow(self, future: Future[Any], awaiter: Awaiter) -> None:
        awaiters = self._awaited.get(future, [])
        if awaiter in awaiters:
            awaiters.remove(awaiter)
        if not awaiters and self._awaited.pop(future, None) is not None:
            future._unwatch(self._finished)
            self._keep()

    def begin_to_wait(
        self, admission: _native.Admission, waiter: Waiter, comes_first: bool = False
    ) -> None:
        """Has the waiter told when the submission is admitted."""
        self._queue[admission] = waiter
        self._serving.kept = self
        self._queue.move_to_end(admission, last=not comes_first)
        if next(iter(self._queue)) is admission:
            self.serve()

    def end_to_wait(self, admission: _native.Admission) -> None:
        """Forgets the submission, unless it has been admitted."""
        is_next = next(iter(self._queue), None) is admission
        if self._queue.pop(admission, None) is not None and is_next:
            self.serve()
        self._keep()

    async def admitted(
        self, admission: _native.Admission, prepare: Callable[[], Any], comes_first: bool
    ) -> None:
        """Waits until the submission is admitted, before or after the others that wait."""
        event = self._loop.event()
        self.begin_to_wait(admission, Waiter(event, prepare), comes_first)
        try:
            await event.wait()
        finally:
            self.end_to_wait(admission)

    def is_free_for(self, admission: _native.Admission, comes_first: bool) -> bool:
        """Whether there may be slots for a submission, and none waits before it."""
        if admission.consume == 0:
            return True
        may_lend = admission.consume == 1
        native = self._owner.native
        return (comes_first or not self._queue) and native.could_admit(admission, may_lend)

    # In the loop.

    def serve(self) -> None:
        """Does all that is to do, and rests."""
        if self._fd < 0 or self._pid != getpid():
            return  # a forked process has its parent's loop, which it must leave alone
        owner = self._owner
        try:
            if owner.is_in_use():
                self._readiness.rise()
                look = self._look()
                if self._fd < 0:
                    return  # a callback has closed the owner
                self._resume()
                admission = self._admit()
                if self._fd < 0 or self._pid != getpid():
                    return  # a pickling has closed the owner, or has forked
                owner.rest(self._readiness, look, admission)
                self._keep()
            else:
                self._resume()
                self.end()
        except BaseException as e:
            if not self._fail_all(e):
                raise

    def _keep(self) -> None:
        waits = self._fd >= 0 and (self._awaited or self._queue)
        self._serving.kept = self if waits else None

    def _look(self) -> _native.Look:
        while True:
            try:
                return self._owner.look(callbacks=True)
            except CallbackRaised as e:
                awaiters = [] if e.future is None else self._awaited.get(e.future, [])
                if not any([awaiter.fail(e) for awaiter in awaiters]):
                    self._loop.tell(e)

    def _resume(self) -> None:
        while self._finished:
            for awaiter in self._awaited.pop(self._finished.popleft(), ()):
                awaiter.set()

    def _admit(self) -> _native.Admission | None:
        """Admits the submissions for which there are slots. Returns the next one that waits."""
        while self._queue:
            admission, (awaiter, prepare) = next(iter(self._queue.items()))
            try:
                prepare()
                if not self._owner.native.admit_beside(admission):
                    return admission
                awaiter.set()
            except BaseException as e:
                # It belongs to this submission, whatever it is: its task raises it. If that is
                # KeyboardInterrupt or SystemExit, the loop then ends its run, as for any task.
                if not awaiter.fail(e) and not isinstance(e, Exception):
                    raise
            self._queue.pop(admission, None)
        return None

    def _fail_all(self, error: BaseException) -> bool:
        """After an error of the system: no task must wait for ever. Returns whether one waited."""
        awaiters = [*itertools.chain(*self._awaited.values())]
        awaiters += [waiter.awaiter for waiter in self._queue.values()]
        self._queue.clear()
        told = [awaiter.fail(error) for awaiter in awaiters]
        self.end()
        return any(told)

    def end(self) -> None:
        """Ends the watch, in the loop's thread or after the loop's end."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._readiness.rise()
        while self._queue:
            _, waiter = self._queue.popitem(last=False)
            waiter.awaiter.fail(RuntimeError("this Jobserver is closed"))
        self._loop.end(fd)
        os.close(fd)
        del self._readiness
        self._keep()

    def owner_closed(self) -> None:
        """After the owner was closed: ends the watch, or leaves that to the loop, which the close
        has woken, if it is another thread's."""
        if self._loop.is_over() or self._loop.runs_here():
            self._resume()
            self.end()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd < 0 or self._pid != getpid():
            return
        self._fd = -1
        with contextlib.suppress(OSError, RuntimeError):
            self._readiness.rise()
        with contextlib.suppress(RuntimeError):  # the loop is over
            self._loop.call_soon(_Forgetting(self._loop, fd))


def watch(owner: Owner) -> Watch:
    """The watch of this owner in the loop that runs in this thread.

    Raises:
        RuntimeError: no event loop runs in this thread.
        NotImplementedError: the system has no descriptor that could be waited for.
    """
    key, make = loops.running()
    if owner.here().closed:
        owner.check_open()  # raises
    known = owner.watches.get(key)
    if known is None or known.is_over:
        owner.end_stale_watches()
        known = owner.watches[key] = Watch(owner, make())
    return known
