"""CPython's own tests of executors, run on JobserverExecutor: see `foreign/concurrent_futures.py`,
which says which of them are left out, and why. (Our own tests are in `test_executor.py`.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from conftest import METHODS

PROGRAM = Path(__file__).parent / "foreign" / "concurrent_futures.py"
#: What the program exits with where the interpreter has none of these tests.
NO_TESTS = 5
DEADLINE = 285


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each start method. They run at once, because they mostly sleep."""
    started = {
        method: subprocess.Popen(
            [sys.executable, str(PROGRAM), method],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for method in METHODS
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("start_method", METHODS)
def test_cpythons_tests_of_executors_pass(
    running: dict[str, subprocess.Popen[str]], start_method: str
) -> None:
    told = running[start_method].communicate(timeout=DEADLINE)[0]
    code = running[start_method].returncode
    if code == NO_TESTS:
        pytest.skip(f"this interpreter has no test.test_concurrent_futures: {told}")
    assert code == 0, told
