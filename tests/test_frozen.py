"""Frozen programs: jobs are run by the program itself, which is started anew for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, METHODS

PROGRAM = """
import multiprocessing
import sys


def double(n):
    return n * 2


def nested(n, js):
    return js(double, n).result() + 1


if __name__ == "__main__":
    FREEZE_SUPPORT
    from jobserver import Jobserver

    tasks = None if sys.argv[2] == "None" else 1
    with Jobserver(sys.argv[1], 2, max_tasks_per_child=tasks) as js:
        print([future.result() for future in [js(double, n) for n in range(3)]])
        print(js(nested, 3, js).result())
"""

PRINTED = "[0, 2, 4]\n7\n"

#: What a program starts with whose executable is not an interpreter, but itself. (Freezers replace
#: the function that CPython has for Windows alone, too.)
AS_IF_FROZEN = """
import multiprocessing.spawn
import sys

sys.frozen = True
sys.executable = {executable!r}
multiprocessing.freeze_support = multiprocessing.spawn.freeze_support
"""

EXECUTABLE = """#!/bin/sh
case "$*" in
*" -c "*|"-c "*) exec {python} "$@" ;;
*) exec {python} {program} "$@" ;;
esac
"""


def as_if_frozen(folder: Path, text: str) -> list[str]:
    """A program that takes itself for a frozen one, and is started as one would be."""
    program, executable = folder / "program.py", folder / "program"
    program.write_text(AS_IF_FROZEN.format(executable=str(executable)) + text)
    executable.write_text(EXECUTABLE.format(python=sys.executable, program=program))
    executable.chmod(0o755)
    return [str(executable)]


def run(command: list[str], *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.parametrize("tasks", [1, None])
def test_a_frozen_program_runs_jobs_in_itself(
    tmp_path: Path, method: str, tasks: int | None
) -> None:
    text = PROGRAM.replace("FREEZE_SUPPORT", "multiprocessing.freeze_support()")
    done = run(as_if_frozen(tmp_path, text), method, tasks)
    assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_jobserver_may_be_made_before_freeze_support_is_called(
    tmp_path: Path, method: str
) -> None:
    text = """
import multiprocessing
from jobserver import Jobserver

pool = Jobserver(METHOD, 2)

if __name__ == "__main__":
    multiprocessing.freeze_support()
    print(pool(pow, 2, 3).result())
    pool.close()
"""
    done = run(as_if_frozen(tmp_path, text.replace("METHOD", repr(method))))
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_one_that_does_not_call_freeze_support_is_told_and_not_started_without_end(
    tmp_path: Path, method: str
) -> None:
    text = PROGRAM.replace("FREEZE_SUPPORT", "pass").replace("sys.argv[1]", repr(method))
    done = run(as_if_frozen(tmp_path, text), method, 1)
    assert done.returncode == 1
    assert "must call multiprocessing.freeze_support() first thing" in done.stderr


def test_a_program_by_pyinstaller_runs_jobs(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("FREEZE_SUPPORT", "multiprocessing.freeze_support()"))
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR"]
    excluded = [f"--exclude-module={name}" for name in ("numpy", "cloudpickle", "pytest")]
    subprocess.run([*build, *excluded, program.name], cwd=tmp_path, timeout=DEADLINE, check=True)
    frozen = str(tmp_path / "dist" / "program" / "program")
    for method in METHODS:
        for tasks in (1, None):
            done = run([frozen], method, tasks)
            assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr
