"""The limit of the memory that a job may allocate: `memory_limit=` of a submission.

The kernel counts the private writable memory of a process (RLIMIT_DATA of getrlimit(2), since Linux
4.7), and refuses what exceeds the limit. So Python raises MemoryError. What the process had before
the job, and what it maps from files, does not count.
"""

from __future__ import annotations

import contextlib
import functools

from ._around import Limit


def is_supported() -> bool:
    try:
        return _allocated() > 0
    except OSError:
        return False


def limited(size: int) -> Limit:
    """Limits what this process allocates from now on, in bytes."""
    return functools.partial(_limit, size)


def _limit(size: int, limits: contextlib.ExitStack) -> None:
    import resource  # imported late because it is rarely needed

    def limit_to(wanted: int) -> int:
        """Sets the soft limit, no higher than the hard one. Returns the one before."""
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        highest = [limit for limit in (wanted, hard) if limit != resource.RLIM_INFINITY]
        lowest = min(highest, default=resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))
        return soft

    before, _ = resource.getrlimit(resource.RLIMIT_DATA)
    ours = _allocated() + size
    if before == resource.RLIM_INFINITY or ours < before:
        limits.callback(limit_to, limit_to(ours))
        _in_force.append(size)
        limits.push(_end)


#: In a job: the limits that it runs within, in bytes.
_in_force: list[int] = []


def _end(kind: type | None, error: BaseException | None, traceback: object) -> None:
    tell(error)
    _in_force.pop()


def tell(error: BaseException | None) -> None:
    """Says in an error of a job that the limit is its reason. (Python's own MemoryError has no
    message, others have.)"""
    if not (_in_force and isinstance(error, MemoryError)):
        return
    why = f"the job may allocate {_in_force[-1] / (1 << 20):.6g} MiB (memory_limit)"
    if not error.args:
        error.args = (why,)
    elif hasattr(error, "add_note"):  # since CPython 3.11
        error.add_note(why)


def _allocated() -> int:
    """The size of this process's private writable memory, in bytes; 0 if it is not known."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    return 0
