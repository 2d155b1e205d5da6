"""Processes that run several jobs (`max_tasks_per_child`): who gets one, what is left of a job
for the next, and when a process ends.

What else is promised holds for them too: `pytest --warm` runs the other tests over them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import multiprocessing
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import DEADLINE, children, reap, wait_until
from holding import Hold, free, held

from jobserver import Future, Jobserver, SubmissionDied

#: Makes Jobservers; see `make_jobserver`.
Make = Callable[..., Jobserver]


def pid() -> int:
    return os.getpid()


def finished(future: Future[Any]) -> Future[Any]:
    """The same Future, once its job has finished and its process, if it stays, idles. (A launch
    waits a millisecond for a process that is about to; on a busy machine that may be too short.)"""
    future.wait()
    return future


def gone(process: int) -> bool:
    """Whether a process has ended, though nobody may have reaped it."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_jobs_of_one_slot_share_a_process(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    futures = [js(pid) for _ in range(20)]
    assert len({future.result() for future in futures}) == 1
    assert all(future.result() == future.pid != os.getpid() for future in futures)


def test_there_are_no_more_processes_than_slots(make_jobserver: Make) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    # One more may be born where a result is late: see HIRE_DELAY in rust/core/src/owner/launch.rs.
    assert len({future.result() for future in [js(pid) for _ in range(100)]}) <= 10


def test_a_process_has_as_many_jobs_as_it_may(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=3)
    pids = []
    for _ in range(9):
        pids.append(js(pid).result())
        reap(js)
    assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 3]


def test_by_default_each_job_has_a_process(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=1)
    assert len({js(pid).result() for _ in range(5)}) == 5


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_a_useless_number_of_tasks_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_tasks_per_child"):
        Jobserver("fork", 1, max_tasks_per_child=wrong)


def test_an_idle_process_holds_no_slot(make_jobserver: Make) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    js(pid).result()
    assert free(js) == 2


def test_closing_ends_the_idle_processes(make_jobserver: Make) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    pids = {future.result() for future in [js(pid) for _ in range(4)]}
    js.close()
    assert all(gone(process) for process in pids)


def test_an_idle_process_ends_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobserver._job.memory_is_short", lambda: True)  # as the fork has it
    with Jobserver("fork", 1, max_tasks_per_child=None) as js:
        idle = js(pid).result()
        wait_until(lambda: gone(idle))
        assert js(pid).result() != idle


def test_the_idle_processes_of_a_dropped_jobserver_end() -> None:
    dropped = Jobserver("fork", 1, max_tasks_per_child=None)
    idle = dropped(pid).result()
    with Jobserver("fork", 1, max_tasks_per_child=None) as js:
        js(pid).result()  # in a process that has inherited all that the owner had open
        del dropped
        gc.collect()
        deadline = time.monotonic() + DEADLINE / 2  # and not when it has idled for a minute
        while not gone(idle):
            assert time.monotonic() < deadline
        js(leave_thread).result()
        js(pid).result()  # a birth, at which the dead are reaped


# What a job leaves for the next.


def look(name: str) -> str | None:
    return os.environ.get(name)


def test_a_jobs_environment_is_undone(
    make_jobserver: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSET_BY_A_JOB", "there")
    js = make_jobserver(1, max_tasks_per_child=None)
    env = {"SET_BY_A_JOB": "x", "UNSET_BY_A_JOB": None}
    names = ("SET_BY_A_JOB", "UNSET_BY_A_JOB")
    inside = [finished(js.submit(look, args=(name,), env=env)) for name in names]
    after = [finished(js(look, name)) for name in names]
    assert [future.result() for future in inside] == ["x", None]
    assert [future.result() for future in after] == [None, "there"]
    assert len({future.pid for future in inside + after}) == 1


def set_in_job(name: str) -> None:
    os.environ[name] = "by the job itself"


def enter() -> None:
    os.environ["SET_BY_PREEXEC"] = "x"


@contextlib.contextmanager
def entered() -> Iterator[None]:
    os.environ["SET_BY_PREEXEC"] = "x"
    try:
        yield
    finally:
        del os.environ["SET_BY_PREEXEC"]


class ByStaticMethod:
    @staticmethod
    def __enter__() -> None:
        enter()

    @staticmethod
    def __exit__(*raised: Any) -> None:
        assert len(raised) == 3
        del os.environ["SET_BY_PREEXEC"]


class NotUndone:
    def __enter__(self) -> None:
        enter()

    def __exit__(self, *_: Any) -> None:
        raise LookupError("cannot undo it")


def look_and_raise(name: str) -> None:
    raise LookupError(look(name))


@pytest.mark.parametrize("entered", [entered, ByStaticMethod])
def test_a_process_stays_after_what_a_context_manager_has_undone(
    make_jobserver: Make, entered: Any
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    before = finished(js(look, "SET_BY_PREEXEC"))
    within = finished(js.submit(look, args=("SET_BY_PREEXEC",), preexec_fn=entered))
    raising = finished(js.submit(look_and_raise, args=("SET_BY_PREEXEC",), preexec_fn=entered))
    after = finished(js(look, "SET_BY_PREEXEC"))
    assert [f.result() for f in (before, within, after)] == [None, "x", None]
    assert repr(raising.exception()) == "LookupError('x')"
    assert before.pid == within.pid == raising.pid == after.pid


@pytest.mark.parametrize("preexec_fn", [enter, NotUndone])
def test_a_job_whose_preexec_fn_is_not_undone_is_its_processs_last(
    make_jobserver: Make, preexec_fn: Any
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    before = finished(js(look, "SET_BY_PREEXEC"))
    prepared = finished(js.submit(look, args=("SET_BY_PREEXEC",), preexec_fn=preexec_fn))
    after = finished(js(look, "SET_BY_PREEXEC"))
    assert [f.result() for f in (before, after)] == [None, None]
    assert before.pid == prepared.pid != after.pid


def open_descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the listing
    return sorted(found)


def send(connection: Any) -> None:
    connection.send("x")


def test_descriptors_that_came_with_a_job_go_with_it(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    before = js(open_descriptors).result()
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        js(send, writer).result()
        writer.close()
        assert reader.recv() == "x"
        with pytest.raises(EOFError):
            reader.recv()  # nobody else has an end to write to
    assert js(open_descriptors).result() == before


def leave_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leave_child() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


def leave_memory(hold: list[Any] = []) -> None:  # noqa: B006 - it is to be kept
    hold.append(b"x" * (400 << 20))


@pytest.mark.parametrize("leave", [leave_thread, leave_memory])
def test_a_job_that_leaves_something_behind_is_its_processs_last(
    make_jobserver: Make, leave: Callable[[], Any]
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    first = js(pid)
    first.result()
    left = js(leave)
    left.result()
    assert js(pid).result() != left.pid == first.pid


def test_a_job_that_leaves_a_program_running_is_its_processs_last(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    left = js(leave_child)
    os.kill(left.result(), signal.SIGKILL)
    assert js(pid).result() != left.pid


def return_twice() -> str:
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    return "parent"


def test_a_process_that_a_job_has_forked_does_not_stay(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    forking = js(return_twice)
    assert forking.result() == "child"
    # The parent has the slot until the child has ended, and is not used again either.
    assert js.submit(pid, timeout=DEADLINE / 2).result() != forking.pid


def submit_nested(js: Jobserver) -> int:
    return js(pid).result()


@pytest.mark.parametrize("method", ["fork"])  # otherwise owners share it: see test_shared.py
def test_a_job_with_jobs_of_its_own_is_its_processs_last(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    outer = js(submit_nested, js)
    nested = outer.result()
    after = js(pid).result()
    assert len({outer.pid, nested, after}) == 3
    wait_until(lambda: gone(nested) and gone(outer.pid))


def hears(fifo: Path) -> bool:
    """Whether another process writes to the fifo before this has waited for half a second."""
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as end:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        return bool(poll.poll(500))


def goes_on_beside_its_job(js: Jobserver, fifo: Path) -> bool:
    future = js.submit(hears, args=(fifo,))
    with contextlib.suppress(OSError):  # the job has ended
        with open(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb") as end:
            end.write(b"!")
    return future.result(DEADLINE)


def pass_another_handle_on(js: Jobserver, fifo: Path) -> bool:
    js.submit(pid).result(DEADLINE)  # its process exists before this one joins the pool
    another = Jobserver("fork")
    return js.submit(goes_on_beside_its_job, args=(another, fifo)).result(DEADLINE)


def test_a_process_knows_its_slot_by_whichever_handle_of_its_pool_a_job_gets(
    make_jobserver: Make, tmp_path: Path
) -> None:
    """It lends the only slot to its job, and so does not go on before that job has ended."""
    js = make_jobserver(slots=1, max_tasks_per_child=None)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert not js.submit(pass_another_handle_on, args=(js, fifo)).result(DEADLINE)


def exit_7() -> None:
    sys.exit(7)


def raise_error() -> None:
    raise ValueError("of the job")


def test_a_process_stays_after_an_exception_and_ends_by_an_exit(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    first = js(pid).result()
    with pytest.raises(ValueError, match="of the job"):
        js(raise_error).result()
    assert js(pid).result() == first
    dying = js(exit_7)
    with pytest.raises(SubmissionDied) as died:
        dying.result()
    assert (died.value.pid, died.value.exitcode) == (first, 7)
    assert js(pid).result() != first


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_what_cannot_be_unpickled_costs_a_job_and_no_other(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    js(pid).result()
    with pytest.raises((pickle.UnpicklingError, ValueError), match="not a number"):
        js(print, Unloadable()).result()
    js(pid).result()


def test_under_fork_what_cannot_be_pickled_has_a_fresh_process() -> None:
    number = 41
    with Jobserver("fork", 1, max_tasks_per_child=None) as js:
        first = js(pid).result()
        lock = threading.Lock()
        closure = js(lambda: (number + 1, lock.locked()))
        assert closure.result() == (42, False)
        assert js(pid).result() == first != closure.pid


# Deaths.


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_death_is_one_futures_and_the_next_job_has_another_process(
    make_jobserver: Make,
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
        before = js(pid)
        assert before.result() == before.pid
        dying = js(die, number)
        after = js(pid)
        with pytest.raises(SubmissionDied) as died:
            dying.result()
        assert (died.value.signal, died.value.pid) == (number, dying.pid)
        assert after.result() not in (before.pid, dying.pid)
    assert free(js) == 1


def test_the_death_of_an_idle_process_is_nobodys(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    for _ in range(20):
        idle = js(pid)
        os.kill(idle.result(), signal.SIGKILL)
        while not gone(idle.pid):
            js.reclaim_resources()
        after = js(pid)
        assert after.result() == after.pid != idle.pid
        assert idle.result() == idle.pid  # still


def test_killing_a_job_that_is_done_spares_the_next_on_its_process(
    make_jobserver: Make, hold: Hold
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    done = js(pid)
    done.result()
    running = js(held, hold.end)
    done.kill(grace=0)
    done.wait(signal=signal.SIGKILL)
    hold.let_go()
    assert running.result() == running.pid == done.pid


def test_killing_a_job_ends_its_process(make_jobserver: Make, hold: Hold) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    running = js(held, hold.end)
    running.kill(grace=0)
    with pytest.raises(SubmissionDied, match="SIGKILL"):
        running.result()
    assert js(pid).result() != running.pid


def return_when_asked(end: Any) -> str:
    # Not an Event: the code that a handler interrupts may hold the lock that the handler needs.
    asked, ask = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ask, b"."))
    end.send("ready")
    os.read(asked, 1)
    os.close(asked)
    os.close(ask)
    return "asked"


def test_killing_a_job_does_not_wait_for_its_process_to_idle(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        asked = js(return_when_asked, writer)
        assert reader.recv() == "ready"
        began = time.monotonic()
        asked.kill(grace=DEADLINE)
        assert time.monotonic() - began < DEADLINE / 2
    assert asked.result() == "asked"


def test_ctrl_c_does_not_end_an_idle_process(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    first = js(pid).result()
    for _ in range(10):
        wait_until(lambda: ignores_ctrl_c(first))
        os.kill(first, signal.SIGINT)
        assert js(pid).result() == first


def ignores_ctrl_c(process: int) -> bool:
    with open(f"/proc/{process}/status") as status:
        masks = {line.split(":")[0]: line.split()[1] for line in status if line.startswith("Sig")}
    return bool(int(masks["SigIgn"], 16) >> (signal.SIGINT - 1) & 1)


def handles_ctrl_c() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler and not ignores_ctrl_c(
        os.getpid()
    )


def test_each_job_can_be_interrupted(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    assert [js(handles_ctrl_c).result() for _ in range(3)] == [True] * 3


def is_deaf_or_gone(process: int) -> bool:
    return gone(process) or ignores_ctrl_c(process)


def interrupt_all_that_wait(js: Jobserver) -> None:
    """As a terminal does, where nothing runs."""
    helper = getattr(getattr(js._owner.starter, "_helper", None), "pid", None)
    waiting = children() if helper is None else children(helper)
    for process in waiting:
        wait_until(functools.partial(is_deaf_or_gone, process))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)


def test_ctrl_c_does_not_reach_the_first_job_of_a_process_that_waited(
    make_jobserver: Make,
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    js._owner.here()
    starter: Any = js._owner.starter
    starter.hire(js._owner.here())  # as if Ctrl-C had come after this, and before the launch
    interrupt_all_that_wait(js)
    assert js(pid).result() != os.getpid()


def test_ctrl_c_does_not_reach_the_jobs_of_processes_ahead() -> None:
    with Jobserver("forkserver", 4) as js:
        for _ in range(10):
            js(os.getpid).result()
        reap(js)
        interrupt_all_that_wait(js)
        assert all(future.result() == future.pid for future in [js(os.getpid) for _ in range(8)])


def large() -> bytes:
    return bytes(1 << 20)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):
            while True:
                taken.enter_context(open(os.devnull))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_whose_result_could_not_be_received_ends(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    js(pid).result()
    lost = js(large)
    with no_descriptor_left():
        error = lost.exception()
    assert isinstance(error, OSError) and error.errno == errno.EMFILE
    began = time.monotonic()
    js.close()
    assert time.monotonic() - began < DEADLINE / 2  # and not when it has idled for a minute


# Several threads, and forks.


def test_threads_share_the_processes(make_jobserver: Make) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    wrong: list[Any] = []

    def submit() -> None:
        for number in range(25):
            future = js(abs, -number)
            if future.result() != number:
                wrong.append(future)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert free(js) == 2


def test_a_process_forked_by_the_user_has_none_of_the_idle_ones(make_jobserver: Make) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    idle = js(pid).result()
    child = os.fork()
    if child == 0:
        os._exit(0 if js(pid).result() not in (idle, os.getpid()) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert js(pid).result() == idle
