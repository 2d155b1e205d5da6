"""`jobserver.current()`: what a job can find out about its place in its pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from holding import Hold, held

import jobserver
from jobserver import CurrentJob, Jobserver


def here(*_: object) -> CurrentJob | None:
    return jobserver.current()


def tells_and_is_held(told: Any, end: Any) -> None:
    place = jobserver.current()
    told.send(place and place.slot)
    held(end)


def here_and_below(js: Jobserver) -> tuple[Any, Any, Any]:
    """In a job: its place before, that of a job of its own, and its place afterwards."""
    before = jobserver.current()
    below = js(here).result()
    return before, below, jobserver.current()


def slot_of_each(js: Jobserver, depth: int) -> list[Any]:
    if not depth:
        return [jobserver.current()]
    futures = [js(slot_of_each, js, depth - 1) for _ in range(2)]
    return [place for future in futures for place in future.result()]


def forked() -> int:
    """In a job: the exit code of a process that it forks, 0 if that is no job."""
    pid = os.fork()
    if not pid:
        os._exit(jobserver.current() is not None)
    return os.waitpid(pid, 0)[1]


def test_a_process_that_is_no_job_has_no_place(js: Jobserver) -> None:
    assert jobserver.current() is None
    assert js(forked).result() == 0
    js(int).result()
    assert jobserver.current() is None


def test_jobs_that_run_at_once_have_numbers_of_their_own(
    make_jobserver: Callable[..., Jobserver], pipes: Callable[[], Any], hold: Hold
) -> None:
    js = make_jobserver(4)
    ours, theirs = pipes()
    for _ in range(2):
        futures = [js(tells_and_is_held, theirs, hold.end) for _ in range(4)]
        assert sorted(ours.recv() for _ in futures) == [0, 1, 2, 3]
        hold.let_go(4)
        assert [future.result() for future in futures] == [None] * 4


def test_a_job_without_a_slot_has_no_number(js: Jobserver) -> None:
    assert js.submit(here, consume=0).result() == CurrentJob(2, None, 1)


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_a_job_below_has_the_number_of_the_slot_that_it_borrows(
    make_jobserver: Callable[..., Jobserver], waiting: str
) -> None:
    js = make_jobserver(1, waiting=waiting)
    assert js(here_and_below, js).result() == (
        CurrentJob(1, 0, 1),
        CurrentJob(1, 0, 2),
        CurrentJob(1, 0, 1),
    )


@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("tasks", [1, None])
def test_all_jobs_of_a_tree_have_numbers_below_the_number_of_slots(
    make_jobserver: Callable[..., Jobserver], waiting: str, tasks: int | None
) -> None:
    js = make_jobserver(3, waiting=waiting, max_tasks_per_child=tasks)
    places = js(slot_of_each, js, 4).result()
    assert {(place.slots, place.depth) for place in places} == {(3, 5)}
    assert {place.slot for place in places} <= {0, 1, 2}


def test_the_number_of_a_killed_job_is_free_again(
    js: Jobserver, pipes: Callable[[], Any], hold: Hold
) -> None:
    ours, theirs = pipes()
    for _ in range(3):
        futures = [js(tells_and_is_held, theirs, hold.end) for _ in range(2)]
        assert sorted(ours.recv() for _ in futures) == [0, 1]
        for future in futures:
            os.kill(future.pid, signal.SIGKILL)
            future.wait()


def test_a_program_below_a_job_is_no_job_itself(js: Jobserver) -> None:
    program = "import jobserver; print(jobserver.current())"
    command = [sys.executable, "-c", program]
    future = js(subprocess.check_output, command, text=True)
    assert future.result() == "None\n"


def test_a_job_has_a_number_at_each_time(js: Jobserver) -> None:
    """Also while the job before it on the slot is about to end."""
    places = [js(here) for _ in range(300)]
    told: list[Any] = [place.result() for place in places]
    assert {place.slot for place in told} <= {0, 1}
