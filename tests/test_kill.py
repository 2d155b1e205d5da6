"""Stopping work: Future.kill, and time_limit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until

from jobserver import Future, Jobserver, SubmissionDied, TimeLimitExceeded


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def say_pid(path: Path) -> None:
    path.write_text(f"{os.getpid()} ")


def pids(*paths: Path) -> list[int]:
    """The pids that were written there, each followed by a blank."""

    def written() -> list[int] | None:
        texts = [path.read_text() if path.exists() else "" for path in paths]
        return [int(text) for text in texts] if all(text.endswith(" ") for text in texts) else None

    found: list[int] = wait_until(written)
    return found


def hang(path: Path) -> None:
    say_pid(path)
    while True:
        # Not `pause`: a signal just before it would find its handler called only after it.
        time.sleep(0.01)


def ignore_and_hang(path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(path)


def finish_when_asked(path: Path) -> str:
    def stop(*_: object) -> None:
        raise InterruptedError

    signal.signal(signal.SIGTERM, stop)
    try:
        hang(path)
    except InterruptedError:
        pass
    return "finished"


def family(js: Jobserver, path: Path) -> None:
    """A shell that leaves a program behind, a job, and a program of that job."""
    shell = f"(echo $$ >/dev/null; exec sh -c 'printf \"%s \" $$ >{path}.left; sleep 1000') &"
    subprocess.run(["sh", "-c", shell], check=True)
    job = js.submit(hang_with_program, args=(Path(f"{path}.job"), Path(f"{path}.program")))
    hang(path)
    job.result()


def hang_with_program(path: Path, program: Path) -> None:
    command = f"import os, time; open({str(program)!r}, 'w').write(f'{{os.getpid()}} '); "
    subprocess.Popen([sys.executable, "-c", command + "time.sleep(1000)"])
    hang(path)


def death_of(future: Future[Any]) -> SubmissionDied:
    with pytest.raises(SubmissionDied) as died:
        future.result(DEADLINE)
    return died.value


def test_a_job_that_is_killed_dies_by_sigterm_and_its_slot_is_free(
    tmp_path: Path, make_jobserver: Any
) -> None:
    js = make_jobserver(slots=1)
    future = js(hang, tmp_path / "pid")
    pids(tmp_path / "pid")
    future.kill()
    assert future.done()
    assert death_of(future).signal == signal.SIGTERM
    assert js._owner.open_pool().free() == 1
    assert js(int, 7).result() == 7


def test_a_job_that_does_not_heed_is_killed_when_its_grace_is_over(
    tmp_path: Path, js: Jobserver
) -> None:
    future = js(ignore_and_hang, tmp_path / "pid")
    pids(tmp_path / "pid")
    future.kill(grace=0.05)
    assert death_of(future).signal == signal.SIGKILL


def test_no_grace_kills_at_once(tmp_path: Path, js: Jobserver) -> None:
    future = js(finish_when_asked, tmp_path / "pid")
    pids(tmp_path / "pid")
    future.kill(grace=0)
    assert death_of(future).signal == signal.SIGKILL


def test_a_job_may_still_send_its_result_when_it_is_asked_to_end(
    tmp_path: Path, js: Jobserver
) -> None:
    future = js(finish_when_asked, tmp_path / "pid")
    pids(tmp_path / "pid")
    future.kill(grace=DEADLINE)
    assert future.result() == "finished"


def test_everything_that_a_job_has_started_ends_with_it(
    tmp_path: Path, make_jobserver: Any
) -> None:
    js = make_jobserver(slots=3)
    future = js(family, js, tmp_path / "pid")
    path = tmp_path / "pid"
    everyone = pids(path, *(Path(f"{path}.{name}") for name in ("left", "job", "program")))
    assert all(map(lives, everyone))
    future.kill(grace=0)
    assert death_of(future).signal == signal.SIGKILL
    wait_until(lambda: not any(map(lives, everyone)))
    js.reclaim_resources()
    assert js._owner.open_pool().free() == 3


def say_when_asked(path: Path, name: str) -> None:
    def stop(*_: object) -> None:
        with (path / "log").open("a") as log:
            log.write(f"{name} ")
        os._exit(3)

    signal.signal(signal.SIGTERM, stop)


def asked(js: Jobserver, path: Path) -> None:
    """A job whose own job, like itself, wants to do something before it ends."""
    say_when_asked(path, "owner")
    js(ask_and_hang, path).result()


def ask_and_hang(path: Path) -> None:
    say_when_asked(path, "job")
    hang(path / "pid")


def test_a_job_that_is_killed_is_asked_after_its_own_jobs_have_ended(
    tmp_path: Path, make_jobserver: Any
) -> None:
    js = make_jobserver(slots=2)
    future = js(asked, js, tmp_path)
    pids(tmp_path / "pid")
    future.kill(grace=DEADLINE)
    assert death_of(future).exitcode == 3
    assert (tmp_path / "log").read_text() == "job owner "


def wait_for_yielding_jobs(js: Jobserver, path: Path, depth: int) -> None:
    if depth == 0:
        hang_with_program(path, path.with_name("program"))
    js.submit(wait_for_yielding_jobs, args=(js, path, depth - 1), consume=depth % 2).result()


def test_jobs_of_a_job_end_with_it_though_they_have_no_slot(
    tmp_path: Path, method: str, make_jobserver: Any
) -> None:
    if method == "forkserver" and os.environ.get("JOBSERVER_PORTABLE") == "1":
        pytest.skip("a fork server's job without a slot is known by its lifeline, which is Linux's")
    js = make_jobserver(slots=1, waiting="yield")
    future = js(wait_for_yielding_jobs, js, tmp_path / "pid", 3)
    everyone = pids(tmp_path / "pid", tmp_path / "program")
    future.kill(grace=0)
    assert not any(map(lives, everyone))
    assert death_of(future).signal == signal.SIGKILL


def start_when_asked(path: Path) -> None:
    """As a shell script does that has its own way of ending."""
    late = path.with_name("late")
    (path.with_name("end")).write_text(f"printf '%s ' $$ > {late}; exec sleep 1000")
    trap = f"trap 'sh {path.with_name('end')} & exit' TERM; printf '%s ' $$ > {path}"
    subprocess.Popen(["sh", "-c", f"{trap}; while :; do sleep 0.01; done"]).wait()


def test_what_a_program_of_a_job_starts_when_it_is_asked_to_end_is_ended_too(
    tmp_path: Path, js: Jobserver
) -> None:
    future = js(start_when_asked, tmp_path / "pid")
    pids(tmp_path / "pid")
    # A program just forked may still have the shell's way with the signal, and so swallow it:
    # then it is killed when the grace is over.
    future.kill(grace=0.5)
    assert future.done()
    # Killed before it could say who it was, or after.
    late = (tmp_path / "late").read_text() if (tmp_path / "late").exists() else ""
    assert not any(map(lives, map(int, late.split())))


def test_a_job_that_is_stopped_is_killed_like_any_other(tmp_path: Path, js: Jobserver) -> None:
    future = js(hang, tmp_path / "pid")
    pids(tmp_path / "pid")
    os.kill(future.pid, signal.SIGSTOP)
    future.kill(grace=DEADLINE)
    assert death_of(future).signal == signal.SIGTERM


def leave_a_thread(path: Path) -> int:
    threading.Thread(target=time.sleep, args=(1000,)).start()
    say_pid(path)
    return 7


def test_what_is_left_of_a_job_whose_result_is_there_can_be_killed(
    tmp_path: Path, js: Jobserver
) -> None:
    future = js(leave_a_thread, tmp_path / "pid")
    assert future.result() == 7
    future.kill(grace=0)
    assert not any(map(lives, pids(tmp_path / "pid")))
    assert future.result() == 7


def test_killing_what_has_finished_is_harmless(js: Jobserver) -> None:
    future = js(int, 7)
    assert future.result() == 7
    future.kill()
    assert future.result() == 7


@pytest.mark.parametrize("grace, error", [(-1, ValueError), ("1", TypeError), (None, TypeError)])
def test_a_bad_grace_is_refused(js: Jobserver, grace: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="grace"):
        js(int).kill(grace=grace)


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
