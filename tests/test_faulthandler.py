"""`faulthandler`: the death of a job that crashes says where in Python the job was.

pytest enables faulthandler in the process of the tests, and forked jobs would have that. So it is
disabled here.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import descriptors, settle

from jobserver import Future, Jobserver, SubmissionDied

tasks_each = pytest.mark.parametrize("tasks", [1, None])

#: The signals of crashes.
SIGNALS = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL]


@pytest.fixture(autouse=True)
def no_other_handler() -> Iterator[None]:
    was_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    yield
    if was_enabled:
        faulthandler.enable(2)


def reads_nowhere() -> None:
    ctypes.string_at(0)


def gets(number: int) -> None:
    os.kill(os.getpid(), number)


def crashes_at(number: int) -> int:
    if number == 3:
        reads_nowhere()
    return number


def cause_of(future: Future[Any]) -> str:
    """What the death of this job says beside its message."""
    died = future.exception()
    assert isinstance(died, SubmissionDied)
    return str(died.__cause__)


def crashes_below(js: Jobserver) -> str:
    return cause_of(js.submit(reads_nowhere, faulthandler=True))


def is_enabled() -> tuple[bool, int]:
    return faulthandler.is_enabled(), os.getpid()


def crashes_with_a_handler_of_its_own(path: Path) -> None:
    with path.open("w") as file:
        faulthandler.enable(file)
        reads_nowhere()


def enables_for(path: Path) -> None:
    """An initializer: faulthandler writes to this file in all jobs of the process."""
    faulthandler.enable(path.open("w"))


def is_told(connection: Any) -> None:
    connection.recv()
    reads_nowhere()


def number_of_descriptors() -> int:
    return len(descriptors())


@tasks_each
def test_the_death_of_a_job_that_crashes_says_where_it_was(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    with pytest.raises(SubmissionDied, match="was killed by SIGSEGV") as caught:
        js.submit(reads_nowhere, faulthandler=True).result()
    told = str(caught.value.__cause__)
    line = reads_nowhere.__code__.co_firstlineno + 1
    assert "Fatal Python error: Segmentation fault" in told
    assert f'"{__file__}", line {line} in reads_nowhere\n' in told
    assert told.rstrip().endswith('in reads_nowhere\n"""')  # no calls of ours, or of the owner's
    assert js(int).result() == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_of_a_crash_is_told(js: Jobserver, number: int) -> None:
    died = js.submit(gets, args=(number,), faulthandler=True).exception()
    assert isinstance(died, SubmissionDied) and died.signal == number
    assert "in gets\n" in str(died.__cause__)


@tasks_each
def test_a_map_says_it_of_the_very_call(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    results = js.map(crashes_at, [(n,) for n in range(6)], chunksize=4, faulthandler=True)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SubmissionDied, match="SIGSEGV") as caught:
        next(results)
    told = str(caught.value.__cause__)
    assert "in reads_nowhere\n" in told
    assert told.rstrip().endswith('in crashes_at\n"""')
    assert list(results) == [4, 5]


def test_jobs_of_jobs_say_it_too(js: Jobserver) -> None:
    assert "in reads_nowhere\n" in js(crashes_below, js).result()
    told = js.submit(crashes_below, args=(js,), faulthandler=True).result()
    assert "in reads_nowhere\n" in told


@tasks_each
def test_the_handler_is_gone_after_the_job(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    _, process = js(is_enabled).result()
    count = js(number_of_descriptors).result()
    assert js.submit(is_enabled, faulthandler=True).result()[0]
    after, same = js(is_enabled).result()
    assert not after
    assert (same == process) == (tasks is None)
    assert js(number_of_descriptors).result() == count


@tasks_each
def test_one_of_the_users_own_stays(
    make_jobserver: Callable[..., Jobserver], tasks: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "faults"
    js = make_jobserver(1, max_tasks_per_child=tasks)
    own = js.submit(crashes_with_a_handler_of_its_own, args=(file,), faulthandler=True)
    assert isinstance(own.exception(), SubmissionDied)
    assert "in reads_nowhere\n" in file.read_text()


@tasks_each
def test_a_handler_of_the_process_gives_way_to_that_of_the_job(
    make_jobserver: Callable[..., Jobserver], tasks: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "faults"
    js = make_jobserver(1, max_tasks_per_child=tasks, initializer=enables_for, initargs=(file,))
    assert js.submit(is_enabled, faulthandler=True).result()[0]
    assert js(is_enabled).result()[0]
    assert "in reads_nowhere\n" in cause_of(js.submit(reads_nowhere, faulthandler=True))
    assert file.read_text() == ""


def test_a_handler_of_the_owner_gives_way_to_that_of_a_forked_job(js: Jobserver) -> None:
    faulthandler.enable(2)
    assert "in reads_nowhere\n" in cause_of(js.submit(reads_nowhere, faulthandler=True))
    assert faulthandler.is_enabled()


def test_without_the_option_nothing_is_told(js: Jobserver) -> None:
    died = js(reads_nowhere).exception()
    assert isinstance(died, SubmissionDied) and died.__cause__ is None
    died = js.submit(gets, args=(signal.SIGTERM,), faulthandler=True).exception()
    assert isinstance(died, SubmissionDied) and died.__cause__ is None


def test_a_handle_has_it_as_a_default(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(faulthandler=True)
    assert "in reads_nowhere" in cause_of(js(reads_nowhere))
    ours = js.with_options(faulthandler=False)
    assert cause_of(ours(reads_nowhere)) == "None"


def test_it_goes_with_captured_output(js: Jobserver) -> None:
    future = js.submit(reads_nowhere, faulthandler=True, output="capture")
    assert "in reads_nowhere\n" in cause_of(future)
    assert future.output() == ""


@pytest.mark.parametrize("method", ["fork"])
def test_kept_futures_use_no_descriptors_up(js: Jobserver) -> None:
    js(int).result()
    settle(js)
    before = number_of_descriptors()
    futures = [js.submit(int, faulthandler=True) for _ in range(20)]
    for future in futures:
        future.wait()
    settle(js)
    assert number_of_descriptors() <= before


@pytest.mark.parametrize("method", ["fork"])
def test_an_owner_that_closes_the_file_gets_the_death_without_it(js: Jobserver, pipes: Any) -> None:
    ours, theirs = pipes()
    known = descriptors()
    future = js.submit(is_told, args=(theirs,), faulthandler=True)
    for descriptor, file in descriptors().items():
        if descriptor not in known and file.startswith(("/memfd:jobserver", "/dev/shm/jobserver")):
            os.close(descriptor)
    ours.send("crash")
    assert cause_of(future) == "None"


@pytest.mark.parametrize("method", ["fork"])
def test_another_value_is_refused_at_once(js: Any) -> None:
    with pytest.raises(TypeError, match="faulthandler must be True or False"):
        js.submit(int, faulthandler=1)


@pytest.mark.parametrize("method", ["inline"])
def test_a_job_in_the_callers_process_has_none(js: Jobserver) -> None:
    assert not js.submit(is_enabled, faulthandler=True).result()[0]
