"""Bad arguments: refused at once with TypeError or ValueError, before anything starts, at no cost.

Not here: what good arguments do, and what cannot be pickled. Which start method is used makes no
difference to what is refused, so each bad argument is tried with one, and all together with each.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import DEADLINE, children, descriptors

from jobserver import Blocked, Future, Jobserver, _pickled

NAN = math.nan
HUGE = 10**400  # too large for a float

BAD_SLOTS: list[tuple[Any, type[Exception]]] = [
    (True, TypeError),
    (False, TypeError),
    (2.0, TypeError),
    (NAN, TypeError),
    ("2", TypeError),
    ([2], TypeError),
    (0, ValueError),
    (-1, ValueError),
    (16385, ValueError),
    (HUGE, ValueError),
]

BAD_CONTEXTS: list[tuple[Any, type[Exception]]] = [
    ("junk", ValueError),
    ("", ValueError),
    ("Fork", ValueError),
    (b"fork", TypeError),
    (2, TypeError),
    (True, TypeError),
    (multiprocessing, TypeError),
    (multiprocessing.get_context, TypeError),
]

BAD_TIMEOUTS: list[tuple[Any, type[Exception]]] = [
    (NAN, ValueError),
    (HUGE, ValueError),
    ("1", TypeError),
    (b"1", TypeError),
    (True, TypeError),
    (1j, TypeError),
    ([], TypeError),
    (object(), TypeError),
]

BAD_SIGNALS: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-signal.SIGTERM, ValueError),
    (signal.SIGRTMAX + 1, ValueError),
    (1 << 31, ValueError),
    (HUGE, ValueError),
    (True, TypeError),
    (15.0, TypeError),
    ("SIGTERM", TypeError),
]

BAD_SUBMISSIONS: list[tuple[str, Any, type[Exception]]] = [
    *[("timeout", timeout, error) for timeout, error in BAD_TIMEOUTS],
    ("consume", -1, ValueError),
    ("consume", 3, ValueError),
    ("consume", True, TypeError),
    ("consume", 1.0, TypeError),
    ("consume", "1", TypeError),
    ("env", None, TypeError),
    ("env", 5, TypeError),
    ("env", "AB", TypeError),
    ("env", b"AB", TypeError),
    ("env", ["AB"], TypeError),
    ("env", [b"AB"], TypeError),
    ("env", [5], TypeError),
    ("env", [None], TypeError),
    ("env", [()], TypeError),
    ("env", [("A",)], TypeError),
    ("env", [("A", "b"), ("A", "b", "c")], TypeError),
    ("env", {1: "b"}, TypeError),
    ("env", {b"A": "b"}, TypeError),
    ("env", {None: "b"}, TypeError),
    ("env", {"A": 1}, TypeError),
    ("env", {"A": b"b"}, TypeError),
    ("env", {"A": True}, TypeError),
    ("env", {"": "b"}, ValueError),
    ("env", {"": None}, ValueError),
    ("env", {"A=B": "c"}, ValueError),
    ("env", {"=": None}, ValueError),
    ("env", {"A\0B": "c"}, ValueError),
    ("env", {"A": "b\0c"}, ValueError),
    ("env", {"A": "b", "C": "\0"}, ValueError),
    ("env", {"A": "\ud800"}, ValueError),
    ("env", {"\ud800": "b"}, ValueError),
    ("preexec_fn", 5, TypeError),
    ("preexec_fn", "print", TypeError),
    ("sleep_fn", 1.0, TypeError),
    ("sleep_fn", "print", TypeError),
    ("args", None, TypeError),
    ("args", 5, TypeError),
    ("args", "ab", TypeError),
    ("args", b"ab", TypeError),
    ("kwargs", None, TypeError),
    ("kwargs", 5, TypeError),
    ("kwargs", [("a", 1)], TypeError),
    ("kwargs", {1: 2}, TypeError),
    ("kwargs", {b"a": 1}, TypeError),
    ("kwargs", {"a": 1, None: 2}, TypeError),
]


def nothing(*_: object) -> None:
    pass


def hold(begun: Any, go: Any) -> None:
    """Says that it has begun, and ends when it is let go."""
    begun.release()
    assert go.acquire(timeout=DEADLINE)


def named(value: Any) -> str:
    """A test's id: short, and the same in each run."""
    return getattr(value, "__name__", None) or repr(value)[:20]


def short(parameters: list[Any]) -> list[Any]:
    return [pytest.param(*each, id="-".join(named(value) for value in each)) for each in parameters]


@pytest.fixture
def running() -> Iterator[Future[None]]:
    """A job that runs until the test's end."""
    with Jobserver("fork", 1) as js:
        begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
        future = js(hold, begun, go)
        assert begun.acquire(timeout=DEADLINE)
        yield future
        go.release()


@pytest.fixture
def finished() -> Iterator[Future[None]]:
    """A job that has finished."""
    with Jobserver("fork", 1) as js:
        future = js(nothing)
        future.wait()
        yield future


@pytest.fixture(params=["running", "finished"])
def future(request: pytest.FixtureRequest) -> Any:
    """A job, which whether it runs makes no difference to what is refused."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("slots, error", short(BAD_SLOTS))
def test_bad_slots_are_refused(slots: Any, error: type[Exception]) -> None:
    before = children(), descriptors()
    with pytest.raises(error, match="slots"):
        Jobserver(slots=slots)
    assert (children(), descriptors()) == before


@pytest.mark.parametrize("context, error", short(BAD_CONTEXTS))
def test_bad_contexts_are_refused(context: Any, error: type[Exception]) -> None:
    before = children(), descriptors()
    with pytest.raises(error, match="context"):
        Jobserver(context)
    assert (children(), descriptors()) == before


def test_a_number_of_slots_may_be_any_integer() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    slots: Any = Three()
    with Jobserver(slots=slots) as js:
        assert js.slots == 3


@pytest.mark.parametrize("name, value, error", short(BAD_SUBMISSIONS))
def test_bad_submissions_are_refused_by_name(name: str, value: Any, error: type[Exception]) -> None:
    with Jobserver("fork", 1) as js:
        before = children(), descriptors()
        expected = "environment variable|env" if name == "env" else name
        with pytest.raises(error, match=expected):
            js.submit(nothing, **{name: value})
        assert (children(), descriptors()) == before


@pytest.mark.parametrize("fn", [None, 5, "print", ()])
def test_what_cannot_be_called_is_refused(js: Jobserver, fn: Any) -> None:
    with pytest.raises(TypeError, match="fn"):
        js.submit(fn)
    with pytest.raises(TypeError, match="fn"):
        js(fn)


def test_a_submission_takes_nothing_by_position_but_its_function(js: Jobserver) -> None:
    submit: Any = js.submit
    with pytest.raises(TypeError):
        submit(nothing, 5)
    with pytest.raises(TypeError):
        submit(nothing, arguments=(5,))


def test_refusals_cost_no_slot_no_descriptor_and_no_process(js: Jobserver) -> None:
    before = children(), descriptors()
    for name, value, error in BAD_SUBMISSIONS:
        with pytest.raises(error):
            js.submit(nothing, **{name: value})
    assert (children(), descriptors()) == before

    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    for _ in range(js.slots):
        js.submit(hold, args=(begun, go), timeout=0)
    with pytest.raises(Blocked):
        js.submit(nothing, timeout=0)
    for _ in range(js.slots):
        go.release()


def test_bad_submissions_are_refused_at_once_when_no_slot_is_free(running: Future[None]) -> None:
    js = _pickled.handles[running._owner.options.key]
    for name, value, error in BAD_SUBMISSIONS:
        with pytest.raises(error):
            js.submit(nothing, **{name: value})
    assert not running.done()


@pytest.mark.parametrize("bad", [{"env": {"": "x"}}, {"args": 5}, {"kwargs": {1: 2}}])
def test_a_gate_is_not_asked_about_a_bad_submission(js: Jobserver, bad: Any) -> None:
    asked: list[None] = []
    with pytest.raises((TypeError, ValueError)):
        js.submit(nothing, sleep_fn=lambda: asked.append(None), **bad)
    assert asked == []


@pytest.mark.parametrize("method_name", ["done", "wait", "result", "exception"])
@pytest.mark.parametrize("timeout, error", short(BAD_TIMEOUTS))
def test_bad_timeouts_of_a_future_are_refused(
    future: Future[None], method_name: str, timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="timeout"):
        getattr(future, method_name)(timeout=timeout)


@pytest.mark.parametrize("number, error", short(BAD_SIGNALS))
def test_bad_signals_are_refused(future: Future[None], number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="signal"):
        future.wait(0, signal=number)


def test_a_refused_signal_does_the_job_no_harm(running: Future[None]) -> None:
    for number, error in BAD_SIGNALS:
        with pytest.raises(error):
            running.wait(0, signal=number)
    assert not running.done()


@pytest.mark.parametrize("callback", [None, 5, "print"])
def test_a_callback_that_cannot_be_called_is_refused(future: Future[None], callback: Any) -> None:
    with pytest.raises(TypeError, match="fn"):
        future.when_done(callback)
    assert future.when_done(nothing) == 0


def test_a_closed_jobserver_refuses_submissions(js: Jobserver) -> None:
    js(nothing).result()
    js.close()
    before = children(), descriptors()
    with pytest.raises(RuntimeError, match="closed"):
        js(nothing)
    with pytest.raises(RuntimeError, match="closed"):
        js.submit(nothing, consume=0, timeout=0)
    assert (children(), descriptors()) == before


def test_a_closed_jobserver_can_be_asked_what_it_was(js: Jobserver, method: str) -> None:
    js.close()
    assert js.slots == 2
    assert js.context.get_start_method() == method
    assert "closed" in repr(js)
    js.reclaim_resources()


NUMBERS: dict[str, Any] = {
    "slots": lambda js, n: Jobserver("fork", n),
    "max_tasks_per_child": lambda js, n: Jobserver("fork", 1, max_tasks_per_child=-n),
    "consume": lambda js, n: js.submit(int, consume=n),
    "chunksize": lambda js, n: js.map(abs, [(1,)], chunksize=n),
    "buffersize": lambda js, n: js.map(abs, [(1,)], buffersize=n),
    "timeout": lambda js, n: js.submit(int, timeout=n * HUGE),
    "time_limit": lambda js, n: js.submit(int, time_limit=n * HUGE),
    "grace": lambda js, n: js(int).kill(grace=n * HUGE),
    "signal": lambda js, n: js(int).wait(signal=n),
    "sleep_fn": lambda js, n: js.submit(int, sleep_fn=lambda: -n),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", [10**30, 2**64, 10**5000], ids=["10**30", "2**64", "10**5000"])
def test_a_number_far_too_large_is_refused_by_name(js: Jobserver, name: str, number: int) -> None:
    with pytest.raises(ValueError, match=name):
        NUMBERS[name](js, number)


@pytest.mark.parametrize("seconds", [2**31, 2**63, 1e18, 1e300, math.inf])
def test_as_many_seconds_as_one_likes_are_for_ever(js: Jobserver, seconds: float) -> None:
    js.submit(int, timeout=seconds, time_limit=seconds).result(seconds)
    js(int).kill(grace=seconds)
    assert [*js.map(abs, [(1,)], timeout=seconds)] == [1]


def test_an_argument_that_cannot_say_what_it_is_is_refused_all_the_same(js: Jobserver) -> None:
    class SaysBadly:
        def __repr__(self) -> str:
            raise SystemExit

    with pytest.raises(TypeError, match="timeout must be"):
        js.submit(int, timeout=SaysBadly())  # type: ignore[arg-type]
