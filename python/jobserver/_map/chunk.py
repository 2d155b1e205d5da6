"""A chunk of `map`: some calls, the job that makes them, and its outcome.

Not here: the order in which chunks are made and started (`results.py`), and how their calls are
sent (`calls.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from .calls import Calls, Errors

if TYPE_CHECKING:
    from .._defaults import Resolved
    from .._future import Future
    from .._owner import Owner
    from .._records import Records


class Chunk:
    __slots__ = ("calls", "future", "records", "place", "packed", "outcome")

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.future: Future[Any] | None = None
        #: The records of the job, from the time when it is packed.
        self.records: Records | None = None
        #: The job's place in `Progress`, from the time when the job is packed.
        self.place = 0
        #: The starter's packed job, until the job starts.
        self.packed: Any = None
        #: The values, and the exceptions of calls that returned none; None until they are known.
        self.outcome: tuple[list[Any], Errors] | None = None

    @property
    def size(self) -> int:
        return self.calls.end - self.calls.first

    @property
    def to_start(self) -> bool:
        """Whether the chunk's job has not started yet."""
        return self.outcome is None and (self.future is None or not self.future._pid)

    def prepared(self, owner: Owner, options: Resolved) -> Callable[[], Any] | None:
        """The `preexec_fn` of the chunk's job, which makes it write the chunk's records."""
        if options.recorded is None:
            return options.preexec_fn
        if self.records is None:
            self.records, preexec_fn = options.recorded.begin(owner, options.preexec_fn)
            return preexec_fn
        return self.records.around(options.preexec_fn)  # the job is packed once more

    def part(self, first: int, end: int, outcome: Any = None) -> list[Chunk]:
        """A list with a chunk of some of these calls, counted from 0; empty if there are none."""
        if first >= end:
            return []
        before = self.calls.first
        part = Chunk(self.calls._replace(first=before + first, end=before + end))
        part.outcome = outcome
        return [part]
