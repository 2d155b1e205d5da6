"""What this process's end waits for: the owners whose jobs are its own.

A process ends in one of three ways: a program runs what is registered with `atexit`; a child of
multiprocessing runs its finalizers; a job winds down (`_job.py`). Each comes here.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from . import _multiprocessing as mp
from . import _native
from ._native import getpid

if TYPE_CHECKING:
    from ._owner import Owner

#: The pid of the process in which an owner was last made or used.
users: set[int] = set()

#: Every owner of this process, by a key that is the same in all processes.
known: WeakValueDictionary[str, Owner] = WeakValueDictionary()


def wait() -> None:
    """Waits for what this process has running, so that nothing outlives it. Daemon threads start
    nothing more meanwhile."""
    # (A thread that makes another owner meanwhile would disturb an iteration over them.)
    owners = [owner for owner in (ref() for ref in known.valuerefs()) if owner is not None]
    ours = [owner for owner in owners if owner.is_in_use()]
    for owner in ours:
        owner.begin_close()
    for owner in ours:
        owner.drain(callbacks=False)
        owner.stop_helpers()
    _native.wait_for_left()
    _native.remove_homes()


# Called after what is registered next, whatever Ctrl-C makes of that; and no signal handler comes
# into it. (Jobs and fork servers end with a process that does not wait for them.)
atexit.register(_native.remove_homes)


@atexit.register
def _end() -> None:
    try:
        if getpid() in users:  # and not in a sub-interpreter, which could not wait
            wait()
    finally:
        _native.remove_homes()  # a child of multiprocessing calls nothing else


def end_well(pid: int, is_job: bool) -> None:
    """Has this process wait at its end."""
    # At no moment without it: a signal handler may raise between any two lines.
    users.add(pid)
    users.intersection_update((pid,))  # and without those that this was forked from
    if mp.process._parent_process is not None and not is_job:
        # A child of multiprocessing ends without what has been registered with atexit. (A job
        # sees to its own, and should not look like having begun something of multiprocessing's.)
        mp.util.Finalize(None, _end, exitpriority=100)
