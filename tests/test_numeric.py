"""Numeric libraries in jobs: how many threads they compute with."""

from __future__ import annotations

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
