"""Results: what a job's function returns or raises, as the job's owner gets it.

Not here: what cannot be pickled (test_pickling), jobs that die without a result
(test_deaths), and how long a Future waits (test_futures).
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE
from sizes import LARGE, pattern

from jobserver import Future, Jobserver


def identity(value: Any) -> Any:
    return value


def print_and_linger(path: str, conn: Connection) -> str:
    """Returns at once, but the process lives on until it is told to end."""
    sys.stdout = open(path, "w")
    print("printed before the result")
    threading.Thread(target=conn.recv).start()
    return "result"


def raise_it(error: BaseException) -> None:
    raise error


def raise_from_below() -> None:
    try:
        {}["the first error"]  # type: ignore[index]
    except KeyError as e:
        raise ValueError("the second error") from e


def result_of_nested(js: Jobserver) -> Any:
    return js(raise_from_below).result()


class Refusal(Exception):
    """An exception with more to it than its arguments."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.details = {"reason": reason}


class Stop(BaseException):
    """Not an Exception, as GeneratorExit and KeyboardInterrupt are not."""


def raised_by(call: Callable[[], Any]) -> BaseException:
    """What the call raises."""
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


def test_falsy_results_are_results(js: Jobserver) -> None:
    values = [None, False, 0, b"", ()]
    futures = [js(identity, value) for value in values]
    assert [f.result(DEADLINE) for f in futures] == values
    assert futures[0].result() is None


def test_a_result_is_the_same_object_each_time(js: Jobserver) -> None:
    for size in (8, LARGE):
        future = js(pattern, 1, size)
        first = future.result(DEADLINE)
        assert future.result() is first
        assert future.result(timeout=0) is first
        assert future.exception() is None


def test_results_outlive_their_jobserver(js: Jobserver) -> None:
    small, large, error = js(pattern, 1, 8), js(pattern, 2, LARGE), js(raise_it, KeyError("k"))
    js.close()
    assert small.result() == pattern(1, 8)
    assert large.result() == pattern(2, LARGE)
    assert isinstance(error.exception(), KeyError)


@pytest.fixture
def lingering(js: Jobserver, tmp_path: Path) -> Iterator[Future[str]]:
    """A job that has returned, and whose process lives on to the end of the test."""
    ours, theirs = js.context.Pipe()
    with ours, theirs:
        yield js(print_and_linger, str(tmp_path / "output"), theirs)
        ours.send("end")
        js.close()


def test_output_is_there_before_the_result(lingering: Future[str], tmp_path: Path) -> None:
    assert lingering.result(DEADLINE) == "result"
    assert (tmp_path / "output").read_text() == "printed before the result\n"


def test_a_result_is_there_before_its_process_ends(lingering: Future[str]) -> None:
    assert lingering.result(DEADLINE) == "result"
    os.kill(lingering.pid, 0)  # raises unless the process is there


def test_an_exception_is_raised_again_each_time(js: Jobserver) -> None:
    future = js(raise_it, KeyError("missing"))
    first = raised_by(lambda: future.result(DEADLINE))
    depth = len(traceback.extract_tb(first.__traceback__))
    assert isinstance(first, KeyError) and first.args == ("missing",)
    for _ in range(3):
        again = raised_by(lambda: future.result())
        assert again is first
        assert len(traceback.extract_tb(again.__traceback__)) == depth
    assert future.exception() is first


def test_an_exception_keeps_all_that_it_says(js: Jobserver) -> None:
    missing = js(raise_it, FileNotFoundError(errno.ENOENT, "no such file", "a name"))
    refusal = js(raise_it, Refusal("because"))
    large = js(raise_it, ValueError("v" * LARGE))
    error = missing.exception(DEADLINE)
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.strerror, error.filename) == (2, "no such file", "a name")
    error = refusal.exception(DEADLINE)
    assert isinstance(error, Refusal)
    assert error.details == {"reason": "because"}
    error = large.exception(DEADLINE)
    assert isinstance(error, ValueError)
    assert error.args == ("v" * LARGE,)


def test_an_exception_has_the_jobs_traceback_as_its_cause(js: Jobserver) -> None:
    error = js(raise_from_below).exception(DEADLINE)
    assert isinstance(error, ValueError)
    cause = str(error.__cause__)
    assert "in raise_from_below" in cause
    assert 'raise ValueError("the second error") from e' in cause
    assert "KeyError: 'the first error'" in cause
    assert "direct cause" in cause
    assert "_job.py" not in cause, "the library's own frames tell the user nothing"


def raise_what_cannot_be_formatted() -> None:
    traceback.format_exception = abs  # type: ignore[assignment] # it takes one argument
    raise LookupError("not found")


def test_an_exception_arrives_though_its_traceback_cannot_be_formatted(js: Jobserver) -> None:
    error = js(raise_what_cannot_be_formatted).exception(DEADLINE)
    assert isinstance(error, LookupError)
    assert error.args == ("not found",)
    assert "LookupError: not found" in str(error.__cause__)


def test_an_uncaught_exception_is_printed_with_both_tracebacks(js: Jobserver) -> None:
    future = js(raise_from_below)
    error = raised_by(lambda: future.result(DEADLINE))
    printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "in raise_from_below" in printed
    assert "in raised_by" in printed
    assert printed.index("in raise_from_below") < printed.index("in raised_by")


def test_an_exception_of_a_nested_job_shows_every_job_that_it_passed(js: Jobserver) -> None:
    error = js(result_of_nested, js).exception(DEADLINE)
    assert isinstance(error, ValueError)
    cause = str(error.__cause__)
    assert "in raise_from_below" in cause
    assert "in result_of_nested" in cause


def test_exceptions_that_are_not_exceptions_by_name_are_raised_too(js: Jobserver) -> None:
    errors = [Stop("s"), KeyboardInterrupt("k"), GeneratorExit("g"), StopIteration("i")]
    errors.append(asyncio.CancelledError("c"))
    futures = [js(raise_it, error) for error in errors]
    for future, error in zip(futures, errors):
        raised = raised_by(lambda future=future: future.result(DEADLINE))  # type: ignore[misc]
        assert type(raised) is type(error)
        assert raised.args == error.args
        assert "in raise_it" in str(raised.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_groups_and_notes_arrive(js: Jobserver) -> None:
    group: Any = eval("ExceptionGroup('several', [KeyError('a'), ValueError('b')])")
    group.add_note("a note")
    error: Any = js(raise_it, group).exception(DEADLINE)
    assert [repr(each) for each in error.exceptions] == ["KeyError('a')", "ValueError('b')"]
    assert error.__notes__ == ["a note"]


def test_an_exception_that_is_returned_is_a_result(js: Jobserver) -> None:
    future = js(identity, ValueError("returned"))
    result = future.result(DEADLINE)
    assert isinstance(result, ValueError) and result.args == ("returned",)
    assert result.__cause__ is None
    assert future.exception() is None
    assert future.result() is result
    assert js(identity, KeyboardInterrupt).result(DEADLINE) is KeyboardInterrupt


def print_where_nobody_reads() -> int:
    read, write = os.pipe()
    os.close(read)
    sys.stdout = os.fdopen(write, "w")
    print("x")
    return 42


def test_a_result_is_not_lost_with_the_output_that_nobody_reads(js: Jobserver) -> None:
    assert js(print_where_nobody_reads).result() == 42


def fall(n: int, text: str) -> None:
    """Raises with so many frames."""

    def deeper(n: int) -> None:
        if n == 0:
            raise ValueError(text)
        deeper(n - 1) if n % 2 else deeper(n - 1)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(n + 1000)
    try:
        deeper(n)
    finally:
        sys.setrecursionlimit(limit)


def recurse() -> None:
    recurse()


def raise_a_chain(n: int, cause: bool) -> None:
    last: BaseException | None = None
    for place in range(n):
        error = ValueError(f"number {place}")
        if cause:
            error.__cause__ = last
        else:
            error.__context__ = last
        last = error
    assert last is not None
    raise last


def traceback_in_the_job(js: Jobserver, fn: Callable[..., Any], *args: Any) -> str:
    error = js(fn, *args).exception(DEADLINE)
    assert error is not None
    return str(error.__cause__)


def test_the_middle_of_a_long_traceback_is_left_out(js: Jobserver) -> None:
    told = traceback_in_the_job(js, fall, 5000, "at the bottom")
    assert len(told) < 40_000
    assert "in fall" in told and "in deeper" in told
    assert told.count("frames left out") == 1
    assert "\nValueError: at the bottom\n" in told
    told = traceback_in_the_job(js, fall, 50, "at the bottom")
    assert "left out" not in told


def test_a_recursion_error_is_told_in_few_lines(js: Jobserver) -> None:
    told = traceback_in_the_job(js, recurse)
    assert "in recurse" in told and "\nRecursionError: " in told
    assert told.count("\n") < 50


@pytest.mark.parametrize("cause", [True, False])
def test_the_middle_of_a_long_chain_of_exceptions_is_left_out(js: Jobserver, cause: bool) -> None:
    told = traceback_in_the_job(js, raise_a_chain, 10_000, cause)
    assert len(told) < 20_000
    assert told.index("number 0\n") < told.index("exceptions left out") < told.index("number 9999")
    joint = "direct cause" if cause else "During handling"
    assert joint in told


def test_the_middle_of_a_long_message_is_left_out_of_the_traceback_only(js: Jobserver) -> None:
    text = "begin" + 1_000_000 * "x" + "end"
    error = js(fall, 1, text).exception(DEADLINE)
    assert error is not None and error.args == (text,)
    told = str(error.__cause__)
    assert "begin" in told and "end\n" in told and "characters left out" in told
    assert len(told) < 20_000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are new in CPython 3.11")
def test_a_large_group_of_exceptions_is_told_in_few_lines(js: Jobserver) -> None:
    told = traceback_in_the_job(js, raise_a_group, 10_000)
    assert "number 0\n" in told and "exceptions left out" in told
    assert len(told) < 20_000


def raise_a_group(n: int) -> None:
    group: Any = getattr(builtins, "ExceptionGroup")  # noqa: B009
    raise group("many", [ValueError(f"number {place}") for place in range(n)])


def submit_at_depth(js: Jobserver, depth: int) -> Future[int]:
    return js(abs, -7) if depth == 0 else submit_at_depth(js, depth - 1)


@pytest.mark.parametrize("tasks", [1, None])
def test_a_submission_at_the_edge_of_the_recursion_limit_works_or_says_so(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    js(int).result()
    here = len(traceback.extract_stack())
    told = set()
    for room in range(2, 60):
        try:
            outcome: object = submit_at_depth(js, sys.getrecursionlimit() - here - room).result()
        except RecursionError:
            outcome = "RecursionError"
        except pickle.PicklingError as e:
            assert "RecursionError" in str(e)
            outcome = "RecursionError"
        told.add(outcome)
    assert told <= {7, "RecursionError"}
