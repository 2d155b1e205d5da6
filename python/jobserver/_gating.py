"""Gates: when a submission with a `sleep_fn` comes to its slot.

Gates come before slots: while a gate delays a job, the submission holds no slot.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from . import _arguments, _native
from ._exceptions import Blocked

if TYPE_CHECKING:
    from ._owner import Owner


class Gating(NamedTuple):
    """One submission on its way through its gate."""

    owner: Owner
    gate: Callable[[], Any]
    admission: _native.Admission
    consume: int
    callbacks: bool
    deadline: float | None

    def pass_on(self) -> None:
        """Waits until the gate lets the job start, and then admits it."""
        if self.consume > 1 or (self.consume and self.owner.native.runs_on_several):
            self._pass_with_slots()
        else:
            self._pass_without_slot()

    def _pass_without_slot(self) -> None:
        owner, admission = self.owner, self.admission
        while True:
            owner.check_open()
            look = owner.look(self.callbacks)
            if self.consume and not owner.native.could_admit(admission, False):
                # The gate is not called before a slot is free: its answer would be stale by then.
                left = self._left(not_in_time(self.consume))
                if not owner.native.can_lend:
                    owner.native.wait_for_slot(look, admission, left)
                    continue
                # This process can lend its own slot.
            delay = _arguments.delay(self.gate())
            owner.here()  # the gate may have forked
            if delay is not None:
                self._pause(delay)
                continue
            may_lend = self.deadline is None or time.monotonic() < self.deadline
            if owner.native.admit_at_once(admission, may_lend):
                return

    def _pass_with_slots(self) -> None:
        """For a job of several slots, or a job of this process that has several. Several slots are
        rarely free at once, so the submission waits until it has them, and asks the gate then. It
        holds none meanwhile, but keeps its place in the queue, so that it has them at once after
        the answer."""
        owner, admission = self.owner, self.admission
        while True:
            deadline = self.deadline
            admission.timeout = None if deadline is None else deadline - time.monotonic()
            state = owner.native.admit(admission)
            if state == _native.TIMED_OUT:
                raise Blocked(not_in_time(self.consume))
            if state:
                owner.issue_callbacks()
                continue
            owner.native.set_aside(admission)
            pid = owner.pid
            delay = _arguments.delay(self.gate())
            owner.here()
            if owner.pid != pid:  # the gate has forked
                admission.leave_to_parent()
                if delay is None:
                    return  # it is admitted when it starts
            if delay is not None:
                owner.native.conclude(admission)
                self._pause(delay)
            elif owner.native.admit_at_once(admission, False):
                return

    def _pause(self, delay: float) -> None:
        """Waits `delay` seconds, and collects finished jobs meanwhile."""
        until = time.monotonic() + delay
        while True:
            look = self.owner.look(self.callbacks)
            self.owner.check_open()  # after the look: a close that begins now ends the sleep
            left = until - time.monotonic()
            if left <= 0 and (self.deadline is None or until < self.deadline):
                return
            remaining = self._left("sleep_fn did not let the job go in time")
            self.owner.sleep(look, left if remaining is None else min(left, remaining))

    def _left(self, complaint: str) -> float | None:
        """The seconds left until the deadline. Raises Blocked if there are none."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Blocked(complaint)
        return left


def not_in_time(consume: int) -> str:
    """What is said if a job's slots were not free in time."""
    return "no slot was free in time" if consume < 2 else f"{consume} slots were not free in time"
