"""Data of chosen sizes, made by jobs.

A module of its own, and a small one, because each job of a fork server imports what it runs.
"""

from __future__ import annotations

from multiprocessing.connection import Connection

#: Kept to the end of a job's process, so that its owner can see that end.
kept: list[object] = []

LARGE = 4 * 1024 * 1024


def pattern(seed: int, size: int) -> bytes:
    """Bytes that differ from place to place and from seed to seed."""
    return b"".join((seed + n).to_bytes(8, "little") for n in range(size // 8))


def zeros_and_keep(size: int, writer: Connection) -> bytes:
    kept.append(writer)
    return bytes(size)
