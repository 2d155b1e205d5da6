"""A Jobserver that nobody has any more, nor a Future of it, while its jobs run: they go on to
their ends, and nothing else of it stays.

Not here: one that is dropped idle (test_close, test_workers).
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, descriptors, wait_until
from holding import Hold, held

from jobserver import Jobserver, StartMethod


def homes() -> set[str]:
    prefix = f"jobserver-pool-{os.getpid()}-"
    return {name for name in os.listdir("/dev/shm") if name.startswith(prefix)}


def gone(before: tuple[Any, ...]) -> bool:
    """Whether all is as before, once another process has been born."""
    with Jobserver("fork", 1) as js:
        js(int).result()
    return (children(), homes(), descriptors()) == before


@pytest.fixture
def before(method: StartMethod, hold: Hold) -> tuple[Any, ...]:
    """What there is when a process has started what it starts once."""
    with Jobserver(method, 1) as js:
        js(int).result()
    return children(), homes(), descriptors()


@pytest.fixture
def dropped(method: StartMethod, hold: Hold) -> Callable[..., None]:
    """Drops a Jobserver with a job that runs until it is let go."""

    def drop(**kwargs: Any) -> None:
        Jobserver(method, 2, **kwargs)(held, hold.end)
        gc.collect()

    return drop


@pytest.mark.parametrize("tasks", [1, None])
def test_dropped_jobservers_leave_nothing_when_their_jobs_have_ended(
    method: StartMethod,
    before: tuple[Any, ...],
    hold: Hold,
    dropped: Callable[..., None],
    tasks: int | None,
) -> None:
    count = 50 if method == "fork" else 15
    for _ in range(count):
        dropped(max_tasks_per_child=tasks)
    # For each job that runs a pidfd, the lock of its home, and its helper; and one lifeline.
    assert len(descriptors()) - len(before[2]) <= 3 * count + 2
    assert len(homes()) <= count
    hold.let_go(count)
    wait_until(lambda: gone(before))


def test_dropping_idle_processes_and_helpers_leaves_nothing(
    method: StartMethod, before: tuple[Any, ...]
) -> None:
    for _ in range(5):
        js = Jobserver(method, 2, max_tasks_per_child=None)
        [future.result() for future in [js(int), js(int)]]
        js = Jobserver(method, 2, max_tasks_per_child=1)
        [js(int).result() for _ in range(6)]
    del js
    gc.collect()
    wait_until(lambda: gone(before))


def test_a_future_keeps_its_jobserver(method: StartMethod, hold: Hold) -> None:
    future = Jobserver(method, 1)(held, hold.end)
    gc.collect()
    called: list[int] = []
    future.when_done(called.append, 1)
    hold.let_go()
    assert future.result() == future.pid
    assert called == [1]
    future._owner.close()


def test_a_jobserver_keeps_what_waits_for_its_jobs(method: StartMethod, hold: Hold) -> None:
    called: list[int] = []
    with Jobserver(method, 1) as js:
        js(held, hold.end).when_done(called.append, 1)
        gc.collect()
        hold.let_go()
    assert called == [1]


def work_below(js: Jobserver, end: Any, file: Path) -> None:
    held(end)
    below = [js(pow, 2, n) for n in (3, 5)]
    file.write_text(str(sum(future.result() for future in below)))
    program = "import jobserver; print('', jobserver.Jobserver()(pow, 2, 3).result(), end='')"
    with file.open("a") as opened:
        subprocess.run([sys.executable, "-c", program], stdout=opened, check=True)


@pytest.mark.parametrize("tasks", [1, None])
def test_jobs_of_a_dropped_jobserver_may_still_submit_and_share_its_slots(
    method: StartMethod, before: tuple[Any, ...], hold: Hold, tmp_path: Path, tasks: int | None
) -> None:
    js = Jobserver(method, 2, max_tasks_per_child=tasks)
    js(work_below, js, hold.end, tmp_path / "file")
    del js
    gc.collect()
    hold.let_go()
    wait_until(lambda: gone(before))
    assert (tmp_path / "file").read_text() == "40 8"


def test_a_job_that_winds_down_is_not_killed_as_its_jobserver_is_dropped(
    method: StartMethod, before: tuple[Any, ...], hold: Hold, tmp_path: Path
) -> None:
    """Its result has come, but jobs of its own run still."""
    js = Jobserver(method, 2)
    js(leave_a_job, js, hold.end, tmp_path / "file").result()
    del js
    gc.collect()
    hold.let_go()
    wait_until(lambda: gone(before))
    assert (tmp_path / "file").exists()


def leave_a_job(js: Jobserver, end: Any, file: Path) -> None:
    js(touch_when_let, end, file)
    del js
    gc.collect()


def touch_when_let(end: Any, file: Path) -> None:
    held(end)
    file.touch()


def drop_own(method: StartMethod, end: Any, file: Path) -> None:
    leave_a_job(Jobserver(method, 2), end, file)


def test_a_job_waits_for_the_jobs_of_a_jobserver_that_it_has_dropped(
    js: Jobserver, method: StartMethod, hold: Hold, tmp_path: Path
) -> None:
    js(drop_own, method, hold.end, tmp_path / "file").result()
    hold.let_go()
    js.close()
    assert (tmp_path / "file").exists()


def test_a_jobserver_that_is_dropped_while_jobs_run_warns(
    method: StartMethod, before: tuple[Any, ...], hold: Hold, dropped: Callable[..., None]
) -> None:
    with pytest.warns(ResourceWarning, match="was dropped while 1 of its jobs ran"):
        dropped()
    hold.let_go(1)
    wait_until(lambda: gone(before))


def test_a_jobserver_that_is_closed_or_has_nothing_running_is_dropped_in_silence(
    method: StartMethod, before: tuple[Any, ...]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        js = Jobserver(method, 1)
        js(int).result()
        js.close()
        del js
        Jobserver(method, 1)
        gc.collect()
    wait_until(lambda: gone(before))


SCRIPT = """
import gc, os, signal, sys
from jobserver import Jobserver

def work(end, file):
    os.read(end, 1)
    open(file, "w").close()

def work_by_name(fifo, file):
    end = os.open(fifo, os.O_RDONLY)
    work(end, file)

if __name__ == "__main__":
    method, fifo, file = sys.argv[1:]
    Jobserver(method, 1)(work_by_name, fifo, file)
    gc.collect()
    name = f"jobserver-pool-{os.getpid()}-0-"
    print(*[each for each in os.listdir("/dev/shm") if each.startswith(name)], flush=True)
"""


def test_the_interpreter_waits_for_the_jobs_of_dropped_jobservers(
    method: StartMethod, tmp_path: Path
) -> None:
    script, fifo, file = tmp_path / "script.py", tmp_path / "fifo", tmp_path / "file"
    script.write_text(SCRIPT)
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR)
    command = [sys.executable, str(script), method, str(fifo), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            home = Path("/dev/shm") / process.stdout.readline().strip()
            assert home.exists()
            os.write(end, b"x")
            assert process.wait(DEADLINE) == 0
            assert file.exists()
            assert not home.exists()
        finally:
            process.kill()
            os.close(end)


def test_dropping_in_a_forked_child_costs_the_parent_nothing(
    method: StartMethod, hold: Hold
) -> None:
    with Jobserver(method, 2) as js:
        future = js(held, hold.end)
        pid = os.fork()
        if pid == 0:
            try:
                del js, future
                gc.collect()
                os._exit(0 if Jobserver("fork", 1)(int, 7).result() == 7 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert not future.done()
        hold.let_go()
        assert future.result() == future.pid
        assert js(int, 7).result() == 7


@pytest.mark.parametrize("tasks", [1, None])
def test_there_is_no_warning_of_jobs_whose_results_have_been_taken(
    method: StartMethod, before: tuple[Any, ...], tasks: int | None
) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        js = Jobserver(method, 2, max_tasks_per_child=tasks)
        assert js(pow, 2, 10).result() == 1024
        del js  # its process may not have ended yet
        gc.collect()
    assert [one for one in warned if one.category is ResourceWarning] == []
    wait_until(lambda: gone(before))
