"""What a job costs, as ratios to the bare system calls, measured in one run.

The bare loop forks with `os.fork`, exits with `os._exit` and reaps with `os.wait`, with two
children in flight; the library submits a function that does nothing, on two slots. Rounds
of both alternate, since machines are shared and drift; the median of the rounds' ratios is
what to quote. Not here: whether it works (tests), and other pools (to come).

    python benchmarks/bench.py [--jobs N] [--rounds N] [--ballast MIB]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Callable

from jobserver import Jobserver

IN_FLIGHT = 2


def nothing() -> None:
    """The job: as good as no work at all."""


def bare_forks(jobs: int) -> None:
    """Forks `jobs` children that exit at once, two in flight."""
    running = 0
    for _ in range(jobs):
        if running == IN_FLIGHT:
            os.wait()
            running -= 1
        if os.fork() == 0:
            os._exit(0)
        running += 1
    for _ in range(running):
        os.wait()


def submissions(js: Jobserver, jobs: int) -> None:
    """Submits `jobs` jobs that do nothing, and waits for all their results."""
    futures = [js.submit(nothing) for _ in range(jobs)]
    for future in futures:
        future.result()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(method: str, jobs: int, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds a job, round by round: by the bare loop, and by the library."""
    bare, ours = [], []
    with Jobserver(method, IN_FLIGHT) as js:
        submissions(js, IN_FLIGHT)  # starts the helper, if the method has one
        for _ in range(rounds):
            bare.append(seconds(lambda: bare_forks(jobs)) / jobs * 1e6)
            ours.append(seconds(lambda: submissions(js, jobs)) / jobs * 1e6)
    return bare, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=300, help="jobs a round (300)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each (15)")
    parser.add_argument("--ballast", type=int, default=0, help="MiB that the owner holds (0)")
    parser.add_argument("--methods", nargs="+", default=["fork", "forkserver"])
    options = parser.parse_args()
    ballast = bytearray(os.urandom(1 << 20) * options.ballast)
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.release()}")
    print(f"{options.rounds} rounds of {options.jobs} jobs, two in flight, {len(ballast)} B held")
    print(f"{'method':12}{'bare fork, us':>16}{'jobserver, us':>16}{'ratio':>8}  (min - max)")
    for method in options.methods:
        jobs = options.jobs
        bare, ours = compare(method, jobs, options.rounds)
        ratios = [b / a for a, b in zip(bare, ours)]
        print(
            f"{method:12}{statistics.median(bare):16.0f}{statistics.median(ours):16.0f}"
            f"{statistics.median(ratios):8.2f}  ({min(ratios):.2f} - {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
