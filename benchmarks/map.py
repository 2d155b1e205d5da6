"""`map` of calls that do nothing, on two slots, against multiprocessing.Pool.map, in one run.

Measured twice: with the making and the end of Jobserver and Pool, as a script pays for them, and
without. Rounds of both alternate, since machines are shared and drift; the median of the rounds'
ratios is what to quote. Both are given a list of argument tuples, and their results are compared.

    python benchmarks/map.py [--calls N] [--rounds N] [--method fork]
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from typing import Callable, List, Tuple

from jobserver import Jobserver, StartMethod

SLOTS = 2

Argses = List[Tuple[int]]


def successor(x: int) -> int:
    """The call: as good as no work at all."""
    return x + 1


def successor_of(args: tuple[int]) -> int:
    """The same, for Pool.map, which passes one argument."""
    return args[0] + 1


def seconds(work: Callable[[], list[int]], calls: int) -> float:
    start = time.perf_counter()
    results = work()
    took = time.perf_counter() - start
    assert results == list(range(1, calls + 1))
    return took


def with_making(method: StartMethod, argses: Argses, numbers: list[int]) -> tuple[float, float]:
    def ours() -> list[int]:
        with Jobserver(method, SLOTS) as js:
            return list(js.map(successor, argses))

    def theirs() -> list[int]:
        with multiprocessing.get_context(method).Pool(SLOTS) as pool:
            return pool.map(successor, numbers)

    return seconds(ours, len(argses)), seconds(theirs, len(argses))


def report(name: str, rounds: list[tuple[float, float]]) -> None:
    ours, theirs = (statistics.median(column) * 1e3 for column in zip(*rounds))
    ratios = sorted(mine / other for mine, other in rounds)
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    print(
        f"{name:24} ours {ours:7.1f} ms   Pool.map {theirs:7.1f} ms   "
        f"ratio {statistics.median(ratios):.2f} (80 % within {low:.2f} to {high:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--method", default="fork", choices=["fork", "forkserver", "spawn"])
    given = parser.parse_args()
    numbers = list(range(given.calls))
    argses = [(x,) for x in numbers]
    print(
        f"{given.calls} calls, {SLOTS} slots, {given.method}, {given.rounds} rounds, "
        f"CPython {platform.python_version()}"
    )
    report(
        "made and ended each time",
        [with_making(given.method, argses, numbers) for _ in range(given.rounds)],
    )
    with Jobserver(given.method, SLOTS) as js, multiprocessing.get_context(given.method).Pool(
        SLOTS
    ) as pool:
        report(
            "made before",
            [
                (
                    seconds(lambda: list(js.map(successor, argses)), given.calls),
                    seconds(lambda: pool.map(successor, numbers), given.calls),
                )
                for _ in range(given.rounds)
            ],
        )


if __name__ == "__main__":
    main()
