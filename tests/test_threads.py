"""One Jobserver and its Futures, used by many threads at once.

Each test is a race run so often that a loss shows: a wake-up, a callback or a process. A
thread that does not end is a lost wake-up. Not here: forks by the user (`test_forks.py`).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, take_slot
from holding import Hold, free, held

from jobserver import CallbackRaised, Future, Jobserver

#: How often a race is run, by start method: as often as a job's cost allows. The jobs are
#: built-in functions where they can be: those of this module would import pytest each time.
ROUNDS = {"fork": 300, "forkserver": 200, "spawn": 3}


def fail() -> None:
    raise ValueError("as told")


def together(*bodies: Callable[[], object]) -> None:
    """Runs each in a thread of its own, all let off at once; raises what one of them raises."""
    start = threading.Barrier(len(bodies))
    errors: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            start.wait(DEADLINE)
            body()
        except BaseException as e:
            errors.append(e)

    threads = [in_thread(run, body) for body in bodies]
    try:
        join(*threads)
    finally:
        if errors:
            raise errors[0]


def in_thread(fn: Callable[..., object], *args: object) -> threading.Thread:
    # A daemon, so that one that hangs fails its test and not the whole run.
    thread = threading.Thread(target=fn, args=args, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    deadline = time.monotonic() + DEADLINE
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread was not woken"


def until_asleep(thread: threading.Thread) -> None:
    """Looks until a thread sleeps in the kernel: there is no event that says so."""
    deadline = time.monotonic() + DEADLINE
    before = None
    while time.monotonic() < deadline:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        if before == status and "State:\tS" in status:
            return  # it has not run between two looks, though it could have the GIL
        before = status
        time.sleep(0.002)
    raise AssertionError("the thread never came to rest")


def tasks() -> int:
    """The threads of this process, whoever made them."""
    return len(os.listdir("/proc/self/task"))


def test_threads_wait_for_each_others_futures(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    js = make_jobserver(slots=2)
    for number in range(ROUNDS[method]):
        futures: list[Future[int]] = []
        submitted = threading.Barrier(4)

        def work(
            me: int,
            number: int = number,
            futures: list[Future[int]] = futures,
            submitted: threading.Barrier = submitted,
        ) -> None:
            futures.append(js(int, number))
            submitted.wait(DEADLINE)
            assert futures[me].result() == number

        together(*[functools.partial(work, me) for me in range(4)])
    assert free(js) == 2


def test_threads_that_share_one_slot_all_get_their_turn(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    js = make_jobserver(slots=1)

    def work() -> None:
        for number in range(3):
            assert js(int, number).result() == number

    for _ in range(ROUNDS[method] // 3):
        together(work, work, work)
    assert free(js) == 1


def test_a_thread_waiting_for_a_slot_wakes_when_another_threads_job_ends(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=1)
    js(held, hold.end)
    second: list[int] = []
    waiting = in_thread(lambda: second.append(js(int, 7).result()))
    until_asleep(waiting)
    hold.let_go()
    join(waiting)
    assert second == [7]


def test_a_thread_that_waited_before_there_was_any_job_wakes_when_one_ends(
    make_jobserver: Callable[..., Jobserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began to wait when this process had nothing to watch but the slots."""
    js = make_jobserver(slots=1)
    js.reclaim_resources()  # its starter is this process's from the first use on
    starter: Any = js._owner.starter
    start = starter.start
    second: list[int] = []
    waiting = threading.Thread(target=lambda: second.append(js(int, 7).result()), daemon=True)

    def start_while_another_waits(owner: Any, future: Any, admission: Any, packed: Any) -> Any:
        monkeypatch.undo()
        assert not owner.admit(admission)
        waiting.start()
        until_asleep(waiting)
        return start(owner, future, admission, packed)

    monkeypatch.setattr(starter, "start", start_while_another_waits)
    js(int, 0)
    join(waiting)  # while this thread looks at nothing
    assert second == [7]


def test_a_thread_waiting_for_a_result_wakes_when_another_thread_takes_it_in(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    js = make_jobserver()
    for number in range(ROUNDS[method]):
        future = js(int, number)

        def look(future: Future[int] = future) -> None:
            while not future.done():
                pass

        together(future.result, look)


def test_a_job_once_done_stays_done_while_other_threads_issue_callbacks(
    make_jobserver: Callable[..., Jobserver], method: str, hasty: None
) -> None:
    js = make_jobserver(slots=4)
    finished = js(int, 0)
    finished.result()

    def submit() -> None:
        js(int, 1).when_done(int)

    def look() -> None:
        for _ in range(20):
            assert finished.done()
            assert finished.result(timeout=0) == 0

    for _ in range(ROUNDS[method]):
        together(submit, look, look)


def test_closing_wakes_when_another_thread_reaps_the_last_job(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    for _ in range({"fork": 1000}.get(method, 20)):
        js = make_jobserver()
        js(int, 0)
        closed = threading.Event()

        def look(js: Jobserver = js, closed: threading.Event = closed) -> None:
            while not closed.is_set():
                js.reclaim_resources()

        def close(js: Jobserver = js, closed: threading.Event = closed) -> None:
            js.close()
            closed.set()

        looking, closing = in_thread(look), in_thread(close)
        try:
            join(closing)
        finally:
            closed.set()
        join(looking)


def test_several_threads_may_close(make_jobserver: Callable[..., Jobserver], method: str) -> None:
    for _ in range(min(20, ROUNDS[method])):
        js = make_jobserver()
        js(int, 0)
        together(js.close, js.close, js.close)


def test_closing_while_a_thread_waits_for_a_slot_refuses_its_job_or_runs_it(
    make_jobserver: Callable[..., Jobserver], method: str, hold: Hold
) -> None:
    before = children()
    for _ in range(min(20, ROUNDS[method])):
        js = make_jobserver(slots=1)
        pool: Any = js._owner.open_pool()
        js(held, hold.end)
        came: list[object] = []

        def submit(js: Jobserver = js, came: list[object] = came) -> None:
            try:
                came.append(js(int, 7).result())
            except Exception as e:
                came.append(str(e))

        waiting = in_thread(submit)
        until_asleep(waiting)
        hold.let_go()
        js.close()
        join(waiting)
        assert came[0] in (7, "this Jobserver is closed")
        assert pool.free() == 1
        assert children() == before


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_threads_that_ask_for_one_result_get_one_object(
    make_jobserver: Callable[..., Jobserver], method: str, hasty: None, size: int
) -> None:
    js = make_jobserver()
    for _ in range(min(50, ROUNDS[method])):
        future = js(bytearray, size)
        results: list[Any] = []

        def ask(future: Future[Any] = future, results: list[Any] = results) -> None:
            results.append(future.result())

        together(ask, ask, ask)
        assert results[0] == bytearray(size)
        assert results[0] is results[1] is results[2]


def test_threads_that_ask_for_one_error_get_one_object(js: Jobserver, hasty: None) -> None:
    future = js(int, "no number")
    errors: list[Any] = []

    def ask() -> None:
        with pytest.raises(ValueError, match="no number") as info:
            future.result()
        errors.append(info.value)

    together(ask, ask, ask)
    assert errors[0] is errors[1] is errors[2]


def test_callbacks_run_once_each_and_in_order_whichever_threads_look(
    make_jobserver: Callable[..., Jobserver], method: str, hasty: None
) -> None:
    js = make_jobserver()
    for _ in range(min(100, ROUNDS[method])):
        called: list[int] = []
        future = js(int, 0)
        for number in range(5):
            future.when_done(called.append, number)

        def look(future: Future[int] = future) -> None:
            while not future.done():
                pass

        together(look, look, js.reclaim_resources, future.wait)
        js.reclaim_resources()
        assert called == [0, 1, 2, 3, 4]


def test_callbacks_registered_by_several_threads_all_run_under_numbers_of_their_own(
    make_jobserver: Callable[..., Jobserver], method: str, hasty: None
) -> None:
    js = make_jobserver()
    for _ in range(ROUNDS[method]):
        future = js(int, 0)
        called: list[int] = []
        numbers: list[int] = []

        def register(
            me: int,
            future: Future[int] = future,
            called: list[int] = called,
            numbers: list[int] = numbers,
        ) -> None:
            numbers.append(future.when_done(called.append, me))

        together(*[functools.partial(register, me) for me in range(4)])
        future.wait()
        js.reclaim_resources()
        assert sorted(called) == sorted(numbers) == [0, 1, 2, 3]


def test_of_callbacks_that_raise_each_is_told_once_to_one_thread(
    make_jobserver: Callable[..., Jobserver], method: str, hasty: None
) -> None:
    js = make_jobserver()
    for _ in range(min(100, ROUNDS[method])):
        future = js(int, 0)
        called: list[int] = []
        told: list[int] = []
        for number in range(6):
            future.when_done(fail if number % 2 else functools.partial(called.append, number))

        def look(
            future: Future[int] = future, called: list[int] = called, told: list[int] = told
        ) -> None:
            while len(called) + len(told) < 6:
                try:
                    future.wait()
                except CallbackRaised as e:
                    told.append(e.seqno)

        together(look, look, look)
        assert (called, sorted(told)) == ([0, 2, 4], [1, 3, 5])


def test_a_callback_registered_while_another_runs_outlives_the_others_error(
    js: Jobserver,
) -> None:
    future = js(int, 0)
    future.result()
    running, registered = threading.Event(), threading.Event()
    called: list[str] = []

    def callback() -> None:
        running.set()
        assert registered.wait(DEADLINE)
        fail()

    def register_and_be_told() -> None:
        with pytest.raises(CallbackRaised):
            future.when_done(callback)

    def register_meanwhile() -> None:
        assert running.wait(DEADLINE)
        future.when_done(called.append, "the other")
        registered.set()

    together(register_and_be_told, register_meanwhile)
    js.reclaim_resources()
    assert called == ["the other"]


def test_nothing_starts_a_thread(
    make_jobserver: Callable[..., Jobserver], method: str, hold: Hold
) -> None:
    before = tasks()  # or fewer, when those that earlier tests have joined are gone
    js = make_jobserver(slots=2)
    futures = [js(held, hold.end), js(tasks)]
    future = futures[0]
    future.when_done(int)
    assert tasks() <= before
    assert futures[1].result() == 1
    assert not future.wait(0.01)
    assert tasks() <= before
    hold.let_go()
    future.result()
    js.reclaim_resources()
    assert tasks() <= before
    js.close()
    assert tasks() <= before


FIRST_RESULTS = """
import sys, threading
from jobserver import Jobserver

def work():
    start.wait()
    js(int).result()
    done.append(True)

if __name__ == "__main__":
    sys.setswitchinterval(1e-6)
    done, start = [], threading.Barrier(4)
    with Jobserver(sys.argv[1], 4) as js:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(len(done))
"""


def test_a_programs_first_results_may_come_to_several_threads_at_once(
    tmp_path: Path, method: str
) -> None:
    """In programs of their own, for whatever is set up when it is first used."""
    script = tmp_path / "first_results.py"
    script.write_text(FIRST_RESULTS)
    for _ in range({"fork": 20}.get(method, 5)):
        ended = subprocess.run(
            [sys.executable, str(script), method],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert (ended.stdout, ended.returncode) == ("4\n", 0), ended.stderr


def test_closing_wakes_a_thread_that_waits_for_a_slot_which_another_process_has(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    slot = take_slot(js)  # as if it had
    came: list[str] = []

    def submit() -> None:
        try:
            js(int)
        except RuntimeError as e:
            came.append(str(e))

    waiting = in_thread(submit)
    until_asleep(waiting)
    js.close()
    join(waiting)
    del slot
    assert came == ["this Jobserver is closed"]
