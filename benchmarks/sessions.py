"""The processes of a session, by /proc: what a contender has started, and what that has started.

A session and not a process group, since Ray gives each of its workers a group of its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def members(leader: int) -> list[int]:
    """The processes of the session, its leader too, and zombies; none where there is no /proc."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            # It may have ended meanwhile.
            with suppress(ValueError, ProcessLookupError):
                pid = int(name)
                if os.getsid(pid) == leader:
                    found.append(pid)
    return found


def alive(leader: int) -> list[int]:
    """The same without zombies, which only wait for a process 1 that may take its time."""
    return [pid for pid in members(leader) if not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        # Behind the name, which may have parentheses too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
