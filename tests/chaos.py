"""Chaos: a tree of jobs of random shape, whose processes are killed at random moments.

Each round makes a Jobserver, lets a tree grow, and has a killer, a process of its own that is
not of the tree, kill whatever of the tree it meets. Then: nothing runs, all slots are free, no
descriptor and no pool's home is left. `python tests/chaos.py --kills 2000 --seed 1 --method fork`;
with `--tasks 0` or a number, processes run several jobs (0: without a bound).

What a round does follows from the seed; at which moments its kills come does not.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import os
import random
import signal
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from jobserver import Future, Jobserver, StartMethod, SubmissionDied

#: A round that takes longer hangs, in seconds.
DEADLINE = 60.0

#: How soon all slots must be back and all processes gone, in seconds.
SOON = 1.0


#: How many slots a job takes: mostly one.
CONSUMED = (1, 1, 1, 2, 3)


class Seen(NamedTuple):
    """What the rounds of a run have seen."""

    kills: int
    rounds: int
    worst: float


class Shape(NamedTuple):
    """What a round is like."""

    slots: int
    waiting: Any
    fan_out: int
    depth: int
    seed: int


def shape(choose: random.Random) -> Shape:
    return Shape(
        choose.randint(1, 4),
        choose.choice(("hold", "yield")),
        choose.randint(1, 3),
        choose.randint(2, 4),
        choose.getrandbits(32),
    )


def node(js: Jobserver, depth: int, fan_out: int, seed: int) -> int:
    """How many jobs of the tree below have ended well, this one included."""
    choose = random.Random(seed)
    work(choose.uniform(0, 0.002))
    jobs: list[Future[int]] = []
    ended = 1
    for _ in range(choose.randint(0, fan_out) if depth else 0):
        args = (js, depth - 1, fan_out, choose.getrandbits(32))
        gate = (lambda: None) if choose.random() < 0.1 else None
        consume = min(js.slots, choose.choice(CONSUMED))
        jobs.append(js.submit(node, args=args, sleep_fn=gate, consume=consume))
        if choose.random() < 0.3:
            ended += result(jobs.pop())
    if choose.random() < 0.1:
        return ended  # without waiting
    for job in jobs:
        ended += result(job)
    work(choose.uniform(0, 0.002))
    return ended


def result(job: Future[int]) -> int:
    try:
        return job.result()
    except SubmissionDied:
        return 0


def work(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def parents() -> dict[int, int]:
    """The parent of each process that is not a zombie."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
                if state not in "ZX":
                    found[int(entry)] = int(parent)
    return found


def descendants(root: int) -> Iterator[int]:
    known = parents()
    for pid in known:
        above = known.get(pid)
        while above and above != root:
            above = known.get(above)
        if above == root:
            yield pid


def kill_at_random(root: int, spared: set[int], seed: int, kills: int, orders: int) -> int:
    """Kills descendants of `root` until none comes any more, or enough are killed: how many."""
    choose = random.Random(seed)
    killed = 0
    while killed < kills and os.getppid() == root:
        time.sleep(choose.expovariate(150))  # these are the random moments
        victims = [pid for pid in descendants(root) if pid not in spared and pid != os.getpid()]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose.choice(sorted(victims)), signal.SIGKILL)
                killed += 1
        os.set_blocking(orders, False)
        with contextlib.suppress(BlockingIOError):
            if os.read(orders, 1) is not None:
                break
    return killed


@contextlib.contextmanager
def killer(spared: set[int], seed: int, kills: int, told: list[int]) -> Iterator[None]:
    """Kills while the body runs; then adds to `told` how many it was."""
    orders, order = os.pipe()
    answers, answer = os.pipe()
    root = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(order)
            killed = kill_at_random(root, spared | {root}, seed, kills, orders)
            os.write(answer, killed.to_bytes(4, "little"))
            code = 0
        finally:
            os._exit(code)
    os.close(orders)
    os.close(answer)
    try:
        yield
    finally:
        os.close(order)
        told.append(int.from_bytes(os.read(answers, 4), "little"))
        os.close(answers)
        os.waitpid(pid, 0)


def run_round(js: Jobserver, given: Shape, seed: int, spared: set[int], kills: int) -> int:
    """Grows trees while a killer is about. Returns how many it killed."""
    told: list[int] = []
    with killer(spared, seed, kills, told):
        choose = random.Random(given.seed)
        jobs = [js(node, js, given.depth, given.fan_out, choose.getrandbits(32)) for _ in range(8)]
        for job in jobs:
            result(job)
    return told[0]


def wait_for_rest(js: Jobserver, spared: set[int]) -> float:
    """Until nothing runs and all slots are back; in how many seconds that was so. Processes that
    wait for jobs are made to end."""
    pool: Any = js._owner.open_pool()
    starter: Any = js._owner.starter
    begun = time.monotonic()
    while True:
        js.reclaim_resources()
        js._owner.here().dismiss_idle()
        if hasattr(starter, "_helper"):
            starter._helper.dismiss_idle()
        left = set(descendants(os.getpid())) - spared
        if not left and pool.free() == js.slots and not js._owner.here().outstanding:
            return time.monotonic() - begun
        if time.monotonic() > begun + SOON + (DEADLINE if left else 0):
            raise AssertionError(f"{pool.free()} of {js.slots} slots are back, {left} run")
        time.sleep(0.001)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def homes() -> set[str]:
    return {
        name for name in os.listdir("/dev/shm") if name.startswith(f"jobserver-pool-{os.getpid()}-")
    }


def run(method: StartMethod, seed: int, kills: int, tasks: int | None = 1) -> Seen:
    """Rounds until there have been so many kills; so many jobs a process at most."""
    choose = random.Random(f"{method} {seed}")
    tracker: Any = resource_tracker
    killed = rounds = 0
    worst = 0.0
    while killed < kills:
        given = shape(choose)
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        try:
            with Jobserver(
                method, given.slots, waiting=given.waiting, max_tasks_per_child=tasks
            ) as js:
                js.submit(int).result()  # whatever is started once is there now
                spared = {tracker._resource_tracker._pid} | helper_of(js)
                wait_for_rest(js, spared)
                for _ in range(5):
                    before = descriptors()
                    seed = choose.getrandbits(32)
                    killed += run_round(js, given, seed, spared, max(kills - killed, 1))
                    rounds += 1
                    worst = max(worst, wait_for_rest(js, spared))
                    if descriptors() > before + FIRST_WAIT:
                        raise AssertionError(f"{before} descriptors became {descriptors()}")
            left = set(descendants(os.getpid())) - {tracker._resource_tracker._pid}
            if left:
                raise AssertionError(f"{left} still run after close()")
        except BaseException as e:
            print(f"{method}, round {rounds}: {given}: {e!r}", file=sys.stderr)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        del js
        gc.collect()
        if homes():
            raise AssertionError(f"homes of pools were left: {homes()}")
    return Seen(killed, rounds, worst)


#: What the first wait for a slot opens for good: a set, the pool's bell, and a thread's bell.
FIRST_WAIT = 5


def helper_of(js: Jobserver) -> set[int]:
    starter: Any = js._owner.starter
    helper = getattr(starter, "_helper", None)
    return set() if helper is None else {helper.pid}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", choices=("fork", "forkserver"), default="fork")
    parser.add_argument("--tasks", type=int, default=1)
    given = parser.parse_args()
    seen = run(given.method, given.seed, given.kills, given.tasks or None)
    jobs = {0: "any number of jobs", 1: "one job"}.get(given.tasks, f"{given.tasks} jobs")
    print(
        f"{given.method}, {jobs} a process: {seen.kills} kills in {seen.rounds} rounds; "
        f"all slots were back within {seen.worst:.3f} s after each"
    )


if __name__ == "__main__":
    main()
