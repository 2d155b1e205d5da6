"""The arguments that `map` reads, and the chunks that it makes of them.

Ctrl-C may come between any two lines, and any `next` of the user's iterators may raise. Therefore
items that have been taken from them stay in `Input` until one C call appends them to the list as a
chunk. Not here: how many calls a chunk has (`sizes.py`).
"""

from __future__ import annotations

import itertools
import operator
from typing import Any, Iterator, NamedTuple

from .. import _native
from .._signals import raised_by_handler
from .calls import Calls
from .chunk import Chunk


def fewest(*sources: Any) -> int | None:
    """The number of items of the shortest of these iterables whose length is known; None if it is
    known of none."""
    known = [count for count in map(_length, sources) if count is not None]
    return min(known) if known else None


def _length(source: Any) -> int | None:
    if type(source) is zip:
        # The documented way to pass one argument a call is `zip(xs)`, which has no length itself.
        parts = [part for part in source.__reduce__()[1] if type(part) not in _ENDLESS]
        return None if None in map(_length, parts) else fewest(*parts)
    hint = operator.length_hint(source, -1)
    return None if hint < 0 else hint


_ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)


class _Taken(NamedTuple):
    """The items taken for the next chunk: positional arguments by columns or by rows, and
    keywords."""

    columns: list[list[Any]]
    rows: list[Any]
    kwargses: list[Any]

    @property
    def argses(self) -> int:
        return len(self.columns[0] if self.columns else self.rows)


class Input:
    """The arguments of all calls, one after the other. An error in reading them ends them."""

    def __init__(self, argses: Any, kwargses: Any) -> None:
        self._argses: Iterator[Any] | None = None if argses is None else iter(argses)
        self._kwargses: Iterator[Any] | None = None if kwargses is None else iter(kwargses)
        self.ended = False
        #: The error that ended them, which is raised after the results of the calls before.
        self.error: BaseException | None = None
        self._taken = _Taken([], [], [])
        self._filled: list[Chunk] = []

    def take(self, size: int, chunks: list[Chunk]) -> None:
        """Appends a chunk of up to `size` calls to `chunks`; none if there are no more."""
        if not self._filled:
            taken = self._taken
            count = self._fill(taken, size)
            self.ended = self.error is not None or count < size
            if not count:
                return
            kwargses = None if self._kwargses is None else taken.kwargses
            self._filled.append(Chunk(Calls(taken.columns, taken.rows, kwargses, 0, count)))
        self._taken = _Taken([], [], [])
        chunks.extend(itertools.starmap(self._filled.pop, ((),)))

    def _fill(self, taken: _Taken, size: int) -> int:
        """Takes the arguments of up to `size` calls. Returns how many calls `taken` has now."""
        if self._argses is not None:
            self._extend_args(taken, self._argses, size)
        if self._kwargses is None:
            return taken.argses
        if self._argses is None:
            self._extend_kwargs(taken, self._kwargses, size)
            taken.rows[:] = itertools.repeat((), len(taken.kwargses))
        else:
            self._extend_kwargs(taken, self._kwargses, taken.argses)
            self._compare(taken.argses, len(taken.kwargses), size)
        return len(taken.kwargses)

    def _extend_args(self, taken: _Taken, source: Iterator[Any], size: int) -> None:
        try:
            _native.take_rows(source, size, taken.columns, taken.rows)
        except Exception as e:
            self._end(e)

    def _extend_kwargs(self, taken: _Taken, source: Iterator[Any], size: int) -> None:
        rows = taken.kwargses
        try:
            # Items that have been taken stay in the list, also if an exception is raised.
            rows.extend(itertools.islice(source, max(0, size - len(rows))))
        except Exception as e:
            self._end(e)

    def _compare(self, argses: int, kwargses: int, size: int) -> None:
        if self.error is not None or self._kwargses is None:
            return
        if kwargses < argses:
            self._end(ValueError("kwargses has fewer items than argses: they are taken in step"))
        elif argses < size:
            for _ in self._kwargses:
                more = "kwargses has more items than argses: they are taken in step"
                self._end(ValueError(more))
                break

    def _end(self, error: Exception) -> None:
        if raised_by_handler(error):
            raise error
        self.error = self.error or error
