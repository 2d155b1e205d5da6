"""Time limits: a job that runs for longer than it may is ended, with all that it has started.

Not here: what the program itself ends (test_kill), how long a call waits (test_futures), and what
the system limits (test_system_limits).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import DEADLINE, wait_until
from test_kill import death_of, hang, lives, pids

from jobserver import Jobserver, TimeLimitExceeded

#: Makes Jobservers; see `make_jobserver`.
Make = Callable[..., Jobserver]


def test_a_job_that_runs_too_long_is_ended_though_its_owner_is_busy(
    tmp_path: Path, js: Jobserver
) -> None:
    future = js.submit(hang, args=(tmp_path / "pid",), time_limit=0.05)
    wait_until(lambda: not lives(future.pid))  # without a call into the library
    with pytest.raises(TimeLimitExceeded, match=r"ran for longer than its 0\.05 seconds") as raised:
        future.result(DEADLINE)
    assert raised.value.time_limit == 0.05
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.time_limit) == (str(raised.value), 0.05)


def ignore_all_and_hang(path: Path) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    hang(path)


def handle_all_and_hang(path: Path) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, lambda *_: None)
    hang(path)


def block_all_and_hang(path: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hang(path)


def test_jobs_that_do_not_heed_the_signal_of_their_time_limit_are_killed(
    tmp_path: Path, make_jobserver: Any
) -> None:
    # Side by side, since each is given another second to heed it.
    js = make_jobserver(slots=3)
    futures = [
        js.submit(job, args=(tmp_path / job.__name__,), time_limit=0.2)
        for job in (ignore_all_and_hang, handle_all_and_hang, block_all_and_hang)
    ]
    for future in futures:
        died = death_of(future)
        assert (type(died), died.signal) == (TimeLimitExceeded, signal.SIGKILL)
        assert "ran for longer than its 0.2 seconds" in str(died)


def test_a_job_that_is_killed_before_its_time_limit_has_not_exceeded_that(
    tmp_path: Path, js: Jobserver
) -> None:
    late = js.submit(ignore_all_and_hang, args=(tmp_path / "late",), time_limit=0.3)
    killed = js.submit(ignore_all_and_hang, args=(tmp_path / "killed",), time_limit=0.3)
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: not lives(late.pid))  # the owner looks only after the limit
    assert not isinstance(death_of(killed), TimeLimitExceeded)
    assert isinstance(death_of(late), TimeLimitExceeded)


def become_a_program() -> None:
    os.execvp("sleep", ["sleep", "1000"])


def test_a_program_that_a_job_has_become_ends_at_its_time_limit_too(js: Jobserver) -> None:
    died = death_of(js.submit(become_a_program, time_limit=0.05))
    assert (type(died), died.signal) == (TimeLimitExceeded, signal.SIGALRM)


def test_a_job_that_its_own_alarm_ends_has_not_exceeded_its_time_limit(js: Jobserver) -> None:
    future = js.submit(signal.raise_signal, args=(signal.SIGALRM,), time_limit=1000)
    assert not isinstance(death_of(future), TimeLimitExceeded)


def hang_with_shells(path: Path) -> None:
    """Started by a thread too, and left behind by a shell."""
    sleeper = f"exec sh -c 'printf \"%s \" $$ > {path}.$0; exec sleep 1000'"
    command = f"({sleeper} left) & ({sleeper} right) & exit"
    thread = threading.Thread(target=lambda: subprocess.run(["sh", "-c", command], check=True))
    thread.start()
    thread.join()
    subprocess.run(["sh", "-c", f"{sleeper} own"], check=True)


def test_what_a_job_has_started_ends_with_it_when_it_runs_too_long(
    tmp_path: Path, js: Jobserver
) -> None:
    path = tmp_path / "pid"
    future = js.submit(hang_with_shells, args=(path,), time_limit=0.5)
    everyone = pids(*(Path(f"{path}.{name}") for name in ("left", "right", "own")))
    assert isinstance(death_of(future), TimeLimitExceeded)
    assert not any(map(lives, everyone))


def test_an_owner_that_blocks_all_signals_has_time_limits_too(
    tmp_path: Path, js: Jobserver
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        future = js.submit(hang, args=(tmp_path / "pid",), time_limit=0.05)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert isinstance(death_of(future), TimeLimitExceeded)


def test_a_job_that_a_profiler_ends_has_not_exceeded_its_time_limit(js: Jobserver) -> None:
    future = js.submit(signal.raise_signal, args=(signal.SIGPROF,), time_limit=1000)
    assert not isinstance(death_of(future), TimeLimitExceeded)


def test_a_job_within_its_time_limit_is_left_alone(js: Jobserver) -> None:
    assert js.submit(int, args=(7,), time_limit=1000).result() == 7
    assert js.submit(int, args=(7,), time_limit=float("inf")).result() == 7


@pytest.mark.parametrize("limit, error", [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_a_bad_time_limit_is_refused(js: Jobserver, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="time_limit"):
        js.submit(int, time_limit=limit)


def pid() -> int:
    return os.getpid()


def sleep_for(seconds: float) -> None:
    time.sleep(seconds)


def test_a_time_limit_ends_with_its_job(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    limited = js.submit(pid, time_limit=0.5)
    assert limited.result() == js(sleep_for, 0.7).pid
    assert js(pid).result() == limited.pid


def outlast_the_limit() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX})
    while signal.SIGRTMAX not in signal.sigpending():
        time.sleep(0.001)


def test_a_process_that_has_outlasted_a_time_limit_has_no_other_job(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    outlasting = js.submit(outlast_the_limit, time_limit=0.1)
    assert outlasting.exception() is None
    assert js.submit(pid, time_limit=DEADLINE).result() != outlasting.pid
