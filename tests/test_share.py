"""`share`: a value that is written once, and mapped by each job that gets it."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import jobserver
from jobserver import Jobserver, Shared

MIB = 1 << 20


def total(shared: Shared[Any]) -> Any:
    return shared.value.sum()


def total_and_memory(shared: Shared[Any]) -> tuple[Any, int]:
    """The sum of an array, and how much memory this process has that no file backs, in bytes."""
    came = shared.value.sum()
    status = Path("/proc/self/status").read_text()
    [own] = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return came, int(own.split()[1]) * 1024


def total_below(js: Jobserver, shared: Shared[Any]) -> Any:
    return js(total, shared).result()


def written(shared: Shared[Any]) -> Any:
    shared.value[0] = 7
    return shared.value[0]


def are_one(*several: Any) -> bool:
    return len({id(each) for each in several}) == 1 and len({id(s.value) for s in several}) == 1


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize("tasks", [1, None])
def test_jobs_and_jobs_of_jobs_read_it(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(2, max_tasks_per_child=tasks)
    shared: Shared[Any] = jobserver.share(numpy.arange(MIB))
    expected = MIB * (MIB - 1) // 2
    assert shared.value.sum() == expected
    assert [js(total, shared).result() for _ in range(3)] == [expected] * 3
    assert js(total_below, js, shared).result() == expected
    assert list(js.map(total, [(shared,)] * 9)) == [expected] * 9


def test_a_job_has_no_copy_of_a_large_array(js: Jobserver) -> None:
    shared: Shared[Any] = jobserver.share(numpy.ones(64 * MIB, numpy.uint8))
    _, base = js(total_and_memory, jobserver.share(numpy.ones(1, numpy.uint8))).result()
    came, own = js(total_and_memory, shared).result()
    assert came == 64 * MIB
    assert own - base < 16 * MIB


def test_what_a_job_writes_is_its_own(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(1)
    shared = jobserver.share(numpy.zeros(MIB))
    assert js(written, shared).result() == 7
    assert shared.value[0] == 0
    assert js(total, shared).result() == 0


@pytest.mark.parametrize("value", [None, 3, "text", b"x" * 3 * MIB, bytearray(b"y"), [1, {2: 3}]])
def test_any_value_can_be_shared(js: Jobserver, value: Any) -> None:
    shared = jobserver.share(value)
    assert shared.value == value
    assert type(shared.value) is type(value)
    assert js(lambda: shared.value == value).result() if js._owner.options.method == "fork" else 1


def test_one_that_is_sent_twice_arrives_as_one(js: Jobserver) -> None:
    shared = jobserver.share([1])
    assert js(are_one, shared, shared).result()
    assert shared.value is shared.value


def memory_files() -> int:
    """How often this process has a memory file: by a descriptor, or mapped."""
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return sum("memfd:" in each for each in (*links, *mapped))


@pytest.mark.parametrize("tasks", [1, None])
def test_nothing_is_left_when_nothing_refers_to_it(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    before = memory_files(), js(memory_files).result()
    shared: Shared[Any] = jobserver.share(numpy.ones(MIB))
    assert memory_files() > before[0]
    assert js(total, shared).result() == MIB
    del shared
    gc.collect()
    assert (memory_files(), js(memory_files).result()) == before


def test_it_cannot_be_sent_elsewhere(js: Jobserver) -> None:
    shared = jobserver.share(1)
    with pytest.raises(TypeError, match="only as part of the work of a new process"):
        pickle.dumps(shared)
    with pytest.raises(pickle.PicklingError, match="return its value instead"):
        js(same, shared).result()


def test_what_cannot_be_pickled_cannot_be_shared() -> None:
    with pytest.raises(pickle.PicklingError):
        jobserver.share(threading.Lock())
