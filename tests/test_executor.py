"""JobserverExecutor: what its Futures, its slots and its thread promise. How it ends, and what
forks do to it, is in `test_executor_ends.py`; CPython's own tests of executors run in
`test_foreign_futures.py`."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, OWNERS_METHODS, each_method, wait_until
from holding import Hold, free, held

from jobserver import (
    Jobserver,
    JobserverExecutor,
    SubmissionDied,
    TimeLimitExceeded,
)

Make = Callable[..., JobserverExecutor]


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(method: str) -> Iterator[Make]:
    """Makes executors of the start method at hand, which are shut down at the test's end."""
    made: list[JobserverExecutor] = []

    def make(slots: int | None = 2, *args: Any, **kwargs: Any) -> JobserverExecutor:
        made.append(JobserverExecutor(slots, method, *args, **kwargs))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown()


def thread_of(executor: JobserverExecutor) -> threading.Thread:
    return executor._runner._thread


# States.


def test_a_future_is_pending_until_its_job_has_a_slot(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    third = executor.submit(held, hold.end)
    assert not third.running() and not third.done()
    hold.let_go()
    wait_until(third.running)
    hold.let_go(2)
    assert {future.result(DEADLINE) for future in full} != {third.result(DEADLINE)}


def test_submit_returns_while_no_slot_is_free(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    waiting = [executor.submit(pow, 2, n) for n in range(100)]
    assert not any(future.done() for future in waiting)
    hold.let_go(2)
    assert [future.result(DEADLINE) for future in waiting] == [2**n for n in range(100)]


def test_who_waits_for_a_pending_future_hears_at_once_that_it_is_cancelled(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    pending = executor.submit(int)
    waiting = threading.Thread(target=futures.wait, args=([pending],))
    waiting.start()
    assert pending.cancel()
    waiting.join(DEADLINE)  # both slots are taken all the time
    assert not waiting.is_alive() and pending.cancelled()
    assert next(futures.as_completed([pending], DEADLINE)) is pending
    assert not full[0].cancel()
    hold.let_go(2)


def test_a_cancelled_call_never_runs(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]], tmp_path: Path
) -> None:
    pending = executor.submit(os.mkdir, tmp_path / "made")
    assert pending.cancel()
    hold.let_go(2)
    assert executor.submit(int).result(DEADLINE) == 0
    assert not (tmp_path / "made").exists()


def test_callbacks_are_called_though_nobody_calls(executor: JobserverExecutor) -> None:
    told = threading.Event()
    executor.submit(int).add_done_callback(lambda future: told.set())
    assert told.wait(DEADLINE)


def test_keywords_named_fn_and_self_are_the_functions_own(executor: JobserverExecutor) -> None:
    assert executor.submit(dict, self=1, fn=2).result(DEADLINE) == {"self": 1, "fn": 2}


# Its thread.


def test_there_is_no_thread_before_the_first_submission(make: Make) -> None:
    before = threading.active_count()
    executor = make()
    assert threading.active_count() == before
    executor.submit(int).result(DEADLINE)
    assert threading.active_count() == before + 1
    executor.shutdown()
    assert threading.active_count() == before


def switches_of(thread: threading.Thread) -> str | None:
    """How often a thread has slept; None while it runs."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return status[status.index("voluntary_ctxt") :] if "State:\tS" in status else None


def test_a_thread_without_work_sleeps_without_wakeups(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    executor.submit(int)  # which waits for a slot
    before = when_at_rest(thread_of(executor))
    time.sleep(1)  # in which nothing happens
    assert switches_of(thread_of(executor)) == before
    hold.let_go(2)


def when_at_rest(thread: threading.Thread) -> str:
    """Returns when the thread has slept for a second: its checks after an event are over."""
    seen, since = None, time.monotonic()

    def at_rest() -> str | None:
        nonlocal seen, since
        now = switches_of(thread)
        if now is None or now != seen:
            seen, since = now, time.monotonic()
        return seen if time.monotonic() - since > 1 else None

    return str(wait_until(at_rest))


def test_a_sleeping_thread_keeps_neither_calls_nor_results(executor: JobserverExecutor) -> None:
    import weakref

    gone = threading.Event()
    future = executor.submit(Thing, Thing())
    result = future.result(DEADLINE)
    weakref.finalize(result, gone.set)
    del result, future
    assert gone.wait(DEADLINE)


class Thing:
    def __init__(self, other: Any = None) -> None:
        self.other = other


# Slots.


def tree(depth: int) -> int:
    """In a job: how many jobs an executor's tree has, the slots of which are this job's pool."""
    with JobserverExecutor() as executor:
        below = [executor.submit(tree, depth - 1) for _ in range(2 if depth else 0)]
        return 1 + sum(future.result(DEADLINE) for future in below)


@pytest.mark.parametrize("slots", [1, 2])
def test_nested_executors_share_the_slots_and_do_not_deadlock(make: Make, slots: int) -> None:
    assert make(slots).submit(tree, 3).result(DEADLINE) == 15


def slots_below() -> tuple[int, int]:
    with JobserverExecutor() as executor:
        return executor._max_workers, executor.submit(os.getppid).result(DEADLINE)


def test_an_executor_made_in_a_job_joins_its_pool(make: Make) -> None:
    assert make(3).submit(slots_below).result(DEADLINE)[0] == 3


def busy_below(folder: str, depth: int) -> None:
    """Each leaf says that it runs while it does; the others wait in their main thread."""
    if not depth:
        mine = Path(folder, str(os.getpid()))
        mine.touch()
        Path(folder, f"seen-{len([*Path(folder).glob('[0-9]*')])}").touch()
        mine.unlink()
        return
    with JobserverExecutor() as executor:
        futures.wait([executor.submit(busy_below, folder, depth - 1) for _ in range(3)])


def test_no_more_jobs_run_at_once_than_there_are_slots(make: Make, tmp_path: Path) -> None:
    make(2).submit(busy_below, str(tmp_path), 3).result(DEADLINE)
    assert {path.name for path in tmp_path.glob("seen-*")} <= {"seen-1", "seen-2"}


# Another's Jobserver.


def test_a_shared_jobserver_brings_its_slots_and_options(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(2)
    quick = js.with_options(time_limit=0.05, env={"TOLD": "yes"})
    with JobserverExecutor(jobserver=quick) as executor:
        assert executor.submit(os.getenv, "TOLD").result(DEADLINE) == "yes"
        error = executor.submit(held, hold.end).exception(DEADLINE)
    assert isinstance(error, TimeLimitExceeded) and isinstance(error, BrokenProcessPool)
    assert js(int).result(DEADLINE) == 0  # it is not closed


def test_a_gate_of_a_shared_jobserver_is_asked(make_jobserver: Callable[..., Jobserver]) -> None:
    answers: list[float | None] = [None, 0.01, 0.01]
    js = make_jobserver(1).with_options(sleep_fn=lambda: answers.pop())
    with JobserverExecutor(jobserver=js) as executor:
        assert executor.submit(int).result(DEADLINE) == 0
    assert answers == []


def test_calls_that_take_no_slot_or_several(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(2)
    with JobserverExecutor(jobserver=js.with_options(consume=2)) as executor:
        holds = executor.submit(held, hold.end)
        wait_until(holds.running)
        assert free(js) == 0
        with JobserverExecutor(jobserver=js.with_options(consume=0)) as free_of_charge:
            assert free_of_charge.submit(int).result(DEADLINE) == 0
        hold.let_go()


def call_of_two_slots(js: Jobserver) -> int:
    with JobserverExecutor(jobserver=js.with_options(consume=2)) as executor:
        return executor.submit(pow, 2, 5).result(DEADLINE)


def test_a_job_gives_its_slot_away_for_a_call_that_takes_all(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(2)
    assert js(call_of_two_slots, js).result(DEADLINE) == 32


def say_and_die() -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_message_of_a_death_has_what_was_captured(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(2).with_options(output="capture")
    with JobserverExecutor(jobserver=js) as executor:
        with pytest.raises(SubmissionDied, match="last words"):
            executor.submit(say_and_die).result(DEADLINE)


def test_callbacks_of_a_shared_jobserver_run_in_the_users_calls(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js, ran_in = make_jobserver(2), []
    with JobserverExecutor(jobserver=js) as executor:
        job = js(int)
        job.when_done(lambda: ran_in.append(threading.get_ident()))
        for _ in range(20):
            executor.submit(int).result(DEADLINE)
        assert job.wait(DEADLINE)
    assert ran_in == [threading.get_ident()]


@pytest.mark.parametrize(
    "wrong",
    [{"max_workers": 2}, {"mp_context": "spawn"}, {"initializer": int}, {"initargs": (1,)}],
)
def test_a_shared_jobserver_and_settings_of_ones_own_exclude_each_other(
    make_jobserver: Callable[..., Jobserver], wrong: Any
) -> None:
    with pytest.raises(TypeError, match="jobserver brings its own"):
        JobserverExecutor(jobserver=make_jobserver(1), **wrong)
    with pytest.raises(TypeError, match="must be a Jobserver"):
        JobserverExecutor(jobserver=2)  # type: ignore[arg-type]


# Deaths.


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@each_method
def test_a_death_is_one_futures_and_the_executor_goes_on(make: Make) -> None:
    executor = make()
    others = [executor.submit(time.sleep, 0.1) for _ in range(4)]
    died = executor.submit(crash)
    error = died.exception(DEADLINE)
    assert isinstance(error, SubmissionDied) and isinstance(error, BrokenProcessPool)
    assert error.signal == signal.SIGKILL
    assert [future.result(DEADLINE) for future in others] == [None] * 4
    assert executor.submit(int).result(DEADLINE) == 0
    assert pickle.loads(pickle.dumps(error)).signal == signal.SIGKILL


def fail() -> None:
    raise LookupError("no")


def test_a_failing_initializer_breaks_the_executor(make: Make, capfd: Any) -> None:
    executor = make(2, fail)
    submitted = [executor.submit(int) for _ in range(4)]
    for future in submitted:
        with pytest.raises(BrokenProcessPool, match="initializer failed: LookupError"):
            future.result(DEADLINE)
    with pytest.raises(BrokenProcessPool) as raised:
        executor.submit(int)
    assert isinstance(raised.value.__cause__, LookupError)
    assert "Exception in initializer" in capfd.readouterr().err


def remember(lock: Any, queue: Any) -> None:
    with lock:
        queue.put(os.getpid())


def test_locks_and_queues_go_to_initializers_and_calls(method: Any) -> None:
    context = multiprocessing.get_context(method)
    lock, queue = context.Lock(), context.SimpleQueue()
    with JobserverExecutor(1, method, remember, (lock, queue)) as executor:
        assert executor.submit(int).result(DEADLINE) == 0
        executor.submit(remember, lock, queue).result(DEADLINE)
    assert queue.get() and queue.get()
    del lock, queue, executor  # with their descriptors
    gc.collect()


def test_a_process_runs_no_more_calls_than_it_may(make: Make) -> None:
    executor = make(1, max_tasks_per_child=3)
    pids = [executor.submit(os.getpid).result(DEADLINE) for _ in range(7)]
    assert len({*pids[:3]}) == len({*pids[3:6]}) == 1
    assert len({*pids}) == 3


# What cannot be pickled.


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("never")


def test_what_cannot_be_pickled_is_that_futures_error(make: Make, method: str) -> None:
    executor = make()
    assert executor.submit(int).result(DEADLINE) == 0
    if method != "fork":
        calls: Any = [(id, Unpicklable()), (Unpicklable().__reduce__,)]
        for call in calls:
            with pytest.raises(pickle.PicklingError):
                executor.submit(*call).result(DEADLINE)
    with pytest.raises(pickle.PicklingError):
        executor.submit(Unpicklable).result(DEADLINE)
    assert executor.submit(int).result(DEADLINE) == 0


# Others that use executors.


def test_event_loops_use_it(executor: JobserverExecutor) -> None:
    async def use() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(executor, pow, 2, 3)
        return await asyncio.gather(first, asyncio.wrap_future(executor.submit(pow, 3, 2)))

    assert [*asyncio.run(use())] == [8, 9]


def test_a_map_yields_results_in_order_and_reads_no_further_than_its_buffer(
    executor: JobserverExecutor,
) -> None:
    read: list[int] = []
    items = (read.append(n) or n for n in range(10))  # type: ignore[func-returns-value]
    results = executor.map(pow, items, [2] * 10, buffersize=3)
    assert read == [0, 1, 2]
    assert [next(results), next(results)] == [0, 1]
    assert read == [0, 1, 2, 3, 4]
    assert [*results] == [n * n for n in range(2, 10)]
    assert [*executor.map(pow, range(10), [2] * 10, chunksize=4)] == [n * n for n in range(10)]


@pytest.mark.parametrize(
    "wrong, error, told",
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_wrong_arguments_of_map_are_refused(
    executor: JobserverExecutor, wrong: Any, error: Any, told: str
) -> None:
    with pytest.raises(error, match=told):
        executor.map(int, [1], **wrong)


def test_tqdms_process_map_uses_it(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """It replaces `submit` on the instance, and gives an initializer with a lock of its own."""
    concurrent = pytest.importorskip("tqdm.contrib.concurrent")
    monkeypatch.setattr(concurrent.tqdm_auto, "monitor_interval", 0)  # otherwise a thread stays
    monkeypatch.setattr(futures, "ProcessPoolExecutor", JobserverExecutor)
    results = concurrent.process_map(abs, range(-20, 0), max_workers=2, disable=True)
    assert results == [*range(20, 0, -1)]


def test_a_make_below_it_has_the_slots(make: Make, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all:\n\t@echo $(MAKEFLAGS)\n")
    command = ["make", "-C", str(tmp_path)]
    told = make(2).submit(subprocess.check_output, command, close_fds=False).result(DEADLINE)
    assert b"--jobserver" in told


def test_default_arguments_never_mean_fork(method: str) -> None:
    with JobserverExecutor(1) as executor:
        assert executor._mp_context.get_start_method() != "fork"
