"""Futures: asking whether a job has finished and for its result, and who may ask.

Not here: what the result is (test_results, test_deaths), and callbacks.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, OWNERS_METHODS, each_method

from jobserver import Blocked, Future, Jobserver, SubmissionDied


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """A Future is the owner's."""
    return str(request.param)


def hold(conn: Connection) -> Any:
    """Goes on until it is told something, which it returns."""
    return conn.recv()


def raise_key_error() -> NoReturn:
    raise KeyError("missing")


def touch(path: str) -> None:
    Path(path).touch()


def large(size: int) -> bytes:
    return bytes(size)


def raised_by(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


class Held:
    """A job that runs until it is released, and its Future."""

    def __init__(self, js: Jobserver) -> None:
        self._ours, self._theirs = js.context.Pipe()
        self.future: Future[Any] = js(hold, self._theirs)

    def release(self, value: object = None) -> None:
        self._ours.send(value)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def hold_job(js: Jobserver) -> Iterator[Callable[[], Held]]:
    """Starts jobs that run until they are released, at the test's end at the latest."""
    made: list[Held] = []

    def start() -> Held:
        made.append(Held(js))
        return made[-1]

    yield start
    for held in made:
        held.release()
    js.close()
    for held in made:
        held.close()


@pytest.fixture
def held(hold_job: Callable[[], Held]) -> Held:
    """A job that runs until it is released."""
    return hold_job()


@each_method
def test_a_running_job_is_not_done(held: Held) -> None:
    future = held.future
    assert future.done() is False
    assert future.done(timeout=0.01) is False
    assert future.wait(timeout=0) is False
    assert future.wait(timeout=0.01) is False


def test_what_is_not_ready_in_time_is_blocked(held: Held) -> None:
    for timeout in (0, 0.01, -1):
        assert isinstance(raised_by(lambda: held.future.result(timeout)), Blocked)  # noqa: B023
        assert isinstance(raised_by(lambda: held.future.exception(timeout)), Blocked)  # noqa: B023
    assert str(held.future.pid) in str(raised_by(lambda: held.future.result(timeout=0)))


def test_a_time_that_runs_out_loses_nothing(held: Held) -> None:
    for _ in range(3):
        assert isinstance(raised_by(lambda: held.future.result(timeout=0)), Blocked)
        assert held.future.wait(timeout=0) is False
    held.release("the result")
    assert held.future.result(DEADLINE) == "the result"


@pytest.mark.parametrize("wait", [Future.done, Future.wait], ids=["done", "wait"])
def test_waiting_without_end_ends_with_the_job(
    held: Held, wait: Callable[[Future[Any], Any], bool]
) -> None:
    held.release(1)
    assert wait(held.future, None) is True
    assert wait(held.future, 0) is True
    assert held.future.result(timeout=0) == 1


def test_what_is_finished_is_there_at_once(js: Jobserver) -> None:
    future = js(abs, -3)
    assert future.wait(DEADLINE)
    for timeout in (0, -1, None, DEADLINE):
        assert future.done(timeout) is True
        assert future.wait(timeout) is True
        assert future.result(timeout) == 3
        assert future.exception(timeout) is None


@each_method
def test_a_failed_job_is_done(js: Jobserver) -> None:
    for future, kind in ((js(raise_key_error), KeyError), (js(os._exit, 3), SubmissionDied)):
        assert future.wait(DEADLINE) is True
        assert future.done() is True
        error = future.exception(timeout=0)
        assert isinstance(error, kind)
        assert raised_by(lambda: future.result(timeout=0)) is error  # noqa: B023


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_time_too_long_for_any_clock_is_without_end(js: Jobserver, timeout: float) -> None:
    assert js(abs, -3).result(timeout) == 3


@pytest.mark.parametrize(
    "timeout, error",
    [(float("nan"), ValueError), (True, TypeError), ("1", TypeError), ([], TypeError)],
)
def test_what_is_no_time_is_refused_by_every_wait(
    held: Held, timeout: Any, error: type[Exception]
) -> None:
    future = held.future
    for wait in (future.done, future.wait, future.result, future.exception):
        assert isinstance(raised_by(lambda: wait(timeout)), error)  # noqa: B023
    held.release("unharmed")
    assert future.result(DEADLINE) == "unharmed"


def test_futures_finish_in_the_order_in_which_their_jobs_end(
    hold_job: Callable[[], Held],
) -> None:
    first, second = hold_job(), hold_job()
    second.release("second")
    assert second.future.result(DEADLINE) == "second"
    assert not first.future.done()
    first.release("first")
    assert first.future.result(DEADLINE) == "first"


def test_waiting_for_one_job_takes_in_what_else_has_finished(js: Jobserver, held: Held) -> None:
    other = js(abs, -3)
    other.when_done(held.release)  # else the wait below would never end
    assert held.future.wait(DEADLINE)
    assert other.result(timeout=0) == 3


@each_method
def test_a_future_knows_its_jobs_pid(js: Jobserver, held: Held) -> None:
    future = js(os.getpid)
    before = future.pid
    assert future.result(DEADLINE) == before == future.pid
    os.kill(held.future.pid, 0)  # raises unless there is such a process
    assert held.future.pid not in (0, os.getpid(), future.pid)


@each_method
def test_a_representation_says_state_and_pid(js: Jobserver, held: Held) -> None:
    future = held.future
    assert repr(future) == f"<Future of job {future.pid} of hold: running>"
    held.release()
    assert future.wait(DEADLINE)
    assert repr(future) == f"<Future of job {future.pid} of hold: finished>"
    future.result()
    assert repr(future) == f"<Future of job {future.pid} of hold: finished>"
    for failed, name, state in (
        (js(raise_key_error), "raise_key_error", "finished"),
        (js(os._exit, 3), "_exit", "died"),
        (js(functools.partial(int)), "", "finished"),
    ):
        assert failed.wait(DEADLINE)
        of = name and f" of {name}"
        assert repr(failed) == f"<Future of job {failed.pid}{of}: {state}>"
    read = js(large, 1024 * 1024)
    read.result(DEADLINE)
    assert repr(read) == f"<Future of job {read.pid} of large: finished>"


def test_a_future_is_neither_copied_nor_pickled(js: Jobserver) -> None:
    future = js(abs, -3)
    for refuse in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be (copied|pickled)"):
            refuse(future)
    with pytest.raises(TypeError):
        copy.deepcopy({"nested": [future]})
    assert future.result(DEADLINE) == 3


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_future_as_an_argument_is_refused(js: Jobserver, held: Held) -> None:
    with pytest.raises(pickle.PicklingError, match="a Future cannot be pickled"):
        js(str, held.future)


def test_a_future_outlives_its_jobserver(js: Jobserver) -> None:
    future = js(abs, -3)
    js.close()
    assert future.done() is True
    assert future.wait() is True
    assert future.result() == 3
    assert future.exception() is None


@each_method
def test_a_job_whose_future_is_dropped_runs_to_its_end(
    make_jobserver: Callable[..., Jobserver], tmp_path: Path
) -> None:
    js = make_jobserver(slots=1)
    for name in ("first", "second"):
        js.submit(touch, args=(str(tmp_path / name),), timeout=DEADLINE)
    js.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_future_that_nobody_wants_any_more_is_freed(js: Jobserver) -> None:
    future = js(abs, -3)
    assert future.result(DEADLINE) == 3
    alive = weakref.ref(future)
    del future
    js.close()
    assert alive() is None


def test_threads_that_wait_for_one_future_all_get_the_same_result(held: Held) -> None:
    results: list[Any] = []
    ready = threading.Barrier(9)

    def wait() -> None:
        ready.wait(DEADLINE)
        results.append(held.future.result(DEADLINE))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait(DEADLINE)
    held.release(["a list"])
    for thread in threads:
        thread.join(DEADLINE)
    assert len(results) == 8
    assert all(result is results[0] for result in results)
    assert results[0] == ["a list"]


def test_threads_that_wait_for_different_futures_each_get_their_own(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=4)
    results: dict[int, int] = {}

    def run(n: int) -> None:
        results[n] = js.submit(abs, args=(-n,), timeout=DEADLINE).result(DEADLINE)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {n: n for n in range(6)}


def in_a_fork(call: Callable[[], Any]) -> str:
    """What the call returns or raises in a child that this process forks, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = repr(call())
        except BaseException as e:
            text = f"{type(e).__name__}: {e}"
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def every_use(future: Future[Any]) -> list[Callable[[], Any]]:
    return [future.done, future.wait, future.result, future.exception]


def test_a_forked_process_may_not_wait_for_its_parents_job(held: Held) -> None:
    future = held.future
    uses = [*every_use(future), lambda: future.wait(0, signal=signal.SIGKILL)]
    for use in uses:
        answer = in_a_fork(use)
        assert answer.startswith("RuntimeError: ")
        assert str(os.getpid()) in answer, "it must say whose the Future is"
    held.release("unharmed")
    assert future.result(DEADLINE) == "unharmed"


def test_a_forked_process_may_not_register_a_callback_for_its_parents_job(held: Held) -> None:
    assert in_a_fork(lambda: held.future.when_done(print)).startswith("RuntimeError: ")


@each_method
def test_a_forked_process_may_have_what_was_finished_before(js: Jobserver) -> None:
    small, failed, died = js(abs, -3), js(raise_key_error), js(os._exit, 3)
    big = js(large, 1024 * 1024)
    for future in (small, failed, died, big):
        assert future.wait(DEADLINE)
    assert [in_a_fork(use) for use in every_use(small)] == ["True", "True", "3", "None"]
    assert in_a_fork(failed.result) == "KeyError: 'missing'"
    assert in_a_fork(died.result) == f"SubmissionDied: job {died.pid} of _exit exited with code 3"
    assert in_a_fork(lambda: len(big.result())) == str(1024 * 1024)
    assert in_a_fork(lambda: small.when_done(print)) == "0"
    assert len(big.result()) == 1024 * 1024


@each_method
def test_a_forked_process_leaves_its_parents_futures_alone(js: Jobserver, held: Held) -> None:
    def submit_and_close() -> object:
        with js:
            return js.submit(abs, args=(-3,), timeout=DEADLINE).result(DEADLINE)

    assert in_a_fork(submit_and_close) == "3"
    assert not held.future.done()
    held.release("unharmed")
    assert held.future.result(DEADLINE) == "unharmed"


@pytest.mark.parametrize("method", ["fork"])  # the others cannot get at their owner's
def test_a_job_may_not_wait_for_its_owners_other_job(js: Jobserver, held: Held) -> None:
    finished = js(abs, -3)
    assert finished.wait(DEADLINE)
    assert js(lambda: finished.result()).result(DEADLINE) == 3
    with pytest.raises(RuntimeError, match="belongs to process"):
        js(lambda: held.future.result()).result(DEADLINE)
