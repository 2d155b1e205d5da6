"""What a job can find out about itself."""

from __future__ import annotations

import contextlib
import threading
from typing import Iterator, NamedTuple

from . import _native


class CurrentJob(NamedTuple):
    """The place of a job in its pool: see :func:`current`.

    Attributes:
        slots: the number of slots of the pool.
        slot: the number of the slot that the job runs on, from 0 to ``slots - 1``. No other job of
            the pool that runs has the same number: use it to choose a GPU, a port or a folder. None
            for a job with ``consume=0``, and while another thread of the job waits. With "inline"
            always 0. In a pool of make's, each program that make starts has numbers of its own.
        depth: how deep the job is in the tree. A job of the program that made the pool has depth 1.
            Programs that share the pool count too, if they are between two jobs.
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
    here: CurrentJob | None = getattr(_inline, "job", None)
    if here is not None:
        return here
    job = _native.current_job()
    return None if job is None else CurrentJob(*job)


#: In each thread: the place of the "inline" job that it runs.
_inline = threading.local()


@contextlib.contextmanager
def inline(slots: int) -> Iterator[None]:
    """Makes this thread a job with "inline"."""
    around = current()
    before = getattr(_inline, "job", None)
    _inline.job = CurrentJob(slots, 0, 1 if around is None else around.depth + 1)
    try:
        yield
    finally:
        _inline.job = before
