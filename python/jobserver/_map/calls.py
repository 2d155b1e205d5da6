"""The calls of a chunk of `map`: how they are sent to a job, made there, and sent back.

Arguments are sent by columns and results as one list, because one pickle costs far less than many.
The binding has the loop over the calls (rust/python/src/map/calls.rs). Not here: the order of
chunks, and the handling of a job's death (`results.py`).
"""

from __future__ import annotations

import pickle
import weakref
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple, cast

from .. import _native
from .._wire import pickling, result
from .._wire.segments import Payload

#: Indexes of calls, and the exceptions that those calls raised instead of returning a value.
Errors = List[Tuple[int, BaseException]]


class ChunkOutcome(NamedTuple):
    """The message of a chunk's job. If it has fewer values than the chunk has calls, the job ended
    early."""

    values: list[Any]
    failures: list[tuple[int, result.Failure]]
    seconds: float


class Progress(_native.Progress):
    """The binding's Progress, which one map after the other uses: a new one costs as much as a
    short job. Its reduction is for jobs: a launch brings its descriptor."""

    #: The jobs that may still run when their map has been dropped.
    _jobs: Sequence[weakref.ref[Any]] = ()

    def __init__(self, _places: int) -> None:
        #: The last map that used it, under the number of that use.
        self._users: dict[int, Callable[[], Any]] = {0: _nobody}

    def add(self, job: Any) -> None:
        """Adds the Future of a job that is about to start."""
        self._jobs = [*filter(_runs, self._jobs), weakref.ref(job)]

    def claim(self, user: Any) -> bool:
        """Whether this map is the one to use it from now on: not if another does, or jobs of
        another run. One step decides, whatever other threads and signal handlers do."""
        uses = max(self._users)
        if self._users[uses]() is not None or any(map(_runs, self._jobs)) or not self.is_intact:
            return False
        ours = weakref.ref(user)
        if self._users.setdefault(uses + 1, ours) is not ours:
            return False
        self._users.pop(uses, None)
        return True

    def release(self) -> None:
        """After all jobs of its map have ended."""
        self._users[max(self._users)] = _nobody

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.inode,)


def _runs(job: weakref.ref[Any]) -> bool:
    future = job()
    return future is not None and future._outcome is None


def _nobody() -> None:
    """In the place of a map that has ended."""


def progress_for(user: Any, known: list[Progress], places: int) -> Progress:
    """A Progress for a map: a free one of those that its owner knows, or a new one, which the owner
    knows from then on."""
    free = next((each for each in [*known] if each.claim(user)), None)
    if free is not None:
        return free
    made = Progress(places)
    made.claim(user)
    known.append(made)
    return made


#: In a job: the Progress that came last. Most often the next job has the same.
_last: _native.Progress | None = None


def _received(inode: int) -> _native.Progress:
    global _last
    if _last is None or _last.inode != inode:
        _last = _native.Progress.open(pickling.received)
    return _last


class Calls(NamedTuple):
    """The arguments of the calls from `first` to before `end`: by columns, a list for each
    argument; or by rows, if there are no columns."""

    columns: list[list[Any]]
    rows: Sequence[Any]
    kwargses: Sequence[Any] | None
    first: int
    end: int

    def iterators(self) -> tuple[Iterator[Any], Iterator[Any] | None]:
        """Iterators over the rows and over the keywords, from `first` on."""
        # zip makes one tuple and uses it for all rows.
        argses = zip(*map(self._from_first, self.columns)) if self.columns else None
        kwargses = None if self.kwargses is None else self._from_first(self.kwargses)
        return argses or self._from_first(self.rows), kwargses

    def _from_first(self, sequence: Sequence[Any]) -> Iterator[Any]:
        rows: Any = iter(sequence)
        if self.first:
            rows.__setstate__(self.first)  # skips the items before without touching them
        return cast("Iterator[Any]", rows)

    def to_send(self) -> tuple[Any, ...]:
        """The same with no other calls, as a plain tuple, for which a job looks up no class."""
        first, end = self.first, self.end
        columns = self.columns
        if columns and (first or end < len(columns[0])):
            columns = [column[first:end] for column in columns]
        rows: list[Any] = []
        if not columns:
            columns = []
            _native.take_rows(self._from_first(self.rows), end - first, columns, rows)
        kwargses = self.kwargses and self.kwargses[first:end]
        return columns, rows, kwargses, 0, end - first


def run(
    fn: Callable[..., Any],
    calls: tuple[Any, ...],
    progress: _native.Progress,
    place: int,
    limit: float,
) -> result.Dumped:
    """In the job: makes as many calls as fit into `limit` seconds, but at least one."""
    ours = Calls(*calls)
    count = ours.end - ours.first
    values, raised, seconds = progress.run(place, fn, *ours.iterators(), count, limit)
    failures = [(call, result.failure(error)) for call, error in raised]
    return result.Dumped(_dump(ChunkOutcome(values, failures, seconds)))


def _dump(made: ChunkOutcome) -> Payload:
    if _native.is_plain(made.values, pickling.FEW):
        return pickling.dump_plain((tuple(made), None))
    try:
        return pickling.dump((tuple(made), None))
    except pickle.PicklingError:
        return pickling.dump((tuple(_without_unpicklable(made)), None))


def _without_unpicklable(made: ChunkOutcome) -> ChunkOutcome:
    """The same, with an error for each value that cannot be pickled."""
    failures = dict(made.failures)
    for call, value in enumerate(made.values):
        try:
            pickling.dump(value)
        except pickle.PicklingError as e:
            failures[call] = result.failure(result.unpicklable(value, e))
            made.values[call] = None
    return made._replace(failures=sorted(failures.items()))
