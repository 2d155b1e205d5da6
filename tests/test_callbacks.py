"""Callbacks: `Future.when_done`, who issues what it registers, and errors, one at a time.

Not here: callbacks raced for by many threads (test_threads). Semaphores of multiprocessing say
"begun" and "go on" between owner and job.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import DEADLINE, OWNERS_METHODS, descriptors, each_method

from jobserver import Blocked, CallbackRaised, Future, Jobserver, StartMethod

LARGE = 1 << 20  # bytes, more than travels in a channel


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Callbacks are the owner's, and run there."""
    return str(request.param)


def nothing() -> None:
    pass


def double(x: int) -> int:
    return 2 * x


def fail() -> None:
    raise LookupError("on purpose")


def hold(begun: Any, go: Any, result: Any = None) -> Any:
    """Says that it has begun, and ends when it is let go."""
    begun.release()
    assert go.acquire(timeout=DEADLINE)
    return result


class Held:
    """A job that runs until it is let go, and needs no slot unless told so."""

    def __init__(self, js: Jobserver, result: Any = None, consume: int = 0) -> None:
        begun, self._go = js.context.Semaphore(0), js.context.Semaphore(0)
        self.future: Future[Any] = js.submit(
            hold, args=(begun, self._go, result), consume=consume, callbacks=False
        )
        assert begun.acquire(timeout=DEADLINE)

    def let_go(self) -> None:
        self._go.release()


def noticed(future: Future[Any]) -> bool:
    """Whether the job's end has been noticed; unlike `done`, this looks for nothing."""
    return "running" not in repr(future)


def finish_unheard(js: Jobserver, *helds: Held) -> None:
    """Lets jobs end, and has their ends noticed with no callback issued."""
    for held in helds:
        held.let_go()

    def wait_for_them() -> float | None:
        return None if all(noticed(held.future) for held in helds) else 0.001

    js.submit(nothing, consume=0, callbacks=False, sleep_fn=wait_for_them)


class Raiser:
    """Callbacks that raise, each its own error."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __call__(self, name: str) -> None:
        self.called.append(name)
        raise LookupError(name)


# Registration and order


def test_callbacks_are_numbered_from_0_and_issued_in_order(js: Jobserver) -> None:
    held = Held(js)
    issued: list[int] = []
    assert [held.future.when_done(issued.append, n) for n in range(5)] == [0, 1, 2, 3, 4]
    assert issued == []
    held.let_go()
    held.future.wait()
    assert issued == [0, 1, 2, 3, 4]
    assert held.future.when_done(issued.append, 5) == 5


def test_each_future_counts_its_own_callbacks(js: Jobserver) -> None:
    first, second = js(nothing), js(nothing)
    assert [first.when_done(nothing), first.when_done(nothing)] == [0, 1]
    assert second.when_done(nothing) == 0


def test_callbacks_get_their_arguments(js: Jobserver) -> None:
    future = js(nothing)
    issued: list[tuple[Any, Any]] = []

    def callback(*args: Any, **kwargs: Any) -> None:
        issued.append((args, kwargs))

    future.when_done(callback, 1, future, fn="a", self="b")
    future.wait()
    assert issued == [((1, future), {"fn": "a", "self": "b"})]


def test_each_callback_is_issued_once(js: Jobserver) -> None:
    future = js(nothing)
    issued: list[int] = []
    future.when_done(issued.append, 0)
    for _ in range(3):
        future.wait()
        future.result()
        js.reclaim_resources()
    assert issued == [0]


def test_the_same_function_can_be_registered_twice(js: Jobserver) -> None:
    future = js(nothing)
    issued: list[int] = []
    future.when_done(issued.append, 0)
    future.when_done(issued.append, 0)
    future.wait()
    assert issued == [0, 0]


def test_a_callback_of_a_finished_job_is_issued_at_once(js: Jobserver) -> None:
    future = js(nothing)
    future.wait()
    issued: list[int] = []
    assert [future.when_done(issued.append, n) for n in range(2)] == [0, 1]
    assert issued == [0, 1]


@each_method
def test_callbacks_are_issued_for_jobs_that_fail_and_die_too(js: Jobserver) -> None:
    issued: list[str] = []
    for fn in (fail, sys.exit):
        js(fn).when_done(issued.append, fn.__name__)
    js.close()
    assert sorted(issued) == ["exit", "fail"]


# Who issues them

WAITS: dict[str, Callable[[Jobserver, Future[Any]], Any]] = {
    "done": lambda js, other: other.done(None),
    "wait": lambda js, other: other.wait(),
    "wait with a timeout": lambda js, other: other.wait(DEADLINE),
    "result": lambda js, other: other.result(),
    "exception": lambda js, other: other.exception(),
    "submit": lambda js, other: js.submit(nothing),
    "submit with a timeout": lambda js, other: js.submit(nothing, timeout=DEADLINE),
    "call": lambda js, other: js(nothing),
    "close": lambda js, other: js.close(),
    "exit": lambda js, other: js.__exit__(None, None, None),
}


@pytest.mark.parametrize("call", WAITS.values(), ids=WAITS)
def test_every_waiting_call_issues_the_callbacks_of_other_jobs(
    make_jobserver: Callable[..., Jobserver], call: Callable[[Jobserver, Future[Any]], Any]
) -> None:
    js = make_jobserver(slots=1)
    other = Held(js, consume=1)
    job = Held(js)
    # The call waits for the other job, or its slot, which only the callback lets go.
    job.future.when_done(other.let_go)
    job.let_go()
    call(js, other.future)
    assert other.future.done(DEADLINE)


LOOKS: dict[str, Callable[[Jobserver, Future[Any]], Any]] = {
    "reclaim_resources": lambda js, other: js.reclaim_resources(),
    "done": lambda js, other: other.done(),
    "wait": lambda js, other: other.wait(0),
    "result": lambda js, other: pytest.raises(Blocked, other.result, 0),
    "exception": lambda js, other: pytest.raises(Blocked, other.exception, 0),
    "submit": lambda js, other: js.submit(nothing, consume=0, timeout=0),
    "blocked submit": lambda js, other: pytest.raises(
        Blocked, lambda: js.submit(nothing, timeout=0)
    ),
}


@pytest.mark.parametrize("call", LOOKS.values(), ids=LOOKS)
def test_every_call_that_only_looks_issues_callbacks_too(
    make_jobserver: Callable[..., Jobserver], call: Callable[[Jobserver, Future[Any]], Any]
) -> None:
    js = make_jobserver(slots=1)
    other, job = Held(js, consume=1), Held(js)
    issued: list[int] = []
    job.future.when_done(issued.append, 0)
    finish_unheard(js, job)
    assert issued == []
    call(js, other.future)
    assert issued == [0]
    other.let_go()


def test_a_submission_without_callbacks_issues_none(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    job, slot_holder = Held(js), Held(js, consume=1)
    job.future.when_done(fail)
    slot_holder.future.when_done(fail)
    job.let_go()
    slot_holder.let_go()
    js.submit(nothing, callbacks=False)  # waits for the slot
    finish_unheard(js, job, slot_holder)
    for future in (job.future, slot_holder.future):
        with pytest.raises(CallbackRaised):
            js.reclaim_resources()
        assert noticed(future)
    js.reclaim_resources()


def test_a_callback_runs_in_the_thread_that_sees_the_end(js: Jobserver) -> None:
    held = Held(js)
    threads: list[int] = []
    held.future.when_done(lambda: threads.append(threading.get_ident()))
    held.let_go()
    other = threading.Thread(target=held.future.wait)
    other.start()
    seen_by = other.ident
    other.join()
    held.future.when_done(lambda: threads.append(threading.get_ident()))
    assert threads == [seen_by, threading.get_ident()]


# What a callback may do


def test_a_callback_may_ask_for_its_own_jobs_result(js: Jobserver) -> None:
    held = Held(js, result="result")
    answers: list[Any] = []

    def ask() -> None:
        answers.extend([held.future.done(), held.future.result(), held.future.exception()])

    held.future.when_done(ask)
    held.let_go()
    held.future.wait()
    assert answers == [True, "result", None]


def test_a_callback_may_submit_and_wait_for_the_result(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    held = Held(js, consume=1)
    results: list[int] = []
    # The slot is free by then, though there is only one.
    held.future.when_done(lambda: results.append(js.submit(double, args=(21,)).result()))
    held.let_go()
    held.future.wait()
    assert results == [42]


def test_a_callback_may_register_callbacks(js: Jobserver) -> None:
    first, second = Held(js), Held(js)
    issued: list[str] = []

    def register() -> None:
        issued.append("first")
        assert first.future.when_done(issued.append, "added") == 2
        assert second.future.when_done(issued.append, "of another") == 0

    first.future.when_done(register)
    first.future.when_done(issued.append, "second")
    first.let_go()
    first.future.wait()
    assert issued == ["first", "second", "added"]
    second.let_go()
    second.future.wait()
    assert issued == ["first", "second", "added", "of another"]


@each_method
def test_a_chain_of_callbacks_submits_job_after_job(js: Jobserver) -> None:
    results: list[int] = []

    def go_on(future: Future[int]) -> None:
        results.append(future.result())
        if len(results) < 4:
            submit(results[-1])

    def submit(x: int) -> None:
        future = js.submit(double, args=(x,))
        future.when_done(go_on, future)

    submit(1)
    deadline = time.monotonic() + DEADLINE
    while len(results) < 4:
        assert time.monotonic() < deadline
        js.reclaim_resources()
    assert results == [2, 4, 8, 16]


def test_a_callback_may_look_at_other_jobs_and_issue_their_callbacks(js: Jobserver) -> None:
    first, second = Held(js), Held(js)
    issued: list[str] = []

    def look() -> None:
        issued.append("begun")
        second.future.wait()
        issued.append("ended")

    first.future.when_done(look)
    first.future.when_done(issued.append, "next")
    second.future.when_done(issued.append, "second")
    finish_unheard(js, first, second)
    first.future.wait()
    assert sorted(issued) == ["begun", "ended", "next", "second"]
    assert issued.index("begun") + 1 < issued.index("next") == issued.index("ended") + 1


# Errors


def test_an_error_in_a_callback_is_told_with_its_cause(js: Jobserver) -> None:
    held = Held(js)
    held.future.when_done(nothing)
    seqno = held.future.when_done(fail)
    held.let_go()
    with pytest.raises(CallbackRaised) as raised:
        held.future.wait()
    assert raised.value.seqno == seqno == 1
    assert raised.value.future is held.future
    assert isinstance(raised.value.__cause__, LookupError)
    assert "on purpose" in str(raised.value)


CALLS: dict[str, Callable[[Jobserver, Future[Any]], Any]] = {
    "reclaim_resources": lambda js, future: js.reclaim_resources(),
    "done": lambda js, future: future.done(),
    "wait": lambda js, future: future.wait(),
    "result": lambda js, future: future.result(),
    "exception": lambda js, future: future.exception(),
    "submit": lambda js, future: js.submit(nothing),
    "close": lambda js, future: js.close(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_errors_are_told_one_at_a_time_and_calling_again_goes_on(
    js: Jobserver, call: Callable[[Jobserver, Future[Any]], Any]
) -> None:
    first, second = Held(js), Held(js)
    raiser = Raiser()
    for name in ("a", "b"):
        first.future.when_done(raiser, name)
    second.future.when_done(raiser, "c")
    finish_unheard(js, first, second)
    told: list[tuple[Future[Any] | None, int, str]] = []
    for _ in range(3):
        with pytest.raises(CallbackRaised) as raised:
            call(js, first.future)
        told.append((raised.value.future, raised.value.seqno, str(raised.value.__cause__)))
        assert len(raiser.called) == len(told)
    assert sorted(told, key=lambda each: each[2]) == [
        (first.future, 0, "a"),
        (first.future, 1, "b"),
        (second.future, 0, "c"),
    ]
    call(js, first.future)
    assert raiser.called.index("a") < raiser.called.index("b")


def test_a_submission_that_tells_of_a_callbacks_error_starts_nothing(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    held = Held(js, consume=1)
    held.future.when_done(fail)
    held.let_go()
    while not noticed(held.future):
        js._owner.here().look()
    asked: list[None] = []
    with pytest.raises(CallbackRaised):
        js.submit(nothing, sleep_fn=lambda: asked.append(None))
    assert asked == []
    assert js.submit(double, args=(2,), timeout=0).result() == 4


def test_an_error_of_a_callback_issued_at_once_comes_from_when_done(js: Jobserver) -> None:
    future = js(nothing)
    future.wait()
    future.when_done(nothing)
    with pytest.raises(CallbackRaised) as raised:
        future.when_done(fail)
    assert raised.value.seqno == 1
    assert future.when_done(nothing) == 2


def test_the_result_is_not_lost_by_an_error_in_a_callback(js: Jobserver) -> None:
    future = js(double, 21)
    future.when_done(fail)
    with pytest.raises(CallbackRaised):
        future.result()
    assert future.result() == 42


def test_an_error_told_to_a_callback_is_that_callbacks_error(js: Jobserver) -> None:
    inner, outer = Held(js), Held(js)
    inner.future.when_done(fail)
    outer.future.when_done(inner.future.wait)
    for held in (outer, inner):  # in this order
        finish_unheard(js, held)
    with pytest.raises(CallbackRaised) as raised:
        js.reclaim_resources()
    assert raised.value.future is outer.future
    cause = raised.value.__cause__
    assert isinstance(cause, CallbackRaised)
    assert cause.future is inner.future
    js.reclaim_resources()


@pytest.mark.parametrize("finished_before", [False, True])
def test_what_a_callback_registers_before_it_raises_is_issued_by_the_next_call(
    js: Jobserver, finished_before: bool
) -> None:
    held = Held(js)
    issued: list[str] = []

    def register_and_raise() -> None:
        js.reclaim_resources()
        held.future.when_done(issued.append, "added")
        raise LookupError("on purpose")

    held.let_go()
    if finished_before:
        held.future.wait()
    with pytest.raises(CallbackRaised):
        held.future.when_done(register_and_raise)
        held.future.wait()
    js.reclaim_resources()
    assert issued == ["added"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_passes_as_itself_and_the_rest_goes_on(
    js: Jobserver, error: type[BaseException]
) -> None:
    held = Held(js)
    issued: list[str] = []

    def interrupted() -> None:
        raise error

    held.future.when_done(interrupted)
    held.future.when_done(issued.append, "next")
    held.let_go()
    with pytest.raises(error):
        held.future.wait()
    assert issued == []
    assert held.future.done()
    assert issued == ["next"]


# Closing


@each_method
def test_closing_issues_callbacks(js: Jobserver) -> None:
    issued: list[int] = []
    for n in range(3):
        js(nothing).when_done(issued.append, n)
    js.close()
    assert sorted(issued) == [0, 1, 2]


@each_method
def test_what_a_callback_submits_while_its_jobserver_is_closed_is_refused(js: Jobserver) -> None:
    js(nothing).when_done(js, nothing)
    with pytest.raises(CallbackRaised) as raised:
        js.close()
    assert str(raised.value.__cause__) == "this Jobserver is closed"
    js.close()


def test_closing_with_callbacks_that_raise_closes_everything_and_goes_on_when_repeated(
    js: Jobserver,
) -> None:
    before = descriptors()
    helds = [Held(js, result=bytes([n]) * LARGE) for n in range(3)]
    raiser = Raiser()
    for n, held in enumerate(helds):
        held.future.when_done(raiser, str(n))
        held.let_go()

    for told in range(1, 4):
        with pytest.raises(CallbackRaised) as raised:
            js.close()
        assert str(raised.value.__cause__) == raiser.called[-1]
        assert len(raiser.called) == told
        assert all(noticed(held.future) for held in helds)
        with pytest.raises(RuntimeError, match="closed"):
            js(nothing)
        opened = [what for fd, what in descriptors().items() if before.get(fd) != what]
        assert opened == []
    js.close()
    assert sorted(raiser.called) == ["0", "1", "2"]
    assert [held.future.result() for held in helds] == [bytes([n]) * LARGE for n in range(3)]


@each_method
def test_leaving_a_with_statement_tells_of_a_callbacks_error(method: StartMethod) -> None:
    with pytest.raises(CallbackRaised):
        with Jobserver(method, 1) as js:
            js(nothing).when_done(fail)
    with pytest.raises(RuntimeError, match="closed"):
        js(nothing)


def raise_in_a_callback(js: Jobserver) -> None:
    future = js.submit(int, consume=0)
    future.when_done(divide, 1, 0)
    future.wait()


def divide(a: int, b: int) -> float:
    return a / b


@each_method
def test_a_callbacks_error_can_leave_the_job_that_met_it(js: Jobserver) -> None:
    with pytest.raises(CallbackRaised, match=r"callback 0 of <Future.*raised ZeroDivis") as raised:
        js(raise_in_a_callback, js).result()
    assert raised.value.seqno == 0
    assert raised.value.future is None
    assert "ZeroDivisionError" in str(raised.value.__cause__)


@pytest.mark.parametrize("callbacks", [None, 1, "no"])
@pytest.mark.parametrize("consume", [0, 1])
def test_what_is_no_bool_is_refused_as_callbacks(
    js: Jobserver, callbacks: Any, consume: int
) -> None:
    with pytest.raises(TypeError, match="callbacks must be True or False"):
        js.submit(int, callbacks=callbacks, consume=consume)


def test_what_a_callback_registers_on_its_own_job_is_issued_at_once(js: Jobserver) -> None:
    held = Held(js)
    issued: list[str] = []

    def outer() -> None:
        held.future.when_done(inner)
        issued.append("outer goes on")

    def inner() -> None:
        issued.append("inner")
        held.future.when_done(issued.append, "innermost")
        issued.append("inner goes on")

    held.future.when_done(outer)
    held.future.when_done(issued.append, "second")
    held.let_go()
    held.future.wait()
    # Registered before, it comes before.
    assert issued == ["second", "inner", "innermost", "inner goes on", "outer goes on"]
    held.future.when_done(outer)
    assert issued[5:] == ["inner", "innermost", "inner goes on", "outer goes on"]


def test_an_error_of_what_a_callback_registers_is_told_to_that_callback(js: Jobserver) -> None:
    future = js(nothing)
    future.wait()
    told: list[BaseException] = []

    def outer() -> None:
        with pytest.raises(CallbackRaised) as raised:
            future.when_done(fail)
        told.append(raised.value)

    future.when_done(outer)
    assert isinstance(told[0].__cause__, LookupError)


def test_callbacks_that_nest_deeply_end_with_an_error_in_few_words(js: Jobserver) -> None:
    future = js(nothing)
    future.wait()

    def again() -> None:
        future.when_done(again)

    with pytest.raises(CallbackRaised) as raised:
        future.when_done(again)
    assert len(str(raised.value)) < 50_000
    while True:
        try:
            js.reclaim_resources()
            break
        except CallbackRaised:
            pass


@pytest.mark.parametrize("error", [LookupError, SystemExit, GeneratorExit, KeyboardInterrupt])
def test_the_body_of_a_with_statement_has_its_own_error_and_callbacks_are_issued(
    method: StartMethod, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    issued: list[int] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def raise_it() -> None:
        raise error("of a callback")

    with pytest.raises(KeyError, match="of the body"):
        with Jobserver(method, 1) as js:
            future = js(nothing)
            for n in range(3):
                future.when_done(raise_it)
                future.when_done(issued.append, n)
            raise KeyError("of the body")
    assert issued == [0, 1, 2]
    expected = CallbackRaised if error is LookupError else error
    assert [each.exc_type for each in told] == 3 * [expected]
    told.clear()


def test_the_first_error_of_callbacks_leaves_a_with_statement_and_all_are_issued(
    method: StartMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    issued: list[int] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with pytest.raises(CallbackRaised) as raised:
        with Jobserver(method, 1) as js:
            future = js(nothing)
            for n in range(3):
                future.when_done(fail)
                future.when_done(issued.append, n)
    assert raised.value.seqno == 0
    assert issued == [0, 1, 2]
    assert [each.exc_value.seqno for each in told] == [2, 4]
    told.clear()
    with pytest.raises(RuntimeError, match="closed"):
        js(nothing)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_callbacks_error_that_cannot_say_what_it_is_is_told(
    js: Jobserver, error: type[BaseException]
) -> None:
    class SaysBadly(Exception):
        def __str__(self) -> str:
            raise error

        __repr__ = __str__

    def raise_it() -> None:
        raise SaysBadly

    with pytest.raises(CallbackRaised, match="failed"):
        js(nothing).when_done(raise_it)
        js.close()
