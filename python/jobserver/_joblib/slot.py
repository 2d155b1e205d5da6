"""The slot of a job in which joblib waits: by other means than the job's Jobserver, which would
know what to do with the slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _native

if TYPE_CHECKING:
    from .._owner import Owner


def runs_on_slot(owner: Owner) -> bool:
    """Whether this process is a job of this owner's pool, and has a slot now."""
    job, own = _native.current_job(), _native.own_pool()
    if job is None or job[1] is None or own is None:
        return False
    return own.home == owner.here().pool.home


def give_slots_away(owner: Owner) -> None:
    """In a job that `runs_on_slot`: gives its slots to the pool. Call `get_slots_again` before the
    job goes on."""
    owner.here().give_slots_away()


def get_slots_again(owner: Owner) -> None:
    """Waits until this job has its slots again, which it has given away or lent."""
    owner.here().resume()
