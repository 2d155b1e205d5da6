"""The calls of a chunk of `map`: how they are sent to a job, made there, and sent back.

Arguments are sent by columns and results as one list, because one pickle costs far less than many.
The binding has the loop over the calls (rust/python/src/map/calls.rs). Not here: the order of
chunks, and the handling of a job's death (`results.py`).
"""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple, cast

from .. import _memory, _native
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
    """The binding's Progress, with a reduction for jobs: a launch brings its descriptor."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.inode,)


def take_progress(ours: list[Progress], free: deque[Progress], places: int) -> None:
    """Gets a map its Progress: one that another map has used, or a new one, because that costs as
    much as a short job. One step moves it, so that neither another thread nor Ctrl-C comes between.
    """
    while not ours:
        try:
            ours.extend(itertools.starmap(free.pop, ((),)))
        except IndexError:
            ours.append(Progress(places))
        if not ours[0].is_intact:
            ours.clear()


def leave_progress(ours: list[Progress], free: deque[Progress]) -> None:
    """After all jobs of a map have ended: leaves its Progress to the next map."""
    if ours:
        free.extend(itertools.starmap(ours.pop, ((),)))


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


def make(
    fn: Callable[..., Any],
    calls: tuple[Any, ...],
    progress: _native.Progress,
    place: int,
    limit: float,
    time_limit: float | None,
) -> tuple[list[Any], list[tuple[int, BaseException]], float]:
    """In the job: makes as many calls as fit into `limit` seconds, but at least one. A call that
    takes more than `time_limit` seconds ends the process."""
    ours = Calls(*calls)
    count = ours.end - ours.first
    made = progress.run(place, fn, *ours.iterators(), count, limit, time_limit)
    for _, error in made[1]:
        _memory.tell(error)
    return made


def run(*work: Any) -> result.Dumped:
    """Does the same in a process of its own, which sends the outcome."""
    values, raised, seconds = make(*work)
    failures = [(call, result.failure(error)) for call, error in raised]
    return result.Dumped(_dump(ChunkOutcome(values, failures, seconds)))


def _dump(made: ChunkOutcome) -> Payload:
    if _native.is_plain(made.values, pickling.FEW):
        message = pickling.dump_simply((tuple(made), None))
        if message is not None:
            return message
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
