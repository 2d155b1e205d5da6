"""Nesting: a Jobserver in its jobs, and in their jobs, whichever way it came there.

Not here: how many jobs of a tree run at once (test_slots), nor how errors and deaths travel up
(test_results, test_deaths). Semaphores of multiprocessing say "begun" and "go on".
"""

from __future__ import annotations

import copy
import io
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import DEADLINE, METHODS, children

from jobserver import Blocked, Jobserver

#: A Jobserver that a forked job finds as a global.
shared: Jobserver | None = None


def nothing() -> None:
    pass


def double(x: int) -> int:
    return 2 * x


def use(js: Jobserver) -> int:
    return js(double, 21).result()


def use_keyword(*, js: Jobserver) -> int:
    return use(js)


def use_within(data: dict[str, list[Jobserver]]) -> int:
    return use(data["key"][0])


def use_global() -> int:
    assert shared is not None
    return use(shared)


def use_method(submit: Callable[..., Any]) -> int:
    return submit(double, args=(21,)).result()  # type: ignore[no-any-return]


def describe(js: Jobserver) -> tuple[int, str]:
    return js.slots, js.context.get_start_method()


def are_one(*handles: Jobserver, **more: Jobserver) -> bool:
    return len({id(js) for js in [*handles, *more.values()]}) == 1


def are_copies_one(js: Jobserver) -> bool:
    return copy.copy(js) is js and copy.deepcopy([js])[0] is js


def descend(js: Jobserver, levels: int) -> list[tuple[int, int]]:
    """Of this job and of each below it: its pid, and how many descriptors it began with."""
    count = len(os.listdir("/proc/self/fd"))
    below = js(descend, js, levels - 1).result() if levels > 1 else []
    return [(os.getpid(), count), *below]


def submit_without_waiting(js: Jobserver) -> bool:
    """Whether there was a slot."""
    try:
        js.submit(nothing, timeout=0)
    except Blocked:
        return False
    return True


def hold_and_touch(begun: Any, go: Any, file: Path) -> None:
    begun.release()
    assert go.acquire(timeout=DEADLINE)
    file.touch()


def leave_a_job_behind(js: Jobserver, end: str, begun: Any, go: Any, file: Path) -> str:
    """Ends while a job of its own runs."""
    js(hold_and_touch, begun, go, file)
    if end == "raise":
        raise LookupError("on purpose")
    if end == "exit":
        sys.exit(3)
    return end


def use_own_jobserver(method: Any) -> int:
    with Jobserver(method, 1) as own:
        return use(own)


def leave_own_jobserver_open(method: Any, files: list[Path]) -> set[int]:
    """The children that it leaves behind."""
    own = Jobserver(method, 2)
    for file in files:
        own(file.touch)
    return children()


def use_without_stdin(do: Callable[[], object]) -> tuple[int, str]:
    do()
    with Jobserver("fork", 1) as own:
        return use(own), own(read_stdin).result()


def read_stdin() -> str:
    assert sys.stdin is not None
    return sys.stdin.read()


def close_stdin() -> None:
    assert sys.stdin is not None
    sys.stdin.close()


def detach_stdin() -> None:
    stdin: Any = sys.stdin
    stdin.detach()


def wrap_stdin() -> None:
    stdin: Any = sys.stdin
    sys.stdin = io.TextIOWrapper(stdin.detach(), encoding="utf-8")


def make_another_in_vain(js: Jobserver, begun: Any, go: Any, file: Path, line: int) -> None:
    """Leaves a job of its own behind, after a signal handler's exception has come when so many
    lines of what notes that this process has jobs had run."""
    js(hold_and_touch, begun, go, file)
    lines = iter(range(line))

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_name != "_end_well":
            return None
        if event == "line" and next(lines, None) is None:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        Jobserver("fork", 1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)


def nest_own_jobserver(method: Any) -> int:
    with Jobserver(method, 1) as own:
        return own.submit(use_both, args=(own,), consume=0).result()


def use_both(js: Jobserver) -> int:
    with Jobserver(js.context, 1) as own:
        return use(js) + use(own)


def use_then_close(js: Jobserver) -> int:
    with js:
        return use(js)


def leave_open_in_a_process(js: Any, begun: Any, go: Any, file: Path) -> None:
    """Ends while a job of its own runs, on a Jobserver of its own if it is given a method."""
    js = js if isinstance(js, Jobserver) else Jobserver(js, 1)
    js(hold_and_touch, begun, go, file)


def use_in_a_process(js: Jobserver, answers: Connection) -> None:
    answers.send(use(js))
    answers.send(js(use, js).result())
    answers.close()


@contextmanager
def in_a_moment(act: Callable[[], object]) -> Iterator[None]:
    """Acts while the body waits, or at its end: by a signal, so that it takes no thread."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        yield
    finally:
        if signal.setitimer(signal.ITIMER_REAL, 0)[0]:
            act()
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", autouse=True)
def forkserver_of_multiprocessing() -> Iterator[None]:
    """Has multiprocessing's own fork server there before the tests, which it outlives."""
    server: Any = multiprocessing.forkserver
    server.ensure_running()
    yield
    server._forkserver._stop()


# As an argument


def test_a_jobserver_can_be_an_argument(js: Jobserver) -> None:
    futures = [
        js.submit(use, args=(js,), consume=0),
        js.submit(use_keyword, kwargs={"js": js}, consume=0),
        js.submit(use_within, args=({"key": [js]},), consume=0),
        js.submit(use_method, args=(js.submit,), consume=0),
    ]
    assert [future.result() for future in futures] == [42] * 4


def test_a_jobserver_is_the_same_in_a_job(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=3)
    assert js(describe, js).result() == (3, js.context.get_start_method())
    assert js(are_copies_one, js).result()


def test_a_jobserver_passed_twice_is_one_object_in_the_job(js: Jobserver) -> None:
    assert js(are_one, js, js, keyword=js).result()
    assert js(are_one, js, copy.copy(js), keyword=copy.deepcopy(js)).result()


def test_jobs_of_jobs_submit_jobs_on_every_level(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=5)
    levels = js(descend, js, 5).result()
    assert len({pid for pid, _ in levels} | {os.getpid()}) == 6


def test_jobs_inherit_no_more_than_one_descriptor_from_the_level_above(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=5)
    counts = [count for _, count in js(descend, js, 5).result()]
    assert all(lower - upper <= 1 for upper, lower in zip(counts, counts[1:]))


def test_a_job_takes_its_jobs_slots_from_those_of_its_owner(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    assert js(submit_without_waiting, js).result() is False
    assert js.submit(submit_without_waiting, args=(js,), consume=0).result() is True


@pytest.mark.parametrize("method", ["fork"])
def test_a_forked_job_can_use_a_jobserver_that_it_finds(
    js: Jobserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert js(lambda: use(js)).result() == 42
    monkeypatch.setattr(f"{__name__}.shared", js)
    assert js(use_global).result() == 42
    assert js(lambda argument: argument is js is shared, js).result()


@pytest.mark.parametrize("inner", METHODS)
def test_a_jobserver_of_another_context_can_be_an_argument(js: Jobserver, inner: Any) -> None:
    with Jobserver(inner, 3) as other:
        assert js(describe, other).result() == (3, inner)
        assert js(use, other).result() == 42
        assert js(are_one, js, other).result() is False


def test_a_closed_jobserver_is_of_no_use_in_a_job(js: Jobserver) -> None:
    other = Jobserver(js.context, 1)
    other.close()
    with pytest.raises((RuntimeError, pickle.PicklingError), match="closed"):
        js(use, other).result()


# Copies and pickles


def test_a_copy_of_a_jobserver_is_itself(js: Jobserver) -> None:
    assert copy.copy(js) is js
    assert copy.deepcopy(js) is js
    assert copy.deepcopy({"key": [js]})["key"][0] is js


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_jobserver_is_pickled_for_processes_only(js: Jobserver, protocol: int) -> None:
    js(nothing).result()
    with pytest.raises(TypeError, match="Jobserver"):
        pickle.dumps(js, protocol)
    assert js(use, js).result() == 42


def test_a_jobserver_cannot_be_a_result(js: Jobserver) -> None:
    with pytest.raises(pickle.PicklingError, match="Jobserver"):
        js(copy.copy, js).result()


# What a job leaves behind


@pytest.mark.parametrize("end", ["return", "raise"])
def test_a_result_is_sent_before_the_jobs_own_jobs_have_ended(
    js: Jobserver, tmp_path: Path, end: str
) -> None:
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    future = js(leave_a_job_behind, js, end, begun, go, tmp_path / "ended")
    error = future.exception(DEADLINE)
    assert (error is None) == (end == "return")
    assert not (tmp_path / "ended").exists()
    go.release()


@pytest.mark.parametrize("end", ["return", "raise", "exit"])
def test_a_job_waits_for_its_own_jobs_at_its_end(js: Jobserver, tmp_path: Path, end: str) -> None:
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    future = js(leave_a_job_behind, js, end, begun, go, tmp_path / "ended")
    if not begun.acquire(timeout=DEADLINE):
        pytest.fail(f"its own job has not begun; {future}: {future.done() and future.exception()}")
    released = []

    def release() -> None:
        released.append(True)
        go.release()

    with in_a_moment(release):
        js.close()  # waits for the job's process, which waits for its own job
        assert released
    assert (tmp_path / "ended").exists()


# Jobservers made in jobs


@pytest.mark.parametrize("inner", METHODS)
def test_a_job_can_make_a_jobserver_of_its_own(js: Jobserver, inner: str) -> None:
    assert js(use_own_jobserver, inner).result() == 42


@pytest.mark.parametrize("do", [nothing, close_stdin, detach_stdin, wrap_stdin])
def test_a_job_has_nothing_on_stdin_whatever_its_owner_did_with_its_own(
    js: Jobserver, do: Callable[[], object]
) -> None:
    assert js(use_without_stdin, do).result() == (42, "")


@pytest.mark.parametrize("line", range(1, 4))
def test_a_jobserver_that_could_not_be_made_leaves_a_jobs_other_jobs_to_be_waited_for(
    js: Jobserver, tmp_path: Path, line: int
) -> None:
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    js(make_another_in_vain, js, begun, go, tmp_path / "ended", line).result()
    assert begun.acquire(timeout=DEADLINE)
    with in_a_moment(go.release):
        js.close()
    assert (tmp_path / "ended").exists()


def test_jobs_of_a_jobserver_made_in_a_job_nest_too(js: Jobserver, method: Any) -> None:
    assert js(nest_own_jobserver, method).result() == 84


@pytest.mark.parametrize("inner", METHODS)
def test_a_jobserver_that_a_job_leaves_open_is_waited_for_and_leaves_nothing(
    js: Jobserver, tmp_path: Path, inner: str
) -> None:
    files = [tmp_path / str(n) for n in range(3)]
    left = js(leave_own_jobserver_open, inner, files).result()
    assert left
    js.close()
    assert all(file.exists() for file in files)
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]


def test_a_job_that_closes_its_handle_leaves_its_owners_open(js: Jobserver) -> None:
    assert js(use_then_close, js).result() == 42
    assert js(use, js).result() == 42


# In children of multiprocessing


@pytest.mark.parametrize("outer", METHODS)
def test_a_jobserver_works_in_a_child_of_multiprocessing(js: Jobserver, outer: str) -> None:
    context: Any = multiprocessing.get_context(outer)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=use_in_a_process, args=(js, theirs))
    process.start()
    theirs.close()
    assert ours.poll(DEADLINE)
    assert [ours.recv(), ours.recv()] == [42, 42]
    assert use(js) == 42
    process.join(DEADLINE)
    assert process.exitcode == 0
    process.close()
    ours.close()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("outer", METHODS)
def test_a_child_of_multiprocessing_waits_for_its_jobs_at_its_end(
    js: Jobserver, tmp_path: Path, outer: str, own: bool
) -> None:
    js(nothing).result()
    semaphores: Any = multiprocessing.get_context("spawn")  # these can go anywhere
    begun, go = semaphores.Semaphore(0), semaphores.Semaphore(0)
    context: Any = multiprocessing.get_context(outer)
    jobserver = js.context.get_start_method() if own else js
    process = context.Process(
        target=leave_open_in_a_process, args=(jobserver, begun, go, tmp_path / "ended")
    )
    process.start()
    assert begun.acquire(timeout=DEADLINE)
    process.join(0.2)  # time to end too early
    early = process.exitcode
    go.release()
    process.join(DEADLINE)
    assert (early, process.exitcode) == (None, 0)
    assert (tmp_path / "ended").exists()
    process.close()


def own_process() -> tuple[int | None, bool]:
    """The exit code of a child that this job starts, and whether its process object has what
    another job gave its own."""
    child = multiprocessing.get_context("fork").Process(target=nothing)
    child.start()
    child.join()
    return child.exitcode, hasattr(multiprocessing.current_process(), "given")


def submit_as_daemon(js: Jobserver) -> tuple[int | None, bool]:
    process: Any = multiprocessing.current_process()
    process.daemon, process.given = True, 1
    return js(own_process).result(DEADLINE)


def test_what_a_job_does_to_its_process_object_does_not_reach_its_jobs(js: Jobserver) -> None:
    assert js(submit_as_daemon, js).result(DEADLINE) == (0, False)


def leave_a_thread_that_submits(js: Jobserver, answers: Connection, go: Any) -> None:
    js.submit(int, consume=0).result()

    def later() -> None:
        go.acquire()
        answers.send(js.submit(int, args=(7,), consume=0).result())
        answers.close()

    threading.Thread(target=later).start()


def test_threads_of_a_job_may_submit_until_they_end(js: Jobserver) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    go: Any = multiprocessing.get_context("spawn").Semaphore(0)
    with ours, theirs:
        js(leave_a_thread_that_submits, js, theirs, go).result()
        go.release()
        assert ours.poll(DEADLINE)
        assert ours.recv() == 7
