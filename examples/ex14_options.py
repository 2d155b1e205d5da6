"""Set up the processes, give a library a handle with options, share a value, keep jobs' output.

initializer is called once in each process. with_options makes a handle on the same slots, whose
submissions have other defaults: the function search() below knows nothing of them. share() writes a
value once, and each job maps it. current() tells a job the number of its slot, which no other
running job has. A job of several slots takes all or none, and its programs find a pool of them.
output="capture" keeps what a job and its programs print.

Run:  python examples/ex14_options.py [fork | forkserver | spawn | inline]
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Iterable

import jobserver
from jobserver import Jobserver, Shared

#: What each process gets from the initializer.
scale = 0


def set_up(factor: int) -> None:
    global scale
    scale = factor


def score(data: Shared[bytes], parameter: int) -> tuple[int, int, str | None]:
    """A score, the number of the job's slot, and a variable that limits numeric libraries."""
    job = jobserver.current()
    slot = -1 if job is None or job.slot is None else job.slot  # no job with "inline"
    return scale * data.value.count(parameter), slot, os.environ.get("OMP_NUM_THREADS")


def search(js: Jobserver, data: Shared[bytes], parameters: Iterable[int]) -> int:
    """Returns the best parameter. Such a function could be in a library."""
    best = (-1, -1)
    rows = [(data, parameter) for parameter in parameters]
    with js.map(score, rows, chunksize=1) as results:
        print(f"{len(results)} jobs")
        for (_, parameter), (points, slot, threads) in zip(rows, results):
            assert slot < js.slots
            assert threads == "1"
            best = max(best, (points, parameter))
    return best[1]


def slots_below() -> int:
    """How many slots a make below this job would find, or another Jobserver."""
    with Jobserver() as below:
        return below.slots


def report(number: int) -> None:
    print(f"the job says {number}")
    subprocess.run(["echo", "and so does a program"], check=True)


def main(context: Any = None) -> None:
    data = jobserver.share(bytes(range(256)) * 4000 + b"\7" * 1000)
    with Jobserver(context=context, slots=2, initializer=set_up, initargs=(2,)) as js:
        found = search(js.with_options(threads=1, time_limit=60), data, range(20))
        print("the most frequent byte is", found)
        assert found == 7
        assert js.submit(slots_below, consume=2).result() == 2

        reported = js.submit(report, args=(found,), output="capture")
        reported.result()
        print(reported.output(), end="")
        assert reported.output() == "the job says 7\nand so does a program\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
