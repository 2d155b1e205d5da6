"""The owner: a Jobserver's jobs in one process, and every call that waits for them.

The user's handle (`_jobserver.py`), Futures, `map` and `as_completed` use this file. The core does
the work (rust/core/src/owner). This file runs callbacks, calls gates, and gives each process an
owner of its own.

All state that threads share is in the binding or is atomic in Python. So there is no lock here that
a fork could copy locked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Iterator
from weakref import WeakSet

from . import _arguments, _job, _native, _oom, _own_jobs
from ._exceptions import Blocked, CallbackRaised
from ._future import Future, done_elsewhere, issue_callbacks, load
from ._gating import Gating, not_in_time
from ._native import getpid
from ._options import Options
from ._output import Forwarding
from ._signals import raised_by_handler
from ._start import Helper, Starter, starter
from ._wire import result

if TYPE_CHECKING:
    from ._await import Watch


class Owner:
    """The owner of one Jobserver's jobs. `here` makes the state that belongs to one process, above
    all the table of its jobs, at the first use in that process, also after a fork."""

    #: The pid of the process that the state belongs to; 0 before the first use.
    pid = 0
    native: _native.Owner
    #: Finished Futures that have callbacks, records, or a memory file to read.
    finished: deque[Future[Any]]
    #: What maps have used, for the next ones: see `_map/calls.py`.
    progresses: deque[Any]
    #: The jobs whose output is forwarded; None before the first.
    forwarding: Forwarding | None
    #: Those of the event loops in which tasks have awaited jobs, by their loops.
    watches: dict[Any, Watch]
    _readiness: _native.Readiness | None
    _unread: WeakSet[Future[Any]]

    def __init__(
        self, options: Options, pool: _native.Pool, helper: Helper | None, stays: bool = False
    ) -> None:
        """For jobs in this pool. `helper` is a fork server that another process has started.
        `stays`: the owner may stay in a worker whose job has ended, because the worker has joined
        the same fork server."""
        result.get_ready()
        self.options = options
        self.stays = stays
        self.slots = pool.slots
        self.yields = options.yields
        self.starter: Starter = starter(options, pool, helper)
        #: The pool, until the first use.
        self._pool: _native.Pool | None = pool
        self._states: dict[int, dict[str, Any]] = {}
        _own_jobs.known[options.key] = self

    def here(self) -> _native.Owner:
        """The native owner of this process. It is made at the first use, and not with the handle,
        because a child of multiprocessing unpickles its arguments before it drops the finalizers
        of its parent (`Finalize`, in `_own_jobs.end_well`).

        Several threads may call this at once, and signal handlers may call it in between. With a
        lock, the thread that holds it could wait for it. Instead, each call makes a state, all use
        the state that was stored first, and to assign it twice does no harm.
        """
        pid = getpid()
        if self.pid != pid:
            is_job = _job.is_this_process()
            state = self._states.setdefault(pid, self._state(pid, is_job))
            _own_jobs.end_well(pid, is_job)
            if is_job and not self.is_fresh:
                _own_jobs.kept[self.options.key] = self
            for other in [*self._states]:
                if other != pid:
                    self._states.pop(other, None)  # with the update, closes the parent's state
            vars(self).update(state)
        return self.native

    def _state(self, pid: int, is_job: bool) -> dict[str, Any]:
        _oom.look()
        finished: deque[Future[Any]] = deque()
        pool = self._pool
        if self.pid:
            pool = None if self.native.closed else self.native.pool
        options = self.options
        return {
            "native": _native.Owner(finished, pool, options.orphans_stay, options.yields),
            "starter": self.starter.renewed(is_job),
            "finished": finished,
            "progresses": deque(),
            "forwarding": None,
            "watches": {},
            "_readiness": None,
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
        """Whether this process has used this owner, and has not closed it."""
        return self.pid == getpid() and not self.native.closed

    @property
    def is_at_rest(self) -> bool:
        """Whether this owner has no jobs, no processes and nothing to do. Gives its idle workers to
        all owners of the tree."""
        if self.native.closing or self.finished or self._unread:
            return False
        self.end_stale_watches()
        return self.native.is_at_rest

    @property
    def is_closed(self) -> bool:
        """Whether this process has closed this owner."""
        return self.pid == getpid() and self.native.closed

    def check_open(self) -> None:
        """Raises RuntimeError if this owner starts no more jobs."""
        self.here().check_open()

    def open_pool(self) -> _native.Pool:
        """The pool; RuntimeError if this owner starts no more jobs. A caller must not keep the pool
        in a local variable: a kept traceback would keep the pool's descriptors open."""
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
        admission: _native.Admission | None = None,
    ) -> Future[Any]:
        """Waits for a slot and starts the job of `future`: `work`, or the job that the starter has
        `packed`, with its `admission`. Both can be used again only if this raises Blocked. If a
        signal handler raises, the Future's pid tells whether the job has started.

        Returns the Future. If a callback, the gate, or the pickling has forked, the child starts a
        job of its own and returns another Future."""
        consume = self.slots_for(future._consume)
        if work is not None:
            if consume and deadline is not None and deadline <= time.monotonic():
                self.refuse_early(_native.Admission(consume, callbacks, 0.0), callbacks)
            # (Under fork nothing is packed, and each step costs page faults.)
            packed = self.pack(work) if self.starter.sends else work
        if admission is None:
            admission = _native.Admission(consume, callbacks, None)
        else:
            admission.callbacks, admission.timeout = callbacks, None
        try:
            if gate is not None:
                Gating(self, gate, admission, consume, callbacks, deadline).pass_on()
            while True:
                if self.forwarding:
                    self.forwarding.forward(None)
                if future._owner_pid != self.pid:
                    future = self._future_here(future, work)
                if deadline is not None:
                    admission.timeout = deadline - time.monotonic()
                state = self.starter.start(self.native, future, admission, packed)
                if not state:
                    return future
                if state == _native.TIMED_OUT:
                    raise Blocked(not_in_time(consume))
                self.issue_callbacks()
        except BaseException as e:
            self.native.conclude(admission, raised_by_handler(e))
            raise
        finally:
            # A job that was started has these objects. Otherwise a kept traceback must not keep
            # them.
            packed = None
            del work

    def pack(self, work: _native.Work) -> Any:
        """Packs a job: all steps that can be done, and can fail, before it has a slot."""
        try:
            packed = self.starter.pack(work)
        except pickle.PicklingError:
            self.check_open()  # the reason may be that the owner was closed meanwhile
            raise
        self.here()  # the pickling may have forked
        return packed

    def check(self, work: _native.Work) -> None:
        """Raises what `pack` would raise, and keeps nothing."""
        self.starter.check(work)

    def _future_here(self, parents: Future[Any], work: _native.Work | None) -> Future[Any]:
        """In a child that was forked while its parent submitted a job: makes the child's own
        Future."""
        if work is None:
            done_elsewhere(parents)  # a job of `map`, whose results only the parent has
        return Future(
            self, work and work.time_limit, parents._consume, parents._name, parents._records
        )

    def slots_for(self, consume: int) -> int:
        """How many slots a job with this `consume` takes."""
        return consume if self.starter.takes_slots else 0

    def refuse_early(self, admission: _native.Admission, callbacks: bool) -> None:
        """Raises Blocked if the slots for it are not free, so that a submission that does not wait
        need not pickle."""
        if self.here().could_admit(admission, False):
            return
        self.look(callbacks)
        self.native.reclaim()
        if not self.native.could_admit(admission, False):
            count = admission.consume
            raise Blocked("no slot is free" if count == 1 else f"{count} slots are not free")

    # Waiting.

    def look(self, callbacks: bool = False) -> _native.Look:
        """Scans. Returns the state that the scan saw, for `sleep`."""
        look = self.native.look()
        if self.forwarding:
            self.forwarding.forward(None)
        if callbacks:
            self.issue_callbacks()
        if self._readiness is not None:
            self.rest(self._readiness, look, None)
        return look

    def rest(
        self,
        readiness: _native.Readiness,
        look: _native.Look,
        admission: _native.Admission | None,
    ) -> None:
        """Has an event loop's descriptor tell of changes since that look, of slots for the
        submission, and when output may be there to be forwarded."""
        seconds = self.forwarding.forward(None) if self.forwarding else None
        readiness.rest(look, admission, seconds)

    def fileno(self) -> int:
        """A descriptor that is readable whenever a call has something to do."""
        self.check_open()
        if self._readiness is None:
            self._readiness = _native.Readiness(self.native)
        return self._readiness.fileno()

    def sleep(
        self,
        look: _native.Look,
        seconds: float | None,
        *,
        admission: _native.Admission | None = None,
        yields: bool = False,
    ) -> None:
        """Sleeps until a job, or the slots of an `admission`, may be ready; at most `seconds`.
        Returns at once if something has changed since `look`. A job gives its slot to the pool
        meanwhile if `yields`, if this owner yields, or if the core requires it."""
        if self.forwarding:
            seconds = self.forwarding.forward(seconds)
        self.native.wait(look, admission, seconds, yields or self.yields)

    def sleep_beside(
        self, look: _native.Look, seconds: float | None, admission: _native.Admission | None
    ) -> None:
        """`sleep` of a thread that submits for others, by `admit_beside`."""
        if self.forwarding:
            seconds = self.forwarding.forward(seconds)
        self.native.wait_beside(look, admission, seconds)

    def wait_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Returns whether a job has finished within `timeout` seconds. Callbacks that are due run
        first."""
        left = timeout
        deadline = None if timeout is None else _arguments.deadline(timeout)
        # A job without a slot has none to lend to jobs of its own, which may need this one's.
        yields = self.yields or not future._consume
        while True:
            step = self.forwarding.forward(left) if self.forwarding else left
            state = self.native.wait_for(future, step, yields)
            if self._readiness is not None:
                self.look()
            if not state:
                return True
            if state != _native.TIMED_OUT:
                self.issue_callbacks()
            elif step == left:
                return False
            if future._owner_pid != self.pid:
                return done_elsewhere(future)
            if deadline is not None:
                left = deadline - time.monotonic()

    @contextlib.contextmanager
    def several_slots_given_away(self) -> Iterator[bool]:
        """If this is a job of several slots, gives them to the pool meanwhile. After an error of a
        signal handler it goes on without them: Ctrl-C must work at once."""
        native = self.native
        gave_away = native.runs_on_several and native.give_slots_away()
        try:
            yield gave_away
        except BaseException as e:
            if gave_away and not raised_by_handler(e):
                native.resume()
            raise
        if gave_away:
            native.resume()

    def issue_callbacks(self, *finished: Future[Any]) -> None:
        """Runs the callbacks of finished Futures, and of these, which had finished before."""
        taken: list[Future[Any]] = []
        try:
            self.finished.extend(finished)
            while self.finished:
                # One C call moves it, in which no signal handler runs, so Ctrl-C cannot lose it.
                taken.extend(itertools.starmap(self.finished.popleft, ((),)))
                if isinstance(taken[0]._outcome, _native.MemoryFile):
                    self._unread.add(taken[0])
                if taken[0]._records is not None:
                    taken[0]._records.settle()
                issue_callbacks(taken[0])
                self.here()  # a callback may have forked; the finished Futures are the parent's
                taken.clear()
        except IndexError:
            pass  # another thread took the last one
        except BaseException:
            try:
                self.finished.extendleft(taken)
            finally:
                self.native.wake()  # another thread, or the next call, goes on
            raise

    def issue_callbacks_of(self, future: Future[Any]) -> None:
        """Runs the callbacks of a Future that had finished before."""
        self.here()
        self.issue_callbacks(future)

    # Ending.

    def signal(self, future: Future[Any], number: int) -> None:
        """Sends a signal to a job if it still runs."""
        self.look()
        if future._outcome is None:
            self.native.signal(future._job, number)

    def kill(self, future: Future[Any], grace: float) -> None:
        """Ends a job's process and all processes below it, and waits for the job's end."""
        self.native.kill(future._job, grace)
        self.wait_for(future, None)

    def close(self) -> None:
        """Waits for all running jobs, then ends the processes and closes the descriptors of this
        owner. Raises the first error of a callback after all is closed."""
        self.begin_close()
        raised = self.drain(callbacks=True)
        self.stop_helpers()
        self._readiness = None
        for watch in [*self.watches.values()]:
            watch.owner_closed()
        self.watches.clear()
        for future in (*self._unread, *self.finished):
            if isinstance(future._outcome, _native.MemoryFile):
                load(future)
        if raised is not None:
            raise raised

    def begin_close(self) -> None:
        """From now on no job can be started. Running jobs go on."""
        self.here().begin_close()

    def drain(self, callbacks: bool) -> CallbackRaised | None:
        """Waits until no job runs, and closes the owner. Runs callbacks, up to the first that
        raises, which it returns."""
        raised: CallbackRaised | None = None
        while not self.native.close(callbacks and raised is None):
            try:
                self.issue_callbacks()
            except CallbackRaised as e:
                raised = e
        if self.forwarding:
            self.forwarding.settle()
        return raised

    def end_stale_watches(self) -> None:
        """Ends the watches of event loops that are over."""
        for loop, watch in [*self.watches.items()]:
            if watch.is_over:
                self.watches.pop(loop, None)
                watch.end()

    def forwards(self) -> Forwarding:
        """The jobs whose output is forwarded, for one more."""
        self.here()
        if self.forwarding is None:
            self.forwarding = Forwarding()
        return self.forwarding

    def stop_helpers(self) -> None:
        """Ends the helper processes."""
        self.progresses.clear()
        self.starter.stop()


os.register_at_fork(after_in_child=_native.forget_lifeline)
