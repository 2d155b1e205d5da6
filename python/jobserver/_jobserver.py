"""The Jobserver: the handle that users have. Its jobs are the owner's (`_owner.py`)."""

from __future__ import annotations

import os
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
from weakref import WeakValueDictionary

from . import _arguments, _native, _own_jobs, _pools
from . import _multiprocessing as mp
from ._arguments import Environment, StartMethod
from ._as_completed import AsCompleted
from ._exceptions import CallbackRaised
from ._future import Future
from ._map import Results, results
from ._native import getpid
from ._owner import Options, Owner
from ._signals import raised_by_handler

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

    _owner: Owner

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
        _own_jobs.users.add(getpid())  # for it has a home to remove
        key = os.urandom(16).hex()
        options = Options(chosen, key, tasks, modules, yields, stay)
        self._owner = Owner(options, pool, None)
        _handles[key] = self

    if not TYPE_CHECKING:
        shutdown = _arguments.Foreign()
        apply_async = _arguments.Foreign()

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""
        return self._owner.slots

    @property
    def context(self) -> BaseContext:
        """The multiprocessing context: its locks and queues suit this Jobserver's jobs."""
        return self._owner.options.context

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """In a job: what a program below must inherit to share the slots, for `pass_fds` of
        :class:`subprocess.Popen`. Empty where the pool is a fifo."""
        own = _native.own_pool()
        return (own and own.pass_fds) or ()

    def __repr__(self) -> str:
        return repr(self._owner)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if mp.context.get_spawning_popen() is None:
            raise TypeError("a Jobserver can be pickled only as part of what a process is to run")
        owner = self._owner
        home = owner.open_pool().home
        helper = owner.starter.descriptor(owner.native)
        context, *options = owner.options
        passed = None if helper is None else mp.reduction.DupFd(helper)
        return _rebuild, (home, passed, context.get_start_method(), *options)

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
        # What was not given is not looked at: see ARCHITECTURE.md, "The fork path".
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
        owner = self._owner
        if owner.pid != getpid() or owner.native.closing:
            owner.check_open()
        name = getattr(fn, "__qualname__", None)
        future: Future[T] = Future(owner, work.time_limit, consume, name)
        return owner.submit(future, work, gate, callbacks, deadline)

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
            self._owner,
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
        self._owner.here()
        self._owner.look()
        return AsCompleted(self._owner, futures, deadline)

    def reclaim_resources(self) -> None:
        """Looks once at everything that has finished, and issues the callbacks due.

        Raises:
            CallbackRaised: a callback has raised; call again to go on with the rest.
        """
        self._owner.here().reclaim()
        self._owner.look(callbacks=True)

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
        self._owner.close()

    def __enter__(self) -> Self:
        self._owner.check_open()
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


def _rebuild(home: str, helper: Any | None, method: str, key: str, *options: Any) -> Jobserver:
    """In a job: the handle that was pickled; the same one however often it was."""
    fd = None if helper is None else helper.detach()
    try:
        known = _handles.get(key)
        if known is not None:
            return known
        made = Jobserver.__new__(Jobserver)
        owner = _own_jobs.known.get(key)
        if owner is None:
            chosen = Options(_arguments.context(method), key, *options)
            owner = Owner(chosen, _pools.opened(home), fd)
        made._owner = owner
        _handles[key] = made
        return made
    finally:
        if fd is not None:
            os.close(fd)


#: Every handle of this process, by its owner's key.
_handles: WeakValueDictionary[str, Jobserver] = WeakValueDictionary()
