"""What others hook into a process's birth and end: coverage.py, pytest-cov, viztracer, and what a
program does itself. Jobs show to them what processes of `ProcessPoolExecutor` show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE

from jobserver import Jobserver

WORK = """
def work(n):
    if n % 2:
        odd = n * 2
        return odd
    even = n + 1
    return even
"""

PROGRAM = """
import sys

import worked


def main(method, tasks):
    from jobserver import Jobserver

    with Jobserver(method, 2, max_tasks_per_child=None if tasks == "None" else 1) as js:
        return [future.result() for future in [js(worked.work, 1), js(worked.work, 2)]]


def main_of_executor(method, tasks):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as executor:
        return list(executor.map(worked.work, [1, 2]))


if __name__ == "__main__":
    assert globals()[sys.argv[1]](*sys.argv[2:]) == [2, 3]
"""

TEST = """
import program


def test_it():
    assert getattr(program, WHICH)(METHOD, TASKS) == [2, 3]
"""

#: One of those two, and how many jobs a process has.
WAYS = [("main", "1"), ("main", "None"), ("main_of_executor", "1")]
each_way = pytest.mark.parametrize("way", WAYS, ids=["-".join(way) for way in WAYS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "worked.py").write_text(WORK)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> str:
    """Runs Python in the folder. What it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def missing_lines(folder: Path) -> list[int]:
    """The lines of `work` that no process was seen to run."""
    run(folder, "-m", "coverage", "json", "-q", "-o", "covered.json")
    missing = json.loads((folder / "covered.json").read_text())["files"]["worked.py"]
    return list(missing["missing_lines"])


#: Ways in which coverage.py is told to follow the processes of a program.
COVERAGES = {
    "multiprocessing": "concurrency = multiprocessing",
    "patches": "patch = subprocess, _exit, fork",
}


@each_way
@pytest.mark.parametrize("settings", COVERAGES)
def test_coverage_sees_all_that_jobs_run(
    folder: Path, method: str, way: tuple[str, str], settings: str
) -> None:
    coverage = pytest.importorskip("coverage")
    if settings == "patches" and coverage.version_info < (7, 10):
        pytest.skip("this coverage.py does not know patch=")
    configured = f"[run]\nparallel = true\nsource = .\n{COVERAGES[settings]}\n"
    (folder / ".coveragerc").write_text(configured)
    function, tasks = way
    run(folder, "-m", "coverage", "run", "program.py", function, method, tasks)
    run(folder, "-m", "coverage", "combine", "-q")
    assert missing_lines(folder) == []


@each_way
def test_pytest_cov_sees_all_that_jobs_run(folder: Path, method: str, way: tuple[str, str]) -> None:
    pytest.importorskip("pytest_cov")
    (folder / ".coveragerc").write_text("[run]\nconcurrency = multiprocessing\n")
    names = {"WHICH": way[0], "METHOD": method, "TASKS": way[1]}
    text = TEST
    for name, value in names.items():
        text = text.replace(name, repr(value))
    (folder / "test_it.py").write_text(text)
    run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cov=worked", "--cov-report=")
    assert missing_lines(folder) == []


@each_way
def test_viztracer_sees_the_calls_of_jobs(folder: Path, method: str, way: tuple[str, str]) -> None:
    viztracer = pytest.importorskip("viztracer")
    if method == "forkserver" and viztracer.__version__.startswith("0."):
        pytest.skip("this viztracer follows no fork server")
    function, tasks = way
    trace = ["-m", "viztracer", "--log_multiprocess", "-o", "trace.json"]
    run(folder, *trace, "program.py", function, method, tasks)
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    calls = [event for event in events if event.get("name", "").startswith("work (")]
    assert len(calls) == 2


HOOKED = """
import multiprocessing.process
import os
import sys


def note(what):
    with open(sys.argv[-1], "a") as file:
        print(os.getpid(), what, file=file)


usual_exit, usual_bootstrap = os._exit, multiprocessing.process.BaseProcess._bootstrap


def exit(code):
    note(f"exit {code}")
    usual_exit(code)


def bootstrap(self, *args, **kwargs):
    note("begin")
    code = usual_bootstrap(self, *args, **kwargs)
    note(f"end {code}")
    return code


def work():
    note("work")
    return sys.stdin is not None and sys.stdin.read()


def leave():
    sys.exit(3)


def hook():
    multiprocessing.process.BaseProcess._bootstrap, os._exit = bootstrap, exit


HOOK_EARLY_OR_LATE

if __name__ == "__main__":
    method, tasks = sys.argv[1:3]
    with Jobserver(method, 1, max_tasks_per_child=None if tasks == "None" else 1) as js:
        assert [js(work).result(), js(work).result()] == ["", ""]
        try:
            js(leave).result()
        except SubmissionDied as death:
            assert death.exitcode == 3
"""


@pytest.mark.parametrize("early", [True, False], ids=["hooked early", "hooked late"])
@pytest.mark.parametrize("tasks", ["1", "None"])
def test_what_has_replaced_bootstrap_and_exit_is_called_in_jobs(
    tmp_path: Path, method: str, tasks: str, early: bool
) -> None:
    imports = "from jobserver import Jobserver, SubmissionDied"
    hooked = f"hook()\n{imports}" if early else f"{imports}\nhook()"
    text = HOOKED.replace("HOOK_EARLY_OR_LATE", hooked)
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(text)
    run(tmp_path, str(program), method, tasks, str(log))
    noted: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        process, what = line.split(" ", 1)
        noted.setdefault(process, []).append(what)
    each, last = ["begin", "work", "end 0", "exit 0"], ["begin", "end 3", "exit 3"]
    all_in_one = ["begin", "work", "work", "end 3", "exit 3"]
    assert list(noted.values()) == ([each, each, last] if tasks == "1" else [all_in_one])


REGISTERS = """
import atexit, os

def note():
    with open(os.environ["NOTES"], "a") as file:
        print(os.getpid(), file=file)

atexit.register(note)
"""


def pid() -> int:
    return os.getpid()


@pytest.mark.parametrize("tasks", [1, None])
def test_what_a_spawned_job_registered_at_start_up_runs_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int | None
) -> None:
    (tmp_path / "sitecustomize.py").write_text(REGISTERS)
    notes = tmp_path / "notes"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTES", str(notes))
    with Jobserver("spawn", 1, max_tasks_per_child=tasks) as js:
        job = js(pid).result()
    assert notes.read_text().split().count(str(job)) == 1


SUPERVISED = """
import multiprocessing.process
import os
import sys

usual_bootstrap = multiprocessing.process.BaseProcess._bootstrap


def bootstrap(self, *args, **kwargs):
    pid = os.fork()
    if pid == 0:
        os._exit(usual_bootstrap(self, *args, **kwargs))
    return os.waitpid(pid, 0)[1] >> 8


multiprocessing.process.BaseProcess._bootstrap = bootstrap

from jobserver import Jobserver

if __name__ == "__main__":
    with Jobserver(sys.argv[1], 1, max_tasks_per_child=eval(sys.argv[2])) as js:
        print([js.submit(pow, args=(2, n), timeout=30).result() for n in range(3)])
"""


@pytest.mark.parametrize("tasks", ["1", "None"])
def test_a_hook_that_runs_jobs_below_a_supervisor_loses_no_slot(
    tmp_path: Path, method: str, tasks: str
) -> None:
    (tmp_path / "program.py").write_text(SUPERVISED)
    assert run(tmp_path, "program.py", method, tasks) == "[1, 2, 4]\n"
