"""Submit functions and read their results.

A submission is a *job*: a process of its own that runs one function and sends back one result.
The Jobserver hands out *slots*; with two of them, at most two jobs run at the same time, however
many are submitted. Each submission gives a Future, on which the result, or the exception that
the function raised, can be awaited.

Run:  python examples/ex1_basic.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import os
import sys
from typing import Any

from jobserver import Jobserver


def count_primes(start: int, stop: int) -> int:
    """How many primes there are in range(start, stop)."""
    return sum(
        1
        for number in range(max(start, 2), stop)
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    )


def main(context: Any = None) -> None:
    with Jobserver(context=context, slots=2) as js:
        # To call the Jobserver is the short form of submit(): the job's function, its arguments.
        starts = range(0, 40_000, 10_000)
        futures = [js(count_primes, start, start + 10_000) for start in starts]
        for start, future in zip(starts, futures):
            print(f"primes in [{start}, {start + 10_000}): {future.result()}")
        assert sum(future.result() for future in futures) == count_primes(0, 40_000)

        # submit() is the long form, with room for the options that the other examples show.
        future = js.submit(os.getpid)
        assert future.result() == future.pid != os.getpid()
        print(f"job {future.pid} ran in a process of its own, not in {os.getpid()}")

        # What the function raises is raised again by result(), as often as it is asked.
        wrong = js(int, "twelve")
        for _ in range(2):
            try:
                wrong.result()
            except ValueError as error:
                print("the job raised:", error)
            else:
                raise AssertionError("int('twelve') must fail")
        assert isinstance(wrong.exception(), ValueError)
    # Leaving the with block has waited for every job and closed the Jobserver.


if __name__ == "__main__":
    main(*sys.argv[1:])
