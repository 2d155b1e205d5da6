"""Orphans: what becomes of jobs, and of their slots, whose owner is killed.

Pipes say that something has begun, and that it may end; what the kernel does of its own (ending
the jobs of an owner that was killed) is looked for until a deadline. Not here: many kills at
random moments (test_chaos), and the home that a killed owner leaves (test_homes).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, wait_until
from holding import Hold, free, held
from killing import Tells, assert_soon, has_ended, kill, needs_pidfd, say_and_hold, take_all
from test_close import Script, read_lines

from jobserver import Blocked, Future, Jobserver, StartMethod, SubmissionDied, _native

Make = Callable[..., Jobserver]


def own_two(js: Jobserver, tell: Connection, end: Connection, in_thread: bool) -> NoReturn:
    """Has two jobs running, and goes on until it is killed."""

    def submit() -> None:
        for _ in range(2):
            js.submit(say_and_hold, args=(tell, end))

    if in_thread:
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
    else:
        submit()
    tell.send(os.getpid())
    while True:
        signal.pause()


def lend_or_hand_over(js: Jobserver, tell: Connection, end: Connection) -> None:
    tell.send(os.getpid())
    js.submit(say_and_hold, args=(tell, end)).result()


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_killed_owner_takes_its_jobs_with_it_and_loses_no_slot(
    made: Make, hold: Hold, tells: Tells, method: StartMethod, waiting: str, in_thread: bool
) -> None:
    if in_thread and method == "fork":
        pytest.skip("a fork in a thread may deadlock, and CPython warns of it")
    js = made(3, waiting=waiting)
    future = js(own_two, js, tells.end, hold.end, in_thread)
    owner, jobs = tells.owner_and_jobs(future)
    kill(owner)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    assert_soon(lambda: all(has_ended(job) for job in jobs))
    take_all(js)


@needs_pidfd
@pytest.mark.parametrize("method", ["fork"])
@pytest.mark.filterwarnings("ignore:this process:DeprecationWarning")
def test_jobs_outlive_the_thread_that_submitted_them(made: Make, hold: Hold, tells: Tells) -> None:
    js = made()
    submitted: list[Future[int]] = []
    thread = threading.Thread(
        target=lambda: submitted.append(js(say_and_hold, tells.end, hold.end))
    )
    thread.start()
    thread.join()
    pid = tells.next()
    hold.let_go()
    assert submitted[0].result(DEADLINE) == pid


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_orphans_that_are_kept_run_on_and_their_slots_come_back_at_their_ends(
    made: Make, hold: Hold, tells: Tells, waiting: str
) -> None:
    js = made(3, waiting=waiting, orphans="keep")
    future = js(own_two, js, tells.end, hold.end, False)
    owner, jobs = tells.owner_and_jobs(future)
    kill(owner)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    js.submit(os.getpid, timeout=DEADLINE).result(DEADLINE)
    assert not any(has_ended(job) for job in jobs)
    third = js.submit(held, args=(hold.end,), timeout=DEADLINE)
    with pytest.raises(Blocked):
        js.submit(int, timeout=0)
    hold.let_go(3)
    third.result(DEADLINE)
    assert_soon(lambda: free(js) == 3)
    assert_soon(lambda: all(has_ended(job) for job in jobs))


@needs_pidfd
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("orphans", ["end", "keep"])
def test_a_slot_that_a_killed_job_had_lent_or_handed_over_comes_back(
    made: Make, hold: Hold, tells: Tells, waiting: str, orphans: str
) -> None:
    js = made(1, waiting=waiting, orphans=orphans)
    future = js(lend_or_hand_over, js, tells.end, hold.end)
    lender, borrower = tells.next(), tells.next()
    kill(lender)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    if orphans == "keep":
        with pytest.raises(Blocked):
            js.submit(int, timeout=0)
        kill(borrower)
    assert_soon(lambda: has_ended(borrower))
    take_all(js)


@needs_pidfd
def test_who_waits_sleeps_while_the_job_of_a_killed_lender_runs_on(
    made: Make, hold: Hold, tells: Tells
) -> None:
    js = made(1, orphans="keep")
    future = js(lend_or_hand_over, js, tells.end, hold.end)
    lender, _ = tells.next(), tells.next()
    waiter = js.submit(wait_in_vain, args=(js, tells.end), consume=0)
    tells.next()
    kill(lender)
    with pytest.raises(SubmissionDied):
        future.result(DEADLINE)
    # It wakes a few times. Were it kept awake, it would be hundreds of times.
    assert waiter.result(DEADLINE) < 20
    hold.let_go()
    assert_soon(lambda: free(js) == 1)


def wait_in_vain(js: Jobserver, tell: Connection) -> int:
    """How often it scanned meanwhile."""
    jobs: Any = Counting(js)
    tell.send(os.getpid())
    with pytest.raises(Blocked):
        jobs.wait_for_a_slot(0.3)
    return int(jobs.waits)


class Counting:
    """Waits for a slot by hand, and counts how often it was woken."""

    def __init__(self, js: Jobserver) -> None:
        js.reclaim_resources()
        self._js: Any = js
        self.waits = 0

    def wait_for_a_slot(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        admission = _native.Admission(True, False, 0.0)
        while time.monotonic() < deadline:
            owner = self._js._owner
            look = owner.look()
            owner.open_pool().reclaim()
            assert not owner.open_pool().free()
            left = deadline - time.monotonic()
            owner.native.wait_for_slot(look, admission, max(left, 0))
            self.waits += 1
        raise Blocked


@pytest.mark.parametrize("busy", [True, False])
def test_nothing_is_left_of_a_killed_owner_when_its_jobs_are_done(
    method: StartMethod, tmp_path: Path, busy: bool
) -> None:
    script = Script(
        tmp_path,
        "future = js(report_and_read, file)\n"
        "exec(ending)\n"
        "os.write(1, b'ready\\n')\n"
        "signal.pause()\n",
    )
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    ending = "pass" if busy else "future.result()"
    with script.start(method, ending, tmp_path / "fifo", stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            output = owner.stdout.fileno()
            if not busy:
                os.write(fifo, b"x")
            parent, _ = sorted(read_lines(output, 2))
            # Whatever the owner starts has its output, whose end is therefore the end of all.
            assert os.path.samefile(f"/proc/{parent}/fd/1", f"/proc/self/fd/{output}")
            owner.kill()
            owner.wait(DEADLINE)
            os.write(fifo, b"x")
            assert select.select([output], [], [], DEADLINE)[0]
            assert os.read(output, 1) == b""
        finally:
            owner.kill()
            os.close(fifo)


def test_idle_processes_end_with_a_killed_owner(method: str) -> None:
    program = (
        "import os, signal\n"
        "from jobserver import Jobserver\n"
        "if __name__ == '__main__':\n"
        f"    js = Jobserver({method!r}, 1, max_tasks_per_child=None)\n"
        "    print(js(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    owner = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert owner.returncode == -signal.SIGKILL
    idle = int(owner.stdout)
    wait_until(lambda: has_ended(idle))


def test_processes_ahead_end_with_a_killed_owner() -> None:
    program = (
        "import os, signal\n"
        "from jobserver import Jobserver\n"
        "if __name__ == '__main__':\n"
        "    js = Jobserver('forkserver', 2)\n"
        "    pids = [js(os.getpid).result() for _ in range(6)]\n"
        "    print(js._owner.starter._helper.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    owner = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert owner.returncode == -signal.SIGKILL
    helper = int(owner.stdout)
    wait_until(lambda: not os.path.exists(f"/proc/{helper}/exe"))
