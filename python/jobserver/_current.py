"""What a job can find out about itself."""

from __future__ import annotations

from typing import NamedTuple

from . import _native


class CurrentJob(NamedTuple):
    """The place of a job in its pool: see :func:`current`.

    Attributes:
        slots: the number of slots of the pool.
        slot: the number of the slot that the job runs on, from 0 to ``slots - 1``. No other job of
            the pool that runs has the same number: use it to choose a GPU, a port or a folder. None
            for a job with ``consume=0``, and while another thread of the job waits.
        depth: how many jobs are above this job, plus 1: a job of the program that made the pool has
            depth 1.
    """

    slots: int
    slot: int | None
    depth: int


def current() -> CurrentJob | None:
    """Returns the place of this job in its pool; None in a process that is no job.

    A job that waits for jobs of its own lends its slot, or with "yield" gives it away. Afterwards
    it may run on a slot with another number: ask again.

        def train(data):
            gpu = jobserver.current().slot
    """
    job = _native.current_job()
    return None if job is None else CurrentJob(*job)
