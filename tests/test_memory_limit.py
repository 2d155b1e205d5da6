"""`memory_limit`: how much memory a job may allocate."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

import pytest

from jobserver import Jobserver

MIB = 1 << 20
LIMIT = 256 * MIB
TOLD = r"^the job may allocate 256 MiB \(memory_limit\)$"


def allocate(size: int) -> int:
    return len(bytearray(size))


def limits() -> tuple[Any, int]:
    return resource.getrlimit(resource.RLIMIT_DATA), os.getpid()


def lowers() -> None:
    """A hook that does not say how to undo what it does."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def allocate_below(js: Jobserver, size: int) -> int:
    return js(allocate, size).result()


@pytest.mark.parametrize("tasks", [1, None])
def test_a_job_that_allocates_more_gets_an_error_and_the_next_is_free(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    usual, process = js(limits).result()
    with pytest.raises(MemoryError, match=TOLD):
        js.submit(allocate, args=(1024 * MIB,), memory_limit=LIMIT).result()
    assert js.submit(allocate, args=(64 * MIB,), memory_limit=LIMIT).result() == 64 * MIB
    after = js(limits).result()
    assert after[0] == usual
    assert (after[1] == process) == (tasks is None)
    assert js(allocate, 512 * MIB).result() == 512 * MIB


def test_it_holds_for_the_calls_of_a_map_and_of_a_handle(js: Jobserver) -> None:
    results = js.map(allocate, [(1,), (1024 * MIB,), (2,)], memory_limit=LIMIT)
    assert next(results) == 1
    with pytest.raises(MemoryError, match=TOLD):
        next(results)
    assert next(results) == 2
    ours = js.with_options(memory_limit=LIMIT)
    with pytest.raises(MemoryError, match=TOLD):
        ours(allocate, 1024 * MIB).result()
    with pytest.raises(MemoryError, match=TOLD):
        js(allocate_below, ours, 1024 * MIB).result()
    assert js(allocate_below, js, 512 * MIB).result() == 512 * MIB


def test_what_the_owner_has_does_not_count(js: Jobserver) -> None:
    held = bytearray(2 * LIMIT)
    assert js.submit(allocate, args=(64 * MIB,), memory_limit=LIMIT).result() == 64 * MIB
    del held


def test_a_lower_limit_of_the_process_stays(js: Jobserver) -> None:
    with pytest.raises(MemoryError):
        js.submit(allocate, args=(2 * LIMIT,), memory_limit=4 * LIMIT, preexec_fn=lowers).result()


@pytest.mark.parametrize(
    "limit, error", [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError)]
)
def test_one_that_cannot_be_is_refused_at_once(
    js: Jobserver, limit: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="memory_limit"):
        js.submit(int, memory_limit=limit)
