"""Many jobs: nothing is left over, nothing is missing, and nothing grows.

Long runs show what short tests cannot: a descriptor, process or token too many or too few
in thousands, and memory that is not given back. The jobs are built-in functions where they
can be, so that the time goes into what is tested.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, TypeVar, cast

import pytest
from conftest import DEADLINE, IN_JOBS, METHODS, children, descriptors, settle
from holding import Hold, free, held

from jobserver import Future, Jobserver, StartMethod, SubmissionDied

#: How many submissions in all, by start method: as many as its cost allows.
SUBMISSIONS = {"fork": 10_000, "forkserver": 2_000, "spawn": 100}


Test = TypeVar("Test", bound=Callable[..., None])


def with_slow(*slow: str) -> Callable[[Test], Test]:
    """Each start method, some of them marked as slow."""
    mark: Any = pytest.mark.parametrize(
        "method",
        [pytest.param(m, marks=pytest.mark.slow) if m in slow else m for m in METHODS],
    )
    return cast("Callable[[Test], Test]", mark)


def in_a_small_program(test: Test) -> Test:
    """Has a test run in a program that has only what it needs. A fork costs by what its owner has
    in memory, and pytest has several times as much."""

    @functools.wraps(test)
    def run(method: StartMethod, **_: Any) -> None:
        tasks = Jobserver.__init__.__kwdefaults__
        program = (
            f"import {test.__module__} as tests\n"
            f"tests.Jobserver.__init__.__kwdefaults__.update({tasks!r})\n"
            f"tests.{test.__name__}.__wrapped__({method!r})"
        )
        path = os.pathsep.join([IN_JOBS, str(Path(__file__).parent)])
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)

    return cast("Test", run)


def warm_up(js: Jobserver) -> None:
    """Has everything made that is made once, what waits need included."""
    for future in [js(time.sleep, 0.1) for _ in range(js.slots + 1)]:
        future.result()
    settle(js)


def traces(js: Jobserver) -> dict[str, Any]:
    """What a job must leave as it was."""
    return {
        "descriptors": descriptors(),
        "children": children(),
        "threads": len(os.listdir("/proc/self/task")),
        "free slots": free(js),
    }


def memory() -> int:
    """What this process has in memory, in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@with_slow("fork", "forkserver", "spawn")
@in_a_small_program
def test_thousands_of_submissions_leave_nothing_behind(method: StartMethod) -> None:
    with Jobserver(method, 2) as js:
        warm_up(js)
        before = traces(js)
        for number in range(0, SUBMISSIONS[method], 10):
            futures = [js(int, number + n) for n in range(10)]
            assert [future.result() for future in futures] == [*range(number, number + 10)]
            assert len(os.listdir("/proc/self/task")) == before["threads"]
        del futures
        settle(js)
        assert traces(js) == before


@with_slow("fork", "forkserver", "spawn")
@in_a_small_program
def test_the_owners_memory_does_not_grow(method: StartMethod) -> None:
    rounds = {"fork": 1500, "forkserver": 500, "spawn": 20}[method]

    def submit(number: int) -> None:
        future = js.submit(bytes, args=(1000 * (number % 100),), env={"NUMBER": str(number)})
        future.when_done(len, "callback")
        assert len(future.result()) == 1000 * (number % 100)

    with Jobserver(method, 2) as js:
        for number in range(rounds // 2):  # until every cache is full
            submit(number)
        settle(js)
        before = memory()
        for number in range(rounds):
            submit(number)
        settle(js)
        # A leak of a kilobyte a job would show; one page of the allocator's does not.
        assert memory() - before < 1024 * max(rounds, 1000) // 2


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Lets this process have as many as it may."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@with_slow("fork", "forkserver", "spawn")
@in_a_small_program
def test_a_thousand_jobs_outstanding_at_once(
    method: StartMethod, many_descriptors: None = None
) -> None:
    count = {"fork": 1000, "forkserver": 100, "spawn": 30}[method]
    hold = Hold()
    with Jobserver(method, 1) as js:
        warm_up(js)
        before = traces(js)
        try:
            futures = [js.submit(held, args=(hold.end,), consume=0) for _ in range(count)]
            assert js._owner.here().outstanding == count
            assert not any(future.done() for future in futures[::50])
            assert free(js) == 1 and js(int, 7).result() == 7
            hold.let_go(count)
            assert [future.result() for future in futures] == [future.pid for future in futures]
            del futures
            settle(js)
            assert traces(js) == before
        finally:
            hold.close()


def announce_and_wait(announce: Any) -> int:
    """A job without jobs of its own, which is killed or told to go on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    announce.send_bytes(str(os.getpid()).encode())
    signal.sigwait({signal.SIGUSR1})
    return 1


def branch(js: Jobserver, levels: int, announce: Any) -> int:
    """A job with jobs of its own; returns how many of its leaves were not killed."""
    if levels == 0:
        futures = [js(announce_and_wait, announce)]
    else:
        futures = [js(branch, js, levels - 1, announce) for _ in range(2)]
    return sum(leaves(future) for future in futures)


def leaves(future: Future[int]) -> int:
    try:
        return future.result()
    except SubmissionDied as e:
        assert e.signal == signal.SIGKILL
        return 0


def decide(announced: Connection, expected: int, seed: int) -> int:
    """Kills every other leaf or so, from outside: how many were spared."""
    kills = random.Random(seed)
    spared = 0
    for _ in range(expected):
        assert announced.poll(DEADLINE), "a job has not begun"
        number = kills.choice([signal.SIGKILL, signal.SIGUSR1])
        os.kill(int(announced.recv_bytes()), number)
        spared += number == signal.SIGUSR1
    return spared


@with_slow("forkserver", "spawn")
@in_a_small_program
def test_killed_jobs_among_nested_ones_leave_nothing_behind(method: StartMethod) -> None:
    rounds = {"fork": 20, "forkserver": 10, "spawn": 1}[method]
    # Ten jobs are there at once: two trees, of one and two branches with a leaf each.
    with Jobserver(method, 10) as js:
        warm_up(js)
        announced, announce = multiprocessing.Pipe(duplex=False)
        with announced, announce:
            before = traces(js)
            for seed in range(rounds):
                trees = [js(branch, js, 1, announce) for _ in range(2)]
                spared = decide(announced, expected=4, seed=seed)
                assert sum(tree.result() for tree in trees) == spared
            del trees
            settle(js)
            assert traces(js) == before


def run_or_die(number: int, how: str) -> int:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raises":
        raise ValueError(number)
    if how == "exits":
        os._exit(number % 100 + 1)
    return number


def outcome(future: Future[int]) -> Any:
    error = future.exception()
    if isinstance(error, SubmissionDied):
        return error.signal, error.exitcode
    return future.result() if error is None else error.args


@with_slow("fork", "forkserver", "spawn")
@in_a_small_program
def test_a_mixture_of_results_errors_and_deaths_is_told_exactly(method: StartMethod) -> None:
    count = {"fork": 2000, "forkserver": 100, "spawn": 20}[method]
    mixture = random.Random(1)
    with Jobserver(method, 3) as js:
        warm_up(js)
        before = traces(js)
        jobs = []
        for number in range(count):
            how = mixture.choice(["returns", "raises", "exits", "killed"])
            expected: Any = {
                "returns": number,
                "raises": (number,),
                "exits": (None, number % 100 + 1),
                "killed": (signal.SIGKILL, None),
            }[how]
            consume = mixture.choice([0, 1])
            future = js.submit(run_or_die, args=(number, how), consume=consume)
            jobs.append((future, expected))
        assert [(outcome(future), expected) for future, expected in jobs] == [
            (expected, expected) for _, expected in jobs
        ]
        del jobs, future
        settle(js)
        assert traces(js) == before
