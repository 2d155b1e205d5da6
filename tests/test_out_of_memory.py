"""A job that the kernel kills because memory is short says so.

Needs the right to make a control group (root); skipped without it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from jobserver import Jobserver, SubmissionDied

MIB = 1 << 20

#: Prints how two jobs died: one that was killed, and one that took too much memory.
PROGRAM = """
import os, signal, sys
from jobserver import Jobserver, SubmissionDied
def takes():
    mine = bytearray(1)
    while True:
        mine += b"x" * (1 << 20)
if __name__ == "__main__":
    with Jobserver(sys.argv[1], 2) as js:
        for job in (js(os.abort), js(takes)):
            try:
                job.result()
            except SubmissionDied as e:
                print(e)
        killed = js(signal.pause)
        os.kill(killed.pid, signal.SIGKILL)
        print(killed.exception())
"""


@pytest.fixture
def small_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control group with 256 MiB of memory, below this process's own."""
    name = f"jobserver-test-{os.getpid()}"
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().split())
    path = groups.get("memory")
    made = Path(f"/sys/fs/cgroup/memory{path}" if path else f"/sys/fs/cgroup{groups.get('')}", name)
    try:
        made.mkdir()
    except OSError as e:
        pytest.skip(f"cannot make a control group: {e}")
    try:
        limit = made / ("memory.limit_in_bytes" if path else "memory.max")
        limit.write_text(str(256 * MIB))
    except OSError as e:
        made.rmdir()
        pytest.skip(f"cannot limit a control group: {e}")
    yield made
    wait_until(lambda: not (made / "cgroup.procs").read_text())
    made.rmdir()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_the_death_tells_whether_memory_was_the_reason(
    small_group: Path, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    enter = f"echo $$ > {small_group}/cgroup.procs && exec {sys.executable} {program} {method}"
    run = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, timeout=60)
    aborted, starved, killed = run.stdout.splitlines()
    assert "was killed by SIGABRT" in aborted
    assert "takes was killed by SIGKILL: the kernel ran out of memory (control group" in starved
    assert small_group.name in starved
    assert "if no process has killed it, the kernel has" in killed


def test_a_kill_that_memory_was_not_the_reason_of_is_not_told_as_such(js: Jobserver) -> None:
    job = js(signal.pause)
    os.kill(job.pid, signal.SIGKILL)
    with pytest.raises(SubmissionDied, match="if no process has killed it"):
        job.result()
