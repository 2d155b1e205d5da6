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
