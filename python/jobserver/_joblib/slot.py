"""The slot that a Parallel does not need while it waits: that of the job in which it runs, or, in a
thread of another Parallel, that of the thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .. import _native
from .threads import slot_of_this_thread

if TYPE_CHECKING:
    from .._owner import Owner


class Slot(Protocol):
    def lend(self) -> None:
        """Has jobs and threads that are started now run on the slot, if they need it, although the
        program goes on."""

    def give_away(self) -> None:
        """Gives the slot to the pool. Call `get_again` before the program goes on."""

    def get_again(self) -> None:
        """Waits until the slot, or another, is there again."""


class _JobSlot:
    """By other means than the job's Jobserver, which would know what to do with the slot."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def lend(self) -> None:
        """They take it by themselves."""

    def give_away(self) -> None:
        self._owner.here().give_slots_away()

    def get_again(self) -> None:
        self._owner.here().resume()


def slot_in_use(owner: Owner) -> Slot | None:
    """The slot of this owner's pool that this thread runs on: its own, or its job's."""
    home = owner.here().pool.home
    of_thread = slot_of_this_thread()
    if of_thread is not None:
        return of_thread if of_thread.home == home else None
    job, own = _native.current_job(), _native.own_pool()
    if job is None or job[1] is None or own is None:
        return None
    return _JobSlot(owner) if own.home == home else None
