"""The ledger: slots that outlast whoever is killed, and that waiting jobs lend and yield.

Pipes say that something has begun, and that it may end; what the kernel does of its own (ending
the jobs of an owner that was killed) is looked for until a deadline. Not here: many kills at
random moments (test_chaos), and how well yielding uses the slots (benchmarks/slot_use.py).
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, METHODS, settle, take_slot
from holding import Hold, free, held
from spans import Recorded
from trees import recurse, recurse_in_turn, timed

from jobserver import Blocked, Future, Jobserver, StartMethod, SubmissionDied

#: The start methods whose jobs are not each a new interpreter.
FORKS = ("fork", "forkserver")

#: How soon after a kill all must be as it was, in seconds: a promise, not a measurement.
SOON = 1.0

Make = Callable[..., Jobserver]


class Tells:
    """Pids that jobs tell this process."""

    def __init__(self) -> None:
        self._ours, self.end = multiprocessing.Pipe(duplex=False)

    def next(self) -> int:
        assert self._ours.poll(DEADLINE), "no job has told its pid"
        return int(self._ours.recv())

    def owner_and_jobs(self, future: Future[Any]) -> tuple[int, set[int]]:
        """Of a job that has two: all three must tell."""
        pids = {self.next() for _ in range(3)}
        assert future._pid in pids and len(pids) == 3
        return future._pid, pids - {future._pid}

    def close(self) -> None:
        self._ours.close()
        self.end.close()


@pytest.fixture
def tells() -> Iterator[Tells]:
    made = Tells()
    yield made
    made.close()


@pytest.fixture
def made(make_jobserver: Make) -> Iterator[Make]:
    """Makes Jobservers, all slots of which must be free at the test's end."""
    all_made: list[Jobserver] = []

    def make(slots: int = 2, **kwargs: Any) -> Jobserver:
        all_made.append(make_jobserver(slots, **kwargs))
        return all_made[-1]

    yield make
    for js in all_made:
        settle(js)
        assert free(js) == js.slots


def say_and_hold(tell: Connection, end: Connection) -> int:
    tell.send(os.getpid())
    return held(end)


def own_two(js: Jobserver, tell: Connection, end: Connection, in_thread: bool) -> NoReturn:
    """Has two jobs running, and goes on until it is killed."""

    def submit() -> None:
        for _ in range(2):
            js.submit(say_and_hold, args=(tell, end))

    if in_thread:
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
    else:
        submit()
    tell.send(os.getpid())
    while True:
        signal.pause()


def lend_or_hand_over(js: Jobserver, tell: Connection, end: Connection) -> None:
    tell.send(os.getpid())
    js.submit(say_and_hold, args=(tell, end)).result()


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat[stat.rindex(b")") + 2 :].split()[0] in (b"Z", b"X")


def assert_soon(condition: Callable[[], object]) -> None:
    """Steps of a poll: what is waited for here has no event that is ours."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill(pid: int) -> None:
    """The kill is complete when this returns."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        assert select.select([pidfd], [], [], DEADLINE)[0]
    finally:
        os.close(pidfd)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs os.pidfd_open")


def take_all(js: Jobserver) -> None:
    """The next attempt to use the slots finds all of them."""
    end, ours = multiprocessing.Pipe(duplex=False)
    with end, ours:
        jobs = [js.submit(held, args=(end,), timeout=SOON) for _ in range(js.slots)]
        os.write(ours.fileno(), b"x" * len(jobs))
        for job in jobs:
            job.result(DEADLINE)


# An owner is killed


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_killed_owner_takes_its_jobs_with_it_and_loses_no_slot(
    made: Make, hold: Hold, tells: Tells, method: StartMethod, waiting: str, in_thread: bool
) -> None:
    if in_thread and method == "fork":
        pytest.skip("a fork in a thread may deadlock, and CPython warns of it")
    js = made(3, waiting=waiting)
    future = js(own_two, js, tells.end, hold.end, in_thread)
    owner, jobs = tells.owner_and_jobs(future)
    kill(owner)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    assert_soon(lambda: all(has_ended(job) for job in jobs))
    take_all(js)


@needs_pidfd
@pytest.mark.parametrize("method", ["fork"])
@pytest.mark.filterwarnings("ignore:this process:DeprecationWarning")
def test_jobs_outlive_the_thread_that_submitted_them(made: Make, hold: Hold, tells: Tells) -> None:
    js = made()
    submitted: list[Future[int]] = []
    thread = threading.Thread(
        target=lambda: submitted.append(js(say_and_hold, tells.end, hold.end))
    )
    thread.start()
    thread.join()
    pid = tells.next()
    hold.let_go()
    assert submitted[0].result(DEADLINE) == pid


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_orphans_that_are_kept_run_on_and_their_slots_come_back_at_their_ends(
    made: Make, hold: Hold, tells: Tells, waiting: str
) -> None:
    js = made(3, waiting=waiting, orphans="keep")
    future = js(own_two, js, tells.end, hold.end, False)
    owner, jobs = tells.owner_and_jobs(future)
    kill(owner)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    js.submit(os.getpid, timeout=DEADLINE).result(DEADLINE)
    assert not any(has_ended(job) for job in jobs)
    third = js.submit(held, args=(hold.end,), timeout=DEADLINE)
    with pytest.raises(Blocked):
        js.submit(int, timeout=0)
    hold.let_go(3)
    third.result(DEADLINE)
    assert_soon(lambda: free(js) == 3)
    assert_soon(lambda: all(has_ended(job) for job in jobs))


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("orphans", ["end", "keep"])
def test_a_slot_that_a_killed_job_had_lent_or_handed_over_comes_back(
    made: Make, hold: Hold, tells: Tells, waiting: str, orphans: str
) -> None:
    js = made(1, waiting=waiting, orphans=orphans)
    future = js(lend_or_hand_over, js, tells.end, hold.end)
    lender, borrower = tells.next(), tells.next()
    kill(lender)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    if orphans == "keep":
        with pytest.raises(Blocked):
            js.submit(int, timeout=0)
        kill(borrower)
    assert_soon(lambda: has_ended(borrower))
    take_all(js)


@needs_pidfd
def test_who_waits_sleeps_while_the_job_of_a_killed_lender_runs_on(
    made: Make, hold: Hold, tells: Tells
) -> None:
    js = made(1, orphans="keep")
    future = js(lend_or_hand_over, js, tells.end, hold.end)
    lender, _ = tells.next(), tells.next()
    waiter = js.submit(wait_in_vain, args=(js, tells.end), consume=0)
    tells.next()
    kill(lender)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    # It wakes a few times. Were it kept awake, it would be hundreds of times.
    assert waiter.result(DEADLINE) < 20
    hold.let_go()
    assert_soon(lambda: free(js) == 1)


def wait_in_vain(js: Jobserver, tell: Connection) -> int:
    """How often it scanned meanwhile."""
    jobs: Any = Counting(js)
    tell.send(os.getpid())
    with pytest.raises(Blocked):
        jobs.wait_for_a_slot(0.3)
    return int(jobs.waits)


class Counting:
    """Waits for a slot by hand, and counts how often it was woken."""

    def __init__(self, js: Jobserver) -> None:
        js.reclaim_resources()
        self._js: Any = js
        self.waits = 0

    def wait_for_a_slot(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            owner = self._js._owner
            look = owner.look()
            owner.open_pool().reclaim()
            assert not owner.open_pool().free()
            left = deadline - time.monotonic()
            owner.native.wait(look, True, True, max(left, 0), False)
            self.waits += 1
        raise Blocked


# Slots come back by themselves


def test_a_slot_is_free_when_the_result_is_complete_though_the_owner_looks_at_nothing(
    made: Make, hold: Hold
) -> None:
    js = made(1)
    future = js(held, hold.end)
    assert free(js) == 0
    hold.let_go()
    # The event itself: a byte in the pool's pipe. Nothing of ours is asked meanwhile.
    deadline = time.monotonic() + DEADLINE
    while not free(js):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert future._outcome is None
    assert take_slot(js) is not None
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
