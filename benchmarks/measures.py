"""What one run of each measurement is. Runs in the contender's process.

A measure sets up all that is not to be timed, and returns a function that does `count`
operations and tells the figure for one: seconds, or bytes. Not here: of which pools, and how
often (`scenarios`), nor the rounds (`bench`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack
from typing import Any, Callable

import pools
import work

Run = Callable[[int], float]
#: Makes the pool; it is closed at the end.
Opened = Callable[[], Any]


def timed(operations: Callable[[int], Any]) -> Run:
    def run(count: int) -> float:
        begun = time.perf_counter()
        operations(count)
        return (time.perf_counter() - begun) / count

    return run


def submit_all(opened: Opened, ends: ExitStack) -> Run:
    """A job: from the first submission to the last result, divided by how many."""
    pool = opened()
    return timed(lambda count: pool.all(work.nothing, [()] * count))


def one_at_a_time(opened: Opened, ends: ExitStack) -> Run:
    """A job: submitted when the result of the one before is there."""
    pool = opened()
    return timed(lambda count: [pool.one(work.nothing) for _ in range(count)])


def map_all(opened: Opened, ends: ExitStack) -> Run:
    """A call of a map."""
    pool = opened()
    return timed(lambda count: pool.map(work.same, range(count)))


def result(opened: Opened, ends: ExitStack, kind: str, mib: int, read: bool = True) -> Run:
    """A job whose function returns an object that it has at hand, one job at a time; until each
    page of it has been read here or, if not `read`, until it is there to be read."""
    work.kept(kind, mib)  # before there are workers, for those that are forked
    pool = opened()
    take = work.take if read else type
    return timed(lambda count: [take(pool.one(work.give, kind, mib)) for _ in range(count)])


def argument(opened: Opened, ends: ExitStack, kind: str, mib: int) -> Run:
    """A job whose function reads something of each page of its argument, one job at a time."""
    pool = opened()
    value = work.kept(kind, mib)
    return timed(lambda count: [pool.one(work.take, value) for _ in range(count)])


def tree(opened: Opened, ends: ExitStack, levels: int, kind: str) -> Run:
    """A whole tree of jobs of jobs; see `work`."""
    pool = opened()

    def trees(count: int) -> None:
        for _ in range(count):
            assert pool.tree(kind, levels) == 2**levels

    return timed(trees)


def scan(opened: Opened, ends: ExitStack, outstanding: int, ready: int) -> Run:
    """A call of `reclaim_resources` while so many jobs, none of which takes a slot, are
    outstanding: the first of the calls finds some that have ended, the rest find nothing."""
    js = opened().js
    reading, writing = os.pipe()
    # Before there are jobs, which inherit it: one that is told too early just does not wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    waiting: deque[tuple[Any, int]] = deque()

    def start(count: int) -> None:
        for _ in range(count):
            future = js.submit(work.until_told, args=(writing,), consume=0)
            waiting.append((future, int.from_bytes(os.read(reading, 4), "little")))

    def end(count: int) -> list[Any]:
        ended = [waiting.popleft() for _ in range(count)]
        for _, pid in ended:
            os.kill(pid, signal.SIGUSR1)
        for _, pid in ended:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return [future for future, _ in ended]

    def run(count: int) -> float:
        ended = end(ready)
        begun = time.perf_counter()
        for _ in range(count):
            js.reclaim_resources()
        figure = (time.perf_counter() - begun) / count
        for future in ended:
            future.result()
        start(ready)
        return figure

    start(outstanding)
    ends.callback(lambda: end(len(waiting)))
    return run


def importing(opened: Opened, ends: ExitStack, module: str) -> Run:
    """An import: how much longer an interpreter takes that imports this than one that does not,
    from its start to its end."""

    def whole_process(program: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, cwd="/", env=environment)
        return time.perf_counter() - begun

    # As an installed package is imported: compiled before. Some containers forbid that.
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(count: int) -> float:
        more = 0.0
        for _ in range(count):
            more += whole_process(f"import {module}") - whole_process("pass")
        return more / count

    whole_process(f"import {module}")  # compiles it, if need be
    return run


def idle_worker(opened: Opened, ends: ExitStack, memory: str) -> Run:
    """The memory of a worker that has done some trivial jobs and waits for more."""
    pool = opened()
    pool.all(work.nothing, [()] * 20)
    pid = pool.one(os.getpid)

    def run(count: int) -> float:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            fields = dict(re.findall(r"^(\w+): +(\d+) kB", rollup.read(), re.M))
        names = {"private": ("Private_Clean", "Private_Dirty"), "pss": ("Pss",)}[memory]
        return float(sum(int(fields[name]) for name in names)) * 1024

    return run


BY_NAME: dict[str, Callable[..., Run]] = {
    measure.__name__: measure
    for measure in (
        submit_all,
        one_at_a_time,
        map_all,
        result,
        argument,
        tree,
        scan,
        importing,
        idle_worker,
    )
}


def set_up(measure: str, pool: str, ends: ExitStack, **request: Any) -> Run:
    """The run that a request describes: see `scenarios`."""
    settings = {name: request.pop(name) for name in ("method", "slots", "fresh")}

    def opened() -> Any:
        made = getattr(pools, pool)(**settings)
        ends.callback(made.close)
        return made

    return BY_NAME[measure](opened, ends, **request)
