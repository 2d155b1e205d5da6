"""A backend for joblib: every :class:`joblib.Parallel`, at any depth, shares one set of slots.

    import joblib
    import jobserver.joblib

    jobserver.joblib.register()
    with joblib.parallel_config("jobserver", n_jobs=4):
        search.fit(x, y)  # scikit-learn's models use joblib

joblib 1.3 to 1.6 can be used; `nestable-jobserver[joblib]` installs it. joblib's callbacks need a
thread: each Parallel has one (:class:`jobserver.JobserverExecutor`) until it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from functools import partial
from typing import Any, Callable, Iterable, Iterator

import joblib
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    get_active_backend,
)

from ._joblib import pools
from ._joblib.batch import Buffers, Results
from ._joblib.jobs import Jobs
from ._joblib.slot import Slot, slot_in_use
from ._joblib.threads import SlotThreads, slot_of_this_thread
from ._joblib.workers import Runner, Workers, take
from ._jobserver import Jobserver

__all__ = ["JobserverBackend", "register"]


def register() -> None:
    """Tells joblib of the backend "jobserver". A second call does nothing."""
    joblib.register_parallel_backend("jobserver", JobserverBackend)


class JobserverBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend "jobserver" of joblib.

    `joblib.parallel_config("jobserver", ...)` takes these arguments too:

    Args:
        inner_max_num_threads: how many threads numeric libraries may use in a job. None means the
            number of CPUs divided by that of the slots, at least 1, unless the program's
            environment sets OMP_NUM_THREADS or a similar variable.
        jobserver: the :class:`jobserver.Jobserver` that runs the jobs, or a handle of one with
            options. None means the pool that this process runs in, if it is a job or in a make
            recipe, and otherwise a pool that the program makes and keeps.
        initializer, initargs: each process calls ``initializer(*initargs)`` before its first job.

    `n_jobs` of `parallel_config` is the number of slots of a pool that the program makes: never do
    more jobs run, at all depths together. `n_jobs` of a Parallel says how many of them it uses at
    most; -1 means all. As with every backend of joblib, without any `n_jobs` a Parallel runs its
    calls one after the other, in its own process.

    What requires shared memory, and what prefers threads in a job, runs in threads of the process,
    each of which has a slot while it runs calls.

    A job's Parallel that returns a list gives the job's slot to the pool while it waits. One that
    returns a generator lends the slot to jobs of its own; what the job computes between two results
    is not counted.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        jobserver: Jobserver | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if jobserver is not None and not isinstance(jobserver, Jobserver):
            raise TypeError(f"jobserver must be a Jobserver, not {type(jobserver).__name__}")
        if jobserver is not None and initializer is not None:
            raise TypeError("jobserver brings its own initializer")
        self.jobserver = jobserver
        self._initializer, self._initargs = initializer, tuple(initargs)
        #: One object, which the Parallel takes that uses this backend.
        self._unused = deque([True])
        self._workers: Workers | None = None
        self._begin: Callable[[], Workers]
        #: What the Parallel runs on.
        self._slot: Slot | None = None
        self._has_threads = False
        #: How long the last batch has run, if its job has measured that.
        self._seconds: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.jobserver, self._initializer, self._initargs
        return _rebuilt, (self.nesting_level, self.inner_max_num_threads, *given)

    # What joblib asks.

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once for this `n_jobs`: no more than there are slots."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        js, most = self._existing(), _configured()
        if js is not None:
            most = js.slots
        number = self.default_n_jobs if n_jobs is None else n_jobs
        if number < 0:
            number = max((most or joblib.cpu_count()) + 1 + number, 1)
        return int(number if most is None else min(number, most))

    def get_nested_backend(self) -> tuple[JobserverBackend, None]:
        """The backend of Parallels in the jobs."""
        assert self._workers is not None
        level = (self.nesting_level or 0) + 1
        return JobserverBackend(level, jobserver=self._workers.jobserver), None

    # The life of a Parallel.

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        *,
        max_nbytes: int | None = 1024 * 1024,
        mmap_mode: str | None = "r",
        jobserver: Jobserver | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        **others: Any,
    ) -> int:
        """Gets ready for this Parallel. (`others` are about temporary files and other pools.)"""
        given = jobserver, initializer, tuple(initargs)
        if not self._is_for(*given) or not take(self._unused):
            # A backend of `parallel_config` serves the Parallels in it; but several may be under
            # way, for example a generator of one.
            raise FallbackToBackend(self._another(*given))
        try:
            workers = self.effective_n_jobs(n_jobs)
            if workers == 1:
                raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
            self.parallel = parallel
            js = self._jobserver_for(workers)
            # `prefer` is for Parallels for which the program has not chosen a backend.
            self._has_threads = require == "sharedmem" or (
                prefer == "threads" and bool(self.nesting_level)
            )
            of_thread = slot_of_this_thread()
            # What a thread runs in a job that lends may need the job's slot too.
            lends = parallel.return_generator or of_thread is not None and of_thread.lends
            least = None if mmap_mode is None else max_nbytes

            def begin() -> Workers:
                runner: Runner
                if self._has_threads:
                    runner = SlotThreads(js._owner, lends)
                else:
                    runner = Jobs(js, Buffers(least, mmap_mode == "r"))
                return Workers(js, runner, workers, partial(getattr, parallel, "_aborting", False))

            self._begin = begin
            self._workers = begin()
            return workers
        except BaseException:
            self._unused.append(True)
            raise

    def start_call(self) -> None:
        assert self._workers is not None
        self._slot = slot_in_use(self._workers.owner)
        if self._slot is None:
            return
        if self.parallel.return_generator:
            self._slot.lend()
        else:
            # The job still computes: it reads joblib's tasks. Its slot is for it until then.
            self._workers.hold()

    def submit(self, func: Callable[[], Any], callback: Callable[..., Any]) -> None:
        """Has a batch run in a job. joblib needs no more of it than the callback."""
        if self._workers is not None:
            self._workers.submit(func, callback)

    def apply_async(self, func: Callable[[], Any], callback: Callable[..., Any]) -> None:
        """The same, for joblib before 1.5."""
        self.submit(func, callback)

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a batch, in its callback."""
        result = out.result()
        self._seconds = result.seconds if isinstance(result, Results) else None
        return result

    def compute_batch_size(self) -> int:
        """How many calls are in a batch: one, if a batch need not be sent."""
        return 1 if self._has_threads else super().compute_batch_size()

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Has joblib choose larger batches if this one was short. `duration` includes the wait for
        a slot; with it, the batches of nested work would never grow."""
        seconds = self._seconds
        super().batch_completed(batch_size, duration if seconds is None else seconds)

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Around the wait of a Parallel for its results. For a list, nothing but joblib's wait is
        in it, so a job needs no slot. For a generator, its consumer's code is in it too."""
        workers = self._workers
        if workers is not None and not self.parallel.return_generator:
            if self._slot is not None:
                self._slot.give_away()
            workers.go()
            if self.parallel.timeout is None and workers.wait():  # joblib would look every 10 ms
                self._go_on()  # with a slot, since the results are loaded now
        yield

    def stop_call(self, exc_info: Callable[[], Any] = sys.exc_info) -> None:
        """At the end of a Parallel, after its jobs have ended or are killed: a job goes on only
        with a slot. Ctrl-C does not wait for that. (At the interpreter's end, when a generator that
        was not read ends, `sys` is no more here.)"""
        if exc_info()[0] is KeyboardInterrupt:
            self._slot = None
        self._go_on()

    def _go_on(self) -> None:
        slot, self._slot = self._slot, None
        if self._workers is not None and slot is not None:
            slot.get_again()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Ends the jobs of this Parallel, and of no other, and waits for their ends."""
        if self._workers is not None:
            self._workers.kill()
            if ensure_ready:
                self._workers = self._begin()

    def terminate(self) -> None:
        """The processes stay for the next Parallel."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()
            self._unused.append(True)
        self.reset_batch_stats()

    # The Jobserver.

    def _existing(self) -> Jobserver | None:
        """The Jobserver whose slots limit this backend, if there is one before the first
        Parallel."""
        return self.jobserver or pools.in_force()

    def _jobserver_for(self, workers: int) -> Jobserver:
        """The Jobserver of a Parallel that runs so many calls at once."""
        js = self._existing()
        if js is None:
            slots = _configured() or workers
            js = pools.of(slots, self._initializer, self._initargs)
        elif self.jobserver is not None and self.inner_max_num_threads is None:
            return js  # it has its options
        threads = self.inner_max_num_threads
        return js.with_options(**_limits(threads, js.slots))

    def _is_for(self, jobserver: Any, initializer: Any, initargs: tuple[Any, ...]) -> bool:
        """Whether these arguments of a Parallel, if there are any, are those of this backend."""
        if jobserver is None and initializer is None:
            return True
        return (
            jobserver is self.jobserver
            and initializer is self._initializer
            and pools.are_same(initargs, self._initargs)
        )

    def _another(
        self, jobserver: Any, initializer: Any, initargs: tuple[Any, ...]
    ) -> JobserverBackend:
        """A backend like this one, for one more Parallel; with these arguments, if given."""
        given = jobserver, initializer, initargs
        if jobserver is None and initializer is None:
            given = self.jobserver, self._initializer, self._initargs
        return _made(self.nesting_level, self.inner_max_num_threads, *given)


def _made(
    nesting_level: int | None,
    inner_max_num_threads: int | None,
    jobserver: Jobserver | None,
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
) -> JobserverBackend:
    return JobserverBackend(
        nesting_level,
        inner_max_num_threads,
        jobserver=jobserver,
        initializer=initializer,
        initargs=initargs,
    )


def _rebuilt(*values: Any) -> JobserverBackend:
    """In a job: the backend that came with a batch. Parallels that name it share its slots."""
    made = _made(*values)
    register()
    if made.jobserver is not None:
        pools.join(made.jobserver)
    return made


def _configured() -> int | None:
    """The number of slots that the `parallel_config` around says, if it names this backend."""
    backend, n_jobs = get_active_backend()
    named = isinstance(backend, JobserverBackend) and n_jobs is not None and int(n_jobs) > 0
    return int(n_jobs) if named else None


def _limits(threads: int | None, slots: int) -> dict[str, Any]:
    """The options that keep the jobs of so many slots from using more threads than CPUs."""
    if threads is not None:
        return {"threads": threads}
    each = max(joblib.cpu_count() // slots, 1)
    names = ParallelBackendBase.MAX_NUM_THREADS_VARS
    if not any(name in os.environ for name in names):
        return {"threads": each}
    return {"env": {name: os.environ.get(name, str(each)) for name in names}}
