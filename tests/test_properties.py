"""Properties that hold whatever is done, in whatever order (by hypothesis).

Here: the slots of a Jobserver under starts, ends and kills of jobs and of jobs of jobs; and
MAKEFLAGS. Kills at random moments of larger trees are test_chaos; the protocol itself is checked
by `model/`.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable

import hypothesis
from conftest import DEADLINE
from holding import Hold, free, held
from hypothesis import stateful
from hypothesis import strategies as st

from jobserver import Blocked, Future, Jobserver, SubmissionDied

SETTINGS = hypothesis.settings(
    deadline=None, max_examples=25, stateful_step_count=12, derandomize=True, database=None
)


def tell_and_hold(begun: int, end: Any) -> None:
    os.write(begun, os.getpid().to_bytes(8, "little"))
    held(end)


def parent(js: Jobserver, begun: int, end: Any) -> None:
    """A job that waits for one of its own, for which it lends its slot if none is free."""
    js(tell_and_hold, begun, end).result()


class Started:
    """A job that runs until it is let go, or has a job of its own that does."""

    def __init__(self, js: Jobserver, nested: bool) -> None:
        self.hold, self.nested = Hold(), nested
        ours, theirs = os.pipe()
        with open(ours, "rb") as begun:
            try:
                fn: Callable[..., None] = parent if nested else tell_and_hold
                args = (js, theirs, self.hold.end) if nested else (theirs, self.hold.end)
                self.future: Future[None] = js.submit(fn, args=args, timeout=0)
                #: The process that runs until it is let go.
                self.pid = int.from_bytes(begun.read(8), "little")
            except BaseException:
                self.hold.close()
                raise
            finally:
                os.close(theirs)

    def ended(self) -> BaseException | None:
        error = self.future.exception(DEADLINE)
        self.hold.close()
        return error


class Slots(stateful.RuleBasedStateMachine):
    """What a Jobserver's slots should be, beside the Jobserver."""

    js: Jobserver
    started: list[Started]

    @stateful.initialize(slots=st.integers(1, 3), waiting=st.sampled_from(["hold", "yield"]))
    def make(self, slots: int, waiting: Any) -> None:
        self.js, self.started = Jobserver("fork", slots, waiting=waiting), []
        self.waiting = waiting

    def free(self) -> int:
        # Who waits keeps its slot in hold mode, or takes one again as soon as one is free.
        waiting = sum(job.nested for job in self.started) if self.waiting == "hold" else 0
        return max(0, self.js.slots - len(self.started) - waiting)

    @stateful.rule(nested=st.booleans())
    def start(self, nested: bool) -> None:
        try:
            job = Started(self.js, nested)
        except Blocked:
            assert self.free() == 0
        else:
            assert self.free() > 0
            self.started.append(job)

    def some_job(self, which: int) -> Started:
        return self.started.pop(which % len(self.started))

    def any_runs(self) -> bool:
        return bool(self.started)

    @stateful.precondition(any_runs)
    @stateful.rule(which=st.integers(0, 9))
    def let_go(self, which: int) -> None:
        job = self.some_job(which)
        job.hold.let_go()
        assert job.ended() is None

    @stateful.precondition(any_runs)
    @stateful.rule(which=st.integers(0, 9))
    def kill_who_runs(self, which: int) -> None:
        job = self.some_job(which)
        os.kill(job.pid, signal.SIGKILL)
        error = job.ended()
        assert isinstance(error, SubmissionDied)
        assert error.signal == signal.SIGKILL

    @stateful.precondition(any_runs)
    @stateful.rule(
        which=st.integers(0, 9), number=st.sampled_from([signal.SIGKILL, signal.SIGTERM])
    )
    def kill_the_job(self, which: int, number: signal.Signals) -> None:
        job = self.some_job(which)
        os.kill(job.future.pid, number)
        error = job.ended()
        assert isinstance(error, SubmissionDied)
        assert error.signal == number

    @stateful.precondition(any_runs)
    @stateful.rule(which=st.integers(0, 9))
    def kill_all_of_it(self, which: int) -> None:
        job = self.some_job(which)
        job.future.kill()
        assert isinstance(job.ended(), SubmissionDied)

    @stateful.invariant()
    def no_slot_is_lost_and_none_is_new(self) -> None:
        # What a killed job had comes back when somebody looks; its own jobs die a little later.
        deadline = time.monotonic() + DEADLINE
        pool: Any = self.js._owner.open_pool()
        while free(self.js) != self.free():
            assert time.monotonic() < deadline, f"{pool.free()} slots are free, not {self.free()}"
            self.js.reclaim_resources()
            pool.reclaim()
            os.sched_yield()

    def teardown(self) -> None:
        if hasattr(self, "js"):
            while self.started:
                self.let_go(0)
            self.no_slot_is_lost_and_none_is_new()
            self.js.close()


test_slots = Slots.TestCase
test_slots.settings = SETTINGS
