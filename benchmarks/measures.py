"""What one run of each measurement is. Runs in the contender's process.

A measure sets up all that is not to be timed, and returns a function that does `count`
operations and tells the figure for one: seconds, or bytes. Not here: of which pools, and how
often (`scenarios`), nor the rounds (`bench`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Callable, Iterable

import pools
import sessions
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


def awaited_one_at_a_time(opened: Opened, ends: ExitStack) -> Run:
    """The same in a task of asyncio."""
    pool = opened()
    loop = asyncio.new_event_loop()
    ends.callback(loop.close)
    return timed(lambda count: loop.run_until_complete(_await_each(pool, count)))


async def _await_each(pool: Any, count: int) -> None:
    for _ in range(count):
        await pool.awaited(work.nothing)


def map_all(opened: Opened, ends: ExitStack) -> Run:
    """A call of a map."""
    pool = opened()
    return timed(lambda count: pool.map(work.same, range(count)))


def map_singly(opened: Opened, ends: ExitStack) -> Run:
    """A call of a map whose chunks are one call each."""
    pool = opened()
    return timed(lambda count: pool.map_singly(work.same, range(count)))


def result(
    opened: Opened, ends: ExitStack, kind: str, mib: int, read: bool = True, anew: bool = False
) -> Run:
    """A job whose function returns an object that it has at hand or, if `anew`, makes, one job at a
    time; until each page of it has been read here or, if not `read`, until it is there to be
    read."""
    if not anew:
        work.kept(kind, mib)  # before there are workers, for those that are forked
    pool = opened()
    give, take = work.make if anew else work.give, work.take if read else type
    return timed(lambda count: [take(pool.one(give, kind, mib)) for _ in range(count)])


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


def jobs_of_tree(
    opened: Opened, ends: ExitStack, depth: int, fanout: int = 2, anew: bool = False
) -> Run:
    """A job of a tree whose nodes all are jobs: the time of the tree, divided by its jobs. `anew`:
    each run starts the pool, and rehearses; for those that cannot be stopped between the runs."""
    jobs = work.jobs_of(depth, fanout)
    # A job that is forked has its owner's frames below its own.
    sys.setrecursionlimit(1000 + 10 * depth)

    def figure(pool: Any, count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            assert pool.nodes(depth, fanout) == jobs
        return (time.perf_counter() - begun) / count / jobs

    def run_anew(count: int) -> float:
        pool = opened()
        figure(pool, 1)
        found = figure(pool, count)
        pool.close()
        return found

    if anew:
        return run_anew
    pool = opened()
    return lambda count: figure(pool, count)


def most_at_once(opened: Opened, ends: ExitStack, depth: int, fanout: int) -> Run:
    """How many jobs of a tree there are at once, at most: jobs that have begun and not ended."""
    js = opened().js
    notes = Path(ends.enter_context(tempfile.TemporaryDirectory()), "notes")

    def run(count: int) -> float:
        notes.write_bytes(b"")
        js.submit(work.noted_node, args=(js, str(notes), depth, fanout)).result()
        steps = (1 if step == ord("+") else -1 for step in notes.read_bytes())
        return float(max(itertools.accumulate(steps)))

    return run


def switches(opened: Opened, ends: ExitStack, depth: int, fanout: int = 2) -> Run:
    """Context switches a job of a tree, of all processes. By `getrusage`, which counts those of
    the processes that were waited for, under fork all; `perf stat` may not count the kernel's
    unless one is root. The last switch of each process, when it has ended, is left out, as it is
    by perf."""
    jobs = work.jobs_of(depth, fanout)

    def counted() -> int:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_nvcsw + usage.ru_nivcsw for usage in usages)

    def run(count: int) -> float:
        before = counted()
        pool = opened()
        assert pool.nodes(depth, fanout) == jobs
        pool.close()  # which waits for the root's process too
        return (counted() - before) / jobs - 1

    return run


def wakings(opened: Opened, ends: ExitStack, jobs: int, seconds: float) -> Run:
    """Context switches, in so many seconds, of all processes of a full pool for whose slots so
    many jobs wait. Whoever is woken, or makes a system call that sleeps, has switched."""
    js = opened().js
    end_fifo = str(Path(ends.enter_context(tempfile.TemporaryDirectory()), "end"))
    os.mkfifo(end_fifo)
    holders = [js.submit(work.until_opened, args=(end_fifo,)) for _ in range(js.slots)]
    waiters = [js.submit(work.submit_one, args=(js,), consume=0) for _ in range(jobs)]

    def end() -> None:
        writing = os.open(end_fifo, os.O_RDWR)
        for future in holders + waiters:
            future.result()
        os.close(writing)

    ends.callback(end)

    def run(count: int) -> float:
        pids = [future.pid for future in holders + waiters]
        _settle(pids)
        before = _switches_of(pids)
        time.sleep(seconds)
        return float(_switches_of(pids) - before)

    return run


#: Seconds without a switch after which all are at rest, and until they are to be so.
QUIET, SETTLED = 1.5, 30.0


def _settle(pids: list[int]) -> None:
    """Waits until nothing has switched for a while, since all were stopped, or have just begun.
    If they do not come to rest, that is what is measured."""
    deadline = time.monotonic() + SETTLED
    seen, since = -1, 0.0
    while time.monotonic() < min(since + QUIET, deadline) or seen < 0:
        now = _switches_of(pids)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.05)


def _switches_of(pids: list[int]) -> int:
    counts = (
        re.findall(r"ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        for pid in pids
    )
    return sum(int(count) for each in counts for count in each)


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


def many(opened: Opened, ends: ExitStack, threads: int, outstanding: int) -> Run:
    """The CPU time of a job, of all processes, while so many other jobs are outstanding and sleep,
    each on a slot. So many threads submit, one job after the other. Time that passes would say
    less: one job's costs are hidden behind another's, up to the number of CPUs."""
    js = opened().js
    end_fifo = str(Path(ends.enter_context(tempfile.TemporaryDirectory()), "end"))
    os.mkfifo(end_fifo)
    sleepers = [js.submit(work.until_opened, args=(end_fifo,)) for _ in range(outstanding)]

    def end() -> None:
        writing = os.open(end_fifo, os.O_RDWR)
        for sleeper in sleepers:
            sleeper.result()
        os.close(writing)

    ends.callback(end)
    asleep = {sleeper.pid for sleeper in sleepers}

    def submit(jobs: int) -> None:
        for _ in range(jobs):
            js.submit(work.nothing).result()

    def run(count: int) -> float:
        each = -(-count // threads)
        running = [threading.Thread(target=submit, args=(each,)) for _ in range(threads)]
        others = {*sessions.members(os.getsid(0))} - asleep - {os.getpid()}
        before = _cpu_of(others), time.process_time()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        owners = time.process_time() - before[1]
        others = {*sessions.members(os.getsid(0))} - asleep - {os.getpid()}
        return (owners + _cpu_of(others) - before[0]) / (each * threads)

    return run


def _cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU time: of these processes, and of those that they, or this one, have reaped."""
    times = os.times()
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just been reaped
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return times.children_user + times.children_system + ticks / os.sysconf("SC_CLK_TCK")


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
        awaited_one_at_a_time,
        map_all,
        map_singly,
        result,
        argument,
        tree,
        jobs_of_tree,
        most_at_once,
        switches,
        wakings,
        scan,
        many,
        importing,
        idle_worker,
    )
}


def set_up(measure: str, pool: str, ends: ExitStack, **request: Any) -> Run:
    """The run that a request describes: see `scenarios`."""
    settings = {name: request.pop(name) for name in ("method", "slots", "fresh")}
    if "waiting" in request:
        settings["waiting"] = request.pop("waiting")

    def opened() -> Any:
        made = getattr(pools, pool)(**settings)
        ends.callback(made.close)
        return made

    return BY_NAME[measure](opened, ends, **request)
