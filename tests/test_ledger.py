"""The ledger: slots that outlast whoever is killed, and that waiting jobs lend and yield.

Pipes say that something has begun, and that it may end. Not here: the slots of a killed owner's
jobs (test_orphans), many kills at random moments (test_chaos), and how well yielding uses the
slots (benchmarks/slot_use.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, METHODS
from holding import Hold, free, held
from killing import Tells, assert_soon, kill, needs_pidfd, say_and_hold
from spans import Recorded
from trees import recurse, recurse_in_turn, timed

from jobserver import Blocked, Jobserver, StartMethod

#: The start methods whose jobs are not each a new interpreter.
FORKS = ("fork", "forkserver")


Make = Callable[..., Jobserver]


# Slots come back by themselves


def test_a_slot_is_free_when_the_result_is_complete_though_the_owner_looks_at_nothing(
    made: Make, hold: Hold
) -> None:
    js = made(1)
    future = js(held, hold.end)
    pool: Any = js._pool
    assert free(js) == 0
    hold.let_go()
    # The event itself: a byte in the pool's pipe. Nothing of ours is asked meanwhile.
    deadline = time.monotonic() + DEADLINE
    while not free(js):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert future._outcome is None
    assert pool.try_take() is not None
    assert future.result(DEADLINE)


def take_and_tell(js: Jobserver, tell: Connection) -> int:
    tell.send(os.getpid())
    return js.submit(os.getpid, timeout=DEADLINE).result(DEADLINE)


def own_one_busily(js: Jobserver, tell: Connection, busy: Connection) -> None:
    """Has a job running, and looks at nothing until it is let go."""
    js(say_and_hold, tell, busy)
    held(busy)


@needs_pidfd
def test_who_waits_for_a_slot_wakes_when_a_holder_is_killed_whose_owner_is_busy(
    made: Make, hold: Hold, tells: Tells
) -> None:
    js = made(1)
    owner = js.submit(own_one_busily, args=(js, tells.end, hold.end), consume=0)
    holder = tells.next()
    waiter = js.submit(take_and_tell, args=(js, tells.end), consume=0)
    asleep = tells.next()
    wait_until_asleep(asleep)
    kill(holder)
    assert waiter.result(DEADLINE)
    hold.let_go()
    owner.result(DEADLINE)


def wait_until_asleep(pid: int) -> None:
    """Returns when a process sleeps in poll, where it has no more to do by itself."""
    deadline = time.monotonic() + DEADLINE
    while b"poll" not in Path(f"/proc/{pid}/wchan").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Nested work ends however few slots there are


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("method", FORKS)
def test_recursion_ends_on_few_slots(made: Make, waiting: str, slots: int) -> None:
    js = made(slots, waiting=waiting)
    assert js(recurse, js, 5, 3).result(DEADLINE) == sum(3**level for level in range(5))


@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("method", ["spawn"])
def test_recursion_of_spawned_jobs_ends_on_one_slot(made: Make, waiting: str) -> None:
    js = made(1, waiting=waiting)
    assert js(recurse_in_turn, js, 4).result(DEADLINE) == 4


def submit_gated(js: Jobserver) -> int:
    asked: list[None] = []
    job = js.submit(os.getpid, sleep_fn=lambda: asked.append(None))
    assert job.result() != os.getpid()
    return len(asked)


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_a_gated_submission_of_a_job_ends_on_one_slot(made: Make, waiting: str) -> None:
    js = made(1, waiting=waiting)
    assert js(submit_gated, js).result(DEADLINE) >= 1


def submit_at_once(js: Jobserver, levels: int, gated: bool) -> int:
    """How many levels below there was a slot for."""
    gate = (lambda: None) if gated else None
    try:
        job = js.submit(submit_at_once, args=(js, levels - 1, gated), timeout=0, sleep_fn=gate)
    except Blocked:
        return 0
    return 1 + job.result()


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_a_submission_that_does_not_wait_is_not_lent_a_slot(
    made: Make, slots: int, gated: bool
) -> None:
    js = made(slots)
    assert js(submit_at_once, js, 9, gated).result(DEADLINE) == slots - 1


def submit_without_a_slot(js: Jobserver, wait: bool) -> int:
    future = js.submit(recurse, args=(js, 2, 2), consume=0)
    if wait:
        return future.result()
    js.close()
    return future.result(0)


@pytest.mark.parametrize("wait", [True, False], ids=["in result", "in close"])
def test_whoever_waits_for_a_job_without_a_slot_leaves_its_own_to_the_jobs_of_that_one(
    made: Make, wait: bool
) -> None:
    js = made(1)
    assert js(submit_without_a_slot, js, wait).result(DEADLINE) == 3
    assert_soon(lambda: free(js) == 1)


# Only what runs counts


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("method", FORKS)
def test_jobs_that_yield_never_run_more_at_once_than_there_are_slots(
    made: Make, slots: int
) -> None:
    js = made(slots, waiting="yield")
    spans = js(timed, js, 4).result(DEADLINE)
    assert Recorded.of(spans).most <= slots


# What is refused


@pytest.mark.parametrize("name", ["waiting", "orphans"])
@pytest.mark.parametrize("value", ["", "never", None, 1, b"hold"])
@pytest.mark.parametrize("method", METHODS[:1])
def test_unknown_ways_are_refused_by_name(method: StartMethod, name: str, value: Any) -> None:
    ways: Any = {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        Jobserver(method, 1, **ways)
