"""Other programs that share slots with jobs: ninja, cargo and gcc, two of each kind at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import projects
import pytest
from conftest import DEADLINE
from spans import Recorded

from jobserver import Jobserver, StartMethod

#: That of the environment, which is new enough, before the machine's.
PATHS = [str(Path(sys.executable).parent), *os.get_exec_path()]
NINJA = shutil.which("ninja", path=os.pathsep.join(PATHS))
CARGO = shutil.which("cargo")


@pytest.fixture(autouse=True)
def not_below_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def tool(command: list[str], directory: str) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=4 * DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def both_at_once(js: Any, command: list[str], directories: list[Path]) -> None:
    futures = [js(tool, command, str(directory)) for directory in directories]
    for future in futures:
        future.result()
    assert js._owner.open_pool().free() == js.slots


@pytest.mark.skipif(NINJA is None, reason="ninja is not installed")
def test_ninjas_in_jobs_never_run_more_than_there_are_slots(
    tmp_path: Path, log: Path, make_jobserver: Any
) -> None:
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        projects.for_ninja(directory, 6)
    assert NINJA is not None
    both_at_once(make_jobserver(slots=3), [NINJA], directories)
    ran = Recorded.in_log(log)
    assert (2 <= ran.most <= 3, ran.count) == (True, 12)


@pytest.mark.skipif(CARGO is None, reason="cargo is not installed")
def test_cargos_in_jobs_never_run_more_compilers_than_there_are_slots(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, make_jobserver: Any
) -> None:
    monkeypatch.setenv("RUSTC_WRAPPER", str(projects.recording_rustc(tmp_path)))
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        projects.for_cargo(directory, 4)
    assert CARGO is not None
    both_at_once(make_jobserver(slots=3), [CARGO, "build", "--offline", "-q"], directories)
    ran = Recorded.in_log(log)
    assert (ran.most <= 3, ran.count) == (True, 8)


GCC = shutil.which("gcc", path="/usr/bin:/usr/local/bin")


def link(js: Jobserver, command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, pass_fds=js.pass_fds
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(GCC is None, reason="gcc is not installed")
def test_links_of_gcc_in_jobs_never_run_more_compilers_than_there_are_slots(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, method: StartMethod
) -> None:
    assert GCC is not None
    monkeypatch.setenv("MAKE", str(projects.recording_make(tmp_path)))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    objects = projects.for_gcc(tmp_path, GCC, 4)
    with Jobserver(method, 3, style="pipe") as js:
        commands = [[*projects.link(GCC, tmp_path / f"out{n}"), *objects] for n in range(2)]
        for future in [js(link, js, command) for command in commands]:
            future.result()
        assert js._owner.open_pool().free() == 3
    ran = Recorded.in_log(log)
    # Of the five parts of each, gcc 12 has make run two commands, gcc 16 one.
    assert (ran.most <= 3, ran.count in (10, 20)) == (True, True)
