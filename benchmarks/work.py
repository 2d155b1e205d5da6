"""What the jobs of the benchmarks do: as little as possible, so that what is measured is the pool.

A module of its own, since under forkserver and spawn every job's process imports it.
"""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

MIB = 1 << 20


def nothing() -> None:
    """As good as no work at all."""


def same(number: int) -> int:
    return number


@functools.lru_cache(maxsize=1)
def kept(kind: str, mib: int) -> Any:
    """A value of so many MiB, made once a process: its making is not what is measured. A pool's
    workers that are forked from a process that has it have it too."""
    return make(kind, mib)


def make(kind: str, mib: int) -> Any:
    """A value of so many MiB, made anew."""
    if kind == "bytes":
        return b"\1" * (mib * MIB)
    if kind == "array":
        import numpy

        return numpy.ones(mib * MIB // 8)
    if kind == "list":
        return list(range(mib * MIB // 8))  # by what the list itself takes
    raise ValueError(kind)


def give(kind: str, mib: int) -> Any:
    return kept(kind, mib)


def take(value: Any) -> float:
    """Reads something of every page, since what is only mapped has not arrived yet."""
    some = value[:: 4096 if isinstance(value, bytes) else 512]
    return float(some.sum() if hasattr(some, "sum") else sum(some))


def tree(js: Any, levels: int) -> int:
    """Divides and conquers: each half is a job. Those that divide take no slot, since PyPI's
    jobserver would wait for ever for a slot that a job above has."""
    if levels == 0:
        return 1
    halves = [js.submit(tree, args=(js, levels - 1), consume=int(levels == 1)) for _ in range(2)]
    return sum(int(half.result()) for half in halves)


def tree_of_forks(levels: int) -> int:
    """The same tree of bare forks, without slots and results: how many leaves it has is known."""
    halves = []
    for _ in range(2 if levels else 0):
        half = os.fork()
        if half == 0:
            tree_of_forks(levels - 1)
            os._exit(0)
        halves.append(half)
    for half in halves:
        os.waitpid(half, 0)
    return int(2**levels)


def node(js: Any, depth: int, fanout: int, inner: int = 1) -> int:
    """A job of a tree: submits its children, waits for them, and does nothing else. Returns how
    many jobs it and those below it are. `inner`: how many slots a job with children takes."""
    if depth == 0:
        return 1
    below = (js, depth - 1, fanout, inner)
    slots = inner if depth > 1 else 1
    children = [js.submit(node, args=below, consume=slots) for _ in range(fanout)]
    return 1 + sum(int(child.result()) for child in children)


def noted_node(js: Any, path: str, depth: int, fanout: int) -> int:
    """The same; notes in a file when it begins, and when it ends."""
    notes = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(notes, b"+")
    below = (js, path, depth - 1, fanout)
    children = [js.submit(noted_node, args=below) for _ in range(fanout if depth else 0)]
    jobs = 1 + sum(int(child.result()) for child in children)
    os.write(notes, b"-")
    os.close(notes)
    return jobs


def node_of_forks(depth: int, fanout: int, at_once: int) -> None:
    """The same tree of bare forks, without slots and results. At most `at_once` children of this
    node are there at once, and one child of each node below: so as many processes run at once,
    and all others wait for their child."""
    running = 0
    for _ in range(fanout if depth else 0):
        if running == at_once:
            os.wait()
            running -= 1
        if os.fork() == 0:
            node_of_forks(depth - 1, fanout, 1)
            os._exit(0)
        running += 1
    for _ in range(running):
        os.wait()


def node_of_dask(depth: int, fanout: int) -> int:
    """The same as a task of Dask, with what its documentation has for tasks that submit tasks."""
    if depth == 0:
        return 1
    import distributed

    client = distributed.get_client()
    children = [client.submit(node_of_dask, depth - 1, fanout, pure=False) for _ in range(fanout)]
    distributed.secede()
    jobs: list[int] = client.gather(children)
    distributed.rejoin()
    return 1 + sum(jobs)


def jobs_of(depth: int, fanout: int) -> int:
    """How many nodes such a tree has."""
    return sum(fanout**level for level in range(depth + 1))


def submit_one(js: Any) -> None:
    js.submit(nothing).result()


def tree_if_free(js: Any, levels: int) -> int:
    """Divides and conquers: one half is a job, if there is a slot, as both projects' examples
    have it. How many jobs that makes depends on when slots are free."""
    if levels == 0:
        return 1
    from jobserver import Blocked

    try:
        half = js.submit(tree_if_free, args=(js, levels - 1), timeout=0)
    except Blocked:
        return tree_if_free(js, levels - 1) + tree_if_free(js, levels - 1)
    return tree_if_free(js, levels - 1) + int(half.result())


def until_told(ready: int) -> None:
    """Waits for SIGUSR1, which is blocked, having written its pid to a pipe."""
    os.write(ready, os.getpid().to_bytes(4, "little"))
    signal.sigwait({signal.SIGUSR1})


def until_opened(fifo: str) -> None:
    """Waits until somebody opens a fifo for writing."""
    os.close(os.open(fifo, os.O_RDONLY))
