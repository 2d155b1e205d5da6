"""Our own tests: each has a deadline, and they see signals as a program at a terminal does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE, wait_until

TESTS = Path(__file__).parent

#: With a child that runs for long.
HANGS = {
    "in Python": "while True: time.sleep(60)",
    "in a wait": "child.wait()",
    "with signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); child.wait()",
    "in a library": "signal.signal(signal.SIGABRT, signal.SIG_IGN); child.wait()",
}


def run(folder: Path, body: str, *options: str, ignored: bool = False) -> tuple[int, str]:
    """Runs a test in a pytest of its own: its exit code, and what it said. (A deadline is for its
    start as well, which may take a second or two on a busy machine.)"""
    lines = "import os, signal, subprocess, sys, time\n\ndef test_it(capfd):\n"
    (folder / "test_it.py").write_text(lines + f"    {body}\n")
    command = [sys.executable, "-m", "pytest", "-p", "deadlines", "-p", "no:cacheprovider"]
    shell = "trap '' INT QUIT HUP CHLD; exec \"$@\"" if ignored else 'exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command, *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("how", HANGS)
def test_a_test_that_hangs_is_ended_with_what_it_has_started_and_named(
    tmp_path: Path, how: str
) -> None:
    told = tmp_path / "child"
    begin = "child = subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3)"
    tell = f"open({str(told)!r}, 'w').write(str(child.pid))"
    code, said = run(tmp_path, f"{begin}\n    {tell}\n    {HANGS[how]}", "--deadline", "3")
    assert code != 0
    assert "test_it.py::test_it has not ended within 3 seconds" in said
    wait_until(lambda: not Path(f"/proc/{told.read_text()}").exists())


@pytest.mark.slow
def test_tests_that_take_long_together_are_not_ended(tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(
        "import pytest, time\n\n"
        "@pytest.mark.parametrize('n', range(4))\ndef test_n(n):\n    time.sleep(2)\n"
    )
    code, said = run(tmp_path, "pass", "--deadline", "6")
    assert (code, "5 passed" in said) == (0, True), said


def test_signals_that_whoever_has_started_the_tests_ignores_arrive(tmp_path: Path) -> None:
    body = (
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "    program = 'import signal; print([int(signal.getsignal(n) is signal.SIG_IGN) '\n"
        "    program += 'for n in (1, 2, 3, 17)])'\n"
        "    assert subprocess.check_output([sys.executable, '-c', program]) == b'[0, 0, 0, 0]\\n'"
    )
    code, said = run(tmp_path, body, ignored=True)
    assert code == 0, said


def test_signals_arrive_here() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
