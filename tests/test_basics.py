"""Submitting, results and nesting: the shortest path through everything."""

from __future__ import annotations

from jobserver import Jobserver


def double(x: int) -> int:
    return 2 * x


def descend(js: Jobserver, levels: int) -> int:
    return 0 if levels == 0 else 1 + js(descend, js, levels - 1).result()


def test_a_job_returns_its_result(js: Jobserver) -> None:
    futures = [js(double, x) for x in range(5)]
    assert [f.result() for f in futures] == [0, 2, 4, 6, 8]


def test_a_job_submits_jobs_to_the_same_slots(make_jobserver: type[Jobserver]) -> None:
    js = make_jobserver(slots=4)
    assert js(descend, js, 3).result() == 3
