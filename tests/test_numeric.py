"""Numeric libraries in jobs: how many threads they compute with."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import pytest

pytest.importorskip("numpy")  # which brings a library that computes with threads
threadpoolctl = pytest.importorskip("threadpoolctl")


def threads_and_pid() -> tuple[set[int], int]:
    """With how many threads each library that is loaded here would compute."""
    import numpy  # noqa: F401 - under spawn, nobody has done so yet

    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}, os.getpid()


@pytest.mark.parametrize("tasks", [1, None])
def test_threads_are_limited_for_one_job_though_the_library_was_loaded_before(
    make_jobserver: Any, tasks: int | None
) -> None:
    preload = ["numpy", __name__]
    js = make_jobserver(1, max_tasks_per_child=tasks, preload=preload)
    usual, process = js(threads_and_pid).result()
    if not usual:
        pytest.skip("this NumPy computes with one thread")
    limit = functools.partial(threadpoolctl.threadpool_limits, 3)
    limited = js.submit(threads_and_pid, preexec_fn=limit).result()
    assert limited[0] == {3}
    after = js(threads_and_pid).result()
    assert after[0] == usual
    assert (process == limited[1] == after[1]) == (tasks is None)


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("loaded", [True, False])
def test_a_submission_says_how_many_threads_libraries_use(
    make_jobserver: Any, tasks: int | None, loaded: bool
) -> None:
    preload = ["numpy", __name__] if loaded else []
    js = make_jobserver(1, max_tasks_per_child=tasks, preload=preload)
    usual, _ = js(threads_and_pid).result()
    if not usual:
        pytest.skip("this NumPy computes with one thread")
    assert js.submit(threads_and_pid, threads=3).result()[0] == {3}
    assert next(js.map(threads_and_pid, [()], threads=3))[0] == {3}
    if loaded or tasks == 1:
        assert js(threads_and_pid).result()[0] == usual


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


NAMES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


@pytest.mark.parametrize("tasks", [1, None])
def test_libraries_that_a_job_loads_find_variables(make_jobserver: Any, tasks: int | None) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    assert js.submit(variables, args=NAMES, threads=3).result() == ["3", "3", "3"]
    assert js(variables, *NAMES).result() == variables(*NAMES)
    own = {"OMP_NUM_THREADS": "2"}
    assert js.submit(variables, args=NAMES, threads=3, env=own).result() == ["2", "3", "3"]
    own = {"NUMBA_NUM_THREADS": "2"}
    assert js.submit(variables, args=NAMES, threads=3, env=own).result() == ["3", "2", "3"]


def test_a_jobserver_says_it_for_all_submissions(make_jobserver: Any) -> None:
    js = make_jobserver(2, threads="slots")
    assert js(variables, *NAMES).result() == ["1", "1", "1"]
    assert js.submit(variables, args=NAMES, threads=2).result() == ["2", "2", "2"]
    assert js.submit(variables, args=NAMES, consume=0).result() == ["1", "1", "1"]


def process() -> int:
    return os.getpid()


def leaves() -> None:
    """A hook that does not say how to undo what it does."""


@pytest.mark.parametrize("hook, stays", [(leaves, False), (contextlib.nullcontext, True)])
def test_a_process_stays_if_the_users_hook_lets_it(
    make_jobserver: Any, hook: Any, stays: bool
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    first = js.submit(process, threads=1, preexec_fn=hook).result()
    assert (js(process).result() == first) == stays
