"""Finds out whether the kernel has killed a process because memory was short.

A SIGKILL does not say who sent it. But the kernel counts the processes that it kills for lack of
memory, for each control group (`oom_kill` in memory.events of version 2 and in memory.oom_control
of version 1) and for the whole system (/proc/vmstat).
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

_ROOT = "/sys/fs/cgroup"


class Kills(NamedTuple):
    """How many processes have been killed so, and where."""

    where: str
    killed: int


#: What was known when this process, or the process that forked it, last looked.
_before: Kills | None = None


def look() -> None:
    """Called before the first job of this process: remembers the count."""
    global _before
    if _before is None:
        _before = _kills()


def has_killed() -> Kills | None:
    """After a job was killed by SIGKILL: the count, if it has grown since the last look."""
    global _before
    before, _before = _before, _kills()
    if before is None or _before is None or before.where != _before.where:
        return None
    return _before if _before.killed > before.killed else None


def _kills() -> Kills | None:
    for where, file in _counters():
        try:
            with open(file) as lines:
                counts = dict(line.split(None, 1) for line in lines)
            return Kills(where, int(counts["oom_kill"]))
        except (OSError, KeyError, ValueError):
            continue
    return None


def _counters() -> Iterator[tuple[str, str]]:
    """The names of what this process's memory is counted for, the smallest first, and the files
    with the counts."""
    try:
        with open("/proc/self/cgroup") as groups:
            lines = [line.rstrip("\n").split(":", 2) for line in groups]
    except OSError:
        lines = []
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            yield f"control group {path}", f"{_ROOT}/memory{path}/memory.oom_control"
        elif not controllers:
            yield f"control group {path}", f"{_ROOT}{path}/memory.events"
    yield "the system", "/proc/vmstat"
