"""The class JobserverExecutor. Not here: its thread (`runner.py`)."""

from __future__ import annotations

import itertools
import signal
import time
import weakref
from collections import deque
from concurrent import futures
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, TypeVar

from .. import _arguments
from .. import _multiprocessing as mp
from .._jobserver import Jobserver
from .._native import getpid
from .deaths import Initializer
from .runner import Runner

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

T = TypeVar("T")


class JobserverExecutor(futures.Executor):
    """A :class:`concurrent.futures.Executor` whose calls are jobs of a Jobserver.

    It takes the place of :class:`~concurrent.futures.ProcessPoolExecutor` in a program: change the
    name. Executors that jobs make share the slots of the pool that the jobs run in.

    Args:
        max_workers: the number of slots, which is how many calls run at once. None joins the pool
            of the job or the make recipe that this program runs in, if there is one; otherwise it
            means the number of CPUs that this process may use.
        mp_context: a multiprocessing context, or the name of a start method. None means
            multiprocessing's default; but where that is "fork" it means "forkserver", because the
            executor has a thread, and a fork does not go together with threads. (It stays "fork" if
            one of `initargs` is a lock of multiprocessing that only forked processes can share.)
        initializer, initargs: each process calls ``initializer(*initargs)`` before its first call.
            If it raises an exception, the executor is broken: all calls then have
            BrokenProcessPool.
        max_tasks_per_child: how many calls one process may run. None sets no limit.
        jobserver: an existing Jobserver, or a handle of one (:meth:`Jobserver.with_options`), whose
            slots and options the calls use. It is not closed at the end. All other arguments then
            must have their default values.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.

    Its Futures are those of :mod:`concurrent.futures`. A call whose process dies has an exception
    that is a :class:`SubmissionDied` and a BrokenProcessPool; other calls, and the executor, go on.

    The executor has one thread, which its first submission starts. The thread ends with
    :meth:`shutdown`, with the last reference to the executor, and with the interpreter, after all
    calls have ended. In a job, the thread lends the job's slot to the calls: the job is taken to
    wait for them.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        jobserver: Jobserver | None = None,
    ) -> None:
        given = (max_workers, mp_context, initializer, max_tasks_per_child)
        if jobserver is None:
            self._js = _own(max_workers, mp_context, initializer, initargs, max_tasks_per_child)
        elif not isinstance(jobserver, Jobserver):
            kind = type(jobserver).__name__
            raise TypeError(f"jobserver must be a Jobserver, not {kind}")
        elif given != (None, None, None, None) or tuple(initargs):
            raise TypeError("jobserver brings its own slots, context, initializer and processes")
        else:
            self._js = jobserver
        self._is_own = jobserver is None
        self._runners: dict[int, Runner] = {}
        # Programs for ProcessPoolExecutor read these.
        self._max_workers = self._js.slots
        self._mp_context = self._js.context

    def __repr__(self) -> str:
        return f"<JobserverExecutor of {self._js!r}>"

    @property
    def _runner(self) -> Runner:
        """The state of this process. (In a forked child, that of the parent has no thread.)"""
        pid = getpid()
        runner = self._runners.get(pid)
        if runner is None:
            made = Runner(self._js, self._is_own)
            runner = self._runners.setdefault(pid, made)
            for other in [*self._runners]:
                if other != pid:
                    self._runners.pop(other, None)
            if runner is made:
                weakref.finalize(self, _stop, runner).atexit = False
        return runner

    @property
    def _broken(self) -> str | bool:
        broken = self._runner.broken
        return False if broken is None else str(broken)

    def submit(
        self, fn: Callable[_P, T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> futures.Future[T]:
        """Has ``fn(*args, **kwargs)`` called in a job. Returns a Future at once; the job starts
        when there is a slot for it.

        If `fn` or an argument cannot be pickled, the Future has the error.

        Raises:
            RuntimeError: the executor or the interpreter has been shut down.
            BrokenProcessPool: the initializer has failed.
        """
        runner = self._runner
        runner.check_open()
        return runner.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Calls `fn` with each of the items of `iterables`, taken in step, in jobs. Returns an
        iterator over the results, in the order of the items.

        Args:
            timeout: how many seconds from this call on to wait for each result.
            chunksize: how many calls one job makes.
            buffersize: how many chunks are submitted whose results have not been taken. None means
                all: the iterables are read at once.

        Raises:
            TypeError, ValueError: an argument has a wrong type or value.
            TimeoutError: by `next`: the result was not there in time.
            BaseException: by `next`: the exception that the call raised. It ends the iterator.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else timeout + time.monotonic()
        rows = zip(*iterables)
        chunks = iter(lambda: [*itertools.islice(rows, chunksize)], [])
        if chunksize == 1:
            calls = ((fn, *row) for [row] in chunks)
        else:
            calls = ((_call_each, fn, [*zip(*chunk)]) for chunk in chunks)
        first = itertools.islice(calls, buffersize)
        submitted = deque([self.submit(*call) for call in first])
        # It does not keep the executor, which ends with its last reference.
        more = None if buffersize is None else (weakref.ref(self), calls)
        served = _served(submitted, more, deadline)
        return served if chunksize == 1 else itertools.chain.from_iterable(served)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further submissions, and frees the resources when all calls have ended. A second
        call does nothing but wait.

        Args:
            wait: whether to wait for that.
            cancel_futures: whether to cancel the calls that have not started.
        """
        runner = self._runner
        runner.stop(cancel_futures)
        if wait:
            runner.join()

    def terminate_workers(self) -> None:
        """Cancels the calls that have not started, sends SIGTERM to the processes of the others,
        and shuts down; does not wait. As in Python 3.14."""
        self._runner.signal_all(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Does the same with SIGKILL, which also goes to all processes below those of the calls."""
        self._runner.signal_all(signal.SIGKILL)


def _own(
    max_workers: Any, mp_context: Any, initializer: Any, initargs: Any, max_tasks_per_child: Any
) -> Jobserver:
    """The Jobserver of an executor with these arguments."""
    if isinstance(max_workers, int) and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
    args = tuple(initargs)
    if mp_context is None and _arguments.default_method() == "fork":
        # tqdm's `process_map` gives such a lock to the initializer.
        mp_context = "fork" if any(map(mp.is_for_forks_only, args)) else "forkserver"
    made: Any = None if initializer is None else Initializer(initializer, args)
    return Jobserver(
        mp_context, max_workers, max_tasks_per_child=max_tasks_per_child, initializer=made
    )


def _stop(runner: Runner) -> None:
    if runner.pid == getpid():
        runner.stop()


def _call_each(fn: Callable[..., T], columns: list[tuple[Any, ...]]) -> list[T]:
    """In the job: makes the calls of a chunk. Their arguments are sent by columns, because a few
    long tuples are pickled much faster than many short ones."""
    return [fn(*row) for row in zip(*columns)]


def _served(
    submitted: deque[futures.Future[Any]],
    more: tuple[Any, Iterator[tuple[Any, ...]]] | None,
    deadline: float | None,
) -> Iterator[Any]:
    """The results of these, in order; and of the calls in `more`, which are submitted one for each
    that has been waited for. Cancels the rest at its end."""
    try:
        while submitted:
            left = None if deadline is None else deadline - time.monotonic()
            submitted[0].exception(left)  # waits
            if more is not None:
                executor, calls = more[0](), more[1]
                submitted.extend(
                    executor.submit(*call) for call in itertools.islice(calls, executor is not None)
                )
                del executor
            yield submitted.popleft().result()
    finally:
        for future in submitted:
            future.cancel()
