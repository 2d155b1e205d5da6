"""What a job of a tree costs, and how many processes there are at once, by the size of the tree.

    python benchmarks/tree_sizes.py [--jobs 127 1023] [--method fork] [--waiting yield] [--tasks 1]

Each job submits `--fanout` jobs, waits for them, and does nothing else. A process beside the tree
counts the processes below it, zombies included, 50 times a second (Linux, /proc).
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from jobserver import Jobserver


def node(js: Jobserver, depth: int, fanout: int) -> int:
    """A job of the tree. Returns how many jobs it and those below it are."""
    below = range(fanout if depth else 0)
    futures = [js.submit(node, args=(js, depth - 1, fanout)) for _ in below]
    return 1 + sum(future.result() for future in futures)


def children(pid: int) -> list[int]:
    """The children of a process's main thread; none if it has ended."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in found.split()]


def count(root: int) -> None:
    """Counts the processes below `root`, but for this one, until stdin ends; prints the most."""
    print("counting", flush=True)
    most = 0
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        found, seen = [root], 0
        while found:
            below = children(found.pop())
            seen += len(below)
            found += below
        most = max(most, seen - 1)
    print(most)


def measure(js: Jobserver, jobs: int, fanout: int) -> str:
    """Runs the smallest full tree of at least so many jobs. Returns a line of the table."""
    depth = 0
    while sum(fanout**level for level in range(depth + 1)) < jobs:
        depth += 1
    js.submit(abs, args=(-1,)).result()
    counter = [sys.executable, __file__, "--count", str(os.getpid())]
    with subprocess.Popen(
        counter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as counting:
        assert counting.stdout is not None
        counting.stdout.readline()
        begun = time.perf_counter()
        done = js.submit(node, args=(js, depth, fanout)).result()
        seconds = time.perf_counter() - begun
        most = counting.communicate()[0].strip()
    return f"{done:>7,} {depth + 1:>6} {seconds:>9.2f} {seconds / done * 1000:>10.2f} {most:>10}"


def main() -> None:
    """Measures the trees that the arguments name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, nargs="+", default=[127, 1023, 2047])
    parser.add_argument("--fanout", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--method", choices=["fork", "forkserver", "spawn"], default="fork")
    parser.add_argument("--waiting", choices=["hold", "yield"], default="yield")
    parser.add_argument("--tasks", type=int, default=1, help="jobs a process; 0: no limit")
    chosen = parser.parse_args()
    if chosen.count is not None:
        return count(chosen.count)
    with Jobserver(
        chosen.method,
        chosen.slots,
        waiting=chosen.waiting,
        max_tasks_per_child=chosen.tasks or None,
    ) as js:
        print(f"{'jobs':>7} {'levels':>6} {'seconds':>9} {'ms a job':>10} {'processes':>10}")
        for jobs in chosen.jobs:
            print(measure(js, jobs, chosen.fanout), flush=True)


if __name__ == "__main__":
    main()
