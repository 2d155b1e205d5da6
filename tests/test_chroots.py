"""Programs that see less of the system than usual, as in chroots and small containers: no /proc, or
no /dev."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE

NAMESPACE = ["unshare", "--mount"]


def may_unmount() -> bool:
    """Whether this user may have mounts of its own."""
    try:
        return subprocess.run([*NAMESPACE, "true"], check=False, timeout=DEADLINE).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not may_unmount(), reason="needs a mount namespace of its own")

#: What a shell does before it becomes the program.
WITHOUT = {
    "/proc": "umount --lazy /proc && test ! -e /proc/self",
    "/dev": "mount -t tmpfs none /dev",
}


def run_without(folder: str, *command: str) -> subprocess.CompletedProcess[str]:
    shell = ["sh", "-c", f'{WITHOUT[folder]} && exec "$@"', "sh"]
    return subprocess.run(
        [*NAMESPACE, *shell, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


PROGRAM = """
import os
import subprocess
import sys
import time

from jobserver import Jobserver, SubmissionDied, TimeLimitExceeded


def nested(js):
    return js(pow, 2, 10).result()


def die():
    os.kill(os.getpid(), 9)


def below():
    command = [sys.executable, "-m", "jobserver", "exec", "--", "echo", "below"]
    return subprocess.run(command, capture_output=True, text=True).stdout


def error_of(future):
    return type(future.exception()), getattr(future.exception(), "signal", None)


if __name__ == "__main__":
    method, tasks = sys.argv[1], None if sys.argv[2] == "None" else 1
    with Jobserver(method, 1, max_tasks_per_child=tasks) as js:
        assert js(nested, js).result() == 1024
        assert list(js.map(pow, [(2, n) for n in range(3)])) == [1, 2, 4]
        assert len(js(bytes, 3 << 20).result()) == 3 << 20
        assert js(below).result() == "below\\n"
        assert error_of(js(die)) == (SubmissionDied, 9)
        limited = js.submit(time.sleep, args=(99,), time_limit=0.1)
        assert error_of(limited)[0] is TimeLimitExceeded
        sleeping = js(time.sleep, 99)
        sleeping.kill()
        assert error_of(sleeping)[0] is SubmissionDied
        assert js._owner.open_pool().free() == 1
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(PROGRAM)
    return str(tmp_path / "program.py")


@pytest.mark.parametrize("tasks", [1, None])
def test_jobs_run_without_proc(program: str, method: str, tasks: Any) -> None:
    done = run_without("/proc", sys.executable, program, method, str(tasks))
    assert done.returncode == 0, done.stderr


def test_commands_share_slots_without_proc() -> None:
    jobserver = [sys.executable, "-m", "jobserver"]
    nested = [*jobserver, "exec", "--", *jobserver, "exec", "--", "echo", "hi"]
    done = run_without("/proc", *jobserver, "run", "-j1", "--", *nested)
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr


def test_a_gate_that_needs_proc_names_the_file() -> None:
    asked = "from jobserver import gates; gates.memory_available(0.1)()"
    done = run_without("/proc", sys.executable, "-c", asked)
    assert "No such file or directory: '/proc/meminfo'" in done.stderr


def test_jobs_that_cannot_start_without_dev_name_the_file(program: str, method: str) -> None:
    done = run_without("/dev", sys.executable, program, method, "1")
    assert done.returncode == 1
    assert "/dev/null" in done.stderr
