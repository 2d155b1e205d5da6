"""How a JobserverExecutor ends: by a shutdown, by force, with its last reference, with the program;
and what forks of the user's do to it. (What it promises while it runs is in `test_executor.py`.)"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent import futures
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import DEADLINE, OWNERS_METHODS, each_method, wait_until
from holding import Hold, held
from terminals import Terminal

from jobserver import Jobserver, JobserverExecutor, SubmissionDied


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# Shutdown.


def test_a_shutdown_waits_for_all_calls_and_refuses_more(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    waiting = executor.submit(int)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)
    hold.let_go(2)
    executor.shutdown()
    assert all(future.done() for future in (*full, waiting))


def test_a_shutdown_can_cancel_what_waits(
    executor: JobserverExecutor, hold: Hold, full: list[futures.Future[Any]]
) -> None:
    waiting = [executor.submit(int) for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert futures.wait(waiting, DEADLINE).not_done == set()
    assert all(future.cancelled() for future in waiting)
    hold.let_go(2)
    executor.shutdown()
    assert {future.result() for future in full}


def test_a_callback_can_shut_down(executor: JobserverExecutor) -> None:
    ended = threading.Event()

    def end(future: Any) -> None:
        executor.shutdown(wait=True)
        ended.set()

    executor.submit(int).add_done_callback(end)
    assert ended.wait(DEADLINE)


def with_one_below(told: Any, end: Any) -> None:
    below = subprocess.Popen(["sleep", "600"])
    told.send([os.getpid(), below.pid])
    held(end)


def test_kill_workers_ends_all_that_is_below(
    executor: JobserverExecutor, hold: Hold, tells: Any
) -> None:
    running = executor.submit(with_one_below, tells.end, hold.end)
    pids = tells.received()
    waiting = [executor.submit(held, hold.end) for _ in range(4)]
    executor.kill_workers()
    assert isinstance(running.exception(DEADLINE), SubmissionDied)
    assert futures.wait(waiting, DEADLINE).not_done == set()
    executor.shutdown()
    wait_until(lambda: all(map(is_gone, pids)))
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_terminate_workers_sends_sigterm_to_the_calls(
    executor: JobserverExecutor, full: list[futures.Future[Any]]
) -> None:
    waiting = executor.submit(int)
    executor.terminate_workers()
    for future in full:
        error = future.exception(DEADLINE)
        assert isinstance(error, SubmissionDied) and error.signal == signal.SIGTERM
    assert futures.wait([waiting], DEADLINE).done and waiting.cancelled()


# Without a shutdown.


def test_all_is_done_after_the_last_reference_is_dropped(method: str) -> None:
    executor = JobserverExecutor(2, method)
    submitted = [executor.submit(pow, 2, n) for n in range(40)]
    thread, gone = executor._runner._thread, weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert [future.result(DEADLINE) for future in submitted] == [2**n for n in range(40)]
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_an_unused_executor_leaves_nothing(method: str) -> None:
    JobserverExecutor(2, method)
    JobserverExecutor(2, method).shutdown()


@pytest.fixture
def run(method: str, tmp_path: Path) -> Callable[[str], str]:
    """Runs a program that has an executor, and returns what it prints. It must end by itself, and
    print no errors."""

    def run(text: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.format(method) + textwrap.indent(textwrap.dedent(text), "    "))
        ended = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(path)],
            capture_output=True,
            timeout=DEADLINE,
        )
        assert ended.returncode == 0 and not ended.stderr, ended.stderr.decode()
        return ended.stdout.decode()

    return run


PROGRAM = """\
import os, sys, time
from jobserver import JobserverExecutor

def say(what):
    os.write(1, (what + "\\n").encode())

if __name__ == "__main__":
    executor = JobserverExecutor(2, "{}")
"""

Run = Callable[[str], str]


@each_method
def test_a_program_ends_after_all_calls(run: Run) -> None:
    told = run("for n in range(6): executor.submit(say, 'done')\nsay('end')")
    assert sorted(told.split()) == ["done"] * 6 + ["end"]


def test_a_callback_at_the_programs_end_is_refused_more(run: Run) -> None:
    told = run(
        """\
        def more(future):
            try:
                executor.submit(say, 'more')
            except RuntimeError as e:
                say(str(e))
        executor.submit(time.sleep, 0.2).add_done_callback(more)
        """,
    )
    assert told.startswith("cannot schedule new futures after")


# Forks of the user's.


def test_a_forked_child_uses_the_same_executor_and_ends(run: Run) -> None:
    told = run(
        """\
        running = executor.submit(time.sleep, 0.3)
        waiting = [executor.submit(say, 'parent') for _ in range(3)]
        pid = os.fork()
        if not pid:
            executor.submit(say, 'child').result(30)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        for future in [running, *waiting]:
            future.result(30)
        executor.submit(say, 'parent').result(30)
        """,
    )
    assert sorted(told.split()) == ["child"] + ["parent"] * 4


def test_a_forked_child_that_does_not_use_it_ends_and_disturbs_nothing(run: Run) -> None:
    told = run(
        """\
        running = executor.submit(time.sleep, 0.3)
        for _ in range(5):
            pid = os.fork()
            if not pid:
                sys.exit()
            assert os.waitpid(pid, 0)[1] == 0
        running.result(30)
        executor.submit(say, 'parent').result(30)
        """,
    )
    assert told == "parent\n"


# Races, and Ctrl-C.


@pytest.mark.parametrize("round", range(5))
def test_no_future_is_lost_between_submissions_and_a_shutdown(
    method: str, round: int, hasty: None
) -> None:
    executor = JobserverExecutor(2, method)
    submitted: list[futures.Future[Any]] = []

    def submit() -> None:
        try:
            while True:
                submitted.append(executor.submit(int))
        except RuntimeError as e:
            assert "cannot schedule new futures" in str(e)

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(submitted) > 20 * round)
    executor.shutdown(wait=False, cancel_futures=bool(round % 2))
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    executor.shutdown()
    assert all(future.done() for future in submitted)
    assert {future.result() for future in submitted if not future.cancelled()} <= {0}


def test_no_future_is_lost_when_the_executor_ends_with_a_shared_jobserver(
    make_jobserver: Callable[..., Jobserver], hasty: None
) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    for _ in range(20):
        executor = JobserverExecutor(jobserver=js)
        executor.submit(int).result(DEADLINE)
        ending = threading.Thread(target=executor.shutdown)
        ending.start()
        submitted = []
        try:
            while True:
                submitted.append(executor.submit(int))
        except RuntimeError:
            pass
        ending.join(DEADLINE)
        assert futures.wait(submitted, DEADLINE).not_done == set()


def test_ctrl_c_ends_a_program_that_waits(method: str, tmp_path: Path) -> None:
    program = tmp_path / "waits.py"
    program.write_text(
        textwrap.dedent(
            f"""\
            import time
            from jobserver import JobserverExecutor
            if __name__ == "__main__":
                with JobserverExecutor(2, {method!r}) as executor:
                    running = [executor.submit(time.sleep, 600) for _ in range(3)]
                    while not running[1].running():
                        time.sleep(0.01)
                    try:
                        print("ready", flush=True)
                        running[0].result()
                    except KeyboardInterrupt:
                        print("interrupted", flush=True)
                        executor.kill_workers()
                print("ended", flush=True)
            """
        )
    )
    terminal = Terminal(sys.executable, "-W", "ignore", str(program))
    terminal.read_until("ready")
    terminal.press(b"\x03")
    terminal.read_until("interrupted", "ended")
    assert terminal.join() == 0
