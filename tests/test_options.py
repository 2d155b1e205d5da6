"""`with_options`: a handle whose submissions have options of its own.

Not here: what each option does (`test_environment.py`, `test_gates.py`, `test_limits.py`,
`test_numeric.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import take_slot

from jobserver import Blocked, Jobserver, TimeLimitExceeded


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def variables_below(js: Jobserver, *names: str) -> list[str | None]:
    """In a job: those of a job of its own."""
    return js(variables, *names).result()


@contextlib.contextmanager
def marked() -> Iterator[None]:
    os.environ["MARKED"] = "default"
    yield


@contextlib.contextmanager
def marked_otherwise() -> Iterator[None]:
    os.environ["MARKED"] = "own"
    yield


def spin() -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pass


def refuses() -> float:
    return 60.0


def test_submissions_and_maps_have_the_options_of_their_handle(js: Jobserver) -> None:
    ours = js.with_options(env={"A": "1"}, preexec_fn=marked)
    assert ours(variables, "A", "MARKED").result() == ["1", "default"]
    assert list(ours.map(variables, [("A", "MARKED")])) == [["1", "default"]]
    assert js(variables, "A", "MARKED").result() == [None, None]


def test_the_options_of_a_submission_take_the_place_of_the_handles(js: Jobserver) -> None:
    ours = js.with_options(env={"A": "1", "B": "2"}, preexec_fn=marked)
    own: dict[str, Any] = dict(env={"B": "3", "C": "4"}, preexec_fn=marked_otherwise)
    names = ("A", "B", "C", "MARKED")
    assert ours.submit(variables, args=names, **own).result() == ["1", "3", "4", "own"]
    assert list(ours.map(variables, [names], **own)) == [["1", "3", "4", "own"]]


def test_options_are_added_to_those_of_a_handle_that_has_some(js: Jobserver) -> None:
    ours = js.with_options(env={"A": "1", "B": "2"}).with_options(env={"B": None, "C": "3"})
    assert ours(variables, "A", "B", "C").result() == ["1", None, "3"]


def test_a_job_that_gets_a_handle_gets_its_options(js: Jobserver) -> None:
    ours = js.with_options(env={"A": "1"})
    assert js(variables_below, ours, "A").result() == ["1"]
    assert js(variables_below, js, "A").result() == [None]


def test_the_gate_and_the_time_limit_of_a_handle_hold(js: Jobserver) -> None:
    with pytest.raises(Blocked):
        js.with_options(sleep_fn=refuses).submit(int, timeout=0.01)
    with pytest.raises(TimeLimitExceeded):
        js.with_options(time_limit=0.05)(spin).result()
    with pytest.raises(TimeLimitExceeded):
        next(js.with_options(time_limit=0.05).map(spin, [()]))


def test_a_handle_says_how_many_slots_its_jobs_take(make_jobserver: Callable[..., Any]) -> None:
    js = make_jobserver(1)
    ours = js.with_options(consume=0)
    slot = take_slot(js)
    assert ours.submit(int, timeout=0).result() == 0
    assert list(ours.map(int, [("7",)])) == [7]
    with pytest.raises(Blocked):
        ours.submit(int, consume=1, timeout=0)
    del slot


def test_handles_share_slots_and_are_closed_together(make_jobserver: Callable[..., Any]) -> None:
    js = make_jobserver(1)
    ours = js.with_options(env={"A": "1"})
    slot = take_slot(js)
    with pytest.raises(Blocked):
        ours.submit(int, timeout=0)
    del slot
    assert [future.result() for future in ours.as_completed([js(int)])] == [0]
    with ours:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        js(int)


@pytest.mark.parametrize(
    "options, error, told",
    [
        (dict(consume=3), ValueError, "consume must be between 0 and 2, the number of slots"),
        (dict(env=7), TypeError, "env must be"),
        (dict(env=None), TypeError, "env must be"),
        (dict(preexec_fn=7), TypeError, "preexec_fn must be callable"),
        (dict(sleep_fn=7), TypeError, "sleep_fn must be callable"),
        (dict(threads="many"), ValueError, 'None, "slots" or an int'),
        (dict(threads=0), ValueError, "at least 1"),
        (dict(time_limit=-1), ValueError, "greater than 0"),
        (dict(timeout=1), TypeError, "has no argument 'timeout'"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(
    js: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        js.with_options(**options)


class Own(Jobserver):
    pass


def test_a_handle_is_of_the_class_of_the_one_that_it_comes_from() -> None:
    with Own("fork", 1) as js:
        assert type(js.with_options(threads=1)) is Own
