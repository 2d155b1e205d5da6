"""Jobs of several slots: the programs below such a job find a pool of its slots.

Such a program could not know otherwise which of the pool's slots are the job's: make reads tokens
only. So the job makes a pool of as many slots, and names it in MAKEFLAGS while its function runs.
"""

from __future__ import annotations

import contextlib
import functools
import os

from . import _job, _native, _pools
from ._arguments import Changes
from ._around import Limit

#: The descriptors by which programs below this job share its pool, if it is named by descriptors.
pass_fds: list[tuple[int, ...]] = []


def pool_below(slots: int) -> Limit:
    """Makes a pool of so many slots, for the programs below this job."""
    return functools.partial(_make, slots)


def _make(slots: int, around: contextlib.ExitStack) -> None:
    pool, variables, ends = _native.Pool.below_job(slots, os.environ)
    around.callback(_forget, pool, _job.apply_environment([*variables]), ends or ())
    if ends is not None:
        pass_fds.append(ends)


def _forget(pool: _native.Pool, undo: Changes, ends: tuple[int, ...]) -> None:
    """Undoes the environment, and closes the ends. The pool's home goes with the arguments."""
    _job.apply_environment(undo)
    _pools.forget(pool.home)
    pass_fds.clear()
    for end in ends:
        with contextlib.suppress(OSError):  # the job has closed it
            os.close(end)
