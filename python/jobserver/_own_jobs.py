"""The jobs that this process waits for at its end.

A process ends in one of three ways: a program runs the functions registered with `atexit`; a child
of multiprocessing runs its finalizers; a job winds down (`_job.py`). Each way calls this file.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING
from weakref import WeakSet, WeakValueDictionary

from . import _multiprocessing as mp
from . import _native, _pools
from ._native import getpid

if TYPE_CHECKING:
    from ._owner import Owner

#: The pid of the process in which an owner was last made or used.
users: set[int] = set()

#: Every owner of this process, by a key that is the same in all processes.
known: WeakValueDictionary[str, Owner] = WeakValueDictionary()


def _in_use() -> list[Owner]:
    # A copy, because a thread may make another owner during an iteration.
    owners = [owner for owner in (ref() for ref in known.valuerefs()) if owner is not None]
    return [owner for owner in owners if owner.is_in_use()]


#: The owners of a job whose process may stay. A job's arguments are dropped before its end, and
#: often its last reference to an owner with them.
kept: dict[str, Owner] = {}


#: In a job: the owners whose fork server is not that of this process, used or not.
of_other_trees: WeakSet[Owner] = WeakSet()


def are_at_rest() -> bool:
    """After a job: whether no owner of this process has a job, a process, or something to do. Their
    idle workers are given to all owners of the tree.

    The owner of the process's own tree stays for the next job. The others are dropped: an idle
    process must not hold another tree open. If the job has kept a handle of one, the process cannot
    stay."""
    at_rest = all([owner.is_at_rest for owner in _in_use()])
    for key in [key for key, owner in kept.items() if not (owner.stays and owner.is_in_use())]:
        del kept[key]
    _pools.forget_those_of_handles()
    return at_rest and not of_other_trees and all([owner.stays for owner in _in_use()])


def are_under_way() -> bool:
    """Whether a job of this process may still need a slot: its outcome is not known, or it waits
    for jobs of its own."""
    return any(owner.native.unfinished or owner.native.any_has_yielded for owner in _in_use())


def wait() -> None:
    """Waits for all jobs and helpers of this process, so that none outlives it. Daemon threads can
    start no more jobs meanwhile."""
    ours = _in_use()
    for owner in ours:
        owner.begin_close()
    for owner in ours:
        owner.drain(callbacks=False)
        owner.stop_helpers()
    _native.wait_for_left()
    _native.remove_homes()


# atexit calls this after `_end`, also if Ctrl-C interrupts that; no signal handler runs within this
# call. (Jobs and fork servers end with a process that does not wait for them.)
atexit.register(_native.remove_homes)


@atexit.register
def _end() -> None:
    try:
        if getpid() in users:  # not in a sub-interpreter, which could not wait
            wait()
    finally:
        _native.remove_homes()  # a child of multiprocessing runs no atexit function that does it


def end_well(pid: int, is_job: bool) -> None:
    """Makes this process wait at its end."""
    # The set has this pid at every moment, because a signal handler may raise between two lines.
    users.add(pid)
    users.intersection_update((pid,))  # drops the pids of the processes above
    if mp.process._parent_process is not None and not is_job:
        # A child of multiprocessing ends without running atexit functions. (A job waits by itself,
        # and must not look like a process that has registered something with multiprocessing.)
        mp.util.Finalize(None, _end, exitpriority=100)
