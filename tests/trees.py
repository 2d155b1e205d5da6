"""Trees of jobs, and when they ran.

A module of its own, and a small one, because each job of a fork server imports what it runs.
"""

from __future__ import annotations

import time
from typing import Tuple

from jobserver import Jobserver

Span = Tuple[float, float]


def recurse(js: Jobserver, depth: int, fan_out: int) -> int:
    """How many jobs there are below, and this one."""
    if depth == 1:
        return 1
    jobs = [js(recurse, js, depth - 1, fan_out) for _ in range(fan_out)]
    return 1 + sum(job.result() for job in jobs)


def recurse_in_turn(js: Jobserver, depth: int) -> int:
    return 1 + js(recurse_in_turn, js, depth - 1).result() if depth > 1 else 1


def timed(js: Jobserver, depth: int) -> list[Span]:
    """Of this job's running parts, between its waits, and of all jobs below."""
    spans: list[Span] = []
    begun = time.monotonic()
    if depth == 1:
        while time.monotonic() < begun + 0.002:
            pass
        return [(begun, time.monotonic())]
    jobs = []
    for _ in range(2):
        spans.append((begun, time.monotonic()))
        jobs.append(js(timed, js, depth - 1))
        begun = time.monotonic()
    for job in jobs:
        spans.append((begun, time.monotonic()))
        below = job.result()
        begun = time.monotonic()
        spans += below
    return [*spans, (begun, time.monotonic())]
