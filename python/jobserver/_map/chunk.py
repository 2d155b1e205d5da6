"""A chunk of `map`: some calls, the job that is to make them, and what came of it.

Not here: in which order chunks are cut, started and told (`results.py`), and how their calls travel
(`calls.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .calls import Calls, Errors

if TYPE_CHECKING:
    from .._future import Future


class Chunk:
    __slots__ = ("calls", "future", "place", "packed", "outcome")

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.future: Future[Any] | None = None
        #: Of the job in `Progress`, from when it is packed.
        self.place = 0
        #: What the starter has made of it, until the job starts.
        self.packed: Any = None
        #: Values, and what is raised instead of which, once they are known.
        self.outcome: tuple[list[Any], Errors] | None = None

    @property
    def size(self) -> int:
        return self.calls.end - self.calls.first

    @property
    def to_start(self) -> bool:
        """Whether its job is still to be started."""
        return self.outcome is None and (self.future is None or not self.future._pid)

    def part(self, first: int, end: int, outcome: Any = None) -> list[Chunk]:
        """A chunk of some of these calls, counted from 0; none if it would be empty."""
        if first >= end:
            return []
        before = self.calls.first
        part = Chunk(self.calls._replace(first=before + first, end=before + end))
        part.outcome = outcome
        return [part]
