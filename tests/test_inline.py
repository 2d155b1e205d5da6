"""Context "inline": each submission runs its job at once, in the process that submits it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DEADLINE, children, take_slot
from test_threads import in_thread, join

import jobserver
from jobserver import Blocked, CallbackRaised, CurrentJob, Jobserver, SubmissionDied


@pytest.fixture
def method() -> str:
    return "inline"


def variable() -> str | None:
    return os.environ.get("A")


def fail() -> None:
    raise LookupError("nothing")


@contextlib.contextmanager
def marked() -> Iterator[None]:
    os.environ["MARKED"] = "1"
    try:
        yield
    finally:
        del os.environ["MARKED"]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_job_runs_here_and_at_once(js: Jobserver) -> None:
    before = children()
    came: list[Any] = []
    future = js(lambda: came.append((os.getpid(), threading.current_thread())))
    assert came == [(os.getpid(), threading.main_thread())]
    assert future.pid == os.getpid()
    assert future.done()
    assert future.result() is None
    assert children() == before
    assert repr(js) == "<Jobserver: 2 slots, inline>"


def test_results_are_the_very_objects(js: Jobserver) -> None:
    made = object()
    assert js(lambda: made).result() is made


def test_it_needs_no_slot(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(1)
    slot = take_slot(js)
    assert js.submit(int, timeout=0).result() == 0
    assert js(lambda: js(lambda: js(int, "7").result()).result()).result() == 7
    del slot


def test_an_exception_has_the_jobs_frames_each_time(js: Jobserver) -> None:
    future = js(fail)
    for _ in range(2):
        with pytest.raises(LookupError, match="nothing") as caught:
            future.result()
        steps = traceback.extract_tb(caught.value.__traceback__)
        assert "fail" in [step.name for step in steps]
    assert isinstance(future.exception(), LookupError)


def test_an_exit_is_a_death(js: Jobserver) -> None:
    with pytest.raises(SubmissionDied, match="of exit exited with code 3") as caught:
        js(sys.exit, 3).result()
    assert caught.value.exitcode == 3


def test_the_environment_and_the_preexec_hook_are_undone(js: Jobserver) -> None:
    assert js.submit(variable, env={"A": "1"}).result() == "1"
    assert variable() is None
    assert js.submit(os.getenv, args=("MARKED",), preexec_fn=marked).result() == "1"
    assert "MARKED" not in os.environ


def test_gates_hold(js: Jobserver) -> None:
    with pytest.raises(Blocked):
        js.submit(int, sleep_fn=lambda: 60.0, timeout=0.01)
    delays = iter([0.01, None])
    assert js.submit(int, sleep_fn=lambda: next(delays)).result() == 0


def test_callbacks_run_and_their_errors_are_told(js: Jobserver) -> None:
    came: list[int] = []
    future = js(int)
    future.when_done(came.append, 1)
    assert came == [1]
    with pytest.raises(CallbackRaised):
        future.when_done(fail)


def test_maps_give_results_and_errors_in_order(js: Jobserver) -> None:
    results = js.map(int, [("1",), ("x",), ("3",)])
    assert next(results) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(results)
    assert list(results) == [3]
    assert list(js.map(int, zip(map(str, range(1000))))) == list(range(1000))
    assert sorted(js.map(abs, zip(range(-9, 0)), ordered=False)) == list(range(1, 10))


def test_futures_come_as_completed(js: Jobserver) -> None:
    futures = [js(int, n) for n in range(4)]
    assert [future.result() for future in js.as_completed(futures)] == [0, 1, 2, 3]


def test_ctrl_c_interrupts_the_submission(js: Jobserver) -> None:
    with pytest.raises(KeyboardInterrupt):
        js(interrupt)


def test_a_time_limit_does_not_end_this_process(js: Jobserver) -> None:
    assert js.submit(int, time_limit=1e-6).result() == 0
    assert list(js.map(abs, zip(range(100)), time_limit=1e-6)) == list(range(100))


def test_the_initializer_is_called_once(make_jobserver: Callable[..., Jobserver]) -> None:
    came: list[int] = []
    js = make_jobserver(1, initializer=came.append, initargs=(1,))
    for _ in range(2):
        js(int).result()
    assert came == [1]


PROGRAM = """
import os, sys
from jobserver import Jobserver
with Jobserver(*sys.argv[1:]) as js:
    print(js(os.getpid).result() == os.getpid())
"""


@pytest.mark.parametrize("context", [(), ("fork",), ("forkserver",)])
def test_the_environment_says_it_for_a_whole_program(context: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", PROGRAM, *context]

    def run(value: str) -> Any:
        environment = {**os.environ, "JOBSERVER_CONTEXT": value}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert run("inline").stdout == "True\n"
    assert run("").stdout == "False\n" or context == ("forkserver",)
    assert "which the environment variable JOBSERVER_CONTEXT says" in run("wrong").stderr


def in_threads(count: int, run: Callable[[int], object]) -> list[Any]:
    """What this returns in so many threads at once."""
    begins, came = threading.Barrier(count), {}

    def each(number: int) -> None:
        begins.wait(DEADLINE)
        came[number] = run(number)

    threads = [in_thread(each, number) for number in range(count)]
    for thread in threads:
        join(thread)
    return [came[number] for number in range(count)]


def several_variables() -> set[str | None]:
    return {variable() for _ in range(1000)}


@pytest.mark.usefixtures("hasty")
def test_a_job_of_one_thread_sees_no_environment_of_another(js: Jobserver) -> None:
    def run(number: int) -> Any:
        return js.submit(several_variables, env={"A": str(number)}).result()

    assert in_threads(3, run) == [{"0"}, {"1"}, {"2"}]
    assert variable() is None


@pytest.mark.usefixtures("hasty")
def test_nor_one_of_a_thread_that_uses_another_jobserver(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    several = [make_jobserver(1) for _ in range(3)]

    def run(number: int) -> Any:
        return several[number].submit(several_variables, env={"A": str(number)}).result()

    assert in_threads(3, run) == [{"0"}, {"1"}, {"2"}]
    assert variable() is None


@pytest.mark.usefixtures("hasty")
def test_the_initializer_is_called_once_by_several_threads(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    came: list[set[str | None]] = []
    js = make_jobserver(1, initializer=lambda: came.append(several_variables()))
    in_threads(3, lambda _: js(int).result())
    assert len(came) == 1


def test_a_job_has_a_place(js: Jobserver) -> None:
    def here_and_below() -> Any:
        return jobserver.current(), js(jobserver.current).result(), jobserver.current()

    first, second = CurrentJob(2, 0, 1), CurrentJob(2, 0, 2)
    assert js(here_and_below).result() == (first, second, first)
    assert jobserver.current() is None


@pytest.mark.parametrize("hook", [fail, int])
def test_limits_are_undone_though_the_preexec_hook_is_not(js: Jobserver, hook: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limited = js.submit(resource.getrlimit, args=(2,), memory_limit=1 << 30, preexec_fn=hook)
    if hook is int:
        assert limited.result() != before
    else:
        assert isinstance(limited.exception(), LookupError)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
