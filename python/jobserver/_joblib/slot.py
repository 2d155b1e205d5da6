"""The slot that a Parallel gives away while it waits: that of the job in which it runs, or, in a
thread of another Parallel, that of the thread. The job's slot is given away by other means than the
job's Jobserver, which would know what to do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _native
from .threads import slot_of_this_thread

if TYPE_CHECKING:
    from .._owner import Owner


def runs_on_slot(owner: Owner) -> bool:
    """Whether this thread runs on a slot of this owner's pool: its own, or its job's."""
    home = owner.here().pool.home
    slot = slot_of_this_thread()
    if slot is not None:
        return slot.home == home
    job, own = _native.current_job(), _native.own_pool()
    if job is None or job[1] is None or own is None:
        return False
    return own.home == home


def give_slots_away(owner: Owner) -> None:
    """Where it `runs_on_slot`: gives the slots to the pool. Call `get_slots_again` before the
    program goes on."""
    slot = slot_of_this_thread()
    if slot is not None:
        slot.give_away()
    else:
        owner.here().give_slots_away()


def get_slots_again(owner: Owner) -> None:
    """Waits until this thread or job has its slots again, which it has given away or lent."""
    slot = slot_of_this_thread()
    if slot is not None:
        slot.get()
    else:
        owner.here().resume()
