"""What the table of docs/comparison.md says of the others, tried on those that are installed.

So that no claim stands there which nobody has seen. Not here: what needs no trying, such as
an argument that their functions do not have; nor how fast anything is (benchmarks/).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DEADLINE

from jobserver import Jobserver, SubmissionDied

#: Each gives what submits a function to the peer's pool, and returns what has its result.
Submit = Callable[..., Any]


@contextlib.contextmanager
def of_jobserver() -> Iterator[Submit]:
    with Jobserver("fork", 2) as js:
        yield js


@contextlib.contextmanager
def of_multiprocessing() -> Iterator[Submit]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        yield lambda fn, *args: pool.apply_async(fn, args)


@contextlib.contextmanager
def of_concurrent_futures() -> Iterator[Submit]:
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("fork")
    ) as pool:
        yield pool.submit


@contextlib.contextmanager
def of_loky() -> Iterator[Submit]:
    loky = pytest.importorskip("loky")
    with loky.ProcessPoolExecutor(2) as pool:
        yield pool.submit


@contextlib.contextmanager
def of_pebble() -> Iterator[Submit]:
    pebble = pytest.importorskip("pebble")
    with pebble.ProcessPool(2) as pool:
        yield lambda fn, *args: pool.schedule(fn, args=args)


POOLS = {
    "jobserver": of_jobserver,
    "Pool": of_multiprocessing,
    "ProcessPoolExecutor": of_concurrent_futures,
    "loky": of_loky,
    "pebble": of_pebble,
}


def result(future: Any, timeout: float = DEADLINE) -> Any:
    return (future.get if hasattr(future, "get") else future.result)(timeout)


def error(future: Any) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: B017, PT011
        result(future)
    return raised.value


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Not checked here, where descriptors and processes of the others' may well be left."""


@pytest.fixture
def submit(pool: str) -> Iterator[Submit]:
    with POOLS[pool]() as submit:
        yield submit


each = pytest.mark.parametrize("pool", POOLS)


@each
def test_a_killed_job_fails_only_its_own_future(pool: str, submit: Submit) -> None:
    if pool == "Pool":  # the call never ends
        lost = submit(killed)
        assert result(submit(pow, 2, 3)) == 8
        with pytest.raises(multiprocessing.TimeoutError):
            lost.get(0.5)
        return
    told = error(submit(killed))
    breaks = pool in ("ProcessPoolExecutor", "loky")
    if breaks:
        assert isinstance(told, concurrent.futures.BrokenExecutor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            result(submit(pow, 2, 3))
    else:
        assert result(submit(pow, 2, 3)) == 8
    says = {
        "jobserver": isinstance(told, SubmissionDied) and told.signal == signal.SIGKILL,
        "ProcessPoolExecutor": False,
        "loky": "SIGKILL" in str(told),
        "pebble": getattr(told, "exitcode", None) == -signal.SIGKILL,
    }
    assert says[pool] == (pool != "ProcessPoolExecutor")


@each
def test_the_others_have_threads_in_your_process(pool: str) -> None:
    before = threading.active_count()
    with POOLS[pool]() as submit:
        assert result(submit(pow, 2, 3)) == 8
        assert (threading.active_count() == before) == (pool == "jobserver")


@each
def test_lambdas_travel_where_the_table_says(pool: str, submit: Submit) -> None:
    if pool in ("jobserver", "loky"):
        assert result(submit(lambda: 8)) == 8
    else:
        with pytest.raises(Exception, match="lambda|local"):
            result(submit(lambda: 8))


def submit_to(pool: Any) -> None:
    pool.submit(pow, 2, 3) if hasattr(pool, "submit") else pool.apply_async(pow, (2, 3))


@pytest.mark.parametrize("pool", ["Pool", "ProcessPoolExecutor", "loky", "pebble"])
def test_the_others_cannot_be_given_to_their_own_jobs(pool: str, submit: Submit) -> None:
    closure = getattr(submit, "__closure__", None)
    own: Any = closure[0].cell_contents if closure else submit.__self__  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="pickle|pool objects cannot be passed|cannot"):
        result(submit(submit_to, own))
