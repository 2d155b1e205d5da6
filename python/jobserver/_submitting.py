"""The calls of a Jobserver that submit one function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, TypeVar

from . import _arguments
from ._arguments import Environment
from ._defaults import NONE, Defaults, Output, Threads
from ._future import Future, value_of
from ._submission import prepare

if TYPE_CHECKING:
    from typing_extensions import Never, ParamSpec

    from ._owner import Owner

    _P = ParamSpec("_P")

T = TypeVar("T")


class Submitting:
    """A handle of a Jobserver, as far as it submits single functions."""

    _owner: Owner
    _defaults: Defaults = NONE

    def __call__(self, fn: Callable[_P, T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[T]:
        """Submits ``fn(*args, **kwargs)`` and waits for a slot: see :meth:`submit`."""
        return self.submit(fn, args=args, kwargs=kwargs)

    def submit(
        self,
        fn: Callable[..., T],
        *misplaced: Never,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        callbacks: bool = True,
        consume: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        threads: Threads | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
        timeout: float | None = None,
    ) -> Future[T]:
        """Waits for a slot, then runs ``fn(*args, **kwargs)`` as a job in a process of its own.

        Several of the options may have defaults: see :meth:`with_options`.

        Args:
            callbacks: whether this call runs callbacks of finished jobs.
            consume: how many slots the job takes: 1 (None), several at once, or 0 for a job that
                hardly computes. Programs below a job of several find a pool of so many. Such a job,
                and one that waits for a job with 0, or to start one of several, waits as with
                "yield".
            env: changes to the job's environment, a mapping or an iterable of pairs; the value None
                removes a variable. The job applies them before it unpickles `fn`, so imports see
                them. A library that the job's process has loaded before does not read them again:
                for OMP_NUM_THREADS and similar variables see `threads`.
            preexec_fn: called in the job just before `fn`. If it returns a context manager, `fn`
                runs within it.
            sleep_fn: called before a slot is taken. If it returns None, the job may start. If it
                returns a number, it is called again after that many seconds. This call holds no
                slot meanwhile. If it forks, and returns in both processes, each process starts a
                job and has a Future of it.
            threads: how many threads numeric libraries may use in the job: a number, or "slots"
                for as many as the job has slots. None changes nothing. Libraries that the job loads
                read variables (OMP_NUM_THREADS and so on), which `env` overrides. In libraries that
                its process has loaded, a call sets it: BLAS and OpenMP if threadpoolctl is
                installed, NumExpr and Numba; Polars and Rayon have no such call.
            time_limit: a number of seconds. A job that runs longer is killed, also while its owner
                is busy, with the programs that it has started. Its Future then has
                TimeLimitExceeded.
            memory_limit: how many bytes the job may allocate; it gets MemoryError for more. (On
                Linux; elsewhere NotImplementedError is raised.)
            output: what becomes of the job's output, that of the programs that it starts included.
                "inherit" (None) leaves it alone. With "capture" it goes to memory, and
                `Future.output` returns it. With "forward" it appears in this process's `sys.stdout`
                and `sys.stderr`, within the calls that wait or look for jobs, and all of it before
                the job's result. What the initializer writes is not redirected.
            faulthandler: whether the exception of a job that crashes (SIGSEGV, SIGABRT, SIGBUS,
                SIGFPE, SIGILL) says in its ``__cause__`` where in Python the job was.
            timeout: how many seconds to wait for `sleep_fn` and a slot; None waits without limit.
                In a job that lends its own slot, this limits the wait until the new job starts;
                the call returns when the lender has a slot again.

        Raises:
            Blocked: there was no slot in time, or `sleep_fn` did not return None in time. No job
                was started.
            CallbackRaised: a callback that was due raised an exception. No job was started.
            TypeError, ValueError: an argument, or the value that `sleep_fn` returned, has a wrong
                type or value.
            pickle.PicklingError: `fn` or its arguments cannot be sent to the job.
            OSError: the system refused to start a process; the message names the limit.
            RuntimeError: the Jobserver is closed, or its fork server ended several times in a row.
        """
        if misplaced:
            raise _arguments.misplaced(fn, misplaced)
        deadline = None if timeout is None else _arguments.deadline(timeout)
        if type(callbacks) is not bool:
            _arguments.flag(callbacks, "callbacks")
        future, work, gate = prepare(
            self._owner,
            self._defaults,
            fn,
            args,
            kwargs,
            consume,
            env,
            preexec_fn,
            sleep_fn,
            threads,
            time_limit,
            memory_limit,
            output,
            faulthandler,
        )
        return self._owner.submit(future, work, gate, callbacks, deadline)

    async def asubmit(
        self,
        fn: Callable[..., T],
        *misplaced: Never,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        consume: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], float | None] | None = None,
        threads: Threads | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
    ) -> Future[T]:
        """:meth:`submit` for a task of asyncio or trio: the loop goes on while this waits for a
        slot. Returns the Future, which can be awaited too.

        Callbacks that are due run in the loop. The error of a callback is raised in the tasks that
        await its Future; if there are none, it goes to the loop's exception handler. If the task is
        cancelled, no job is started.

        A job whose tasks await lends its own slot to the jobs that it starts: it is taken to wait
        for them. (A job of several slots blocks its loop while it waits for a slot.)

        Raises:
            RuntimeError: no event loop runs in this thread, or the Jobserver is closed.
            NotImplementedError: the system has no descriptor that a loop could wait for.
            TypeError, ValueError, pickle.PicklingError, OSError: as `submit`.
        """
        if misplaced:
            raise _arguments.misplaced(fn, misplaced)
        from ._await import asubmit  # imports asyncio

        submission = prepare(
            self._owner,
            self._defaults,
            fn,
            args,
            kwargs,
            consume,
            env,
            preexec_fn,
            sleep_fn,
            threads,
            time_limit,
            memory_limit,
            output,
            faulthandler,
        )
        return await asubmit(self._owner, submission)

    async def run(self, fn: Callable[_P, T], /, *args: _P.args, **kwargs: _P.kwargs) -> T:
        """Submits ``fn(*args, **kwargs)`` and waits for its result, in a task of asyncio or trio;
        the loop goes on meanwhile. When the task is cancelled, the job is killed, with all that is
        below it. Takes the options of the handle: see :meth:`with_options`.

        Raises:
            SubmissionDied: the job's process ended without a result.
            BaseException: the exception that the function raised.
            RuntimeError, NotImplementedError, TypeError, pickle.PicklingError, OSError: as
            `asubmit`.
        """
        from ._await import run  # imports asyncio

        submission = prepare(self._owner, self._defaults, fn, args, kwargs)
        future: Future[T] = await run(self._owner, submission)
        return value_of(future)
