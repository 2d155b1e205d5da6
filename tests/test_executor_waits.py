"""Threads that wait for a Future of an executor: they wait for the job themselves, and not for the
executor's thread. (What else Futures promise is in `test_executor.py`.)"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, OWNERS_METHODS, wait_until
from holding import Hold, held
from test_executor import crash, fail, switches_of, thread_of, when_at_rest
from test_interrupts import AtLine
from test_threads import in_thread, join, until_asleep

from jobserver import CallbackRaised, Jobserver, JobserverExecutor, SubmissionDied


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def has_begun(future: futures.Future[None]) -> bool:
    return future.running() or future.done()


@pytest.fixture
def running(executor: JobserverExecutor, hold: Hold) -> futures.Future[int]:
    """A job that runs until the test lets it go."""
    future = executor.submit(held, hold.end)
    wait_until(future.running)
    return future


@pytest.fixture
def busy(executor: JobserverExecutor) -> Iterator[threading.Event]:
    """The executor's thread is in a callback, until this is set or the test ends."""
    begun, go_on = threading.Event(), threading.Event()

    def callback(future: Any) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)

    executor.submit(int).add_done_callback(callback)
    assert begun.wait(DEADLINE)
    yield go_on
    go_on.set()


# What the waiter has.


@pytest.mark.parametrize("callbacks", [0, 1])
def test_a_result_is_there_while_the_executors_thread_is_busy(
    running: futures.Future[int], busy: threading.Event, hold: Hold, callbacks: int
) -> None:
    for _ in range(callbacks):
        running.add_done_callback(futures.Future.result)
    hold.let_go()
    assert running.result(DEADLINE) > 0
    assert running.exception(0) is None
    assert running.done() and not running.running()
    assert not running.cancel() and not running.cancelled()
    assert not busy.is_set()


def test_what_waits_for_several_futures_sees_a_result_that_was_had(
    running: futures.Future[int], busy: threading.Event, hold: Hold
) -> None:
    hold.let_go()
    running.result(DEADLINE)
    assert futures.wait([running], 0).not_done == set()
    assert next(futures.as_completed([running], 0)) is running


@pytest.mark.parametrize("fn, kind", [(list, None), (fail, LookupError), (crash, SubmissionDied)])
@pytest.mark.usefixtures("hasty")
def test_all_who_ask_for_an_outcome_get_one_object(
    executor: JobserverExecutor, fn: Callable[[], Any], kind: Any
) -> None:
    had: list[Any] = []

    def ask(future: futures.Future[Any]) -> None:
        had.append(future.exception(DEADLINE) or future.result(DEADLINE))

    for n in range(5):
        future = executor.submit(fn)
        threads = [in_thread(ask, future) for _ in range(3)]
        future.add_done_callback(ask)
        ask(future)
        join(*threads)
        wait_until(lambda n=n: len(had) == 6 * n + 5)  # type: ignore[misc]
        ask(future)
        assert all(each is had[-1] for each in had[-6:])
        assert kind is None or isinstance(had[-1], kind)
        assert kind is not SubmissionDied or isinstance(had[-1], BrokenProcessPool)


loads = itertools.count(1)


def load_slowly() -> int:
    time.sleep(0.05)
    return next(loads)


class LoadedSlowly:
    def __reduce__(self) -> Any:
        return load_slowly, ()


def test_a_result_is_loaded_once(executor: JobserverExecutor) -> None:
    before = next(loads)
    future = executor.submit(LoadedSlowly)
    future.add_done_callback(futures.Future.result)  # in the executor's thread
    threads = [in_thread(future.result, DEADLINE) for _ in range(2)]
    loaded: Any = future.result(DEADLINE)
    assert loaded == before + 1
    join(*threads)
    assert next(loads) == before + 2


@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_a_wait_ends_at_its_timeout(
    running: futures.Future[int], hold: Hold, timeout: float
) -> None:
    for wait in (running.result, running.exception):
        with pytest.raises(futures.TimeoutError):
            wait(timeout)
    assert not running.done()
    hold.let_go()
    assert running.result(DEADLINE) > 0


# The executor's thread.


@pytest.mark.parametrize("method", ["forkserver"], indirect=True)
def test_calls_that_one_thread_waits_for_do_not_wake_the_executors(
    executor: JobserverExecutor,
) -> None:
    for _ in range(3):
        executor.submit(int).result(DEADLINE)
    thread = thread_of(executor)
    before = when_at_rest(thread)
    for _ in range(100):
        executor.submit(int).result(DEADLINE)
    after = wait_until(lambda: switches_of(thread))
    assert switches(str(after)) - switches(before) < 20


def switches(status: str) -> int:
    return int(status.split()[1])


def test_callbacks_run_in_the_executors_thread(
    executor: JobserverExecutor, running: futures.Future[int], hold: Hold
) -> None:
    ran_in: list[Any] = []
    running.add_done_callback(lambda future: ran_in.append(threading.current_thread()))
    hold.let_go()
    running.result(DEADLINE)
    wait_until(lambda: ran_in)
    assert ran_in == [thread_of(executor)]


def test_who_waits_does_not_run_the_callbacks_of_a_shared_jobserver(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(2)
    with JobserverExecutor(jobserver=js) as executor:
        own = js(held, hold.end)
        own.when_done(fail)
        hold.let_go()
        for _ in range(5):
            future = executor.submit(time.sleep, 0.02)  # which the wait begins before the end of
            wait_until(partial(has_begun, future))
            assert future.result(DEADLINE) is None
    with pytest.raises(CallbackRaised):
        own.wait(DEADLINE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_callbacks_of_a_broken_executor_cannot_keep_others_from_their_errors(
    method: str, capfd: Any
) -> None:
    executor = JobserverExecutor(2, method, fail)
    submitted = [executor.submit(int) for _ in range(6)]
    for future in submitted:
        future.add_done_callback(lambda future: exec("raise SystemExit"))
    for future in submitted:
        with pytest.raises(BrokenProcessPool):
            future.result(DEADLINE)
    executor.shutdown()
    capfd.readouterr()


@pytest.mark.usefixtures("hasty")
def test_a_shutdown_returns_when_all_futures_are_done_also_those_waited_for(method: str) -> None:
    for _ in range(10):
        executor = JobserverExecutor(2, method)
        submitted = [executor.submit(int) for _ in range(4)]
        threads = [in_thread(future.result, DEADLINE) for future in submitted]
        executor.shutdown()
        assert futures.wait(submitted, 0).not_done == set()
        join(*threads)


# Signals.


def test_ctrl_c_at_any_instruction_of_a_wait_loses_nothing(executor: JobserverExecutor) -> None:
    number, ends = 1, 0
    while ends < 5:  # a wait has fewer instructions if the job has ended before
        future = executor.submit(time.sleep, 0.01)
        wait_until(partial(has_begun, future))
        told = threading.Event()
        at_line = AtLine(number, in_owner=True, unit="opcode")
        try:
            with at_line.tracing():
                future.result(DEADLINE)
        except KeyboardInterrupt:
            pass
        assert futures.wait([future], DEADLINE).not_done == set(), f"instruction {number}"
        future.add_done_callback(lambda future, told=told: told.set())  # type: ignore[misc]
        assert told.wait(DEADLINE) and future.result(DEADLINE) is None
        number, ends = (number + 1, 0) if at_line.interrupted else (number, ends + 1)
    assert number > 50


@pytest.mark.parametrize("of", ["a thread", "a shutdown"])
def test_a_handler_within_a_wait_can_wait_for_who_needs_the_job(
    executor: JobserverExecutor, running: futures.Future[int], hold: Hold, of: str
) -> None:
    wait = in_thread(futures.wait, [running]) if of == "a thread" else in_thread(executor.shutdown)
    until_asleep(wait)
    until_asleep(thread_of(executor))
    waited: list[bool] = []

    def handler(number: int, frame: Any) -> None:
        hold.let_go()
        wait.join(DEADLINE)
        waited.append(not wait.is_alive())

    def ring() -> None:
        main = threading.main_thread()
        until_asleep(main)
        signal.pthread_kill(main.ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        ringing = in_thread(ring)
        assert running.result(DEADLINE) > 0
        join(ringing)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert waited == [True]


# Other processes.


def test_a_forked_child_has_the_results_that_were_there_at_the_fork(
    executor: JobserverExecutor, running: futures.Future[int], hold: Hold
) -> None:
    finished = executor.submit(int)
    assert finished.result(DEADLINE) == 0
    pid = os.fork()
    if not pid:
        try:
            good = finished.result(0) == 0 and not running.done()
            running.result(0)
        except futures.TimeoutError:
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    hold.let_go()
    assert running.result(DEADLINE) > 0
