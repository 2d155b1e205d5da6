"""The Jobserver, the user's handle. `_owner.py` runs its jobs."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, TypeVar

from . import _arguments, _native, _own_jobs, _pickled, _pools, _several, _threads
from ._arguments import Environment, StartMethod
from ._as_completed import AsCompleted
from ._closing import close_after
from ._defaults import NONE, Output, Threads
from ._future import Future
from ._map import Results
from ._native import getpid
from ._options import checked
from ._owner import Owner
from ._submitting import Submitting

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Never, ParamSpec, Self

    _P = ParamSpec("_P")

T = TypeVar("T")


class Jobserver(Submitting):
    """A pool of slots, and the jobs that this process runs on them.

    Args:
        context: how a job's process starts: "fork", "forkserver", "spawn", a multiprocessing
            context, or None for multiprocessing's default. "inline" starts no process: each
            submission runs its job at once, in the calling thread, for debuggers, profilers and
            tests. Nothing is pickled, no slot is taken, and time limits do not hold. The
            environment variable JOBSERVER_CONTEXT, if it is set, takes the place of this argument.
        slots: the number of slots, which is how many jobs may run at once in this process and in
            all jobs below it together. None joins the pool of the job or the make recipe that
            started this program (MAKEFLAGS names it). If there is no such pool, None means the
            number of CPUs that this process may use, by its affinity and its cgroup's quota.
        waiting: what a job does with its slot while it waits for jobs of its own. With "hold" it
            keeps or lends the slot. With "yield" it gives the slot to the pool, and takes a slot
            again before it goes on.
        orphans: what happens to jobs whose owner is killed: "end" ends them too, "keep" lets them
            run on.
        max_tasks_per_child: how many jobs one process may run, one after the other; None sets no
            limit. With 1 each job has a new process. With more, a process is idle between two
            jobs and holds no slot then; a job costs a message instead of a fork, and sees what
            earlier jobs left in memory. A process ends after a job that left threads, processes or
            much memory behind, and after a job whose `preexec_fn` did not return a context manager.
            Under fork, a job that cannot be pickled has a new process. Under forkserver, idle
            processes are shared by all jobs of this Jobserver that submit jobs.
        preload: the names of modules that the fork server imports, so that its jobs need not import
            them. It always imports your main module. No module may start threads. The other start
            methods ignore this argument.
        style: how the jobs' MAKEFLAGS name a new pool. "fifo" names a fifo, which make before 4.4
            refuses with an error. "pipe" names two descriptors, which programs below must inherit
            (see `pass_fds`). "auto" names a fifo if the make on PATH accepts one or there is no
            make, and otherwise both.
        threads, output, faulthandler: the defaults for all submissions: see :meth:`submit`.
        initializer, initargs: each process calls ``initializer(*initargs)`` before its first job,
            with that job's environment, before it loads the job's function; time limits do not
            count it. If it raises an exception, that job has it as its own, and the process ends.
            Except under fork, both are pickled for each process.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.
        ModuleNotFoundError: a name in `preload` is no module; only the part before the first dot
            is looked up. (If the fork server later fails to import a module, it writes the error
            to standard error.)
        OSError: the system has no more descriptors for this process.
        RuntimeError: this is a sub-interpreter, which cannot start processes.

    A Jobserver can be an argument of a job, or a global that a forked job uses: the job then
    submits jobs of its own to the same pool. Several threads can use a Jobserver.

    A `with` statement closes the Jobserver at its end and runs all callbacks. If the body raises an
    exception, the statement raises it. Otherwise the statement raises the first error of a
    callback, as CallbackRaised, or unchanged if it is not an Exception. All further errors of
    callbacks go to :func:`sys.unraisablehook`.

    A Jobserver is dropped when nothing refers to it or to one of its Futures; if jobs run, the
    garbage collector drops it. The jobs of a dropped Jobserver run to their ends, and the
    interpreter waits for them when it exits. Their results and the callbacks that wait for them
    are lost.
    """

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
        threads: Threads | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        **others: Never,
    ) -> None:
        if others:
            raise _arguments.unknown("Jobserver", others)
        options = checked(
            context, waiting, orphans, max_tasks_per_child, preload, initializer, initargs
        )
        named = _arguments.choice(style, "style", ("auto", "fifo", "pipe"))
        defaults = NONE.changed(1, threads=threads, output=output, faulthandler=faulthandler)
        if defaults != NONE:
            self._defaults = defaults
        if threads is not None:
            options = options._replace(preload=options.preload + _threads.to_preload())
        pool = _pools.in_force() if slots is None else None
        if pool is None:
            pool = _native.Pool(_arguments.slots(slots), None if named == "auto" else named)
        _own_jobs.users.add(getpid())  # this process removes the pool's home at its end
        self._owner = Owner(options, pool, None)
        _pickled.handles[options.key] = self

    if not TYPE_CHECKING:
        shutdown = _arguments.Foreign()
        apply_async = _arguments.Foreign()

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""
        return self._owner.slots

    @property
    def context(self) -> BaseContext:
        """The multiprocessing context of this Jobserver: use its locks and queues with the jobs."""
        return self._owner.options.context

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """In a job: the descriptors that a program below must inherit to share the slots, for
        `pass_fds` of :class:`subprocess.Popen`. Empty if the pool is named by a fifo."""
        own = _native.own_pool()
        return (_several.pass_fds or [(own and own.pass_fds) or ()])[-1]

    def __repr__(self) -> str:
        return repr(self._owner)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _pickled.reduced(Jobserver, self._owner, self._defaults)

    def map(
        self,
        fn: Callable[..., T],
        argses: Iterable[Iterable[Any]] | None = None,
        kwargses: Iterable[Mapping[str, Any]] | None = None,
        *,
        ordered: bool = True,
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        consume: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        threads: Threads | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
        **others: Never,
    ) -> Results[T]:
        """Calls `fn` with each of many arguments, in jobs. Returns an iterator over the results, in
        the order of the arguments.

        The iterator has a length if the number of calls is known, so that progress bars show a
        total. A `with` statement, or its `close`, drops the calls whose jobs have not begun.

        Calls are grouped into *chunks*. A chunk is one submission: it takes one slot, and one
        process makes its calls one after the other. These calls share what `fn` changes in that
        process. `map` itself starts the chunks for which a slot is free. `next` starts the others,
        and runs the callbacks that are due.

        If a call raises an exception, the `next` for that call raises it, and the following `next`
        goes on with the result of the following call. If the process ends during a call, the
        `next` for that call raises SubmissionDied. Other processes then make the other calls of
        the chunk: the calls after it, and the calls before it once more, because their results are
        lost with the process. A KeyboardInterrupt that a call raises also ends the job of its
        chunk, but the results before it are kept.

        Args:
            argses: an iterable with the positional arguments of each call, for example
                ``[(1,), (2,)]``. Each item is an iterable and may be an iterator.
            kwargses: an iterable with the keyword arguments of each call, as mappings. If both are
                given, each call takes one item of each. They are read as calls are started, so
                they may be endless. If reading them raises an exception, no more calls are made,
                and `next` raises the exception after the results of all calls before.
            ordered: False returns results as they come: those of a chunk whose job has finished
                come before those of earlier chunks whose jobs still run.
            timeout: how many seconds from this call on to wait for a result, as in
                :meth:`concurrent.futures.Executor.map`; None waits without limit.
            chunksize: the number of calls in a chunk. "auto" begins with 1 and lets chunks grow to
                about 10 ms, by the time that calls have taken. (If `argses` is a list or a tuple of
                rows of a few numbers and short strings, the first jobs make as many calls as fit
                into 10 ms; if each forked job has a new process, of whatever list, into 50 ms.)
            buffersize: how many chunks may be started or have results while the caller has not
                taken all their results; None means four for each slot.
            consume, env, preexec_fn, sleep_fn, threads, memory_limit, output, faulthandler: as in
                :meth:`submit`, for each chunk, and with the same defaults. Captured output is only
                in the messages of deaths.
            time_limit: a number of seconds for each call. The process of a call that takes longer
                is killed, and the `next` for that call raises TimeLimitExceeded.

        Raises:
            TypeError, ValueError: an argument has a wrong type or value.
            pickle.PicklingError: `fn` or `preexec_fn` cannot be sent to a job.
            OSError: the system refused.
            RuntimeError: the Jobserver is closed.

        `next` raises these too, if they concern later chunks, and:
            Blocked: the result was not there in time; call `next` again.
            CallbackRaised: a callback that was due raised an exception; call `next` again.
            ValueError: one of `argses` and `kwargses` has more items than the other.
            RuntimeError: a call raised StopIteration, which is the ``__cause__``.
            BaseException: the exception that the call raised; PicklingError if the arguments or
                the result of the call cannot be pickled.
        """
        if others:
            raise _arguments.unknown("map", others)
        given = self.slots, consume, env, preexec_fn, sleep_fn, threads, time_limit, memory_limit
        return Results(
            self._owner,
            fn,
            argses,
            kwargses,
            self._defaults.resolved(*given, output, faulthandler),
            ordered=ordered,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
        ).begin()

    def with_options(
        self,
        *,
        consume: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        threads: Threads | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
        **others: Never,
    ) -> Self:
        """Returns a handle of the same Jobserver whose submissions have these options, unless they
        say otherwise: ``quick = js.with_options(time_limit=60, threads=1)``.

        A library that gets such a handle need not know the options. They are those of
        :meth:`submit`, and hold for `map` too. A submission's own options take their place (None
        means the handle's), and its changes of `env` are added. Both handles close together.

        Raises:
            TypeError, ValueError: an option has a wrong type or value.
        """
        if others:
            raise _arguments.unknown("with_options", others)
        given = self.slots, consume, env, preexec_fn, sleep_fn, threads, time_limit, memory_limit
        made = type(self).__new__(type(self))
        vars(made).update(
            vars(self), _defaults=self._defaults.changed(*given, output, faulthandler)
        )
        return made

    def as_completed(
        self, futures: Iterable[Future[T]], timeout: float | None = None
    ) -> AsCompleted[T]:
        """Returns an iterator over the Futures, each once, in the order in which their jobs finish,
        by a result or otherwise.

        Futures whose jobs have finished before come first, in the order given. `next` runs the
        callbacks that are due. An exception that `next` raises does not end the iterator: call
        `next` again to go on.

        Args:
            futures: an iterable of Futures of this Jobserver. Of a generator, the next Future is
                taken only when no job of the Futures before has finished.
            timeout: how many seconds from this call on to wait for a Future, as in
                :func:`concurrent.futures.as_completed`; None waits without limit.

        Raises:
            TypeError, ValueError: an item is not a Future, or is a Future of another Jobserver.
            Blocked: by `next`: the time is over, and no other job has finished.
            CallbackRaised: by `next`: a callback that was due raised an exception.
        """
        deadline = _arguments.deadline(timeout)
        self._owner.here()
        self._owner.look()
        return AsCompleted(self._owner, futures, deadline)

    def fileno(self) -> int:
        """Returns a descriptor that is readable whenever a call into this package has something to
        do for this Jobserver: an event loop of any kind can wait for it, with its other
        descriptors. When it is readable, call :meth:`reclaim_resources`. It must not be read,
        written or closed.

        (A task of asyncio or trio need not use it: see :meth:`run`.)

        Raises:
            RuntimeError: the Jobserver is closed.
            NotImplementedError: the system has no such descriptor. Linux has.
        """
        return self._owner.fileno()

    def reclaim_resources(self) -> None:
        """Collects all finished jobs, without waiting, and runs the callbacks that are due.

        Raises:
            CallbackRaised: a callback raised an exception; call this again to run the others.
        """
        self._owner.here().reclaim()
        self._owner.look(callbacks=True)

    def close(self) -> None:
        """Waits for all running jobs, then ends all processes and closes all descriptors of this
        Jobserver. (multiprocessing's resource tracker stays until the program ends.)

        From the beginning of this call, submissions by other threads, by callbacks, and by `next`
        of a `map` are refused. They stay refused if Ctrl-C interrupts this call; call it again
        then. Jobs that run may submit jobs until their functions return. Futures keep their
        results. A second call does nothing.

        Raises:
            CallbackRaised: a callback raised an exception. The Jobserver is closed; call this again
                to run the callbacks that remain.
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
        close_after(self, error)
