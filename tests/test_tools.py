"""Other programs that share slots with jobs: ninja, cargo and gcc, two of each kind at a time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE
from spans import RECORD, most_at_once

from jobserver import Jobserver

NINJA = shutil.which("ninja", path=str(Path(sys.executable).parent))
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
    assert js._pool.free() == js.slots


@pytest.mark.skipif(NINJA is None, reason="ninja is not installed")
def test_ninjas_in_jobs_never_run_more_than_there_are_slots(
    tmp_path: Path, log: Path, make_jobserver: Any
) -> None:
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        directory.mkdir()
        # ninja, too, has dollar signs of its own, written twice as in a makefile.
        rules = [f"rule record\n  command = {RECORD} && touch $out\n"]
        rules += [f"build out{number}: record\n" for number in range(6)]
        (directory / "build.ninja").write_text("".join(rules))
    assert NINJA is not None
    both_at_once(make_jobserver(slots=3), [NINJA], directories)
    most, count = most_at_once(log)
    assert (2 <= most <= 3, count) == (True, 12)


WRAPPER = """#!/bin/sh
case "$*" in *"--crate-name m"*) ;; *) exec "$@" ;; esac
echo + $(date +%s%N) >> $LOG
"$@"
code=$?
echo - $(date +%s%N) >> $LOG
exit $code
"""


@pytest.mark.skipif(CARGO is None, reason="cargo is not installed")
def test_cargos_in_jobs_never_run_more_compilers_than_there_are_slots(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, make_jobserver: Any
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    monkeypatch.setenv("RUSTC_WRAPPER", str(wrapper))
    directories = [tmp_path / name for name in "ab"]
    for directory in directories:
        members = [f"m{number}" for number in range(4)]
        for member in members:
            (directory / member / "src").mkdir(parents=True)
            (directory / member / "src" / "lib.rs").write_text("pub fn f() {}\n")
            manifest = f'[package]\nname = "{member}"\nversion = "0.1.0"\nedition = "2021"\n'
            (directory / member / "Cargo.toml").write_text(manifest)
        (directory / "Cargo.toml").write_text(f"[workspace]\nresolver = '2'\nmembers = {members}\n")
    assert CARGO is not None
    both_at_once(make_jobserver(slots=3), [CARGO, "build", "--offline", "-q"], directories)
    most, count = most_at_once(log)
    assert (most <= 3, count) == (True, 8)


GCC = shutil.which("gcc", path="/usr/bin:/usr/local/bin")

MAKE_WRAPPER = """#!/bin/sh
exec make SHELL={shell} "$@"
"""

SHELL_WRAPPER = """#!/bin/sh
echo + $(date +%s%N) >> $LOG
sleep 0.05
/bin/sh "$@"
code=$?
echo - $(date +%s%N) >> $LOG
exit $code
"""


def link(js: Jobserver, directory: str, output: str) -> None:
    command = [str(GCC), "-O1", "-flto=jobserver", "-flto-partition=1to1", "-o", output]
    objects = sorted(str(path) for path in Path(directory).glob("*.o"))
    done = subprocess.run(
        [*command, *objects], capture_output=True, text=True, check=False, pass_fds=js.pass_fds
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(GCC is None, reason="gcc is not installed")
def test_links_of_gcc_in_jobs_never_run_more_compilers_than_there_are_slots(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # gcc has make run its compilers, which takes a shell that records them.
    for name, text in (("make", MAKE_WRAPPER), ("shell", SHELL_WRAPPER)):
        (tmp_path / name).write_text(text.format(shell=tmp_path / "shell"))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("MAKE", str(tmp_path / "make"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    numbers = range(4)
    for number in numbers:
        (tmp_path / f"f{number}.c").write_text(f"int f{number}(int x) {{ return x + {number}; }}")
    calls = " + ".join(f"f{number}(x)" for number in numbers)
    declared = "".join(f"int f{number}(int); " for number in numbers)
    (tmp_path / "main.c").write_text(f"{declared} int main(int x, char **y) {{ return {calls}; }}")
    sources = [f"f{number}.c" for number in numbers] + ["main.c"]
    subprocess.run([str(GCC), "-O1", "-flto", "-c", *sources], cwd=tmp_path, check=True)
    with Jobserver(method, 3, style="pipe") as js:
        links = [js(link, js, str(tmp_path), str(tmp_path / f"out{n}")) for n in range(2)]
        for future in links:
            future.result()
        assert js._pool is not None and js._pool.free() == 3
    most, count = most_at_once(log)
    assert (most <= 3, count >= 2) == (True, True)
