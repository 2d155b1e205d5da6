"""`as_completed`: each Future once, in the order in which the jobs finish."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from conftest import DEADLINE, OWNERS_METHODS, each_method
from holding import Hold, held

from jobserver import Blocked, CallbackRaised, Future, Jobserver, SubmissionDied


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Who finished first is the owner's knowledge."""
    return str(request.param)


def double(x: int) -> int:
    return 2 * x


def fail() -> None:
    raise LookupError("on purpose")


def nothing(*_: Any) -> None:
    pass


def test_each_future_comes_once_however_often_it_was_given(js: Jobserver) -> None:
    futures = [js(double, n) for n in range(6)]
    came = list(js.as_completed([*futures, *futures], timeout=DEADLINE))
    assert sorted(future.result() for future in came) == [0, 2, 4, 6, 8, 10]
    assert len(came) == 6


def test_futures_come_in_the_order_in_which_their_jobs_finish(js: Jobserver, hold: Hold) -> None:
    slow, quick = js(held, hold.end), js(double, 1)
    completed = js.as_completed([slow, quick], timeout=DEADLINE)
    assert next(completed) is quick
    hold.let_go()
    assert next(completed) is slow
    assert next(completed, None) is None


def test_what_has_finished_already_comes_first_in_the_order_given(
    js: Jobserver, hold: Hold
) -> None:
    slow = js(held, hold.end)
    finished = [js(double, n) for n in range(4)]
    for future in reversed(finished):
        future.wait()
    completed = js.as_completed([slow, *reversed(finished)], timeout=DEADLINE)
    assert [next(completed) for _ in range(4)] == finished[::-1]
    hold.let_go()
    assert list(completed) == [slow]


@each_method
def test_errors_and_deaths_are_futures_like_others(js: Jobserver) -> None:
    futures: list[Future[None]] = [js(fail), js(os._exit, 3)]
    came = {type(future.exception()) for future in js.as_completed(futures, DEADLINE)}
    assert came == {LookupError, SubmissionDied}


def test_no_futures_are_no_wait(js: Jobserver) -> None:
    assert list(js.as_completed([])) == []


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_blocked_when_the_time_is_over_and_goes_on_after_it(
    js: Jobserver, hold: Hold, timeout: float
) -> None:
    slow, quick = js(held, hold.end), js(double, 1)
    quick.wait()
    completed = js.as_completed([slow, quick], timeout)
    assert next(completed) is quick
    for _ in range(2):
        with pytest.raises(Blocked, match="1 of the jobs"):
            next(completed)
    hold.let_go()
    slow.wait()
    assert next(completed) is slow
    with pytest.raises(StopIteration):
        next(completed)


def test_a_callbacks_error_is_told_and_the_next_call_goes_on(js: Jobserver) -> None:
    future = js(double, 1)
    future.when_done(fail)
    completed = js.as_completed([future], DEADLINE)
    with pytest.raises(CallbackRaised):
        next(completed)
    assert next(completed) is future


def test_callbacks_have_run_when_their_future_comes(js: Jobserver) -> None:
    called: list[int] = []
    futures = [js(double, n) for n in range(4)]
    for n, future in enumerate(futures):
        future.when_done(called.append, n)
    for future in js.as_completed(futures, DEADLINE):
        assert futures.index(future) in called


def test_strangers_are_refused_at_once(js: Jobserver, make_jobserver: Any) -> None:
    ours, stranger = js(nothing), make_jobserver()(nothing)
    with pytest.raises(ValueError, match="another Jobserver"):
        js.as_completed([ours, stranger])
    with pytest.raises(TypeError, match="not int"):
        js.as_completed([ours, 1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        js.as_completed([ours], "1")  # type: ignore[arg-type]
    stranger.wait()


def test_it_works_when_the_jobserver_is_closed(js: Jobserver) -> None:
    futures = [js(double, n) for n in range(3)]
    js.close()
    assert [f.result() for f in js.as_completed(futures)] == [0, 2, 4]


def test_an_iterator_that_is_dropped_keeps_no_future(js: Jobserver, hold: Hold) -> None:
    slow, quick = js(held, hold.end), js(double, 1)
    iterators = [js.as_completed([slow, quick], DEADLINE) for _ in range(3)]
    quick.wait()
    seen = weakref.ref(quick)
    del quick, iterators
    gc.collect()
    assert seen() is None
    hold.let_go()
    assert slow.wait(DEADLINE)


def consume_completed(js: Jobserver, count: int) -> int:
    return sum(f.result() for f in js.as_completed([js(double, n) for n in range(count)]))


@each_method
@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_it_works_in_a_job_on_one_slot(
    make_jobserver: Callable[..., Jobserver], waiting: str
) -> None:
    js = make_jobserver(1, waiting=waiting)
    assert js(consume_completed, js, 3).result(DEADLINE) == 6


def test_a_job_without_slot_that_is_waited_for_has_ours_meanwhile(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(1)
    assert js(wait_for_slotless, js).result(DEADLINE) == 6


def wait_for_slotless(js: Jobserver) -> int:
    jobs = [js.submit(consume_completed, args=(js, 3), consume=0)]
    return next(js.as_completed(jobs)).result()
