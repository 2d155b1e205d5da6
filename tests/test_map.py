"""`map`: many calls in few jobs, and what happens to a call is told for that very call.

Not here: how fast it is (benchmarks/map.py), and whether chunks are well chosen, but for what
can be counted.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import mapped
import numpy
import pytest
from conftest import DEADLINE, OWNERS_METHODS, descriptors, each_method, settle
from holding import Hold, free, held
from mapped import double, noted, power, traces
from test_interrupts import signal_once_asleep

from jobserver import (
    Blocked,
    CallbackRaised,
    Jobserver,
    SubmissionDied,
    TimeLimitExceeded,
)
from jobserver._map import calls

CHUNKS = [1, 3, 100, "auto"]


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """How calls are grouped and told is the owner's part; a chunk is a job like any other."""
    return str(request.param)


def numbers(count: int) -> list[tuple[int]]:
    return [(n,) for n in range(count)]


def all_of(results: Iterator[Any]) -> list[Any]:
    """Results, with exceptions in their place."""
    gathered: list[Any] = []
    while True:
        try:
            gathered.append(next(results))
        except StopIteration:
            return gathered
        except Exception as e:
            gathered.append(e)


class Counted(Iterator):  # type: ignore[type-arg]
    """An endless iterator that counts what was taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __next__(self) -> tuple[int]:
        self.taken += 1
        return (self.taken - 1,)


# Results and arguments.


@pytest.mark.parametrize("chunksize", CHUNKS)
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_results_come_in_order(js: Jobserver, chunksize: Any, kind: Any) -> None:
    results = js.map(double, kind(numbers(20)), chunksize=chunksize, timeout=DEADLINE)
    assert list(results) == [2 * n for n in range(20)]
    assert list(results) == []


@each_method
@pytest.mark.parametrize("chunksize", CHUNKS)
def test_arguments_are_taken_in_step(js: Jobserver, chunksize: Any) -> None:
    argses = [(2, 3), (3,), [4, 5], iter((5, 6))]
    kwargses: Any = [{"modulus": 5}, {"exponent": 3}, {}, {"modulus": None}]
    results = js.map(power, argses, kwargses, chunksize=chunksize)
    assert list(results) == [3, 27, 1024, 5**6]


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_keywords_alone_are_enough(js: Jobserver, chunksize: Any) -> None:
    results = js.map(power, kwargses=({"base": n} for n in range(10)), chunksize=chunksize)
    assert list(results) == [n * n for n in range(10)]


def test_no_calls_give_no_results(js: Jobserver) -> None:
    empty: list[Any] = [[], (), iter(())]
    for none in empty:
        assert list(js.map(double, none)) == []
    assert list(js.map(double, kwargses=[])) == []
    assert list(js.map(double, [], [])) == []
    assert list(js.map(mapped.nothing, [(), ()])) == [None, None]


def test_lambdas_need_no_pickling_under_fork() -> None:
    lock = threading.Lock()
    with Jobserver("fork", 2) as js:
        assert list(js.map(lambda lock, n: (lock.locked(), n), [(lock, 1), (lock, 2)])) == [
            (False, 1),
            (False, 2),
        ]


@each_method
def test_large_results_and_arguments_travel(js: Jobserver) -> None:
    arrays = [(numpy.full(100_000, n),) for n in range(6)]
    for chunksize in (1, 4):
        results = js.map(numpy.negative, arrays, chunksize=chunksize)
        assert [int(array[-1]) for array in results] == [0, -1, -2, -3, -4, -5]
    assert (
        list(js.map(mapped.pickled_size, [(b"x" * 10**6,)] * 3))
        == [mapped.pickled_size(b"x" * 10**6)] * 3
    )


def test_a_result_that_has_been_taken_is_not_kept(js: Jobserver) -> None:
    results = js.map(numpy.full, [(10, 1), (10, 2), (10, 3)], chunksize=3)
    first = weakref.ref(next(results))
    assert first() is None
    assert int(next(results)[0]) == 2


@each_method
def test_many_short_calls_share_few_processes(js: Jobserver) -> None:
    pids = list(js.map(mapped.where, ((n,) for n in range(5000))))
    assert len(pids) == 5000
    assert len(set(pids)) < 1000  # two, on a quiet machine, after those that measured


@pytest.mark.fresh
def test_a_chunk_is_a_process(js: Jobserver) -> None:
    pids = list(js.map(mapped.where, numbers(10), chunksize=4))
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [4, 4, 2]


@each_method
@pytest.mark.fresh
def test_slow_calls_do_not_stay_in_one_chunk(js: Jobserver) -> None:
    """Though the first was quick, and a list's calls are shared out at once under fork."""
    pids = list(js.map(mapped.slow_after_first, numbers(8)))
    assert len(set(pids)) >= 4


def test_the_first_slow_call_of_a_list_does_not_wait_for_others(
    js: Jobserver, tmp_path: Path
) -> None:
    """Though a list of small rows begins with large chunks."""
    calls = [(str(tmp_path), n) for n in range(1000)]
    results = js.map(mapped.slow, calls)
    assert next(results) == 0
    results.close()
    assert len(list(tmp_path.iterdir())) <= 4 * js.slots


def test_a_list_of_small_rows_needs_few_jobs(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    asked: list[None] = []
    results = js.map(double, numbers(1000), sleep_fn=lambda: asked.append(None))
    assert list(results) == [2 * n for n in range(1000)]
    assert len(asked) < 50  # two on a quiet machine


def test_jobs_of_an_abandoned_map_keep_its_progress_for_themselves(
    js: Jobserver, hold: Hold
) -> None:
    js.map(held, [(hold.end,)], chunksize=1).close()
    for _ in range(2):
        assert list(js.map(double, numbers(3))) == [0, 2, 4]
        assert len(js._owner.progresses) == 1
    hold.let_go(1)
    settle(js)
    assert len(js._owner.progresses) == 1


def adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def test_what_calls_return_may_be_pickled_by_value(js: Jobserver) -> None:
    pytest.importorskip("cloudpickle")
    assert [add(1) for add in js.map(adder, numbers(3))] == [1, 2, 3]


@pytest.mark.usefixtures("hasty")
def test_maps_of_several_threads_use_no_progress_together() -> None:
    free: deque[calls.Progress] = deque()
    users: dict[int, list[calls.Progress]] = {}
    together: list[int] = []

    def use() -> None:
        for _ in range(500):
            ours: list[calls.Progress] = []
            calls.take_progress(ours, free, 1)
            if users.setdefault(id(ours[0]), ours) is not ours:
                together.append(1)
            users.pop(id(ours[0]), None)
            calls.leave_progress(ours, free)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert (len(users), together) == (0, [])
    assert 1 <= len(free) <= 4


# Laziness.


def test_an_endless_iterator_is_read_as_it_is_needed(js: Jobserver) -> None:
    source = Counted()
    results = js.map(double, source, chunksize=5, buffersize=3)
    assert source.taken <= 15
    assert list(itertools.islice(results, 100)) == [2 * n for n in range(100)]
    assert source.taken <= 115
    results.close()


def test_auto_begins_with_single_calls(js: Jobserver) -> None:
    source = Counted()
    js.map(double, source).close()
    assert source.taken <= js.slots


@each_method
def test_an_endless_iterator_works_with_auto(js: Jobserver) -> None:
    results = js.map(double, Counted())
    assert list(itertools.islice(results, 10_000)) == [2 * n for n in range(10_000)]


@pytest.mark.parametrize("buffersize", [1, 2, 4])
def test_no_more_than_buffersize_chunks_are_ahead(
    js: Jobserver, tmp_path: Path, buffersize: int
) -> None:
    calls = ((tmp_path, n) for n in itertools.count())
    results = js.map(noted, calls, chunksize=2, buffersize=buffersize)
    for taken in range(6):
        assert next(results) == taken
    settle(js)
    # 0 to 5 have been taken: three chunks, the last of which may still count.
    assert max(int(file.name) for file in tmp_path.iterdir()) < 4 + 2 * buffersize
    results.close()


def test_calls_begin_before_the_first_result_is_asked_for(js: Jobserver, tmp_path: Path) -> None:
    results = js.map(noted, [(tmp_path, 1)])
    deadline = time.monotonic() + DEADLINE
    while not traces(tmp_path, 1):
        assert time.monotonic() < deadline
        js.reclaim_resources()
    assert next(results) == 1


# Errors.


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_an_exception_is_raised_for_its_call_and_the_rest_goes_on(
    js: Jobserver, chunksize: Any
) -> None:
    results = js.map(mapped.divide, [(6, n) for n in (1, 0, 2, 0, 3)], chunksize=chunksize)
    assert next(results) == 6
    with pytest.raises(ZeroDivisionError) as raised:
        next(results)
    assert "in divide" in str(raised.value.__cause__)
    assert next(results) == 3
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 2
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("chunksize", [1, 4, "auto"])
@pytest.mark.parametrize(
    "what, exitcode, number",
    [
        ("kill", None, signal.SIGKILL),
        ("exit", 3, None),
        ("_exit", 4, None),
        ("segv", None, signal.SIGSEGV),
    ],
)
def test_a_death_is_told_for_its_call_and_the_rest_runs_elsewhere(
    js: Jobserver, tmp_path: Path, what: str, exitcode: Any, number: Any, chunksize: Any
) -> None:
    calls = [(tmp_path, n, what if n in (2, 5) else "return") for n in range(8)]
    results = all_of(js.map(noted, calls, chunksize=chunksize))
    for n, result in enumerate(results):
        if n not in (2, 5):
            assert result == n
            continue
        assert isinstance(result, SubmissionDied)
        assert (result.exitcode, result.signal) == (exitcode, number)
        assert traces(tmp_path, n) == [str(result.pid)]  # it has not been tried again
    assert len(results) == 8
    settle(js)
    assert free(js) == 2


@each_method
def test_calls_before_a_death_in_a_chunk_are_made_again(js: Jobserver, tmp_path: Path) -> None:
    calls = [(tmp_path, n, "kill" if n == 2 else "return") for n in range(4)]
    all_of(js.map(noted, calls, chunksize=4))
    assert [len(traces(tmp_path, n)) for n in range(4)] == [2, 2, 1, 1]


@each_method
@pytest.mark.fresh
def test_an_interrupted_call_ends_its_job_and_keeps_what_was_done(
    js: Jobserver, tmp_path: Path
) -> None:
    calls = [(tmp_path, n, "interrupt" if n == 1 else "return") for n in range(4)]
    results = js.map(noted, calls, chunksize=4)
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert list(results) == [2, 3]
    assert [len(traces(tmp_path, n)) for n in range(4)] == [1, 1, 1, 1]
    assert traces(tmp_path, 1) != traces(tmp_path, 2)


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_a_result_that_cannot_be_pickled_is_its_calls_error(js: Jobserver, chunksize: Any) -> None:
    results = all_of(js.map(mapped.lock_or_number, numbers(6), chunksize=chunksize))
    assert [str(r)[:50] for r in results] == [
        str(n) if n % 3 != 1 else "what the job returned, a lock, cannot be pickled: "
        for n in range(6)
    ]


@each_method
@pytest.mark.parametrize("chunksize", CHUNKS)
def test_a_result_that_cannot_be_unpickled_is_its_calls_error(
    js: Jobserver, chunksize: Any
) -> None:
    results = all_of(js.map(mapped.unloadable_or_number, numbers(6), chunksize=chunksize))
    assert [str(r)[:48] for r in results] == [
        str(n) if n % 3 != 1 else "what the job returned cannot be unpickled here: "
        for n in range(6)
    ]


@pytest.mark.parametrize("chunksize", CHUNKS)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_arguments_that_cannot_be_pickled_are_their_calls_error(
    js: Jobserver, chunksize: Any
) -> None:
    lock = threading.Lock()
    argses = [(lock if n == 2 else n,) for n in range(5)]
    results = all_of(js.map(double, argses, chunksize=chunksize))
    assert [r for r in results if isinstance(r, int)] == [0, 2, 6, 8]
    assert "an argument cannot be pickled" in str(results[2])


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "argument, error",
    [(mapped.Unloadable(), "could not load"), (mapped.KillsWhenLoaded(), "SIGKILL")],
)
def test_arguments_that_cannot_be_unpickled_are_their_calls_error(
    js: Jobserver, argument: Any, error: str, chunksize: Any
) -> None:
    argses = [(argument if n == 2 else n,) for n in range(5)]
    results = all_of(js.map(double, argses, chunksize=chunksize))
    assert [r for r in results if isinstance(r, int)] == [0, 2, 6, 8]
    assert error in str(results[2])


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_function_that_cannot_be_pickled_is_refused_at_once(
    js: Jobserver,
) -> None:
    source = Counted()
    lock = threading.Lock()
    with pytest.raises(Exception, match="cannot be pickled"):
        js.map(lock.acquire, source)
    assert source.taken == 0


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_arguments_of_the_wrong_kind_are_their_calls_error(js: Jobserver, chunksize: Any) -> None:
    wrong: Any = [(1,), 2, "three", (4,)]
    results = all_of(js.map(double, wrong, chunksize=chunksize))
    assert (results[0], results[3]) == (2, 8)
    assert "args must be a sequence of arguments" in str(results[1])
    assert "write args=('three',), or zip(xs)" in str(results[2])
    results = all_of(js.map(double, [(1,)], wrong[1:2], chunksize=chunksize))
    assert "kwargs must be a mapping" in str(results[0])


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_what_the_input_raises_comes_after_the_calls_before(js: Jobserver, chunksize: Any) -> None:
    def source() -> Iterator[tuple[int]]:
        yield from numbers(5)
        raise LookupError("no more")

    results = js.map(double, source(), chunksize=chunksize)
    assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
    with pytest.raises(LookupError, match="no more"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("chunksize", CHUNKS)
@pytest.mark.parametrize(
    "argses, kwargses, told", [(3, 5, "more"), (5, 3, "fewer"), (0, 1, "more"), (1, 0, "fewer")]
)
def test_lengths_that_differ_are_told_when_the_shorter_ends(
    js: Jobserver, argses: int, kwargses: int, told: str, chunksize: Any
) -> None:
    results = js.map(double, numbers(argses), [{}] * kwargses, chunksize=chunksize)
    both = min(argses, kwargses)
    assert list(itertools.islice(results, both)) == [2 * n for n in range(both)]
    with pytest.raises(ValueError, match=f"kwargses has {told} items than argses"):
        next(results)
    assert list(results) == []


def test_a_list_that_becomes_shorter_is_told(hold: Hold) -> None:
    with Jobserver("fork", 1) as js:
        argses = numbers(6)
        blocker = js(held, hold.end)
        results = js.map(double, argses, chunksize=3)
        del argses[4:]
        hold.let_go()
        told = all_of(results)
        assert told[:4] == [0, 2, 4, 6]
        assert ["became shorter" in str(each) for each in told[4:]] == [True, True]
        blocker.wait()


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({}, "argses, kwargses or both"),
        ({"argses": 3}, "argses must be an iterable of argument tuples, not int"),
        ({"argses": "abc"}, "not str"),
        ({"kwargses": {"x": 1}}, "kwargses must be an iterable of keyword mappings, not dict"),
        ({"chunksize": 0}, "chunksize must be at least 1"),
        ({"chunksize": -1}, "chunksize must be at least 1"),
        ({"chunksize": 1.5}, "chunksize must be an int"),
        ({"chunksize": True}, "chunksize must be an int"),
        ({"chunksize": "automatic"}, 'chunksize must be "auto" or an int'),
        ({"buffersize": 0}, "buffersize must be at least 1"),
        ({"buffersize": "2"}, "buffersize must be an int"),
        ({"timeout": "2"}, "timeout must be"),
        ({"env": {"A": 1}}, "env takes str"),
        ({"preexec_fn": 1}, "preexec_fn must be callable"),
        ({"sleep_fn": 1}, "sleep_fn must be callable"),
        ({"fn": 1}, "fn must be callable"),
    ],
)
def test_what_is_of_no_use_is_refused_at_once(wrong: Any, error: str) -> None:
    source = Counted()
    with Jobserver("fork", 1) as js:
        given = {"fn": double, **({} if wrong == {} else {"argses": source}), **wrong}
        with pytest.raises((TypeError, ValueError), match=error):
            js.map(**given)
        assert js._owner.here().outstanding == 0
    assert source.taken == 0


# What surrounds a chunk.


@each_method
@pytest.mark.parametrize("chunksize", [1, 3])
def test_env_and_preexec_fn_hold_for_each_chunk(js: Jobserver, chunksize: int) -> None:
    env = {"MAPPED": "yes"}
    calls = [("MAPPED",)] * 5
    assert list(js.map(mapped.variable, calls, env=env, chunksize=chunksize)) == ["yes"] * 5
    results = js.map(mapped.prepared, numbers(5), preexec_fn=mapped.prepare, chunksize=chunksize)
    assert list(results) == [True] * 5


@pytest.mark.parametrize("chunksize", [1, 2, "auto"])
def test_a_preexec_fn_that_fails_is_each_calls_error(js: Jobserver, chunksize: Any) -> None:
    failing, dying = mapped.fail_to_prepare, mapped.die_preparing
    results = all_of(js.map(double, numbers(3), preexec_fn=failing, chunksize=chunksize))
    assert [str(error) for error in results] == ["not to be prepared"] * 3
    results = all_of(js.map(double, numbers(3), preexec_fn=dying, chunksize=chunksize))
    assert [error.exitcode for error in results] == [5] * 3


@each_method
def test_an_exit_that_preexec_fns_context_suppresses_returns_none(
    js: Jobserver, tmp_path: Path
) -> None:
    calls = [(tmp_path, n, "exit" if n == 1 else "return") for n in range(3)]
    results = js.map(noted, calls, preexec_fn=mapped.suppressing, chunksize=3)
    assert list(results) == [0, None, 2]


def test_sleep_fn_is_asked_for_each_chunk(js: Jobserver) -> None:
    answers: Iterator[Any] = iter([0.01, None, None, 0.01, 0.01, None])
    results = js.map(double, numbers(6), chunksize=2, sleep_fn=lambda: next(answers))
    assert list(results) == [0, 2, 4, 6, 8, 10]
    assert list(answers) == []


def test_sleep_fn_is_not_asked_again_before_its_time(js: Jobserver) -> None:
    asked: list[float] = []

    def gate() -> float | None:
        asked.append(time.monotonic())
        return 0.1 if len(asked) < 3 else None

    results = js.map(double, numbers(1), sleep_fn=gate)
    assert list(results) == [0]
    assert [later - sooner >= 0.1 for sooner, later in zip(asked, asked[1:])] == [True, True]


def test_an_error_of_sleep_fn_is_raised_and_the_next_goes_on(js: Jobserver) -> None:
    answers = iter([True, False, True, True])

    def gate() -> None:
        if not next(answers):
            raise LookupError("the gate is broken")

    results = js.map(double, numbers(3), chunksize=1, buffersize=1, sleep_fn=gate)
    told = all_of(results)
    assert [each for each in told if isinstance(each, int)] == [0, 2, 4]
    assert [str(each) for each in told if not isinstance(each, int)] == ["the gate is broken"]


# Waiting.


@pytest.mark.fresh
def test_blocked_when_the_time_is_over_and_goes_on_after_it(js: Jobserver, hold: Hold) -> None:
    results = js.map(held, [(hold.end,)] * 3, chunksize=1, timeout=0.05)
    for _ in range(2):
        with pytest.raises(Blocked):
            next(results)
    hold.let_go(3)
    deadline = time.monotonic() + DEADLINE
    got: list[int] = []
    while len(got) < 3:
        assert time.monotonic() < deadline
        try:
            got.append(next(results))
        except Blocked:
            js.reclaim_resources()
    assert len(set(got)) == 3
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [1, "auto"])
def test_blocked_when_no_slot_is_free_in_time(js: Jobserver, hold: Hold, chunksize: Any) -> None:
    """Nothing is lost of what has been prepared meanwhile."""
    others = [js(held, hold.end) for _ in range(2)]
    results = js.map(double, numbers(3), timeout=0.02, chunksize=chunksize)
    with pytest.raises(Blocked):
        next(results)
    hold.let_go(2)
    for other in others:
        other.wait()
    deadline = time.monotonic() + DEADLINE
    got: list[int] = []
    while len(got) < 3:
        assert time.monotonic() < deadline
        try:
            got.append(next(results))
        except Blocked:
            pass
    assert got == [0, 2, 4]


def test_callbacks_are_issued_and_their_errors_lose_nothing(js: Jobserver, hold: Hold) -> None:
    called: list[int] = []

    def callback(n: int) -> None:
        called.append(n)
        raise LookupError("on purpose")

    for n in range(3):
        js.submit(held, args=(hold.end,), consume=0).when_done(callback, n)
    hold.let_go(3)
    results, errors = js.map(double, numbers(10), chunksize=1), 0
    got: list[int] = []
    while len(got) < 10:
        try:
            got.append(next(results))
        except CallbackRaised:
            errors += 1
    assert got == [2 * n for n in range(10)]
    while js._owner.here().outstanding or js._owner.finished:
        try:
            js.reclaim_resources()
        except CallbackRaised:
            errors += 1
    assert (sorted(called), errors) == ([0, 1, 2], 3)


# Nesting.


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("chunksize", [2, "auto"])
def test_map_in_a_job_ends(
    make_jobserver: Callable[..., Jobserver], waiting: str, slots: int, chunksize: Any
) -> None:
    js = make_jobserver(slots, waiting=waiting)
    jobs = [js(mapped.map_in_job, js, 7, chunksize) for _ in range(3)]
    assert [job.result(DEADLINE) for job in jobs] == [42] * 3
    settle(js)
    assert free(js) == slots


@each_method
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_maps_of_maps_end(
    make_jobserver: Callable[..., Jobserver], waiting: str, slots: int
) -> None:
    js = make_jobserver(slots, waiting=waiting)
    assert sum(js.map(mapped.map_deeper, [(js, 2)] * 2, timeout=DEADLINE)) == 8
    settle(js)
    assert free(js) == slots


@each_method
def test_a_job_that_yields_leaves_all_slots_to_its_calls(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(2, waiting="yield")
    one, other = js.context.Semaphore(0), js.context.Semaphore(0)
    assert js(mapped.map_meeting, js, one, other).result(DEADLINE) == [True, True]


def test_maps_in_several_threads_at_once(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(2)
    if js.context.get_start_method() == "fork":
        pytest.skip("threads and fork do not go together")
    sums: list[int] = []
    threads = [
        threading.Thread(target=lambda: sums.append(sum(js.map(double, numbers(50)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sums == [2450] * 4


# The end.


@each_method
@pytest.mark.parametrize("how", ["close", "drop"])
def test_what_is_abandoned_leaves_nothing(js: Jobserver, tmp_path: Path, how: str) -> None:
    js(int, 0).result()
    settle(js)
    before = descriptors()
    results = js.map(noted, ((tmp_path, n) for n in itertools.count()), chunksize=2)
    assert next(results) == 0
    if how == "close":
        results.close()
        assert list(results) == []
        results.close()
    gone = weakref.ref(results)
    del results
    assert gone() is None, gc.get_referrers(gone())
    settle(js)
    assert free(js) == 2
    assert descriptors() == before


def test_results_outlive_the_jobserver_as_far_as_they_have_begun(js: Jobserver) -> None:
    results = js.map(double, numbers(2), chunksize=1)
    js.close()
    assert list(results) == [0, 2]
    with pytest.raises(RuntimeError, match="closed"):
        js.map(double, numbers(2))


@each_method
def test_what_has_not_begun_when_the_jobserver_closes_is_told(js: Jobserver) -> None:
    results = js.map(double, numbers(4), chunksize=1)
    js.close()
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(RuntimeError, match="closed"):
        next(results)


def test_results_belong_to_the_process_that_called_map() -> None:
    with Jobserver("fork", 1) as js:
        results = js.map(double, numbers(4), chunksize=2)
        assert next(results) == 0
        pid = os.fork()
        if pid == 0:
            try:
                ours = next(results) == 2
                try:
                    next(results)
                except RuntimeError as e:
                    os._exit(0 if ours and "forked" in str(e) else 2)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert list(results) == [2, 4, 6]


# Ctrl-C.

#: What of the package is map's own, in the owner.
FILES = tuple(f"jobserver/_map/{name}.py" for name in ("results", "input", "chunk", "sizes"))


def with_interrupts(results: Iterator[Any], number: int) -> tuple[list[Any], bool]:
    """All results, though KeyboardInterrupt is raised at the line of this number that the
    package's part for map comes to; and whether it came so far."""
    owner, lines = os.getpid(), itertools.count(1)
    gathered: list[Any] = []
    interrupted = False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if os.getpid() != owner or not frame.f_code.co_filename.endswith(FILES):
            return None
        if event == "line" and next(lines) == number:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        while True:
            try:
                gathered.append(next(results))
            except StopIteration:
                return gathered, interrupted
            except KeyboardInterrupt:
                interrupted = True
            except SubmissionDied:
                gathered.append("died")
    finally:
        sys.settrace(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given, dies, tasks",
    [("list", True, 1), ("iterator", False, 1), ("keywords", True, 1), ("iterator", True, None)],
)
def test_ctrl_c_at_any_line_loses_nothing_and_calls_nothing_twice(
    tmp_path: Path, given: str, dies: bool, tasks: int | None
) -> None:
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        argses: Any = [(folder, n, "kill" if n == 1 and dies else "return") for n in range(6)]
        keywords: Any = [{} for _ in argses] if given == "keywords" else None
        with Jobserver("fork", 2, max_tasks_per_child=tasks) as js:
            argses = argses if given == "list" else iter(argses)
            results = js.map(noted, argses, keywords, chunksize=2, buffersize=2)
            gathered, interrupted = with_interrupts(results, number)
            settle(js)
            assert free(js) == 2
        assert gathered == [0, "died" if dies else 1, 2, 3, 4, 5], number
        made = [len(traces(folder, n)) for n in range(6)]
        assert made == [2 if dies else 1, 1, 1, 1, 1, 1], number
        if not interrupted:
            assert number > 50
            return


@each_method
@pytest.mark.fresh
def test_ctrl_c_ends_a_wait_at_once_and_nothing_is_lost(js: Jobserver, hold: Hold) -> None:
    results = js.map(held, [(hold.end,)] * 3, chunksize=1)
    with signal_once_asleep():
        with pytest.raises(KeyboardInterrupt):
            next(results)
    hold.let_go(3)
    assert len(set(results)) == 3


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_ctrl_c_in_the_start_of_what_was_prepared_loses_nothing(
    make_jobserver: Callable[..., Jobserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its message is of no use any more: what goes with it has been closed."""
    js = make_jobserver(1, max_tasks_per_child=None)
    results = js.map(double, numbers(5), chunksize=1)
    starter: Any = js._owner.starter

    def interrupted(jobs: Any, future: Any, slot: Any, prepared: Any) -> None:
        monkeypatch.undo()
        prepared[1].clear()
        raise KeyboardInterrupt

    monkeypatch.setattr(starter, "start", interrupted)
    gathered: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        for result in results:
            gathered.append(result)
    gathered.extend(results)
    assert gathered == [0, 2, 4, 6, 8]


def test_unordered_results_come_when_their_chunks_end(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(2)
    ends = [hold.end, None, None, None]
    results = js.map(held_or_not, zip(range(4), ends), chunksize=1, ordered=False)
    assert sorted(itertools.islice(results, 3)) == [1, 2, 3]
    hold.let_go()
    assert list(results) == [0]


def held_or_not(number: int, end: Any) -> int:
    if end is not None:
        held(end)
    return number


@pytest.mark.parametrize("ordered", [True, False])
def test_unordered_maps_give_each_result_and_each_error_once(js: Jobserver, ordered: bool) -> None:
    texts = [str(n) if n % 7 else "x" for n in range(200)]
    came = all_of(js.map(int, zip(texts), ordered=ordered, chunksize=9))
    assert sum(isinstance(each, ValueError) for each in came) == 29
    numbers_came = [each for each in came if isinstance(each, int)]
    assert sorted(numbers_came) == [n for n in range(200) if n % 7]
    assert numbers_came == sorted(numbers_came) or not ordered


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", CHUNKS)
def test_the_length_is_the_number_of_results_to_come(
    js: Jobserver, chunksize: Any, ordered: bool
) -> None:
    results = js.map(double, numbers(100), chunksize=chunksize, ordered=ordered)
    assert bool(results)
    for left in range(100, 0, -1):
        assert len(results) == left
        next(results)
    assert len(results) == 0
    assert list(results) == []


def test_the_length_is_known_of_a_zip_of_known_lengths_and_of_no_generator(js: Jobserver) -> None:
    assert len(js.map(pow, zip(range(7), [1, 2, 3]))) == 3
    assert len(js.map(pow, zip([1, 2], itertools.repeat(2)))) == 2
    assert len(js.map(int, kwargses=[{}, {}])) == 2
    assert len(js.map(int, [(), ()], ({} for _ in range(2)))) == 2
    unknown = js.map(double, ((n,) for n in range(3)))
    with pytest.raises(TypeError, match="have no length"):
        len(unknown)
    assert list(unknown) == [0, 2, 4]


def test_a_with_statement_drops_the_calls_that_have_not_begun(js: Jobserver) -> None:
    counted = Counted()
    with js.map(double, counted) as results:
        assert next(results) == 0
    taken = counted.taken
    assert list(results) == []
    assert len(results) == 0
    assert counted.taken == taken


def spin_at(number: int, at: int) -> int:
    while number == at:
        pass
    return number


@pytest.mark.parametrize("chunksize", [1, 5, "auto"])
@pytest.mark.parametrize("tasks", [1, None])
def test_a_time_limit_holds_for_each_call(
    make_jobserver: Callable[..., Jobserver], chunksize: Any, tasks: int | None
) -> None:
    js = make_jobserver(2, max_tasks_per_child=tasks)
    rows = [(n, 7) for n in range(20)]
    came = all_of(js.map(spin_at, rows, chunksize=chunksize, time_limit=0.3))
    assert isinstance(came[7], TimeLimitExceeded)
    assert came[7].time_limit == 0.3
    came[7] = 7
    assert came == list(range(20))


def test_the_time_of_calls_that_end_in_time_does_not_add_up(js: Jobserver) -> None:
    naps = [(0.6,)] * 4
    assert list(js.map(time.sleep, naps, chunksize=4, time_limit=2.0)) == [None] * 4


@pytest.mark.parametrize("tasks", [1, None])
def test_a_call_that_ends_about_at_its_limit_ends(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    for nap in range(40):
        rows = [(0.0188 + nap * 0.00005,)] * 3
        came = all_of(js.map(time.sleep, rows, chunksize=3, time_limit=0.02))
        assert {type(each) for each in came} <= {type(None), TimeLimitExceeded}
        assert len(came) == 3
