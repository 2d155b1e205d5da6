"""Slots: how many jobs may run at once, and that every slot comes back.

Not about slots that survive kills of the whole tree, or that make shares. Functions run in jobs
stand at the top. Semaphores of multiprocessing say "begun" and "go on" between owner and job.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DEADLINE
from spans import Recorded

from jobserver import Blocked, Future, Jobserver


class Span(NamedTuple):
    """From when to when a job ran, by the clock that all processes share."""

    begun: float
    ended: float


def nothing() -> None:
    pass


def work(seconds: float) -> Span:
    begun = time.monotonic()
    time.sleep(seconds)  # stands for work
    return Span(begun, time.monotonic())


def tree(js: Jobserver, depth: int, seconds: float) -> list[Span]:
    """The spans of this job and of all below it; what finds no free slot is done in place."""
    begun = time.monotonic()
    futures = []
    spans = []
    for _ in range(2 if depth else 0):
        try:
            futures.append(js.submit(tree, args=(js, depth - 1, seconds), timeout=0))
        except Blocked:
            spans += tree(js, depth - 1, seconds)[:-1]  # the last one is no job's
    time.sleep(seconds)
    for future in futures:
        spans += future.result()
    return [*spans, Span(begun, time.monotonic())]


def hold(begun: Any, go: Any) -> Span:
    """Says that it has begun, and ends when it is let go."""
    start = time.monotonic()
    begun.release()
    assert go.acquire(timeout=DEADLINE)
    return Span(start, time.monotonic())


def descend(js: Jobserver) -> int:
    """How many jobs deep this gets when nobody waits for a slot."""
    try:
        below = js.submit(descend, args=(js,), timeout=0)
    except Blocked:
        return 1
    return 1 + below.result()


def fail() -> None:
    raise LookupError("on purpose")


def exit_by_sys() -> None:
    sys.exit(3)


def exit_at_once() -> None:
    os._exit(4)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def return_what_cannot_be_pickled() -> object:
    return (n for n in range(3))


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ()


def return_what_cannot_be_unpickled() -> Unloadable:
    return Unloadable()


def slots_by_default_with_affinity(cpus: set[int]) -> int:
    os.sched_setaffinity(0, cpus)
    return Jobserver().slots


def slots_by_default_in_cgroup(folder: Path) -> int:
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    return Jobserver().slots


class Holding:
    """Jobs that hold their slots until they are let go."""

    def __init__(self, js: Jobserver) -> None:
        self.js = js
        self.begun = js.context.Semaphore(0)
        self.go = js.context.Semaphore(0)

    def start(self) -> Future[Span]:
        future = self.js.submit(hold, args=(self.begun, self.go), timeout=DEADLINE)
        assert self.begun.acquire(timeout=DEADLINE)
        return future


def assert_all_free(js: Jobserver) -> None:
    """No slot is missing, and none has become two."""
    holding = Holding(js)
    for _ in range(js.slots):
        holding.start()
    with pytest.raises(Blocked):
        js.submit(nothing, timeout=0)
    for _ in range(js.slots):
        holding.go.release()


@contextmanager
def in_a_moment(act: Callable[[], object]) -> Iterator[None]:
    """Acts while the body waits: by a signal, so that it takes no thread."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Lets this process, and what it starts, open only so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = [os.dup(0) for _ in range(count + 1)]
    for fd in lowest_free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(lowest_free), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Quota(NamedTuple):
    """A cgroup that limits the time on all CPUs."""

    folder: Path
    file: str
    limit: str  # to be filled in with the microseconds in each 100 ms


@pytest.fixture
def quota() -> Iterator[Quota]:
    """A new cgroup, of whichever version has the cpu controller and lets us write."""
    name = f"jobserver-test-{os.getpid()}"
    for quota in (
        Quota(Path("/sys/fs/cgroup/cpu", name), "cpu.cfs_quota_us", "{}"),
        Quota(Path("/sys/fs/cgroup", name), "cpu.max", "{} 100000"),
    ):
        with suppress(OSError):
            quota.folder.mkdir()
            try:
                if (quota.folder / quota.file).exists():
                    yield quota
                    return
            finally:
                quota.folder.rmdir()
    pytest.skip("needs a cgroup with the cpu controller that this user may change")


def test_never_more_jobs_at_once_than_slots(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=3)
    spans = [future.result() for future in [js(work, 0.05) for _ in range(9)]]
    assert Recorded.of(spans).most <= 3


def test_a_nested_tree_never_runs_more_at_once_than_slots(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=3)
    roots = [js(tree, js, 2, 0.02) for _ in range(3)]
    spans = [span for root in roots for span in root.result()]
    assert len(spans) >= 3
    assert Recorded.of(spans).most <= 3


def test_as_many_jobs_run_at_once_as_there_are_slots(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=3)
    holding = Holding(js)
    running = [holding.start() for _ in range(3)]
    assert not any(future.done() for future in running)
    for _ in running:
        holding.go.release()


@pytest.mark.parametrize("timeout", [0, 0.05, -1, float("-inf")])
def test_submit_is_blocked_when_no_slot_comes_in_time(js: Jobserver, timeout: float) -> None:
    holding = Holding(js)
    futures = [holding.start() for _ in range(2)]
    begun = time.monotonic()
    with pytest.raises(Blocked):
        js.submit(nothing, timeout=timeout)
    assert time.monotonic() - begun >= timeout
    for _ in futures:
        holding.go.release()


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_submit_waits_until_a_slot_is_free(
    make_jobserver: Callable[..., Jobserver], timeout: float | None
) -> None:
    js = make_jobserver(slots=1)
    holding = Holding(js)
    first = holding.start()
    with in_a_moment(holding.go.release):
        second = js.submit(work, args=(0,), timeout=timeout)
    assert second.result().begun >= first.result().ended


def test_a_job_that_consumes_nothing_needs_no_slot(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    holding = Holding(js)
    holding.start()
    js.submit(nothing, consume=0, timeout=0).result()
    holding.go.release()


@pytest.mark.parametrize("fn", [nothing, kill_itself])
def test_a_job_that_consumes_nothing_gives_back_nothing(js: Jobserver, fn: Any) -> None:
    js.submit(fn, consume=0).wait()
    assert_all_free(js)


@pytest.mark.parametrize("consume", [-1, 3, 10**30])
def test_a_job_consumes_no_more_slots_than_there_are(js: Jobserver, consume: int) -> None:
    with pytest.raises(ValueError, match="consume"):
        js.submit(nothing, consume=consume)


@pytest.mark.parametrize(
    "fn",
    [
        nothing,
        fail,
        exit_by_sys,
        exit_at_once,
        kill_itself,
        return_what_cannot_be_pickled,
        return_what_cannot_be_unpickled,
    ],
)
def test_a_slot_is_back_however_its_job_ended(
    make_jobserver: Callable[..., Jobserver], fn: Callable[[], object]
) -> None:
    js = make_jobserver(slots=1)
    js(fn).exception()
    assert_all_free(js)


def test_a_slot_is_back_when_the_work_cannot_be_sent(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    for unsendable in ((n for n in range(3)), Unloadable()):
        with suppress(Exception):
            js(print, unsendable).result()
    assert_all_free(js)


@pytest.mark.fresh
def test_a_slot_is_back_when_the_system_refuses_a_launch(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    js(nothing).result()  # all is loaded now, and the fork server there
    refused: list[OSError] = []  # keeps the tracebacks too, which must hold no slot
    for left in range(8):
        try:
            with descriptors_left(left):
                future = js.submit(nothing, timeout=DEADLINE)
        except OSError as e:
            refused.append(e)
        else:
            future.wait()  # it may have fared ill under the limit that it inherited
    assert {e.errno for e in refused} == {errno.EMFILE}
    assert_all_free(js)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_the_depth_of_recursion_without_waiting_is_the_number_of_slots(
    make_jobserver: Callable[..., Jobserver], slots: int
) -> None:
    js = make_jobserver(slots=slots)
    assert js(descend, js).result() == slots


def test_a_jobserver_says_how_many_slots_it_has() -> None:
    for slots in (1, 7, 16384):
        with Jobserver(slots=slots) as js:
            assert js.slots == slots


#: For a job that is to have nothing to do with the pool that it runs in.
NO_POOL = {"MAKEFLAGS": None}


def test_by_default_there_are_no_more_slots_than_the_affinity_mask_has_cpus() -> None:
    cpus = os.sched_getaffinity(0)
    with Jobserver("fork", 1) as js:
        alone = js.submit(slots_by_default_with_affinity, args=({min(cpus)},), env=NO_POOL)
        assert alone.result() == 1
        every = js.submit(slots_by_default_with_affinity, args=(cpus,), env=NO_POOL)
        assert 1 <= every.result() <= len(cpus)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("cpus, expected", [(0.5, 1), (1.0, 1), (1.5, 1), (2.0, 2), (100.0, None)])
def test_by_default_there_are_no_more_slots_than_the_cgroup_has_cpu_time(
    quota: Quota, cpus: float, expected: int | None
) -> None:
    (quota.folder / quota.file).write_text(quota.limit.format(int(cpus * 100000)))
    with Jobserver("fork", 1) as js:
        slots = js.submit(slots_by_default_in_cgroup, args=(quota.folder,), env=NO_POOL).result()
    assert slots == (expected or len(os.sched_getaffinity(0)))
