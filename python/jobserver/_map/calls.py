"""The calls of a chunk of `map`: how they are sent to a job, made there, and sent back.

Arguments are sent by columns and results as one list, because one pickle costs far less than many.
The binding has the loop over the calls (rust/python/src/map/calls.rs). Not here: the order of
chunks, and the handling of a job's death (`results.py`).
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple, cast

from .. import _multiprocessing as mp
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
    """The binding's Progress, with a reduction that sends it to a job."""

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self.fileno())
        return _opened, (index,)


def _opened(index: int) -> _native.Progress:
    return _native.Progress.open(pickling.received, index)


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

    def __reduce__(self) -> tuple[Any, ...]:
        first, end = self.first, self.end
        columns = self.columns
        if columns and (first or end < len(columns[0])):
            columns = [column[first:end] for column in columns]
        rows: list[Any] = []
        if not columns:
            columns = []
            _native.take_rows(self._from_first(self.rows), end - first, columns, rows)
        kwargses = self.kwargses and self.kwargses[first:end]
        return Calls, (columns, rows, kwargses, 0, end - first)


def run(
    fn: Callable[..., Any],
    calls: Calls,
    progress: _native.Progress,
    place: int,
    limit: float,
) -> result.Dumped:
    """In the job: makes as many calls as fit into `limit` seconds, but at least one."""
    count = calls.end - calls.first
    values, raised, seconds = progress.run(place, fn, *calls.iterators(), count, limit)
    failures = [(call, result.failure(error)) for call, error in raised]
    return result.Dumped(_dump(ChunkOutcome(values, failures, seconds)))


#: Types that need none of multiprocessing's reducers, so the quickest pickling serves them; and up
#: to how many values it pays to check that all have such types. (A check costs 20 ns for each
#: value; the quickest pickling saves 2 us.)
_SIMPLE = pickling.SIMPLE | {bytes}
_FEW = 50


def _dump(made: ChunkOutcome) -> Payload:
    if len(made.values) <= _FEW and _SIMPLE.issuperset(map(type, made.values)):
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
