"""Of the threads that wait, one polls the jobs' descriptors for all: another takes its place.

In each test a thread that leads leaves its wait, in one way, for good or for long; another thread
must then hear of its own job. A thread that does not end is a lost wake-up. Not here: races
(`test_threads.py`), and which threads an event wakes (`rust/core/src/owner/sleepers.rs`).
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DEADLINE, OWNERS_METHODS, wait_until
from holding import Hold, held
from test_threads import in_thread, join, until_asleep

from jobserver import CallbackRaised, Future, Jobserver


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Held:
    """A job that runs until it is let go, and a thread that waits for it."""

    def __init__(self, js: Jobserver, hold: Hold, consume: int = 1) -> None:
        self._hold = hold
        self.future: Future[int] = js.submit(held, args=(hold.end,), consume=consume)
        self.thread: threading.Thread | None = None

    def waited_for(self, wait: Callable[[Future[int]], object] = Future.result) -> Held:
        """Has a thread wait, and returns when it sleeps."""
        self.thread = in_thread(wait, self.future)
        until_asleep(self.thread)
        return self

    def until_quiet(self) -> Held:
        """Returns when no check of the descriptors is due, a second after the last change: it wakes
        threads, and so would hide that they are not woken otherwise."""
        assert not self.future.wait(1.3)
        return self

    def let_go(self) -> None:
        self._hold.let_go()

    def must_be_heard_of(self) -> None:
        """Lets the job go: the thread must wake."""
        self.let_go()
        assert self.thread is not None
        join(self.thread)
        assert self.future.done()


@pytest.fixture
def hold_one(make_jobserver: Callable[..., Jobserver]) -> Iterator[Callable[..., Held]]:
    """Starts jobs that run until they are let go, each by itself."""
    js = make_jobserver(slots=4)
    holds: list[Hold] = []

    def start(consume: int = 1) -> Held:
        holds.append(Hold())
        return Held(js, holds[-1], consume)

    yield start
    for hold in holds:
        hold.close()


@pytest.mark.parametrize("followers", [1, 3])
def test_a_follower_takes_the_lead_when_the_leader_returns(
    hold_one: Callable[..., Held], followers: int
) -> None:
    jobs = [hold_one() for _ in range(1 + followers)]
    jobs[0].until_quiet()
    for job in jobs:
        job.waited_for()
    for job in jobs:
        job.must_be_heard_of()


def test_a_follower_takes_the_lead_when_the_leaders_time_is_over(
    hold_one: Callable[..., Held],
) -> None:
    leader, follower = hold_one(), hold_one()
    leader.until_quiet().waited_for(lambda future: future.wait(0.5))
    follower.waited_for()
    assert leader.thread is not None
    join(leader.thread)
    follower.must_be_heard_of()
    leader.let_go()


class Alarm(Exception):
    pass


@pytest.fixture
def interrupted(hold_one: Callable[..., Held]) -> Iterator[Callable[..., tuple[Held, Held]]]:
    """Has this thread, the main one, wait for a job, and another one for another; and then a signal
    come, whose handler calls this. Python runs handlers in the main thread."""
    before = signal.getsignal(signal.SIGALRM)

    def wait(handle: Callable[[Held, Held], object]) -> tuple[Held, Held]:
        leader, follower = hold_one().until_quiet(), hold_one()
        main, begins = threading.current_thread(), threading.Event()
        signal.signal(signal.SIGALRM, lambda *_: handle(leader, follower))

        def follow(future: Future[int]) -> None:
            assert begins.wait(DEADLINE)
            until_asleep(main)
            future.result()

        def interrupt() -> None:
            assert begins.wait(DEADLINE)
            assert follower.thread is not None
            until_asleep(main)
            until_asleep(follower.thread)
            os.kill(os.getpid(), signal.SIGALRM)

        follower.thread = in_thread(follow, follower.future)
        interrupting = in_thread(interrupt)
        try:
            begins.set()
            leader.future.result()
        finally:
            join(interrupting)
        return leader, follower

    yield wait
    signal.signal(signal.SIGALRM, before)


def test_a_thread_hears_of_its_job_when_a_handler_raises_in_another(
    interrupted: Callable[..., tuple[Held, Held]],
) -> None:
    jobs: list[Held] = []

    def handle(*both: Held) -> None:
        jobs.extend(both)
        raise Alarm

    with pytest.raises(Alarm):
        interrupted(handle)
    leader, follower = jobs
    follower.must_be_heard_of()
    leader.let_go()


def test_a_thread_hears_of_its_job_while_a_handler_runs_in_another(
    interrupted: Callable[..., tuple[Held, Held]],
) -> None:
    def handle(leader: Held, follower: Held) -> None:
        follower.must_be_heard_of()
        leader.let_go()

    interrupted(handle)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_threads_hear_of_their_jobs_when_a_handler_forks(
    interrupted: Callable[..., tuple[Held, Held]],
) -> None:
    """The child leaves the wait by an error, and rings for none of its parent's threads."""
    parent = os.getpid()

    def handle(leader: Held, follower: Held) -> None:
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            leader.let_go()

    try:
        _, follower = interrupted(handle)
    except RuntimeError as e:
        os._exit(0 if os.getpid() != parent and "fork" in str(e) else 1)
    finally:
        if os.getpid() != parent:
            os._exit(2)
    follower.must_be_heard_of()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_threads_hear_of_their_jobs_when_the_drop_of_a_future_forks(
    hold_one: Callable[..., Held],
) -> None:
    """The delivery of an outcome drops a Future that nobody keeps, and so runs code. The child
    leaves the delivery by an error, and rings for none of its parent's threads."""
    dropped, *waited = [hold_one() for _ in range(4)]
    parent = os.getpid()
    statuses: list[int] = []

    def fork(_: object) -> None:
        pid = os.fork()
        if pid:
            statuses.append(os.waitpid(pid, 0)[1])

    def wait(future: Future[int]) -> None:
        try:
            future.result()
        except RuntimeError as e:
            os._exit(0 if os.getpid() != parent and "fork" in str(e) else 1)
        finally:
            if os.getpid() != parent:
                os._exit(2)

    gone = weakref.ref(dropped.future, fork)
    del dropped.future
    for job in waited:
        job.waited_for(wait)
    dropped.let_go()
    wait_until(lambda: statuses)
    assert statuses == [0]
    assert gone() is None
    for job in waited:
        job.must_be_heard_of()


def test_a_follower_takes_the_lead_while_the_leader_runs_a_callback(
    hold_one: Callable[..., Held],
) -> None:
    leader, follower = hold_one(), hold_one()
    leader.future.when_done(follower.must_be_heard_of)
    leader.until_quiet().waited_for()
    follower.waited_for()
    leader.must_be_heard_of()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_follower_takes_the_lead_when_the_leader_forks(hold_one: Callable[..., Held]) -> None:
    """In a callback, which returns in both processes: the child rings for none of its parent."""
    leader, *followers = [hold_one() for _ in range(4)]
    children: list[int] = []

    def wait(future: Future[int]) -> None:
        parent = os.getpid()
        try:
            future.result()
        finally:
            if os.getpid() != parent:
                os._exit(0)

    def fork() -> None:
        pid = os.fork()
        if pid:
            children.append(pid)
            os.waitpid(pid, 0)

    leader.future.when_done(fork)
    leader.until_quiet().waited_for(wait)
    for follower in followers:
        follower.waited_for()
    leader.must_be_heard_of()
    assert len(children) == 1
    for follower in followers:
        follower.must_be_heard_of()


def test_a_follower_takes_the_lead_when_a_wait_within_a_callback_ends(
    hold_one: Callable[..., Held],
) -> None:
    leader, inner, follower = hold_one(), hold_one(), hold_one()
    in_callback = threading.Event()

    def callback() -> None:
        in_callback.set()
        inner.future.result()  # leads, because nobody else waits yet
        follower.must_be_heard_of()

    leader.future.when_done(callback)
    leader.waited_for()
    leader.let_go()
    assert in_callback.wait(DEADLINE)
    assert leader.thread is not None
    until_asleep(leader.thread)
    follower.until_quiet().waited_for()
    inner.let_go()
    join(leader.thread)


def test_a_thread_that_waits_runs_what_is_left_when_a_callback_raises_in_another(
    hold_one: Callable[..., Held],
) -> None:
    raising, other, third = hold_one(), hold_one(), hold_one()
    came = threading.Event()

    def callback() -> None:
        third.until_quiet()
        assert other.thread is not None
        until_asleep(other.thread)  # again, after it has looked for callbacks
        raise ValueError

    def wait(future: Future[int]) -> None:
        with pytest.raises(CallbackRaised):
            future.result()

    raising.future.when_done(callback)
    raising.future.when_done(came.set)
    raising.until_quiet().waited_for(wait)
    other.waited_for()
    raising.let_go()
    assert came.wait(DEADLINE)
    raising.must_be_heard_of()
    other.must_be_heard_of()
    third.let_go()


def test_a_thread_that_waits_runs_what_another_that_heard_of_it_does_not(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    """Ctrl-C, for example, can come before the thread has begun with it. A third thread, which
    waits for a slot and runs no callbacks, takes the lead."""
    js = make_jobserver(slots=1)
    first = Hold()
    holder, left = js(held, hold.end), Held(js, first, consume=0)
    came = threading.Event()

    def wait(future: Future[int]) -> None:
        future._owner.native.wait_for(future, None, False)  # returns: callbacks are due

    left.future.when_done(came.set)
    left.until_quiet().waited_for(wait)
    other = in_thread(holder.result)
    until_asleep(other)
    third = in_thread(lambda: js.submit(int, callbacks=False).wait())
    until_asleep(third)
    left.let_go()
    assert came.wait(DEADLINE)
    hold.let_go()
    for thread in (left.thread, other, third):
        assert thread is not None
        join(thread)
    first.close()


def test_a_follower_that_waits_for_a_slot_hears_of_a_death_that_frees_one(
    make_jobserver: Callable[..., Jobserver], hold_one: Callable[..., Held], hold: Hold
) -> None:
    """Nothing but the table of jobs tells of the death of a job of one's own."""
    js = make_jobserver(slots=1)
    holder = js(held, hold.end)
    leader = Held(js, hold, consume=0).waited_for(Future.wait)
    came: list[int] = []
    follower = in_thread(lambda: came.append(js(int, 7).result()))
    until_asleep(follower)
    os.kill(leader.future.pid, signal.SIGKILL)
    assert leader.thread is not None
    join(leader.thread)
    until_asleep(follower)
    os.kill(holder.pid, signal.SIGKILL)
    join(follower)
    assert came == [7]


def test_one_thread_alone_is_woken_for_each_job(hold_one: Callable[..., Held]) -> None:
    """And for one that leads: so what a job costs does not grow with the threads that wait."""
    jobs = [hold_one(consume=0) for _ in range(12)]
    for job in jobs:
        job.waited_for()

    def switches(job: Held) -> int:
        assert job.thread is not None
        with open(f"/proc/self/task/{job.thread.native_id}/status") as status:
            return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)

    before: dict[Any, int] = {job: switches(job) for job in jobs[1:]}
    # The first leads. The others' jobs end, but for one that only follows.
    follower = jobs.pop(1)
    for job in jobs[1:]:
        job.must_be_heard_of()
    assert switches(follower) - before[follower] <= 2
    for job in (jobs[0], follower):
        job.must_be_heard_of()
