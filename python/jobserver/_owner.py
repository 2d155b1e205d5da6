"""The owner: a Jobserver's jobs in one process, and every call that waits for them.

This is what the user's handle (`_jobserver.py`), Futures, `map` and `as_completed` stand on. The
work is the core's (rust/core/src/owner); what is here issues callbacks, asks gates, and sees to it
that each process has an owner of its own.

All that is shared between threads lives in the binding or is atomic in Python, so there is no lock
here that a fork could catch.
"""

from __future__ import annotations

import itertools
import os
import pickle
import time
import warnings
from collections import deque
from multiprocessing.context import BaseContext
from typing import Any, Callable, NamedTuple
from weakref import WeakSet

from . import _arguments, _job, _native, _own_jobs
from ._exceptions import Blocked, CallbackRaised
from ._future import Future, done_elsewhere, issue_callbacks, load
from ._native import getpid
from ._start import Starter, starter
from ._wire import result


class Options(NamedTuple):
    """What the user has chosen for all jobs of a Jobserver."""

    context: BaseContext
    #: The same in all processes that have the Jobserver.
    key: str
    max_tasks: int | None
    preload: tuple[str, ...]
    yields: bool
    orphans_stay: bool

    @property
    def method(self) -> str:
        """The start method."""
        method: str = self.context.get_start_method()
        return method


class Owner:
    """One for a Jobserver. What belongs to one process (its table of jobs, above all) is made by
    `here` at the first use there, also after a fork."""

    #: Of the process with this pid; 0: of none yet.
    pid = 0
    native: _native.Owner
    #: Futures that have finished, and have callbacks, or a memory file to read.
    finished: deque[Future[Any]]
    _unread: WeakSet[Future[Any]]

    def __init__(self, options: Options, pool: _native.Pool, helper: int | None) -> None:
        """For jobs in this pool, by a fork server that another process has started, if there is
        one: its `descriptor`."""
        result.get_ready()
        self.options = options
        self.slots = pool.slots
        self.yields = options.yields
        self.starter: Starter = starter(
            options.method, pool, options.max_tasks, options.preload, helper
        )
        #: Until the first use.
        self._pool: _native.Pool | None = pool
        self._states: dict[int, dict[str, Any]] = {}
        _own_jobs.known[options.key] = self

    def here(self) -> _native.Owner:
        """This process's own table. Made at the first use here, and not when the handle is made: a
        child of multiprocessing unpickles its arguments before it forgets what its parent wanted
        done at its end (`Finalize`, in `_own_jobs.end_well`).

        Several threads may come here at once, and signal handlers in between. A lock could be
        held by the very thread that waits for it; so all make a state, all take the one that
        came first, and putting it into place twice does no harm.
        """
        pid = getpid()
        if self.pid != pid:
            state = self._states.setdefault(pid, self._state(pid))
            _own_jobs.end_well(pid, _job.is_this_process())
            for other in [*self._states]:
                if other != pid:
                    self._states.pop(other, None)  # closes, with the update, what was the parent's
            vars(self).update(state)
        return self.native

    def _state(self, pid: int) -> dict[str, Any]:
        finished: deque[Future[Any]] = deque()
        pool = self._pool
        if self.pid:
            pool = None if self.native.closed else self.native.pool
        options = self.options
        return {
            "native": _native.Owner(finished, pool, options.orphans_stay, options.yields),
            "starter": self.starter.renewed(),
            "finished": finished,
            "_unread": WeakSet(),
            "_pool": None,
            "pid": pid,
        }

    def __del__(self) -> None:
        native = vars(self).get("native")
        if native is None or self.pid != getpid() or native.closing:
            return
        left = native.unfinished
        if left:
            warnings.warn(
                f"{self!r} was dropped while {left} of its jobs ran: close it, or use `with`",
                ResourceWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        closed = self.pid and self.native.closed
        slots = f"{self.slots} slot{'s' if self.slots > 1 else ''}"
        return f"<Jobserver: {slots}, {self.options.method}{', closed' if closed else ''}>"

    @property
    def is_fresh(self) -> bool:
        """Whether each job has a process of its own."""
        return self.options.max_tasks == 1

    def is_in_use(self) -> bool:
        """Whether this process has used it, and not closed it."""
        return self.pid == getpid() and not self.native.closed

    def check_open(self) -> None:
        """RuntimeError if nothing is started any more."""
        self.here().check_open()

    def open_pool(self) -> _native.Pool:
        """The pool, while something may still be started. Not to be kept in a local variable: a
        traceback that somebody keeps would keep the pool's descriptors open."""
        self.check_open()
        return self.native.pool

    # Submitting.

    def submit(
        self,
        future: Future[Any],
        work: _native.Work | None,
        gate: Callable[[], Any] | None,
        callbacks: bool,
        deadline: float | None,
        packed: Any = None,
    ) -> Future[Any]:
        """Starts the job of `future`, waiting for a slot: to do this work, or what the starter has
        `packed`, which is of use once more only if this raises Blocked. Whether it has been
        started, though a signal handler raises, can be told by the Future's pid.

        Returns the Future: another one if a callback, the gate, or the pickling has forked, and
        this is the child, whose job is its own."""
        consume = future._consume != 0
        if work is not None:
            if consume and deadline is not None and deadline <= time.monotonic():
                self.refuse_early(callbacks)
            packed = self.pack(work)
        admission = _native.Admission(consume, callbacks, None)
        try:
            if gate is not None:
                self._pass(gate, admission, consume, callbacks, deadline)
            while True:
                if future._owner_pid != self.pid:
                    future = self._future_here(future, work)
                if deadline is not None:
                    admission.timeout = deadline - time.monotonic()
                state = self.starter.start(self.native, future, admission, packed)
                if not state:
                    return future
                if state == _native.TIMED_OUT:
                    raise Blocked("no slot was free in time")
                self.issue_callbacks()
        except BaseException:
            self.native.conclude(admission)
            raise
        finally:
            # A job that was started has these now. Otherwise they must not stay with us for
            # as long as somebody keeps the traceback.
            packed = None
            del work

    def pack(self, work: _native.Work) -> Any:
        """Does for a job all that can be done, and fail, before it has a slot."""
        try:
            packed = self.starter.pack(work)
        except pickle.PicklingError:
            self.check_open()  # if it was closed meanwhile, then that is why
            raise
        self.here()  # what was pickled may have forked
        return packed

    def check(self, work: _native.Work) -> None:
        """Raises what `pack` would, and leaves nothing behind."""
        self.starter.check(work)

    def _future_here(self, parents: Future[Any], work: _native.Work | None) -> Future[Any]:
        """In a process that was forked while its parent submitted: what is to be its own Future."""
        if work is None:
            done_elsewhere(parents)  # of map, whose results are its parent's
        return Future(self, work and work.time_limit, parents._consume, parents._name)

    def refuse_early(self, callbacks: bool) -> None:
        """Spares a submission that does not wait the pickling, if there is no slot for it."""
        if self.here().could_admit(False):
            return
        self.look(callbacks)
        self.native.reclaim()
        if not self.native.could_admit(False):
            raise Blocked("no slot is free")

    def _pass(
        self,
        gate: Callable[[], Any],
        admission: _native.Admission,
        consume: bool,
        callbacks: bool,
        deadline: float | None,
    ) -> None:
        """Waits until the gate lets a job go, and admits it then. Gates come first."""
        while True:
            self.check_open()
            look = self.look(callbacks)
            if consume and not self.native.could_admit(False):
                # Not asked before there is a slot: its answer would be stale by then.
                left = _left(deadline, "no slot was free in time")
                if not self.native.can_lend:
                    self.native.wait(look, True, True, left, False)
                    continue
                # A job's own slot will do.
            delay = _arguments.delay(gate())
            self.here()  # the gate may have forked
            if delay is not None:
                self._pause(delay, callbacks, deadline)
                continue
            may_lend = deadline is None or time.monotonic() < deadline
            if self.native.admit_at_once(admission, may_lend):
                return

    def _pause(self, delay: float, callbacks: bool, deadline: float | None) -> None:
        """Lets `delay` seconds pass, looking after finished jobs meanwhile."""
        until = time.monotonic() + delay
        while True:
            self.check_open()
            look = self.look(callbacks)
            left = until - time.monotonic()
            if left <= 0 and (deadline is None or until < deadline):
                return
            remaining = _left(deadline, "sleep_fn did not let the job go in time")
            self.sleep(look, left if remaining is None else min(left, remaining))

    # Waiting.

    def look(self, callbacks: bool = False) -> _native.Look:
        """Looks at all that has finished. What has been seen then, for `sleep`."""
        look = self.native.look()
        if callbacks:
            self.issue_callbacks()
        return look

    def sleep(
        self,
        look: _native.Look,
        seconds: float | None,
        *,
        for_slot: bool = False,
        yields: bool = False,
    ) -> None:
        """Sleeps until something may be ready: a job, or `for_slot` a slot; returns at once if
        something has changed since that `look`. A job gives its slot away meanwhile if it `yields`,
        this owner does, or it must."""
        self.native.wait(look, for_slot, False, seconds, yields or self.yields)

    def wait_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Whether a job has finished within `timeout` seconds; callbacks come first."""
        left = timeout
        deadline = None if timeout is None else _arguments.deadline(timeout)
        # A job without a slot has none to lend to jobs of its own: they may need ours.
        yields = self.yields or not future._consume
        while True:
            state = self.native.wait_for(future, left, yields)
            if not state:
                return True
            if state == _native.TIMED_OUT:
                return False
            self.issue_callbacks()
            if future._owner_pid != self.pid:
                return done_elsewhere(future)
            if deadline is not None:
                left = deadline - time.monotonic()

    def gives_slot_away(self) -> bool:
        """Whether a job that waits now gives its slot away, and has one."""
        yields = self.yields or self.native.any_has_yielded
        return yields and self.native.can_lend

    def issue_callbacks(self) -> None:
        """Runs the callbacks of Futures that have finished."""
        taken: list[Future[Any]] = []
        try:
            while self.finished:
                # Moved within one C call, where no signal handler can run, lest Ctrl-C lose it.
                taken.extend(itertools.starmap(self.finished.popleft, ((),)))
                if isinstance(taken[0]._outcome, _native.MemoryFile):
                    self._unread.add(taken[0])
                issue_callbacks(taken[0])
                self.here()  # a callback may have forked; what is finished is its parent's
                taken.clear()
        except IndexError:
            pass  # another thread was faster
        except BaseException:
            self.finished.extendleft(taken)  # the next call goes on with the rest
            raise

    def issue_callbacks_of(self, future: Future[Any]) -> None:
        """The same, of a Future that had finished before."""
        self.here()
        self.finished.append(future)
        self.issue_callbacks()

    # Ending.

    def signal(self, future: Future[Any], number: int) -> None:
        """Sends a signal to a job that runs still."""
        self.look()
        if future._outcome is None:
            self.native.signal(future._job, number)

    def kill(self, future: Future[Any], grace: float) -> None:
        """Ends a job and everything that it has started, and waits for that."""
        self.native.kill(future._job, grace)
        self.wait_for(future, None)

    def close(self) -> None:
        """Waits for everything that runs, then gives up all that is this owner's. Raises the first
        error of a callback, when all is closed."""
        self.begin_close()
        raised = self.drain(callbacks=True)
        self.stop_helpers()
        for future in (*self._unread, *self.finished):
            if isinstance(future._outcome, _native.MemoryFile):
                load(future)
        if raised is not None:
            raise raised

    def begin_close(self) -> None:
        """Lets nothing be started from now on. What runs goes on."""
        self.here().begin_close()

    def drain(self, callbacks: bool) -> CallbackRaised | None:
        """Waits until nothing runs, and gives everything up. Issues callbacks up to the first
        that raises."""
        raised: CallbackRaised | None = None
        while not self.native.close(callbacks and raised is None):
            try:
                self.issue_callbacks()
            except CallbackRaised as e:
                raised = e
        return raised

    def stop_helpers(self) -> None:
        """Ends what was started beside the jobs."""
        self.starter.stop()


def _left(deadline: float | None, complaint: str) -> float | None:
    """The seconds left until a deadline; Blocked if there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Blocked(complaint)
    return left


os.register_at_fork(after_in_child=_native.forget_lifeline)
