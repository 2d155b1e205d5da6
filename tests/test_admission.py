"""Admission: `sleep_fn` vetoes or delays a launch, while no slot is held and nothing else stops.

Not here: when the ready-made gates are open (test_gates). Semaphores of multiprocessing say
"begun" and "go on" between owner and job.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from conftest import DEADLINE, OWNERS_METHODS, children, descriptors, each_method

from jobserver import Blocked, CallbackRaised, Future, Jobserver, gates

#: Longer than any test may take: who sleeps so long has been told nothing meanwhile.
AGES = 2 * DEADLINE


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Admission comes before there is a process."""
    return str(request.param)


class Asked:
    """A `sleep_fn` that gives these answers in turn, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.times: list[float] = []

    def __call__(self) -> Any:
        self.times.append(time.monotonic())
        return self.answers[min(len(self.times), len(self.answers)) - 1]


def nothing() -> None:
    pass


def double(x: int) -> int:
    return 2 * x


def hold(begun: Any, go: Any) -> None:
    """Says that it has begun, and ends when it is let go."""
    begun.release()
    assert go.acquire(timeout=DEADLINE)


def hold_then_submit(js: Jobserver, begun: Any, go: Any) -> int:
    """Submits a job of its own when it is let go."""
    hold(begun, go)
    return js.submit(double, args=(21,), timeout=DEADLINE).result()


def submit_through_a_gate(js: Jobserver) -> tuple[int, int]:
    asked = Asked(0, 0.01, None)
    result = js.submit(double, args=(2,), sleep_fn=asked, timeout=DEADLINE).result()
    return result, len(asked.times)


class Holding:
    """Jobs that hold their slots until they are let go."""

    def __init__(self, js: Jobserver) -> None:
        self.js = js
        self.begun = js.context.Semaphore(0)
        self.go = js.context.Semaphore(0)

    def start(self, **options: Any) -> Future[None]:
        future = self.js.submit(hold, args=(self.begun, self.go), timeout=DEADLINE, **options)
        assert self.begun.acquire(timeout=DEADLINE)
        return future


def finished(future: Future[Any]) -> bool:
    """Whether the job's end has been noticed; unlike `done`, this looks for nothing."""
    return "running" not in repr(future)


def assert_slot_is_free(js: Jobserver) -> None:
    js.submit(nothing, timeout=0).result()


@pytest.fixture
def one(make_jobserver: Callable[..., Jobserver]) -> Jobserver:
    """A Jobserver of one slot."""
    return make_jobserver(slots=1)


@each_method
def test_none_lets_the_job_go(js: Jobserver) -> None:
    asked = Asked(None)
    assert js.submit(double, args=(2,), sleep_fn=asked).result() == 4
    assert len(asked.times) == 1


@pytest.mark.parametrize("delay", [0.05, Decimal("0.05")])
def test_seconds_are_waited_before_asking_again(js: Jobserver, delay: Any) -> None:
    asked = Asked(delay, delay, None)
    assert js.submit(double, args=(2,), sleep_fn=asked).result() == 4
    first, second, third = asked.times
    assert second - first >= 0.05
    assert third - second >= 0.05


def test_no_seconds_mean_to_be_asked_again_at_once(js: Jobserver) -> None:
    asked = Asked(0, 0.0, -0.0, None)
    assert js.submit(double, args=(2,), sleep_fn=asked).result() == 4
    assert len(asked.times) == 4


@pytest.mark.parametrize(
    "answer",
    [-1, -0.001, math.nan, -math.inf, True, False, "1", b"1", [], 1j, object()],
    ids=lambda answer: repr(answer).split(" ")[0],
)
def test_any_other_answer_is_an_error(one: Jobserver, answer: Any) -> None:
    before = children(), descriptors()
    with pytest.raises(ValueError, match="sleep_fn"):
        one.submit(nothing, sleep_fn=Asked(answer), timeout=1)
    assert (children(), descriptors()) == before


def test_after_a_wrong_answer_the_slot_is_free(one: Jobserver) -> None:
    with pytest.raises(ValueError, match="sleep_fn"):
        one.submit(nothing, sleep_fn=Asked(0, "go"), timeout=1)
    assert_slot_is_free(one)


def test_what_a_gate_raises_comes_out_of_submit(one: Jobserver) -> None:
    def broken() -> None:
        raise LookupError("no such sensor")

    with pytest.raises(LookupError, match="no such sensor"):
        one.submit(nothing, sleep_fn=broken)
    assert_slot_is_free(one)


@each_method
def test_no_slot_is_held_while_a_gate_is_asked(one: Jobserver) -> None:
    def submit_another() -> None:
        assert one.submit(double, args=(21,), timeout=0).result() == 42

    assert one.submit(double, args=(2,), sleep_fn=submit_another).result() == 4


def test_another_thread_can_take_the_slot_during_a_delay(one: Jobserver) -> None:
    results: list[int] = []

    def submit_another() -> None:
        results.append(one.submit(double, args=(21,), timeout=DEADLINE).result())

    thread = threading.Thread(target=submit_another)

    def wait_for_the_other() -> float | None:
        if thread.ident is None:
            thread.start()
        return None if results else 0.01

    assert one.submit(double, args=(2,), sleep_fn=wait_for_the_other).result() == 4
    thread.join()
    assert results == [42]


@each_method
def test_a_job_can_take_the_slot_for_a_job_of_its_own_during_a_delay(js: Jobserver) -> None:
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    future = js(hold_then_submit, js, begun, go)
    assert begun.acquire(timeout=DEADLINE)
    go.release()

    def wait_for_it() -> float | None:
        return None if finished(future) else 0.01

    assert js.submit(double, args=(2,), sleep_fn=wait_for_it).result() == 4
    assert future.result() == 42


@pytest.mark.parametrize("delay", [0, 0.01, AGES, math.inf])
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_the_deadline_holds_whatever_a_gate_says(
    one: Jobserver, delay: float, timeout: float
) -> None:
    asked = Asked(delay)
    begun = time.monotonic()
    with pytest.raises(Blocked):
        one.submit(nothing, sleep_fn=asked, timeout=timeout)
    assert timeout <= time.monotonic() - begun < DEADLINE
    assert len(asked.times) >= 1
    assert_slot_is_free(one)


def test_a_gate_is_asked_once_though_there_is_no_time_to_wait(one: Jobserver) -> None:
    asked = Asked(None)
    assert one.submit(double, args=(2,), sleep_fn=asked, timeout=0).result() == 4
    assert len(asked.times) == 1


def test_callbacks_are_issued_during_a_delay(js: Jobserver) -> None:
    holding = Holding(js)
    future = holding.start()

    def end_the_delay() -> None:
        raise LookupError("on purpose")

    future.when_done(end_the_delay)

    def let_the_other_go() -> float:
        holding.go.release()
        return AGES

    with pytest.raises(CallbackRaised) as raised:
        js.submit(nothing, sleep_fn=let_the_other_go)
    assert isinstance(raised.value.__cause__, LookupError)
    assert finished(future)


def test_jobs_are_reclaimed_during_a_delay_and_no_callbacks_issued_if_none_are_wanted(
    js: Jobserver,
) -> None:
    holding = Holding(js)
    future = holding.start()
    issued: list[None] = []
    future.when_done(issued.append, None)
    holding.go.release()

    def wait_for_the_other() -> float | None:
        return None if finished(future) else 0.01

    js.submit(nothing, callbacks=False, sleep_fn=wait_for_the_other)
    assert issued == []
    js.reclaim_resources()
    assert issued == [None]


def test_a_slot_that_comes_free_during_a_delay_is_used(one: Jobserver) -> None:
    holding = Holding(one)

    def take_the_slot_for_a_moment() -> None:
        if not asked:
            holding.start()
            holding.go.release()
        asked.append(None)

    asked: list[None] = []
    assert one.submit(double, args=(2,), sleep_fn=take_the_slot_for_a_moment).result() == 4
    # Its first answer was about another moment, unless the slot was free again by then.
    assert len(asked) in (1, 2)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_gate_is_not_asked_while_no_slot_is_free(one: Jobserver, timeout: float) -> None:
    holding = Holding(one)
    holding.start()
    asked = Asked(None)
    with pytest.raises(Blocked):
        one.submit(nothing, sleep_fn=asked, timeout=timeout)
    assert asked.times == []
    holding.go.release()


def test_a_gate_is_asked_about_a_job_that_needs_no_slot(one: Jobserver) -> None:
    holding = Holding(one)
    holding.start()
    asked = Asked(0.01, None)
    job = one.submit(double, args=(2,), consume=0, sleep_fn=asked, timeout=DEADLINE)
    assert job.result() == 4
    assert len(asked.times) == 2
    with pytest.raises(Blocked):
        one.submit(nothing, consume=0, sleep_fn=Asked(AGES), timeout=0.05)
    holding.go.release()


def test_a_gate_is_asked_in_the_calling_thread(js: Jobserver) -> None:
    threads: list[int] = []
    js.submit(nothing, sleep_fn=lambda: threads.append(threading.get_ident())).result()
    assert threads == [threading.get_ident()]


@each_method
def test_a_job_submits_through_a_gate_too(js: Jobserver) -> None:
    assert js(submit_through_a_gate, js).result() == (4, 3)


# The ready-made gates, in real submissions.


class Door:
    """A condition that comes true when it has been looked at so often."""

    def __init__(self, looks: float) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_gate_delays_a_job_until_its_condition_holds(js: Jobserver) -> None:
    door = Door(looks=3)
    gate = gates.Gate(door, patience=None, every=0.01)
    assert js.submit(double, args=(2,), sleep_fn=gate).result() == 4
    assert door.left == -1


def test_a_closed_gate_lets_jobs_through_one_at_a_time_when_its_patience_ends(
    js: Jobserver,
) -> None:
    gate = gates.Gate(Door(looks=math.inf), patience=0.05, every=0.01)
    begun = time.monotonic()
    assert [js.submit(double, args=(n,), sleep_fn=gate).result() for n in range(2)] == [0, 2]
    assert time.monotonic() - begun >= 2 * 0.05


def test_a_closed_gate_gives_way_to_the_deadline(js: Jobserver) -> None:
    gate = gates.Gate(Door(looks=math.inf), patience=None, every=AGES)
    with pytest.raises(Blocked):
        js.submit(nothing, sleep_fn=gate, timeout=0.05)


@pytest.fixture
def open_gates() -> list[gates.Gate]:
    """The gates that this machine can have, at thresholds that any machine meets."""
    made = [gates.memory_available(1), gates.load_average(1e9)]
    with suppress(OSError):  # not every kernel has pressure-stall information
        made.append(gates.pressure("cpu", 100))
    return made


def test_open_gates_let_jobs_through(js: Jobserver, open_gates: list[gates.Gate]) -> None:
    each: list[Callable[[], float | None]] = [*open_gates, gates.all_of(*open_gates)]
    for gate in each:
        assert js.submit(double, args=(2,), sleep_fn=gate, timeout=0).result() == 4


def test_unmet_gates_hold_jobs_back(js: Jobserver) -> None:
    for gate in (
        gates.memory_available(1 << 60, patience=None),
        gates.all_of(gates.load_average(1e9), gates.Gate(Door(looks=math.inf), patience=None)),
    ):
        with pytest.raises(Blocked):
            js.submit(nothing, sleep_fn=gate, timeout=0.05)
    assert_slot_is_free(js)
