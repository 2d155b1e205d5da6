"""The backend for joblib where it runs threads: for what must share memory, and for nested work
that prefers threads."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until
from holding import free
from spans import Recorded, record

joblib = pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

import jobserver.joblib  # noqa: E402
from jobserver import Jobserver, JobserverExecutor  # noqa: E402

jobserver.joblib.register()

#: What makes a nested Parallel run threads.
THREADS = [{"require": "sharedmem"}, {"prefer": "threads"}]


@pytest.fixture
def method() -> str:
    """The only one in use: the backend has a thread."""
    return "forkserver"


@pytest.fixture
def js(made: Callable[..., Jobserver]) -> Iterator[Jobserver]:
    """With two slots, which are free at the test's end."""
    js = made(2, max_tasks_per_child=None, preload=["jobserver.joblib"])
    yield js
    for thread in threading.enumerate():
        if thread.name == "jobserver-joblib":  # it still ends after an error
            thread.join(DEADLINE)
    wait_until(lambda: all_free(js))


def all_free(js: Jobserver) -> bool:
    """Whether both slots are free, after those of killed processes have been put back, as whoever
    waits for a slot does."""
    js._owner.here().reclaim()
    return bool(free(js) == 2)


@pytest.fixture
def pool(js: Jobserver) -> Callable[[], Any]:
    return lambda: parallel_config("jobserver", jobserver=js, n_jobs=2)


def square(x: int) -> int:
    return x * x


def where() -> tuple[int, bool]:
    """The process, and whether this is a thread beside its main one."""
    return os.getpid(), threading.current_thread() is not threading.main_thread()


def inner(log: str, return_as: str, hints: dict[str, str]) -> int:
    record(log)
    came = list(
        Parallel(n_jobs=4, return_as=return_as, **hints)(delayed(where)() for _ in range(9))
    )
    Parallel(n_jobs=4, **hints)(delayed(record)(log) for _ in range(3))
    record(log)
    assert came == [(os.getpid(), True)] * 9
    return 1


# Where they run.


def test_what_must_share_memory_does(pool: Any) -> None:
    came: list[int] = []
    with pool():
        Parallel(n_jobs=2, require="sharedmem")(delayed(came.append)(x) for x in range(100))
    assert sorted(came) == list(range(100))


@pytest.mark.parametrize("hints", THREADS)
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_nested_threads_keep_to_the_slots(
    pool: Any, tmp_path: Path, return_as: str, hints: dict[str, str]
) -> None:
    log = tmp_path / "log"
    with pool():
        assert Parallel()(delayed(inner)(str(log), "list", hints) for _ in range(4)) == [1] * 4
    recorded = Recorded.in_log(log)
    assert recorded.count == 20
    assert recorded.most <= 2


def test_a_preference_for_threads_yields_to_the_backend_that_the_program_names(pool: Any) -> None:
    with pool():
        came = Parallel(prefer="threads")(delayed(where)() for _ in range(4))
    assert os.getpid() not in {pid for pid, _ in came}


def test_threads_of_the_program_and_jobs_share_the_slots(pool: Any, tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    def work(**hints: str) -> None:
        with pool():
            Parallel(**hints)(delayed(record)(log) for _ in range(6))

    threads = [threading.Thread(target=work), threading.Thread(target=work, kwargs=THREADS[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    recorded = Recorded.in_log(Path(log))
    assert recorded.count == 12
    assert recorded.most <= 2


# Nested work in threads never waits for itself.


def nested(depth: int, return_as: str, *hints: dict[str, str]) -> int:
    if not depth:
        return 1
    parallel = Parallel(n_jobs=2, return_as=return_as, **hints[0])
    return sum(parallel(delayed(nested)(depth - 1, return_as, *hints[1:]) for _ in range(3)))


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize(
    "hints",
    [
        [{"require": "sharedmem"}, {}, {"prefer": "threads"}],
        [{"require": "sharedmem"}, {"require": "sharedmem"}, {}],
        [{}, {"prefer": "threads"}, {"prefer": "threads"}],
        [{}, {"prefer": "threads"}, {"prefer": "processes"}],
    ],
)
def test_threads_nest_with_jobs_and_threads(pool: Any, return_as: str, hints: Any) -> None:
    with pool():
        assert nested(3, return_as, *hints) == 27


def submits(js: Jobserver) -> int:
    return js(square, 3).result(DEADLINE)


def submits_for_several(js: Jobserver) -> int:
    return js.submit(square, args=(3,), consume=2).result(DEADLINE)


def submits_with_gate(js: Jobserver) -> int:
    return js.submit(square, args=(3,), sleep_fn=lambda: None).result(DEADLINE)


def maps(js: Jobserver) -> int:
    return sum(js.map(square, [(1,), (2,), (2,)]))


def executes(js: Jobserver) -> int:
    with JobserverExecutor(jobserver=js) as executor:
        return executor.submit(square, 3).result(DEADLINE)


def awaits(js: Jobserver) -> int:
    async def main() -> int:
        return await asyncio.wait_for(js.run(square, 3), DEADLINE)

    return asyncio.run(main())


WAYS = [submits, submits_for_several, submits_with_gate, maps, executes, awaits]


@pytest.mark.parametrize("way", WAYS)
def test_a_thread_that_waits_for_jobs_lets_them_have_its_slot(
    js: Any, pool: Any, way: Callable[[Jobserver], int]
) -> None:
    # The two threads have both slots until each has ended.
    with pool():
        assert Parallel(require="sharedmem")(delayed(way)(js) for _ in range(4)) == [9] * 4


def gathers(*hints: dict[str, str]) -> int:
    """Consumes a generator, whose calls return lists."""
    calls = Parallel(n_jobs=2, return_as="generator", **hints[0])
    return sum(calls(delayed(nested)(2, "list", *hints[1:]) for _ in range(2)))


@pytest.mark.parametrize("hints", THREADS)
def test_a_thread_of_a_generator_in_a_job_lets_what_it_runs_have_the_slot_of_the_job(
    pool: Any, hints: dict[str, str]
) -> None:
    # Both jobs wait, and have their slots back when their threads wait too.
    with pool():
        assert Parallel()(delayed(gathers)(hints, hints, hints) for _ in range(2)) == [18] * 2


def gather_in_pool(js: Jobserver) -> int:
    with parallel_config("jobserver", jobserver=js, n_jobs=2):
        calls = Parallel(require="sharedmem", return_as="generator")
        return sum(calls(delayed(nested)(1, "list", {}) for _ in range(6)))


def test_a_thread_does_not_keep_its_slot_from_a_job_that_yields(
    made: Callable[..., Jobserver],
) -> None:
    js = made(2, max_tasks_per_child=None, preload=["jobserver.joblib"], waiting="yield")
    for _ in range(3):
        jobs = [js(gather_in_pool, js) for _ in range(3)]
        assert [job.result(DEADLINE) for job in jobs] == [18] * 3


def sum_in_job(js: Jobserver, return_as: str) -> int:
    with parallel_config("jobserver", jobserver=js, n_jobs=2):
        parallel = Parallel(require="sharedmem", return_as=return_as)
        return sum(parallel(delayed(square)(x) for x in range(6)))


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_job_of_several_slots_lets_its_threads_have_them(js: Any, return_as: str) -> None:
    job = js.submit(sum_in_job, args=(js, return_as), consume=2)
    assert job.result(DEADLINE) == 55


PROGRAM = """
import jobserver
with jobserver.Jobserver("forkserver") as js:
    print(js(abs, -3).result())
"""


def run_program() -> str:
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def run_programs(return_as: str, hints: dict[str, str]) -> list[str]:
    parallel = Parallel(n_jobs=2, return_as=return_as, **hints)
    return [*parallel(delayed(run_program)() for _ in range(2))]


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_thread_that_waits_for_a_program_lets_the_programs_jobs_have_its_slot(
    pool: Any, return_as: str
) -> None:
    with pool():
        came = Parallel()(delayed(run_programs)(return_as, THREADS[0]) for _ in range(2))
    assert came == [["3\n"] * 2] * 2


def test_a_thread_begins_no_call_without_a_slot(js: Any, pool: Any) -> None:
    begun: list[float] = []

    def call() -> None:
        begun.append(time.monotonic())
        time.sleep(0.005)

    def work() -> None:
        with pool():
            Parallel(require="sharedmem")(delayed(call)() for _ in range(200))

    js(time.sleep, 0).result(DEADLINE)
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: len(begun) > 4)
    jobs = [js(time.sleep, 0.5) for _ in range(2)]
    has_both = time.monotonic()
    for job in jobs:
        job.result(DEADLINE)
    ended = time.monotonic()
    thread.join(DEADLINE)
    # (One that has looked for its slot already may begin a moment later.)
    assert not [at for at in begun if has_both + 0.05 < at < min(has_both + 0.4, ended)]


def test_batches_grow_too_where_jobs_are_forked() -> None:
    # Such a job gets its batch without a pickle, and does not measure it.
    with Jobserver("fork", 2) as js, parallel_config("jobserver", jobserver=js, n_jobs=2):
        came = Parallel()(delayed(where)() for _ in range(400))
    assert len({pid for pid, _ in came}) < 200


# Ends.


def fails(x: int) -> None:
    raise ValueError(x)


def fail_in_threads(hints: dict[str, str]) -> None:
    Parallel(n_jobs=2, **hints)(delayed(fails)(x) for x in range(9))


@pytest.mark.parametrize("hints", THREADS)
def test_an_error_of_a_nested_thread_is_told(pool: Any, hints: dict[str, str]) -> None:
    with pool(), pytest.raises(ValueError):
        Parallel()(delayed(fail_in_threads)(hints) for _ in range(2))


def test_an_error_ends_the_calls_that_have_not_begun(pool: Any) -> None:
    came: list[int] = []

    def call(x: int) -> None:
        came.append(x)
        raise ValueError(x)

    with pool(), pytest.raises(ValueError):
        Parallel(require="sharedmem", pre_dispatch="all")(delayed(call)(x) for x in range(1000))
    assert len(came) < 1000


def test_a_timeout_is_told_while_calls_run(js: Any, pool: Any) -> None:
    ends = threading.Event()
    with pool(), pytest.raises(multiprocessing.TimeoutError):
        Parallel(require="sharedmem", timeout=0.1)(delayed(ends.wait)(DEADLINE) for _ in range(8))
    assert free(js) == 0  # they still run
    ends.set()


def holds(path: str) -> None:
    Path(path).touch()
    time.sleep(DEADLINE)


def hold_in_pool(js: Jobserver, folder: str) -> None:
    with parallel_config("jobserver", jobserver=js, n_jobs=2):
        Parallel(require="sharedmem")(delayed(holds)(f"{folder}/{x}") for x in range(2))


def test_the_slots_of_threads_come_back_when_their_process_is_killed(
    js: Any, tmp_path: Path
) -> None:
    job = js.submit(hold_in_pool, args=(js, str(tmp_path)))
    wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
    job.kill()
    assert [each.result(DEADLINE) for each in [js(square, 2), js(square, 3)]] == [4, 9]


CTRL_C = """
import faulthandler, os, sys, time
faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)  # rather than hang
from joblib import Parallel, delayed, parallel_config
import jobserver.joblib

def call():
    os.write(1, b"runs\\n")  # at once: threads write beside each other
    time.sleep(600)

if __name__ == "__main__":
    jobserver.joblib.register()
    try:
        with parallel_config("jobserver", n_jobs=2):
            Parallel(require="sharedmem")(delayed(call)() for _ in range(8))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_need_not_wait_for_threads(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(CTRL_C)
    with subprocess.Popen(
        [sys.executable, str(program), str(DEADLINE)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["runs\n", "runs\n"]
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(DEADLINE) == 0
