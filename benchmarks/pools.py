"""The pools that are compared, each as its documentation says that it is used.

Every one can do three things here: one call and its result; many calls, each submitted by itself,
and then all results; and a map. What it cannot do, it says by `Cannot`. Each library is imported
when its pool is made, so that a process has one of them only.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import tempfile
from typing import Any, Callable, Iterable, Sequence, Tuple

import work

Function = Callable[..., Any]
Calls = Sequence[Tuple[Any, ...]]


class Cannot(Exception):
    """This contender does not do that; the reason, for the table."""


class Pool:
    """`method` is the start method; `fresh` means a process for each job."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        raise NotImplementedError

    def one(self, fn: Function, *args: Any) -> Any:
        raise NotImplementedError

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        raise NotImplementedError

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        raise Cannot("has no map")

    def tree(self, kind: str, levels: int) -> int:
        """The number of leaves of a tree of jobs: see `work`."""
        raise Cannot("has no nested jobs")

    def nodes(self, depth: int, fanout: int) -> int:
        """Runs a tree of which each node is a job. Returns how many jobs that were."""
        raise Cannot("has no nested jobs")

    def close(self) -> None:
        """Waits for the end of all that it has started."""


class Bare(Pool):
    """`os.fork`, `os._exit`, `os.wait`: no pool at all, and no results."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        self._slots = slots

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        running = 0
        for args in calls:
            if running == self._slots:
                os.wait()
                running -= 1
            if os.fork() == 0:
                fn(*args)
                os._exit(0)
            running += 1
        for _ in range(running):
            os.wait()
        return []

    def tree(self, kind: str, levels: int) -> int:
        return work.tree_of_forks(levels)

    def nodes(self, depth: int, fanout: int) -> int:
        if os.fork() == 0:
            work.node_of_forks(depth, fanout, self._slots)
            os._exit(0)
        os.wait()
        return work.jobs_of(depth, fanout)


class BareLoaded(Bare):
    """The same in a process that has loaded what one with a Jobserver has: a fork copies more."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import jobserver  # noqa: F401

        super().__init__(method, slots, fresh)


class BareRow(BareLoaded):
    """The forks of a tree in a row: none is below another."""

    def nodes(self, depth: int, fanout: int) -> int:
        jobs = work.jobs_of(depth, fanout)
        self.all(work.nothing, [()] * jobs)
        return jobs


class Jobserver(Pool):
    """Ours, or PyPI's: whichever this interpreter has."""

    def __init__(self, method: Any, slots: int, fresh: bool, **options: Any) -> None:
        import jobserver

        self._is_ours = "waiting" in inspect.signature(jobserver.Jobserver).parameters
        if not fresh:
            options["max_tasks_per_child"] = None
            if not self._is_ours:
                raise Cannot("has no warm workers")
        self.js: Any = jobserver.Jobserver(method, slots, **options)

    def one(self, fn: Function, *args: Any) -> Any:
        return self.js.submit(fn, args=args).result()

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        futures = [self.js.submit(fn, args=args) for args in calls]
        return [future.result() for future in futures]

    async def awaited(self, fn: Function) -> Any:
        return await self.js.run(fn)

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        if not hasattr(self.js, "map"):
            raise Cannot("has no map")
        return list(self.js.map(fn, zip(items)))

    def tree(self, kind: str, levels: int) -> int:
        leaves: int = getattr(work, kind)(self.js, levels)
        return leaves

    def nodes(self, depth: int, fanout: int) -> int:
        # PyPI's would wait for ever for a slot that a job above has: only its leaves take one.
        inner = int(self._is_ours)
        root = self.js.submit(work.node, args=(self.js, depth, fanout, inner), consume=inner)
        return int(root.result())

    def close(self) -> None:
        self.js.__exit__(None, None, None)


class Multiprocessing(Pool):
    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import multiprocessing

        context = multiprocessing.get_context(method)
        self._pool = context.Pool(slots, maxtasksperchild=1 if fresh else None)

    def one(self, fn: Function, *args: Any) -> Any:
        return self._pool.apply(fn, args)

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        results = [self._pool.apply_async(fn, args) for args in calls]
        return [result.get() for result in results]

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return self._pool.map(fn, items)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Executor(Pool):
    """What the pools with the interface of concurrent.futures have in common."""

    _executor: Any

    def one(self, fn: Function, *args: Any) -> Any:
        return self._executor.submit(fn, *args).result()

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        futures = [self._executor.submit(fn, *args) for args in calls]
        return [future.result() for future in futures]

    async def awaited(self, fn: Function) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, fn)

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self._executor.map(fn, items, chunksize=_chunksize(items, self._slots)))

    def map_singly(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        """As programs do that say nothing of chunks."""
        return list(self._executor.map(fn, items))

    def close(self) -> None:
        self._executor.shutdown()

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        self._slots = slots
        self._executor = self._made(method, slots, fresh)

    def _made(self, method: str, slots: int, fresh: bool) -> Any:
        raise NotImplementedError


class ProcessPoolExecutor(Executor):
    def _made(self, method: str, slots: int, fresh: bool) -> Any:
        import concurrent.futures
        import multiprocessing

        if fresh and method == "fork":
            raise Cannot("no fresh processes by fork")
        more: Any = {"max_tasks_per_child": 1} if fresh else {}
        context = multiprocessing.get_context(method)
        try:
            return concurrent.futures.ProcessPoolExecutor(slots, context, **more)
        except TypeError:
            raise Cannot("no fresh processes before Python 3.11") from None


class JobserverExecutor(Executor):
    """With its default start method, which is never fork."""

    def _made(self, method: str, slots: int, fresh: bool) -> Any:
        import jobserver

        return jobserver.JobserverExecutor(slots, max_tasks_per_child=1 if fresh else None)


class Loky(Executor):
    """Its workers are always new interpreters."""

    def _made(self, method: str, slots: int, fresh: bool) -> Any:
        import loky

        return loky.ProcessPoolExecutor(slots)


class Pebble(Pool):
    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import multiprocessing

        import pebble

        context = multiprocessing.get_context(method)
        self._slots = slots
        self._pool = pebble.ProcessPool(slots, max_tasks=int(fresh), context=context)

    def one(self, fn: Function, *args: Any) -> Any:
        return self._pool.schedule(fn, args=args).result()

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        futures = [self._pool.schedule(fn, args=args) for args in calls]
        return [future.result() for future in futures]

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        chunksize = _chunksize(items, self._slots)
        return list(self._pool.map(fn, items, chunksize=chunksize).result())

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Mpire(Pool):
    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import mpire

        self._pool = mpire.WorkerPool(slots, start_method=method, keep_alive=True)

    def one(self, fn: Function, *args: Any) -> Any:
        return self._pool.apply(fn, args)

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        results = [self._pool.apply_async(fn, args) for args in calls]
        return [result.get() for result in results]

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(fn, items))

    def close(self) -> None:
        self._pool.stop_and_join()
        self._pool.terminate()


class Joblib(Pool):
    """Has no submission of one call: each is a run of its own. Batches by itself."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import joblib

        self._delayed = joblib.delayed
        self._parallel = joblib.Parallel(n_jobs=slots)
        self._parallel.__enter__()

    def one(self, fn: Function, *args: Any) -> Any:
        return self.all(fn, [args])[0]

    def all(self, fn: Function, calls: Calls) -> list[Any]:
        return self._run(self._delayed(fn)(*args) for args in calls)

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return self._run(self._delayed(fn)(item) for item in items)

    def _run(self, calls: Iterable[Any]) -> list[Any]:
        return list(self._parallel(calls))

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)


class Ray(Pool):
    """Tasks that wait for tasks: a worker that waits gives its CPU back, and another is started."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import ray

        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
        self._ray = ray
        self._folder = tempfile.TemporaryDirectory(prefix="ray")
        ray.init(
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=self._folder.name,
        )

        def node(depth: int, fanout: int) -> int:
            children = [task.remote(depth - 1, fanout) for _ in range(fanout if depth else 0)]
            return 1 + sum(int(jobs) for jobs in ray.get(children))

        self._node = task = ray.remote(node)

    def nodes(self, depth: int, fanout: int) -> int:
        return int(self._ray.get(self._node.remote(depth, fanout)))

    def close(self) -> None:
        self._ray.shutdown()
        self._folder.cleanup()


class Dask(Pool):
    """Two processes with a thread each. A task that waits leaves its worker's pool of threads
    (`secede`), which gets another thread meanwhile."""

    def __init__(self, method: str, slots: int, fresh: bool) -> None:
        import distributed

        self._cluster = distributed.LocalCluster(
            n_workers=slots, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)

    def nodes(self, depth: int, fanout: int) -> int:
        # Else the result of an equal call would be taken: hence not pure.
        root = self._client.submit(work.node_of_dask, depth, fanout, pure=False)
        return int(root.result())

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


def _chunksize(items: Sequence[Any], slots: int) -> int:
    """What multiprocessing's Pool.map would choose; for those that would send items singly."""
    return max(1, -(-len(items) // (slots * 4)))
