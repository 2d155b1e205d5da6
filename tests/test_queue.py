"""Which waiter gets the next slot: the deepest, so that trees of jobs have few processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import DEADLINE, OWNERS_METHODS

from jobserver import Jobserver

SLOTS = 2


def depths(js: Jobserver, levels: int, consume: int) -> list[int]:
    """How many jobs are above each of the jobs of a chain."""
    below = js.submit(depths, args=(js, levels - 1, consume), consume=consume) if levels else None
    return [js._owner.here().depth, *(below.result(DEADLINE) if below else [])]


@pytest.mark.parametrize("method", OWNERS_METHODS)
@pytest.mark.parametrize("consume", [0, 1])
def test_each_job_knows_how_many_are_above_it(method: Any, consume: int) -> None:
    with Jobserver(method, 1) as js:
        assert depths(js, 3, consume) == [0, 1, 2, 3]


def node(js: Jobserver, noted: str, depth: int, fanout: int) -> int:
    """A job of a tree. It notes when it begins and ends; returns how many jobs it has been."""
    file = os.open(noted, os.O_WRONLY | os.O_APPEND)
    os.write(file, b"+")
    below = range(fanout if depth else 0)
    futures = [js.submit(node, args=(js, noted, depth - 1, fanout)) for _ in below]
    jobs = 1 + sum(future.result(DEADLINE) for future in futures)
    os.write(file, b"-")
    os.close(file)
    return jobs


def most_at_once(noted: bytes) -> int:
    now = most = 0
    for step in noted:
        now += 1 if step == ord("+") else -1
        most = max(most, now)
    return most


@pytest.mark.parametrize("method", OWNERS_METHODS)
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("depth, fanout", [(6, 2), (2, 9)])
def test_a_tree_has_few_jobs_at_once_whatever_its_shape(
    method: Any, waiting: Literal["hold", "yield"], depth: int, fanout: int, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    noted.touch()
    with Jobserver(method, SLOTS, waiting=waiting) as js:
        jobs = js.submit(node, args=(js, str(noted), depth, fanout)).result(DEADLINE)
    assert jobs == sum(fanout**level for level in range(depth + 1))
    # A waiter that does not take its slot within 10 ms, on a busy machine, is passed over. So there
    # may be some more than slots times depth. (Without the queue, 30 to 46 of the deeper tree.)
    assert most_at_once(noted.read_bytes()) <= SLOTS * (depth + 2) + 10
