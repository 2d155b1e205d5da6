"""The Jobserver: admission, slots, and the one scan that every call makes.

All that is shared between threads lives in the binding or is atomic in Python, so there is
no lock here that a fork could catch. Everything that belongs to one process (its table of
jobs, above all) is made by `_own` at the handle's first use there, also after a fork.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import time
import warnings
from collections import deque
from multiprocessing.context import BaseContext
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    TypeVar,
)
from weakref import WeakSet, WeakValueDictionary

from . import _arguments, _job, _native, _pools, _result
from . import _multiprocessing as mp
from ._arguments import Environment, StartMethod
from ._as_completed import AsCompleted
from ._exceptions import Blocked, CallbackRaised
from ._future import Future
from ._map import Results, results
from ._native import getpid
from ._signals import raised_by_handler
from ._start import starter

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Never, ParamSpec, Self

    _P = ParamSpec("_P")

T = TypeVar("T")


class Jobserver:
    """A pool of slots, and the jobs that this process runs on them.

    Args:
        context: how a job's process starts: "fork", "forkserver", "spawn", a
            multiprocessing context, or None for multiprocessing's default.
        slots: how many jobs may run at once, in this process and in all the jobs below it
            together. None joins the pool in force, that of the job or the make recipe that
            this program was started by (MAKEFLAGS names it); without one, it means the CPUs
            that this process may really use (affinity and cgroup quota considered).
        waiting: what becomes of a job's slot while the job waits for jobs of its own: with
            "hold" it keeps it, with "yield" it gives it to whoever is next, and takes one
            again before it goes on.
        orphans: what becomes of jobs whose owner is killed: "end" ends them too, "keep"
            lets them run on.
        max_tasks_per_child: how many jobs one process may run, one after the other; None sets no
            bound. With 1 each job has a fresh process. With more, a process idles between jobs,
            without a slot, and a job costs a message and not a fork; it sees what earlier ones
            left in memory. A job that left threads, processes or much memory behind is its
            process's last, as is one whose `preexec_fn` did not return a context manager. Under
            fork, one that cannot be pickled has a fresh process.
        preload: the names of modules that the fork server imports, so that its jobs need not; your
            main module it imports anyway. None may start threads. Other start methods have no
            fork server, and do nothing with it.
        style: how a new pool is named in the jobs' MAKEFLAGS: as a "fifo", which make before 4.4
            dies of, or as a "pipe", whose descriptors programs below must inherit (see `pass_fds`).
            "auto" is a fifo where the make on PATH takes one or there is none, and otherwise both.

    Raises:
        TypeError, ValueError: the caller's arguments are of no use.
        ModuleNotFoundError: so is a name in `preload`, of which the first part is looked for. (What
            fails when the fork server imports a module is told on standard error.)
        OSError: the system has no more descriptors for us.
        RuntimeError: this is a sub-interpreter, which cannot start processes.

    A Jobserver can be an argument of a job, or a global that a forked job uses: the job
    then submits jobs of its own to the same slots. It can be used by several threads. Used
    in a `with` statement, it is closed at the end, and all callbacks are issued. What its body
    raises comes out, else the first error of a callback, as CallbackRaised (or as it is, if that is
    no Exception); what other callbacks raise is told by :func:`sys.unraisablehook`.

    One that nobody has any more, nor a Future of it, is given up, by the garbage collector if
    jobs run: they go on to their ends, for which the interpreter waits at its own; nobody has
    their results, and callbacks that wait for them are lost.
    """

    # Of the process that uses the handle; see `_own`.
    _finished: deque[Future[Any]]
    _unread: WeakSet[Future[Any]]
    _jobs: _native.Jobs

    def __init__(
        self,
        context: None | StartMethod | BaseContext = None,
        slots: int | None = None,
        *,
        waiting: Literal["hold", "yield"] = "hold",
        orphans: Literal["end", "keep"] = "end",
        max_tasks_per_child: int | None = 1,
        preload: Iterable[str] = (),
        style: Literal["auto", "fifo", "pipe"] = "auto",
        **others: Never,
    ) -> None:
        if others:
            raise _arguments.unknown("Jobserver", others)
        _arguments.in_main_interpreter()
        chosen = _arguments.context(context)
        yields = _arguments.choice(waiting, "waiting", ("hold", "yield")) == "yield"
        stay = _arguments.choice(orphans, "orphans", ("end", "keep")) == "keep"
        tasks = _arguments.tasks(max_tasks_per_child)
        modules = _arguments.modules(preload)
        named = _arguments.choice(style, "style", ("auto", "fifo", "pipe"))
        pool = _pools.in_force() if slots is None else None
        if pool is None:
            pool = _native.Pool(_arguments.slots(slots), None if named == "auto" else named)
        _end_well(getpid())  # for it has a home to remove
        self._set_up(chosen, pool, os.urandom(16).hex(), None, tasks, modules, yields, stay)

    def _set_up(
        self,
        context: BaseContext,
        pool: _native.Pool,
        key: str,
        helper: int | None,
        tasks: int | None,
        preload: tuple[str, ...],
        yields: bool,
        orphans_stay: bool,
    ) -> None:
        _result.get_ready()
        self._yields = yields
        self._orphans_stay = orphans_stay
        self._context = context
        self._pool: _native.Pool | None = pool  # None once closed
        self._slots = pool.slots
        self._key = key
        self._tasks = tasks
        self._preload = preload
        method = context.get_start_method()
        self._starter = starter(method, self._slots, tasks, preload, helper)
        self._pid = 0  # of the process that it is ready for
        self._made: dict[int, dict[str, Any]] = {}
        _everyone[key] = self

    def _own(self) -> None:
        """Makes the handle this process's own at its first use there, also after a fork.

        Not when the handle is made: a child of multiprocessing unpickles its arguments
        before it forgets what its parent wanted done at its end (`Finalize`, in `_end_well`).

        Several threads may come here at once, and signal handlers in between. A lock could be
        held by the very thread that waits for it; so all make a state, all take the one that
        came first, and putting it into place twice does no harm.
        """
        pid = getpid()
        if self._pid == pid:
            return
        state = self._made.setdefault(pid, self._anew(pid))
        _end_well(pid)
        for other in [*self._made]:
            if other != pid:
                self._made.pop(other, None)  # closes, with the update, what was the parent's
        vars(self).update(state)

    def _anew(self, pid: int) -> dict[str, Any]:
        finished: deque[Future[Any]] = deque()
        return {
            "_finished": finished,
            "_unread": WeakSet(),
            "_jobs": _native.Jobs(finished, self._pool, self._orphans_stay, not self._yields),
            "_starter": self._starter.renewed(),
            "_pid": pid,
        }

    if not TYPE_CHECKING:
        shutdown = _arguments.Foreign()
        apply_async = _arguments.Foreign()

    def __del__(self) -> None:
        state = vars(self)
        jobs = state.get("_jobs")
        if jobs is None or state.get("_pid") != getpid() or jobs.closing:
            return
        left = jobs.unfinished
        if left:
            warnings.warn(
                f"{self!r} was dropped while {left} of its jobs ran: close it, or use `with`",
                ResourceWarning,
                stacklevel=2,
            )

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""
        return self._slots

    @property
    def context(self) -> BaseContext:
        """The multiprocessing context: its locks and queues suit this Jobserver's jobs."""
        return self._context

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """In a job: what a program below must inherit to share the slots, for `pass_fds` of
        :class:`subprocess.Popen`. Empty where the pool is a fifo."""
        own = _native.own_pool()
        return (own and own.pass_fds) or ()

    def __repr__(self) -> str:
        method = self._context.get_start_method()
        state = ", closed" if self._pool is None else ""
        slots = f"{self.slots} slot{'s' if self.slots > 1 else ''}"
        return f"<Jobserver: {slots}, {method}{state}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if mp.context.get_spawning_popen() is None:
            raise TypeError("a Jobserver can be pickled only as part of what a process is to run")
        pool = self._open_pool()
        method = self._context.get_start_method()
        helper = self._starter.descriptor(pool.home)
        return _rebuild, (
            self._key,
            method,
            pool.home,
            None if helper is None else mp.reduction.DupFd(helper),
            self._tasks,
            self._preload,
            self._yields,
            self._orphans_stay,
        )

    def __call__(self, fn: Callable[_P, T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[T]:
        """Submits ``fn(*args, **kwargs)``, waiting for a slot: see :meth:`submit`."""
        return self.submit(fn, args=args, kwargs=kwargs)

    def submit(
        self,
        fn: Callable[..., T],
        *misplaced: Never,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        callbacks: bool = True,
        consume: int = 1,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        time_limit: float | None = None,
        timeout: float | None = None,
    ) -> Future[T]:
        """Runs ``fn(*args, **kwargs)`` in a process of its own, as soon as there is a slot.

        Args:
            callbacks: whether this call issues callbacks of finished jobs.
            consume: how many slots the job takes: 1, or 0 for one that hardly computes. A job
                that waits for such a one leaves it its own slot meanwhile, as with "yield".
            env: changes to the job's environment, a mapping or pairs; None unsets. Applied
                before `fn` is unpickled, so that its imports see them. A library that the job's
                process has loaded before does not look again: for OMP_NUM_THREADS and the like
                see `preexec_fn`.
            preexec_fn: called in the job just before `fn`. If it returns a context manager,
                `fn` runs within it. ``functools.partial(threadpoolctl.threadpool_limits, 1)``
                has those numeric libraries use one thread that are loaded by then.
            sleep_fn: asked before a slot is taken: None lets the job go, a number asks to
                be asked again after that many seconds. No slot is held meanwhile. If it forks,
                and returns in both processes, each has a job and a Future of its own.
            time_limit: after how many seconds of running the job is ended, though its owner
                may be busy, and with it the programs that it has started; its Future then has
                TimeLimitExceeded.
            timeout: how many seconds to wait for `sleep_fn` and a slot; None waits for ever. In a
                job that lends its own slot it bounds the wait for one to start on: the job goes on
                when it has a slot again.

        Raises:
            Blocked: no slot came in time, or `sleep_fn` let nothing go; nothing was started.
            CallbackRaised: a callback that was due has raised; nothing was started.
            TypeError, ValueError: an argument, or what `sleep_fn` returned, is of no use.
            pickle.PicklingError: `fn` or its arguments cannot be sent to the job.
            OSError: the system refused to start a process; the message says which limit.
            RuntimeError: the Jobserver is closed; or its fork server ends again and again.
        """
        if misplaced:
            raise _arguments.misplaced(fn, misplaced)
        # What was not given is not looked at: see `_native.Jobs.until` for why that counts.
        deadline = None if timeout is None else _arguments.deadline(timeout)
        if type(consume) is not int or consume != 1:
            consume = _arguments.consume(consume)
        if type(callbacks) is not bool:
            _arguments.flag(callbacks, "callbacks")
        gate = None if sleep_fn is None else _arguments.function(sleep_fn, "sleep_fn")
        work = _native.Work(
            _arguments.environment(env) if env != () else None,
            None if time_limit is None else _arguments.time_limit(time_limit),
            None if preexec_fn is None else _arguments.function(preexec_fn, "preexec_fn"),
            fn if callable(fn) else _arguments.function(fn),
            args if type(args) is tuple else _arguments.positional(args),
            None if kwargs == {} else _arguments.keywords(kwargs),
        )
        if self._pool is None or self._pid != getpid() or self._jobs.closing:
            self._open_pool()
        name = getattr(fn, "__qualname__", None)
        future: Future[T] = Future(self, work.time_limit, consume, name)
        return self._start(future, work, gate, callbacks, deadline)

    def _start(
        self,
        future: Future[Any],
        work: _native.Work | None,
        gate: Callable[[], Any] | None,
        callbacks: bool,
        deadline: float | None,
        prepared: Any = None,
    ) -> Future[Any]:
        """Starts the job of `future`, waiting for a slot: to do this work, or what the starter has
        `prepared`, which is of use once more only if this raises Blocked. Whether it has been
        started, though a signal handler raises, can be told by the Future's pid.

        Returns the Future: another one if a callback, the gate, or the pickling has forked, and
        this is the child, whose job is its own."""
        consume = future._consume
        if work is not None:
            if deadline is not None and consume and deadline <= time.monotonic():
                self._refuse_early(callbacks)
            try:
                prepared = self._starter.prepare(work, self._jobs)
            except pickle.PicklingError:
                self._open_pool()  # if it was closed meanwhile, then that is why
                raise
            if self._pid != getpid():
                self._own()
        slot = None
        try:
            if gate is not None:
                slot = self._admit_gated(gate, consume, callbacks, deadline)
            elif consume:
                slot = self._admit(callbacks, deadline)
            else:
                self._open_pool()
                self._scan(callbacks)
            if future._owner != self._pid:
                future = self._future_here(future, work)
            self._starter.start(self._jobs, future, slot, prepared)
            return future
        finally:
            # A job that was started has these now. Otherwise they must not stay with us for
            # as long as somebody keeps the traceback.
            prepared = None
            del work
            if slot is not None:
                slot.release()
                if slot.own:
                    self._jobs.resume(self._pool)

    def _future_here(self, parents: Future[Any], work: _native.Work | None) -> Future[Any]:
        """In a process that was forked while its parent submitted: what is to be its own Future."""
        if work is None:
            parents._wait_elsewhere()  # of map, whose results are its parent's
        return Future(self, work and work.time_limit, parents._consume, parents._name)

    def map(
        self,
        fn: Callable[..., T],
        argses: Iterable[Iterable[Any]] | None = None,
        kwargses: Iterable[Mapping[str, Any]] | None = None,
        *,
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        **others: Never,
    ) -> Results[T]:
        """Calls `fn` with each of many arguments; the results come in order, from an iterator.

        Calls are grouped into *chunks*, each of which is one submission: it takes one slot,
        and one process makes its calls, one after the other. They share what `fn` changes in
        that process. This call starts what finds a slot at once; the rest is started within
        `next`, which also issues the callbacks that are due.

        What a call raises is raised by the `next` for that very call, and the next `next` goes
        on with the result that follows. If a call ends its process, or something kills it,
        that call's `next` raises SubmissionDied. The other calls of its chunk are made in
        other processes: those after it, and, since their results died with the process, those
        before it once more. KeyboardInterrupt raised in a call ends its chunk's job too, but the
        results before it are kept.

        Args:
            argses: an iterable of the positional arguments of each call: ``[(1,), (2,)]``, which
                may themselves be iterators.
            kwargses: an iterable of the keyword arguments of each call, mappings. With both,
                they are taken in step. They are read as calls are started, so they may be
                endless; what they raise is raised when the results before have been taken,
                and ends the calls.
            timeout: how many seconds from this call on to wait for a result, as in
                :meth:`concurrent.futures.Executor.map`; None waits for ever.
            chunksize: how many calls to a chunk. "auto" begins with 1 and lets chunks grow to
                about 10 ms, by what calls have taken so far. (A forked job of a list or a tuple,
                with one job a process, begins with what it does in 50 ms.)
            buffersize: how many chunks may be started, or have results, that the caller has
                not taken to their end; None means four for each slot.
            env, preexec_fn, sleep_fn: as in :meth:`submit`, for each chunk.

        Raises:
            TypeError, ValueError: an argument is of no use.
            pickle.PicklingError: `fn` or `preexec_fn` cannot be sent to a job.
            OSError: the system refused.
            RuntimeError: the Jobserver is closed.

        `next` raises these too, when they concern later chunks, and:
            Blocked: the result was not there in time; ask again.
            CallbackRaised: a callback that was due has raised; ask again.
            ValueError: one of `argses` and `kwargses` has more items than the other.
            RuntimeError: a call has raised StopIteration, which is the cause.
            BaseException: whatever the call raised. What cannot be pickled, arguments or
                result, is told by the call's own PicklingError.
        """
        if others:
            raise _arguments.unknown("map", others)
        return results(
            self,
            fn,
            argses,
            kwargses,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            env=env,
            preexec_fn=preexec_fn,
            sleep_fn=sleep_fn,
        )

    def as_completed(
        self, futures: Iterable[Future[T]], timeout: float | None = None
    ) -> Iterator[Future[T]]:
        """The Futures in the order in which their jobs finish, well or not; each once.

        Those that have finished already come first, in the order given. Waiting for the next
        issues the callbacks that are due. What the iterator's `next` raises does not end it:
        call it again to go on.

        Args:
            futures: of this Jobserver. Those of a generator are asked for one by one, when none of
                those before has finished.
            timeout: how many seconds from this call on to wait for a Future, as in
                :func:`concurrent.futures.as_completed`; None waits for ever.

        Raises:
            TypeError, ValueError: what was given is not a Future, or is another Jobserver's.
            Blocked: by `next`: the time is over, and no other job has finished.
            CallbackRaised: by `next`: a callback that was due has raised.
        """
        deadline = _arguments.deadline(timeout)
        self._own()
        self._scan()
        return AsCompleted(self, futures, deadline)

    def _open_pool(self) -> _native.Pool:
        """The pool, for this process to use; RuntimeError if it is closed.

        Not to be kept in a local variable: a traceback that somebody keeps would keep the
        pool's descriptors open.
        """
        self._own()
        if self._pool is None or self._jobs.closing:
            raise RuntimeError("this Jobserver is closed")
        return self._pool

    def _refuse_early(self, callbacks: bool) -> None:
        """Spares a submission that does not wait the pickling, if there is no slot for it."""
        if self._open_pool().has_one():
            return
        self._scan(callbacks)
        self._open_pool().reclaim()
        if not self._open_pool().has_one():
            raise Blocked("no slot is free")

    def _admit(self, callbacks: bool, deadline: float | None) -> _native.Slot:
        """Waits until there is a slot, and takes it."""
        left: float | None = None
        while True:
            if deadline is not None:
                left = deadline - time.monotonic()
            slot = self._jobs.admit(self._pool, left, callbacks, self._yields)
            if slot is not None:
                return slot
            if callbacks and self._finished:
                self._issue_callbacks()
            elif left is not None and left <= 0:
                # Once more: the callbacks that kept us may have been issued elsewhere since.
                slot = self._open_pool().try_take()
                if slot is not None:
                    return slot
                raise Blocked("no slot was free in time")

    def _admit_gated(
        self, gate: Callable[[], Any], consume: int, callbacks: bool, deadline: float | None
    ) -> _native.Slot | None:
        """Waits until the gate lets a job go, and takes a slot for it. Gates come first."""
        while True:
            self._open_pool()
            handled = self._scan(callbacks)
            if consume and not self._open_pool().has_one():
                # Not asked before one is: its answer would be stale by then.
                left = _left(deadline, "no slot was free in time")
                if not self._open_pool().runs:
                    self._jobs.wait(handled, self._pool, left, None, False)
                    continue
                # A job's own slot will do.
            delay = _arguments.delay(gate())
            if self._pid != getpid():
                self._own()
            if delay is not None:
                self._pause(delay, callbacks, deadline)
                continue
            if not consume:
                return None
            slot = self._open_pool().try_take()
            if slot is None and (deadline is None or time.monotonic() < deadline):
                slot = self._open_pool().own_slot(self._yields)
            if slot is not None:
                return slot

    def _pause(self, delay: float, callbacks: bool, deadline: float | None) -> None:
        """Lets `delay` seconds pass, looking after finished jobs meanwhile."""
        until = time.monotonic() + delay
        while True:
            self._open_pool()
            handled = self._scan(callbacks)
            left = until - time.monotonic()
            if left <= 0 and (deadline is None or until < deadline):
                return
            remaining = _left(deadline, "sleep_fn did not let the job go in time")
            left = left if remaining is None else min(left, remaining)
            self._jobs.wait(handled, None, left, self._pool, self._yields)

    def _scan(self, callbacks: bool = False) -> int:
        """Looks at all that has finished. Returns what `_native.Jobs.wait` wants to know."""
        handled = self._jobs.scan()
        if callbacks:
            self._issue_callbacks()
        return handled

    def _issue_callbacks(self) -> None:
        taken: list[Future[Any]] = []
        try:
            while self._finished:
                # Moved within one C call, where no signal handler can run, lest Ctrl-C lose it.
                taken.extend(itertools.starmap(self._finished.popleft, ((),)))
                if isinstance(taken[0]._outcome, _native.MemoryFile):
                    self._unread.add(taken[0])
                taken[0]._issue_callbacks()
                if self._pid != getpid():
                    self._own()  # a callback has forked; what is finished is its parent's
                taken.clear()
        except IndexError:
            pass  # another thread was faster
        except BaseException:
            self._finished.extendleft(taken)  # the next call goes on with the rest
            raise

    def _wait_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Whether a job has finished within `timeout` seconds; callbacks come first."""
        left = timeout
        deadline = None if timeout is None else _arguments.deadline(timeout)
        # A job without a slot has none to lend to jobs of its own: they may need ours.
        yields = self._yields or not future._consume
        while not self._jobs.wait_for(future, left, self._pool, yields):
            if self._finished:
                self._issue_callbacks()
                if future._owner != self._pid:
                    return future._wait_elsewhere()
            elif left is not None and left <= 0:
                # Not simply False: other callbacks may have kept us, and be issued since.
                return future._outcome is not None
            if deadline is not None:
                left = deadline - time.monotonic()
        return True

    def reclaim_resources(self) -> None:
        """Looks once at everything that has finished, and issues the callbacks due.

        Raises:
            CallbackRaised: a callback has raised; call again to go on with the rest.
        """
        self._own()
        if self._pool is not None:
            self._pool.reclaim()
        self._scan(callbacks=True)

    def close(self) -> None:
        """Waits for everything that is running, then gives up all processes and descriptors of its
        own. (multiprocessing's resource tracker stays until the program ends.)

        From its beginning on, submissions by other threads, by callbacks, and by `next` of a
        `map` are refused, also if Ctrl-C ends it early; call it again then. Jobs that run may
        submit what they need until their functions return. Futures keep their results. Closing
        twice is harmless.

        Raises:
            CallbackRaised: a callback has raised. Everything has been closed all the same;
                call again to go on with the callbacks that remain.
        """
        self._own()
        self._jobs.begin_close()
        raised = self._drain(callbacks=True)
        self._pool = None
        self._starter.stop()
        for future in (*self._unread, *self._finished):
            if isinstance(future._outcome, _native.MemoryFile):
                future._load()
        if raised is not None:
            raise raised

    def _drain(self, callbacks: bool) -> CallbackRaised | None:
        """Waits until nothing runs, and gives everything up. Issues callbacks up to the first
        that raises."""
        raised: CallbackRaised | None = None
        while True:
            handled = self._jobs.scan()
            try:
                if callbacks and raised is None:
                    self._issue_callbacks()
            except CallbackRaised as e:
                raised = e
                continue
            if not self._jobs.close():
                # As whoever waits for a job without a slot: see `_wait_for`.
                yields = self._yields or self._jobs.any_without_slot
                self._jobs.wait(handled, None, None, self._pool, yields)
            elif raised is not None or not callbacks or not self._finished:
                return raised  # else another thread has just taken in the last

    def __enter__(self) -> Self:
        self._open_pool()
        return self

    def __exit__(
        self,
        kind: type | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leaves = error
        while True:
            try:
                self.close()
                break
            except BaseException as e:
                callbacks = isinstance(e, CallbackRaised) or not isinstance(e, Exception)
                if not callbacks or raised_by_handler(e):
                    raise
                if leaves is None:
                    leaves = e
                else:
                    _native.tell_unraisable(e, self)
        try:
            if leaves is not error and leaves is not None:
                raise leaves
        finally:
            del leaves, error  # or the traceback would refer to itself through this frame


def _left(deadline: float | None, complaint: str) -> float | None:
    """The seconds left until a deadline; Blocked if there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Blocked(complaint)
    return left


def _rebuild(
    key: str,
    method: str,
    home: str,
    helper: Any | None,
    tasks: int | None,
    preload: tuple[str, ...],
    *ways: bool,
) -> Jobserver:
    """In a job: the handle that was pickled; the same one however often it was."""
    fd = None if helper is None else helper.detach()
    try:
        known = _everyone.get(key)
        if known is not None:
            return known
        made = Jobserver.__new__(Jobserver)
        made._set_up(
            _arguments.context(method), _pools.opened(home), key, fd, tasks, preload, *ways
        )
        return made
    finally:
        if fd is not None:
            os.close(fd)


#: Every Jobserver of this process, by a key that is the same in all processes.
_everyone: WeakValueDictionary[str, Jobserver] = WeakValueDictionary()


os.register_at_fork(after_in_child=_native.forget_lifeline)


def _wait_for_own_jobs() -> None:
    """At the end of a process: waits for what it has running, so that nothing outlives it. Daemon
    threads start nothing more meanwhile."""
    pid = getpid()
    # (A thread that makes another one meanwhile would disturb an iteration over it.)
    known = [js for js in (ref() for ref in _everyone.valuerefs()) if js is not None]
    ours = [js for js in known if js._pid == pid and js._pool is not None]
    for js in ours:
        js._jobs.begin_close()
    for js in ours:
        js._drain(callbacks=False)
        js._starter.stop()
    _native.wait_for_left()
    _native.remove_homes()


# Called after what is registered next, whatever Ctrl-C makes of that; and no signal handler comes
# into it. (Jobs and fork servers end with a process that does not wait for them.)
atexit.register(_native.remove_homes)


@atexit.register
def _end() -> None:
    try:
        if getpid() in _job.owner:  # and not in a sub-interpreter, which could not wait
            _wait_for_own_jobs()
    finally:
        _native.remove_homes()  # a child of multiprocessing calls nothing else


def _end_well(pid: int) -> None:
    """Has this process do that at its end."""
    # At no moment without it: a signal handler may raise between any two lines.
    _job.owner.add(pid)
    _job.owner.intersection_update((pid,))  # and without those that this was forked from
    if mp.process._parent_process is not None and not _job.is_this_process():
        # A child of multiprocessing ends without what has been registered with atexit. (A job
        # sees to its own, and should not look like having begun something of multiprocessing's.)
        mp.util.Finalize(None, _end, exitpriority=100)


_job.wait_for_own_jobs = _wait_for_own_jobs
