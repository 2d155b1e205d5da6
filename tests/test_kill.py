"""Stopping work: Future.kill. Not here: time limits (test_limits)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until

from jobserver import Future, Jobserver, SubmissionDied


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
