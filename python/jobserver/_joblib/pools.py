"""Which Jobserver the batches of a Parallel go to.

In a job, and in a make recipe, it is the pool that the process runs in: so all depths share its
slots. Elsewhere the program makes a pool, with as many slots as the first Parallel may use. A later
Parallel that says another number gets a pool of its own, so that each number holds exactly. The
last few pools stay, with their processes, for the next Parallel.
"""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any, Callable, NamedTuple

from .. import _pools, _threads
from .._jobserver import Jobserver

#: How many pools stay. Their processes are idle and hold no slots, but have memory.
_STAY = 3


class _Wanted(NamedTuple):
    slots: int
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]

    def is_same(self, other: _Wanted) -> bool:
        """Whether a pool for the other serves this one."""
        named = (self.slots, self.initializer) == (other.slots, other.initializer)
        return named and are_same(self.initargs, other.initargs)


def are_same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether the items are the same objects. (Equality of arrays has no truth value.)"""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others))


#: The pools that this program has made, the last used last.
_made: list[tuple[_Wanted, Jobserver]] = []

#: The pool that this process runs in, once it has been joined; by its home, because a process that
#: stays may run jobs of several pools.
_joined: dict[str, Jobserver] = {}


def join(jobserver: Jobserver) -> None:
    """In a job of joblib's: further batches go to this Jobserver, which shares its processes."""
    pool = _pools.in_force()
    if pool is not None:
        _joined[pool.home] = jobserver


def in_force() -> Jobserver | None:
    """The Jobserver of the pool that this process runs in; None if it runs in none."""
    pool = _pools.in_force()
    if pool is None:
        return None
    known = _joined.get(pool.home)
    return _joined.setdefault(pool.home, _new(None)) if known is None else known


def of(slots: int, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> Jobserver:
    """The Jobserver of this program with so many slots."""
    wanted = _Wanted(slots, initializer, initargs)
    for entry in [*_made]:
        if wanted.is_same(entry[0]):
            break
    else:
        entry = wanted, _new(slots, initializer, initargs)
    # Each step is one that another thread may see: at worst, a pool is made twice.
    _made[:] = [other for other in _made if other is not entry][-(_STAY - 1) :] + [entry]
    return entry[1]  # one that no longer stays ends when no Parallel uses it


def _new(
    slots: int | None,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Jobserver:
    # Not "fork", because the backend has a thread. (In loky's workers the method is another.)
    spawns = multiprocessing.get_start_method(allow_none=True) == "spawn"
    return Jobserver(
        "spawn" if spawns else "forkserver",
        slots,
        max_tasks_per_child=None,
        preload=_to_preload(),
        initializer=initializer,
        initargs=initargs,
    )


#: Packages that take long to import, and start no threads then.
_LARGE = ("pandas", "scipy", "sklearn")


def _to_preload() -> list[str]:
    """What the fork server imports, once for all its processes: the parts of large packages that
    the program has imported. Nothing if there is no threadpoolctl, which alone can limit the
    threads of libraries that a process has loaded."""
    if not _threads.to_preload():
        return []
    loaded = [name for name in [*sys.modules] if name.partition(".")[0] in _LARGE]
    parts = [name for name in loaded if name.count(".") <= 1 and "._" not in name]
    return ["jobserver.joblib", *parts]
