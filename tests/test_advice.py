"""What is said to those who are used to other pools, or have dropped or forgotten something."""

from __future__ import annotations

import itertools
import multiprocessing.spawn
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, each_method
from holding import Hold, held

import jobserver
from jobserver import Blocked, Jobserver, SubmissionDied


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def method() -> str:
    return "fork"


def test_arguments_in_the_wrong_place_are_told_where_to_go(js: Any) -> None:
    with pytest.raises(TypeError, match=r"js\.submit\(double, args=\(3,\)\), or js\(double, 3\)"):
        js.submit(double, 3)
    with pytest.raises(TypeError, match=r"args=\('a', 2\)\), or js\(double, 'a', 2\)"):
        js.submit(double, "a", 2)
    with pytest.raises(TypeError, match=r"not 3: write args=\(3,\)"):
        js.submit(double, args=3)
    with pytest.raises(TypeError, match=r"zip\(xs\)"):
        list(js.map(double, [1, 2]))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda js: type(js)("fork", max_workers=2), "'max_workers'; here that is slots"),
        (lambda js: type(js)("fork", nonsense=1), "has no argument 'nonsense'$"),
        (lambda js: js.map(double, [(1,)], callbacks=1), "map has no argument 'callbacks'"),
        (lambda js: js(int).add_done_callback(double), "here that is when_done"),
        (lambda js: js(int).cancel(), "here that is kill"),
        (lambda js: js.shutdown(), "here that is close"),
        (lambda js: js.apply_async(double, (1,)), r"here that is js\(fn, \.\.\.\)"),
    ],
)
def test_names_of_other_pools_are_told_ours(
    js: Jobserver, call: Callable[[Any], Any], told: str
) -> None:
    with pytest.raises((AttributeError, TypeError), match=told):
        call(js)


def test_a_gate_that_says_0_is_not_asked_all_the_time(js: Jobserver) -> None:
    asked = itertools.count()
    with pytest.raises(Blocked):
        js.submit(int, sleep_fn=lambda: 0.0 * next(asked), timeout=0.3)
    assert next(asked) <= 31  # every 10 ms at most


@each_method
def test_a_death_by_sigkill_says_what_the_usual_cause_is(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    hold, js = Hold(), make_jobserver()
    future = js(held, hold.end)
    future.wait(0, signal=9)
    with pytest.raises(SubmissionDied, match="job [0-9]+ of held was killed by SIGKILL.*memory"):
        future.result()
    hold.close()


def test_as_completed_asks_a_generator_for_no_more_than_it_needs(js: Jobserver) -> None:
    asked = []

    def futures() -> Any:
        for n in range(10):
            asked.append(n)
            future = js(double, n)
            future.wait()
            yield future

    completed = js.as_completed(futures())
    assert next(completed).result() == 0 and asked == [0]
    assert [future.result() for future in completed] == [2 * n for n in range(1, 10)]
    assert asked == [*range(10)]


def test_as_completed_gives_what_a_generator_repeats_once(js: Jobserver) -> None:
    future = js(double, 4)
    assert len([*js.as_completed(each for each in [future, future, future])]) == 1


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_current_folder_that_is_gone_is_named(
    js: Jobserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with monkeypatch.context() as moved:
        moved.chdir(gone)
        gone.rmdir()
        with pytest.raises(FileNotFoundError, match=f"{gone}, was removed.*os.chdir"):
            js(double, 3)
    assert js(double, 3).result() == 6


@pytest.mark.parametrize("path", [None, "", "/there/is/none"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_interpreter_that_is_not_there_is_named(js: Jobserver, path: Any) -> None:
    usual = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(path)
    try:
        with pytest.raises(FileNotFoundError, match=f"{path or None}.*set_executable"):
            js(double, 3)
    finally:
        multiprocessing.set_executable(usual)
    assert js(double, 3).result() == 6


def test_a_free_threaded_build_is_told_that_the_gil_is_needed() -> None:
    pretend = "import sys; sys.abiflags = 't'; import jobserver"
    done = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: jobserver needs the GIL")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer ones refuse to import it there")
def test_a_program_that_imports_it_in_a_sub_interpreter_ends() -> None:
    imports = "import _xxsubinterpreters as s; s.run_string(s.create(), 'import jobserver')"
    subprocess.run([sys.executable, "-c", imports], timeout=DEADLINE, check=True)


def test_another_projects_package_of_our_name_beside_ours_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "jobserver").symlink_to(os.path.dirname(jobserver.__file__))
    (tmp_path / "jobserver-3.0.1.dist-info").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "import jobserver"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "jobserver-3.0.1.dist-info" in done.stderr
    assert "then install nestable-jobserver" in done.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    assert jobserver.__version__ == version("nestable-jobserver")
