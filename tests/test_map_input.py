"""What `map` is given to read: rows of any shape, and inputs that break off, arrive call by call.

Rows that are tuples of one length travel by columns; nobody may see that. Not here: what becomes
of the calls (test_map.py).
"""

from __future__ import annotations

import gc
import itertools
import os
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
from mapped import double, given

from jobserver import Jobserver, SubmissionDied

Point = namedtuple("Point", "x y")

#: Of other shapes than (1,); the last is of no use.
ODD: list[Any] = [(), (2, 3), [4], Point(5, 6), range(3), 7]


@pytest.fixture(params=["fork", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    """With what is sent and what is not; spawn sends as forkserver does, and takes longer."""
    return str(request.param)


def outcomes(results: Iterator[Any]) -> list[Any]:
    """Positional arguments that calls were given, with the exceptions in their place."""
    gathered: list[Any] = []
    while True:
        try:
            gathered.append(next(results)[0])
        except StopIteration:
            return gathered
        except TypeError as e:
            gathered.append(e)


@pytest.mark.parametrize("chunksize", [1, 4, 100])
@pytest.mark.parametrize("place", [0, 5, 9])
@pytest.mark.parametrize("kind", [list, iter])
def test_a_row_of_another_shape_arrives_as_it_is(
    js: Jobserver, kind: Any, place: int, chunksize: int
) -> None:
    for odd in ODD:
        rows: list[Any] = [(n,) for n in range(10)]
        rows[place] = odd
        told = outcomes(js.map(given, kind(rows), chunksize=chunksize))
        if odd == 7:
            assert "args must be a sequence of arguments" in str(told.pop(place))
            del rows[place]
        assert told == [tuple(row) for row in rows]


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_rows_of_ever_other_lengths_arrive(js: Jobserver, chunksize: int) -> None:
    rows = [tuple(range(n % 5)) for n in range(20)]
    assert outcomes(js.map(given, iter(rows), chunksize=chunksize)) == rows


@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
def test_rows_from_an_iterator_that_reuses_its_tuple_are_told_apart(
    js: Jobserver, chunksize: Any
) -> None:
    rows = zip(range(300), map(str, range(300)), itertools.repeat(None))
    kwargses = ({"n": n} for n in range(300))
    told = list(js.map(given, rows, kwargses, chunksize=chunksize))
    assert told == [((n, str(n), None), {"n": n}) for n in range(300)]


def test_an_object_in_many_rows_arrives_as_one(js: Jobserver) -> None:
    """In each call as the very argument, be it twice in a row or in several."""
    shared = ["shared"]
    told = list(js.map(given, [(shared, shared)] * 4, chunksize=2))
    assert told == [((shared, shared), {})] * 4
    assert all(args[0] is args[1] for args, _ in told)


def test_the_garbage_collector_has_nothing_to_look_at_for_a_call(js: Jobserver) -> None:
    gc.collect()
    before = len(gc.get_objects())
    results = js.map(double, zip(range(1000)), chunksize=1000)
    assert len(gc.get_objects()) - before < 500
    assert sum(results) == 999_000


class Breaking(Iterator):  # type: ignore[type-arg]
    """Raises once, before it gives this item; and goes on."""

    def __init__(self, items: Any, place: int, error: BaseException) -> None:
        self._items = iter(items)
        self._left = place
        self._error = error

    def __next__(self) -> Any:
        self._left -= 1
        if self._left == -1:
            raise self._error
        return next(self._items)


@pytest.mark.parametrize("which", ["argses", "kwargses"])
@pytest.mark.parametrize("odd", [None, 3, 5])
@pytest.mark.parametrize("place", [4, 6, 7])
def test_ctrl_c_while_the_input_is_read_loses_no_row(
    js: Jobserver, place: int, odd: int | None, which: str
) -> None:
    """Nor does it give one twice, whether they are kept by columns or not."""
    argses: Any = [(n,) for n in range(12)]
    if odd is not None:
        argses[odd] = ()
    kwargses: Any = [{"n": n} for n in range(12)]
    expected = [*zip(argses, kwargses)]
    if which == "argses":
        argses = Breaking(argses, place, KeyboardInterrupt())
    else:
        kwargses = Breaking(kwargses, place, KeyboardInterrupt())
    # So the second chunk is read by `next`, which can be called again.
    results = js.map(given, argses, kwargses, chunksize=4, buffersize=1)
    gathered = list(itertools.islice(results, 4))
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert gathered + list(results) == expected


@pytest.mark.parametrize("chunksize", [1, 4, 100])
@pytest.mark.parametrize("rows", [[(0,), (1,), (2,)], [(0,), (), (2,)]])
def test_what_the_input_raises_is_told_after_the_rows_before(
    js: Jobserver, rows: Any, chunksize: int
) -> None:
    results = js.map(given, Breaking(rows, 3, LookupError("torn")), chunksize=chunksize)
    assert [next(results)[0] for _ in rows] == rows
    with pytest.raises(LookupError, match="torn"):
        next(results)
    assert list(results) == []


def count_from(n: int) -> Iterator[int]:
    yield n
    yield n + 1


def fails_after(n: int) -> Iterator[int]:
    yield n
    raise LookupError(n)


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_a_row_may_be_an_iterator(
    make_jobserver: Any, kind: Any, chunksize: int, tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    rows: list[Any] = [count_from(0), map(int, "12"), {2: "", 3: ""}.keys(), [3, 4]]
    rows += [zip("4"), iter([5, 6])]
    told = outcomes(js.map(given, kind(rows), chunksize=chunksize))
    assert told == [(0, 1), (1, 2), (2, 3), (3, 4), (("4",),), (5, 6)]


def die_at_two(n: int, more: int) -> int:
    if n == 2:
        os._exit(3)
    return n + more


@pytest.mark.parametrize("kind", [list, iter])
def test_calls_that_are_made_again_have_their_arguments_though_rows_are_iterators(
    js: Jobserver, kind: Any
) -> None:
    results = js.map(die_at_two, kind([count_from(n) for n in range(5)]), chunksize=5)
    told: list[Any] = []
    for _ in range(5):
        try:
            told.append(next(results))
        except SubmissionDied as e:
            told.append(e.exitcode)
    assert told == [1, 3, 3, 7, 9]
    assert list(results) == []


@pytest.mark.parametrize("kind", [list, iter])
def test_what_a_row_raises_is_its_calls_error(js: Jobserver, kind: Any) -> None:
    rows = [count_from(0), fails_after(1), count_from(2)]
    results = js.map(given, kind(rows), chunksize=2)
    assert next(results)[0] == (0, 1)
    with pytest.raises(LookupError, match="1"):
        next(results)
    assert next(results)[0] == (2, 3)
    assert list(results) == []


def test_a_row_that_is_changed_when_it_has_been_taken_arrives_as_it_was(js: Jobserver) -> None:
    def rows() -> Iterator[list[int]]:
        row = [0]
        for n in range(20):
            row[0] = n
            yield row

    assert outcomes(js.map(given, rows(), chunksize=7)) == [(n,) for n in range(20)]
