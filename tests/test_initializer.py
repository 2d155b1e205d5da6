"""`initializer`: what each process calls before its first job."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from jobserver import Jobserver, SubmissionDied

#: The values that this process was initialized with.
initialized: list[Any] = []


def initialize(*values: Any) -> None:
    initialized.append((*values, os.environ.get("A")))


def seen(*_: object) -> tuple[list[Any], int]:
    return initialized, os.getpid()


def seen_below(js: Jobserver) -> tuple[list[Any], int]:
    return js(seen).result()


class Needs:
    """An argument that a process can load only after it was initialized."""

    def __reduce__(self) -> Any:
        return _loaded, ()


def _loaded() -> int:
    return len(initialized)


def same(value: Any) -> Any:
    return value


def fail() -> None:
    raise LookupError("no model")


def fail_by(lock: Any) -> None:
    with lock:
        raise LookupError("no model")


@pytest.mark.parametrize("tasks", [1, None])
def test_each_process_is_initialized_once_before_its_first_job(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks, initializer=initialize, initargs=(1, 2))
    told = [js(seen).result() for _ in range(3)]
    assert [values for values, _ in told] == 3 * [[(1, 2, None)]]
    assert len({pid for _, pid in told}) == (1 if tasks is None else 3)


def test_it_has_the_environment_of_the_first_job(make_jobserver: Callable[..., Any]) -> None:
    js = make_jobserver(1, max_tasks_per_child=None, initializer=initialize)
    assert js.submit(seen, env={"A": "1"}).result()[0] == [("1",)]
    assert js.submit(seen, env={"A": "2"}).result()[0] == [("1",)]


def test_it_comes_before_the_jobs_arguments_are_loaded(make_jobserver: Any, method: str) -> None:
    js = make_jobserver(1, initializer=initialize)
    assert js(same, Needs()).result() == 1 or method == "fork"


@pytest.mark.parametrize("tasks", [1, None])
def test_processes_of_all_owners_of_the_tree_are_initialized(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(2, max_tasks_per_child=tasks, initializer=initialize, initargs=(1,))
    for _ in range(3):
        assert js(seen_below, js).result()[0][-1] == (1, None)
        assert js(seen).result()[0][-1] == (1, None)


def test_the_processes_of_a_map_are_initialized(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(2, initializer=initialize, initargs=(1,))
    assert {str(values) for values, _ in js.map(seen, zip(range(20)))} == {"[(1, None)]"}


@pytest.mark.parametrize("tasks", [1, None])
def test_its_exception_is_the_jobs_and_the_next_process_tries_again(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks, initializer=fail)
    for _ in range(2):
        with pytest.raises(LookupError, match="no model") as caught:
            js(seen).result()
        assert "in fail" in "".join(
            traceback.format_exception(None, caught.value, caught.value.__traceback__)
        )


def test_its_exit_is_the_jobs_death(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(1, initializer=sys.exit, initargs=(3,))
    with pytest.raises(SubmissionDied) as caught:
        js(seen).result()
    assert caught.value.exitcode == 3


@pytest.mark.parametrize("tasks", [1, None])
def test_its_arguments_may_be_objects_of_multiprocessing(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    context = make_jobserver().context
    reader, writer = context.Pipe(duplex=False)
    with contextlib.closing(reader), contextlib.closing(writer):
        js = make_jobserver(
            1, max_tasks_per_child=tasks, initializer=writer.send, initargs=("ready",)
        )
        for _ in range(2):
            js(seen).result()
        assert reader.recv() == "ready"
        assert (reader.recv() if tasks == 1 else "ready") == "ready"
        assert not reader.poll()


@pytest.mark.parametrize(
    "given, error, told",
    [
        (dict(initializer=7), TypeError, "initializer must be callable"),
        (dict(initializer=print, initargs=7), TypeError, "initargs must be a sequence"),
        (dict(initializer=print, initargs="ab"), TypeError, "initargs must be a sequence"),
        (dict(initargs=(1,)), TypeError, "there is none"),
    ],
)
def test_one_that_cannot_be_is_refused_at_once(
    given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Jobserver("fork", 1, **given)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("tasks", [1, None])
def test_an_initializer_that_cannot_be_pickled_is_named(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    lock = threading.Lock()
    js = make_jobserver(initializer=print, initargs=(lock,), max_tasks_per_child=tasks)
    with pytest.raises(pickle.PicklingError, match="the initializer or one of its initargs cannot"):
        js(int)
    with pytest.raises(pickle.PicklingError, match="the function or an argument cannot"):
        js(print, lock)
