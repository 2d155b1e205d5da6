"""Calls: what a chunk of `map` is made of, on its way to a job, in the job, and on the way back.

Arguments travel by columns and results as one list, since what one pickle holds costs far less
than many pickles. The loop over the calls is the binding's (rust/python/src/calls.rs). Not here:
what is made of chunks, and what becomes of them when a job dies (`_map.py`).
"""

from __future__ import annotations

import itertools
import pickle
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Tuple

from . import _multiprocessing as mp
from . import _native, _pickling, _result
from ._pickling import Sent

#: What is raised instead of which value.
Errors = List[Tuple[int, BaseException]]


class Made(NamedTuple):
    """What a chunk's job sends. Fewer values than there were calls: it ended early."""

    values: list[Any]
    failures: list[tuple[int, _result.Failure]]
    seconds: float


class Progress(_native.Progress):
    """The binding's, which can be sent to a job."""

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self.fileno())
        return _opened, (index,)


def _opened(index: int) -> _native.Progress:
    return _native.Progress.open(_pickling.received[index])


class Calls(NamedTuple):
    """The arguments of some calls, those from `first` to before `end`."""

    argses: Sequence[Any]
    kwargses: Sequence[Any] | None
    first: int
    end: int

    def rows(self) -> tuple[Iterator[Any], Iterator[Any] | None]:
        """Iterators over the calls' own, which touch no other."""
        kwargses = self.kwargses
        return self._own(self.argses), None if kwargses is None else self._own(kwargses)

    def _own(self, sequence: Sequence[Any]) -> Iterator[Any]:
        rows: Any = iter(sequence)
        rows.__setstate__(self.first)
        return itertools.islice(rows, self.end - self.first)

    def __reduce__(self) -> tuple[Any, ...]:
        argses, kwargses, first, end = self
        columns = _native.columns(argses, first, end)
        if kwargses is not None:
            kwargses = kwargses[first:end]
        if columns is None:
            return Calls, (argses[first:end], kwargses, 0, end - first)
        return Columns, (columns, kwargses, 0, end - first)


class Columns(NamedTuple):
    """The same calls when they have travelled: a list for each argument, or none if there is
    something else than tuples of one length."""

    columns: list[list[Any]]
    kwargses: Sequence[Any] | None
    first: int
    end: int

    def rows(self) -> tuple[Iterator[Any], Iterator[Any] | None]:
        # zip makes one tuple, and uses it again and again.
        return zip(*self.columns), None if self.kwargses is None else iter(self.kwargses)


def run(
    fn: Callable[..., Any],
    calls: Calls | Columns,
    progress: _native.Progress,
    place: int,
    limit: float,
) -> _result.Dumped:
    """In the job: makes the calls, as many as fit into so many seconds, but one at least."""
    count = calls.end - calls.first
    values, raised, seconds = progress.run(place, fn, *calls.rows(), count, limit)
    failures = [(call, _result.failure(error)) for call, error in raised]
    return _result.Dumped(_dump(Made(values, failures, seconds)))


#: What needs none of multiprocessing's reducers, and so can take the quickest way.
_SIMPLE = _pickling.SIMPLE | {bytes}


def _dump(made: Made) -> Sent:
    if _SIMPLE.issuperset(map(type, made.values)):
        return _pickling.dump_plain((tuple(made), None))
    try:
        return _pickling.dump((tuple(made), None))
    except pickle.PicklingError:
        return _pickling.dump((tuple(_without_unpicklable(made)), None))


def _without_unpicklable(made: Made) -> Made:
    """The same, with an error for each value that cannot be pickled."""
    failures = dict(made.failures)
    for call, value in enumerate(made.values):
        try:
            _pickling.dump(value)
        except pickle.PicklingError as e:
            failures[call] = _result.failure(_result.unpicklable(value, e))
            made.values[call] = None
    return made._replace(failures=sorted(failures.items()))
