"""Ctrl-C and other signals, at any moment: told at once, and nothing is lost.

Signals are sent when this process sleeps in the kernel, from another process that looks at
it; or at each line of the package in turn; or at random moments; or by a terminal. After
each, every slot must be free, the Jobserver of use, and no child left. Not here: signals to
jobs, which are their deaths (`test_deaths.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, descriptors, settle
from holding import Hold, free, held
from terminals import Terminal, until_asleep

import jobserver
from jobserver import Future, Jobserver, StartMethod, SubmissionDied


class Alarm(Exception):
    """What a signal handler of the user raises."""


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what the handler of SIGALRM does; afterwards there is no alarm any more."""
    before = signal.getsignal(signal.SIGALRM)

    def handle(action: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: action())

    yield handle
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def signal_once_asleep(number: int = signal.SIGINT) -> Iterator[None]:
    """Has another process send this one a signal, once this one sleeps."""
    us = os.getpid()
    sender = os.fork()
    if sender == 0:
        try:
            until_asleep(us)
            os.kill(us, number)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(sender, signal.SIGKILL)
        os.waitpid(sender, 0)


#: Every way to wait while the one slot's job, whose Future is given, does not end.
WAITS: dict[str, Callable[[Jobserver, Future[int]], object]] = {
    "submit": lambda js, future: js(int),
    "submit with a sleep_fn": lambda js, future: js.submit(int, sleep_fn=lambda: None),
    "wait": lambda js, future: future.wait(),
    "wait with a timeout": lambda js, future: future.wait(1e6),
    "result": lambda js, future: future.result(),
    "exception": lambda js, future: future.exception(),
    "done": lambda js, future: future.done(None),
    "close": lambda js, future: js.close(),
}


def assert_usable(js: Jobserver, closing: bool) -> None:
    """Or, once its closing has begun, that it is closed to submissions."""
    if closing:
        with pytest.raises(RuntimeError, match="this Jobserver is closed"):
            js(int, 7)
    else:
        assert js(int, 7).result() == 7


def pause(js: Jobserver, future: Future[int]) -> None:
    """The wait that ends only when its time is over."""
    js.submit(int, consume=0, sleep_fn=lambda: 1e6)


@pytest.mark.parametrize("wait", [*WAITS, "pause"])
def test_ctrl_c_ends_a_wait_at_once_and_loses_nothing(
    make_jobserver: Callable[..., Jobserver], hold: Hold, wait: str
) -> None:
    js = make_jobserver(slots=1)
    future = js(held, hold.end)
    with pytest.raises(KeyboardInterrupt), signal_once_asleep():
        WAITS.get(wait, pause)(js, future)
    assert not future.done()
    hold.let_go()
    assert future.result() == future.pid
    assert_usable(js, closing=wait == "close")
    assert free(js) == 1


@pytest.mark.parametrize("wait", [*WAITS, "pause"])
def test_what_a_signal_handler_raises_ends_a_wait_and_loses_nothing(
    hold_on_fork: tuple[Jobserver, Hold],
    on_alarm: Callable[[Callable[[], object]], None],
    wait: str,
) -> None:
    js, hold = hold_on_fork

    def handle() -> None:
        raise Alarm

    on_alarm(handle)
    future = js(held, hold.end)
    with pytest.raises(Alarm), signal_once_asleep(signal.SIGALRM):
        WAITS.get(wait, pause)(js, future)
    assert not future.done()
    hold.let_go()
    assert future.result() == future.pid
    assert_usable(js, closing=wait == "close")
    assert free(js) == 1


@pytest.fixture
def hold_on_fork() -> Iterator[tuple[Jobserver, Hold]]:
    """Where the start method makes no difference: the quickest, with one slot."""
    hold = Hold()
    with Jobserver("fork", 1) as js:
        yield js, hold
        hold.close()


@pytest.mark.parametrize("wait", WAITS)
def test_signal_handlers_run_during_a_wait_and_it_goes_on(
    hold_on_fork: tuple[Jobserver, Hold],
    on_alarm: Callable[[Callable[[], object]], None],
    wait: str,
) -> None:
    js, hold = hold_on_fork
    calls = itertools.count(1)
    on_alarm(lambda: hold.let_go() if next(calls) == 3 else None)
    future = js(held, hold.end)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    WAITS[wait](js, future)  # returns only because the handler has run three times
    assert future.done(DEADLINE)


def test_signal_handlers_run_during_a_pause_and_it_goes_on(
    hold_on_fork: tuple[Jobserver, Hold], on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    js, _ = hold_on_fork
    calls: list[int] = []
    on_alarm(lambda: calls.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    future = js.submit(int, args=(7,), sleep_fn=lambda: None if calls else 0.02)
    assert future.result() == 7


@pytest.mark.parametrize("wait", [wait for wait in WAITS if wait != "close"])
def test_a_signal_handler_may_itself_submit_and_wait(
    hold_on_fork: tuple[Jobserver, Hold],
    on_alarm: Callable[[Callable[[], object]], None],
    wait: str,
) -> None:
    js, hold = hold_on_fork
    results: list[int] = []

    def handle() -> None:
        results.append(js.submit(int, args=(7,), consume=0).result())
        hold.let_go()

    on_alarm(handle)
    future = js(held, hold.end)
    with signal_once_asleep(signal.SIGALRM):
        WAITS[wait](js, future)
    assert results == [7]


def test_ctrl_c_while_the_fork_server_does_not_answer() -> None:
    with Jobserver("forkserver", 1, max_tasks_per_child=1) as js:
        js(int).result()
        starter: Any = js._owner.starter
        helper = starter._helper.pid
        os.kill(helper, signal.SIGSTOP)
        try:
            with pytest.raises(KeyboardInterrupt), signal_once_asleep():
                js(int)
            assert free(js) == 1
        finally:
            os.kill(helper, signal.SIGCONT)
        assert js(int, 7).result() == 7


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["submit", "kill"])
def test_a_process_that_a_handler_forks_does_not_go_on_with_the_call(
    on_alarm: Callable[[Callable[[], object]], None], hold: Hold, call: str
) -> None:
    """It would take the fork server's answer from its parent, or signal the parent's jobs."""
    with Jobserver("forkserver", 2, max_tasks_per_child=1) as js:
        told, tells = js.context.Pipe(duplex=False)
        with told, tells:
            future = js(ignores_sigterm, tells, hold.end)
            told.recv()
        starter: Any = js._owner.starter
        helper, parent = starter._helper.pid, os.getpid()
        statuses: list[int] = []

        def handle() -> None:
            pid = os.fork()
            if pid:
                statuses.append(os.waitpid(pid, 0)[1])
                os.kill(helper, signal.SIGCONT)

        on_alarm(handle)
        if call == "submit":
            os.kill(helper, signal.SIGSTOP)
        with signal_once_asleep(signal.SIGALRM):
            try:
                if call == "submit":
                    assert js(int, 7).result() == 7
                else:
                    future.kill(grace=1.0)
            except RuntimeError as e:
                os._exit(0 if os.getpid() != parent and "was forked from" in str(e) else 1)
            finally:
                if os.getpid() != parent:
                    os._exit(2)
        hold.let_go()
        assert future.wait(DEADLINE)
        assert statuses == [0]


def ignores_sigterm(tells: Any, end: Any) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tells.send(True)
    return held(end)


def test_ctrl_c_while_the_fork_server_does_not_end() -> None:
    js = Jobserver("forkserver", 1)
    js(int).result()
    js.reclaim_resources()
    starter: Any = js._owner.starter
    helper = starter._helper.pid
    settle(js)
    os.kill(helper, signal.SIGSTOP)
    try:
        with pytest.raises(KeyboardInterrupt), signal_once_asleep():
            js.close()
    finally:
        os.kill(helper, signal.SIGCONT)
    js.close()
    assert helper not in children()


def test_ctrl_c_in_a_callback_is_told_as_itself_and_the_rest_runs_later(js: Jobserver) -> None:
    called: list[int] = []

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    future = js(int)
    future.when_done(interrupted)
    future.when_done(called.append, 1)
    with pytest.raises(KeyboardInterrupt):
        future.wait()
    assert called == []
    js.reclaim_resources()
    assert called == [1]


def wait_for_a_job(js: Jobserver, begun: Any, end: Any) -> None:
    js(begin_and_hold, begun, end).result()


def begin_and_hold(begun: Any, end: Any) -> None:
    begun.send(os.getppid())
    held(end)


def test_an_interrupted_job_gives_back_the_slots_of_its_jobs(js: Jobserver, hold: Hold) -> None:
    ours, begun = multiprocessing.Pipe(duplex=False)
    future = js(wait_for_a_job, js, begun, hold.end)
    with ours, begun:
        assert ours.poll(DEADLINE)
        ours.recv()
    until_asleep(future.pid)
    future.wait(signal=signal.SIGINT, timeout=0)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    hold.let_go()
    assert [f.result() for f in [js(int, 1), js(int, 2)]] == [1, 2]
    while js._owner.here().outstanding:
        future.wait()
        js.reclaim_resources()
    assert free(js) == 2


class RingsWhenLoaded:
    """Sends its process SIGALRM when it is unpickled, in the process whose pid it is given."""

    def __init__(self, where: int) -> None:
        self.where = where

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() == self.where:
            signal.raise_signal(signal.SIGALRM)


class RingsWhenPickled:
    """Sends its process SIGALRM the first time that it is pickled."""

    rung = False

    def __getstate__(self) -> dict[str, Any]:
        if not self.rung:
            self.rung = True
            signal.raise_signal(signal.SIGALRM)
        return {}


class RaisesAndRings(Exception):
    """A job's exception that rings in its owner, when it is loaded there."""

    def __reduce__(self) -> Any:
        return RaisesAndRings, (), {"bell": RingsWhenLoaded(*self.args)}


def raises_and_rings(where: int) -> None:
    raise RaisesAndRings(where)


def raise_alarm(*_: object) -> None:
    raise Alarm


class Watchdog:
    def bark(self, number: int, frame: Any) -> None:
        raise Alarm


HANDLERS = [raise_alarm, Watchdog().bark, lambda number, frame: raise_alarm()]


@pytest.fixture(params=HANDLERS, ids=["*args", "method", "nested"])
def alarmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A handler of SIGALRM that raises."""
    before = signal.signal(signal.SIGALRM, request.param)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarmed")
def test_a_handler_that_raises_while_a_result_is_unpickled_costs_nothing(js: Jobserver) -> None:
    future = js(RingsWhenLoaded, os.getpid())
    with pytest.raises(Alarm):
        future.result()
    with pytest.raises(Alarm):
        future.exception()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert future.result().where == os.getpid()


@pytest.mark.usefixtures("alarmed")
def test_a_handler_that_raises_while_a_jobs_exception_is_unpickled_costs_nothing(
    js: Jobserver,
) -> None:
    future = js(raises_and_rings, os.getpid())
    with pytest.raises(Alarm):
        future.result()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with pytest.raises(RaisesAndRings):
        future.result()


@pytest.mark.usefixtures("alarmed")
def test_a_handler_that_raises_while_an_argument_is_pickled_costs_nothing() -> None:
    with Jobserver("forkserver", 1) as js:
        argument = RingsWhenPickled()
        with pytest.raises(Alarm):
            js(type, argument)
        assert js(type, argument).result() is RingsWhenPickled
        assert free(js) == 1


@pytest.mark.usefixtures("alarmed")
def test_a_handler_that_raises_in_a_callback_is_not_the_callbacks_error(js: Jobserver) -> None:
    called: list[int] = []
    future = js(int)
    future.when_done(signal.raise_signal, signal.SIGALRM)
    future.when_done(called.append, 1)
    with pytest.raises(Alarm):
        future.wait()
    js.reclaim_resources()
    assert called == [1]


class AtLine:
    """A trace function that sends this process SIGINT at the n-th line of the package.

    Or at the n-th instruction. Only in the owner, or only in processes forked from it. A line that
    is reached again from the same two callers' lines, in a loop, does not count again.
    """

    PACKAGE = os.path.dirname(jobserver.__file__)

    def __init__(self, number: int, in_owner: bool, unit: str = "line") -> None:
        self._left = number
        self._in_owner = in_owner
        self._unit = unit
        self._owner = os.getpid()
        self._reached: set[object] = set()

    @property
    def interrupted(self) -> bool:
        return self._left <= 0

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.PACKAGE):
            return None
        frame.f_trace_opcodes = self._unit == "opcode"
        if event == self._unit and (os.getpid() == self._owner) is self._in_owner:
            way = self._way_to(frame)
            if way not in self._reached:
                self._reached.add(way)
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGINT)
        return self

    def _way_to(self, frame: Any) -> object:
        place = frame.f_lasti if self._unit == "opcode" else frame.f_lineno
        callers = [frame.f_back, frame.f_back and frame.f_back.f_back]
        return frame.f_code, place, *((at.f_code, at.f_lineno) for at in callers if at)

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


#: What interrupts at each line, or instruction, is in as many parts, each a test of its own: the
#: first interrupts at the first, fifth, ninth. All in one would take longer than a test may.
PARTS = 4


def interrupted_at_each_line(
    method: StartMethod, body: Callable[[Jobserver], object], first: int = 1, step: int = 1
) -> Iterator[Jobserver]:
    """Runs `body` with a new Jobserver each time, interrupted `step` lines later each time, until
    it comes to its end; gives the Jobserver after each interrupt, and checks it afterwards."""
    before = children()
    for number in itertools.count(first, step):
        js = Jobserver(method, 2)
        pool: Any = js._owner.open_pool()
        interrupted = True
        try:
            with AtLine(number, in_owner=True).tracing():
                body(js)
            interrupted = False
        except KeyboardInterrupt:
            # Where a `finally` begins, a trace function can raise but a signal handler cannot.
            multiprocessing.context.set_spawning_popen(None)
            yield js
        js.close()
        assert pool.free() == 2, f"a slot was lost at line {number}"
        assert children() == before, f"a process was lost at line {number}"
        if not interrupted:
            return


def submit_and_wait(js: Jobserver) -> None:
    assert js(int, 7).result() == 7


in_parts = pytest.mark.parametrize(
    "method, first, step",
    [("fork", 1, 1)]
    + [
        pytest.param("forkserver", part + 1, PARTS, marks=pytest.mark.slow) for part in range(PARTS)
    ],
)


@in_parts
def test_ctrl_c_at_any_line_of_a_submission_loses_nothing(
    method: StartMethod, first: int, step: int
) -> None:
    for js in interrupted_at_each_line(method, submit_and_wait, first, step):
        assert js(int, 7).result() == 7


def map_and_take(js: Jobserver) -> None:
    assert list(js.map(int, [(n,) for n in range(4)], chunksize=1)) == [0, 1, 2, 3]


def left_of(js: Jobserver) -> tuple[set[int], dict[int, str]]:
    """Processes and descriptors, but for the progress that one map leaves to the next. (A map that
    is interrupted leaves none.)"""
    js._owner.progresses.clear()
    return children(), descriptors()


#: After how many instructions to interrupt once more: all of them would take minutes.
STEPS = {"fork": 3, "forkserver": 7, "spawn": 50}


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("body", [submit_and_wait, map_and_take])
def test_ctrl_c_at_any_instruction_leaves_no_process_no_descriptor_and_no_slot(
    make_jobserver: Callable[..., Jobserver],
    method: StartMethod,
    tasks: int | None,
    body: Callable[[Jobserver], object],
    part: int,
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    for _ in range(4):
        map_and_take(js)  # makes what the Jobserver keeps
    settle(js)
    before = left_of(js)
    step = STEPS[method] * (5 if body is map_and_take else 1)
    for number in itertools.count(1 + part * step, PARTS * step):
        at = AtLine(number, in_owner=True, unit="opcode")
        with contextlib.suppress(KeyboardInterrupt), at.tracing():
            body(js)
        # Where a `finally` begins, a trace function can raise but a signal handler cannot.
        multiprocessing.context.set_spawning_popen(None)
        assert tasks is None or js._owner.here().idle == 0, f"at instruction {number}"
        settle(js)
        assert free(js) == 2, f"a slot was lost at instruction {number}"
        assert left_of(js) == before, f"at instruction {number}"
        if not at.interrupted:
            return


def submit_and_close(js: Jobserver) -> None:
    js(int, 7)
    js.close()


@in_parts
def test_ctrl_c_at_any_line_of_closing_is_made_good_by_closing_again(
    method: StartMethod, first: int, step: int
) -> None:
    for _ in interrupted_at_each_line(method, submit_and_close, first, step):
        pass


def test_ctrl_c_at_any_line_loses_no_callback_that_was_registered() -> None:
    called: list[int] = []
    registered: list[int] = []

    def body(js: Jobserver) -> None:
        called.clear()
        registered.clear()
        future = js(int, 7)
        for number in range(2):
            registered.append(future.when_done(called.append, number))
        js.submit(int, callbacks=False)
        future.wait()

    for number, js in enumerate(interrupted_at_each_line("fork", body), 1):
        js.close()
        js.reclaim_resources()
        # One that was being registered may have been or not; none runs twice.
        assert called[: len(registered)] == registered, f"at line {number}"
        assert called in ([], [0], [0, 1])


def test_ctrl_c_in_a_job_just_forked_never_runs_its_owners_code() -> None:
    """The job has a copy of the owner's stack, with its `except` and `finally`."""
    owner = os.getpid()
    with Jobserver("fork", 1) as js:
        for number in range(1, 60):
            escaped = False
            try:
                with AtLine(number, in_owner=False).tracing():
                    future = js(int, 7)
            except KeyboardInterrupt:
                escaped = True
            if os.getpid() != owner:
                os._exit(99)
            assert not escaped
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    assert future.result() == 7
                except jobserver.SubmissionDied as e:
                    assert e.exitcode != 99, f"at line {number}"


# CPython runs handlers in its hooks around a fork too, and can only print what they raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_handlers_that_raise_at_random_moments_lose_nothing(
    on_alarm: Callable[[Callable[[], object]], None],
) -> None:
    armed = False

    def handle() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Alarm

    on_alarm(handle)
    moments = random.Random(0)
    js = Jobserver("fork", 2)
    for number in range(500):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 2e-3))
            try:
                assert js(int, number).result() == number
            finally:
                armed = False
        except Alarm:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
    pool: Any = js._owner.open_pool()
    js.close()
    assert pool.free() == 2


AT_A_TERMINAL = """
import os, signal, sys
from multiprocessing import resource_tracker
from jobserver import Jobserver

def held():
    print(f"held by {os.getpid()}.", flush=True)
    signal.pause()

def main(method, wait):
    js = Jobserver(method, 1)
    future = js(held)
    print("waiting", flush=True)
    try:
        if wait == "submit":
            js(int)
        elif wait == "pause":
            js.submit(int, consume=0, sleep_fn=lambda: 1e6)
        elif wait == "result":
            future.result()
        else:
            js.close()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print("the job:", type(future.exception()).__name__)
    try:
        print("then:", js(int, 7).result(), js._owner.open_pool().free())
    except RuntimeError as e:
        print("then:", e)
    js.close()
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    # That of multiprocessing, which stays until its process ends, as it does there.
    tracker = str(resource_tracker._resource_tracker._pid)
    print("left:", [pid for pid in children if pid != tracker], flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("wait", ["submit", "pause", "result", "close"])
def test_ctrl_c_at_a_terminal_interrupts_owner_and_job_and_nothing_else(
    tmp_path: Path, method: StartMethod, wait: str
) -> None:
    """There it reaches the jobs and the fork server too."""
    script = tmp_path / "at_a_terminal.py"
    script.write_text(AT_A_TERMINAL)
    terminal = Terminal(sys.executable, str(script), method, wait)
    terminal.read_until("held by", ".", "waiting")
    job = re.search(r"held by (\d+)\.", terminal.shown)
    assert job
    for pid in (terminal.pid, int(job[1])):  # a signal just before pause() would not end it
        until_asleep(pid)
    terminal.press(b"\x03")
    status = terminal.join()
    assert "interrupted" in terminal.shown
    assert "the job: KeyboardInterrupt" in terminal.shown
    then = "this Jobserver is closed" if wait == "close" else "7 1"
    assert f"then: {then}" in terminal.shown
    assert "left: []" in terminal.shown
    assert status == 0


BOOTING = """
import sys, time
from jobserver import Jobserver

def job(js, depth):
    return js(job, js, depth - 1).result() if depth else time.sleep(1000)

if __name__ == "__main__":
    with Jobserver(sys.argv[1], 3) as js:
        print("made", flush=True)
        js(job, js, 2).result()
else:
    # As the main module of a job, or of the helper.
    print("booting", flush=True)
    time.sleep(0.1)
"""


@pytest.mark.parametrize("moment", ["made", "booting"])
def test_one_ctrl_c_while_jobs_come_to_life_ends_all_with_one_traceback(
    tmp_path: Path, method: StartMethod, moment: str
) -> None:
    script = tmp_path / "booting.py"
    script.write_text(BOOTING)
    terminal = Terminal(sys.executable, str(script), method)
    terminal.read_until("made" if method == "fork" else moment)
    terminal.press(b"\x03")
    status = terminal.join()
    assert os.WTERMSIG(status) == signal.SIGINT
    assert terminal.shown.count("Traceback") == 1, terminal.shown


def signal_owner() -> None:
    os.kill(os.getppid(), signal.SIGALRM)


def test_a_signal_that_comes_together_with_a_jobs_end_interrupts_the_wait(
    hold_on_fork: tuple[Jobserver, Hold], on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    """As Ctrl-C at a terminal does: what it ends wakes the owner, and must not hide it."""
    js, hold = hold_on_fork

    def handle() -> None:
        raise Alarm

    on_alarm(handle)
    slow = js(held, hold.end)
    for _ in range(20):
        with pytest.raises(Alarm):
            js.submit(signal_owner, consume=0)
            slow.wait(DEADLINE)
    hold.let_go()
    assert slow.result() == slow.pid


def leave_jobs(js: Jobserver, end: Any) -> None:
    for _ in range(2):
        js(held, end)


def test_an_interrupt_of_a_job_that_waits_for_its_jobs_loses_no_slot(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=3)
    future = js(leave_jobs, js, hold.end)
    future.result()
    until_asleep(future.pid)
    os.kill(future.pid, signal.SIGINT)
    os.kill(future.pid, signal.SIGINT)
    hold.let_go(2)
    settle(js)
    assert free(js) == 3


def test_closing_within_ones_own_submission_is_refused_and_does_not_hang(
    on_alarm: Callable[[Callable[[], object]], None],
) -> None:
    js = Jobserver("forkserver", 1, max_tasks_per_child=1)
    js(int).result()
    starter: Any = js._owner.starter
    helper = starter._helper.pid
    on_alarm(js.close)
    os.kill(helper, signal.SIGSTOP)  # so that the submission waits
    try:
        with pytest.raises(RuntimeError, match="within a submission"), signal_once_asleep(
            signal.SIGALRM
        ):
            js(int)
    finally:
        os.kill(helper, signal.SIGCONT)
    assert js(int, 7).result() == 7
    js.close()


def leave_a_job_and_a_thread(js: Jobserver, end: Any) -> None:
    js(held, end)
    threading.Thread(target=held, args=(end,)).start()


def test_an_interrupt_of_a_job_that_joins_its_threads_loses_no_slot(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=2)
    future = js(leave_a_job_and_a_thread, js, hold.end)
    future.result()
    until_asleep(future.pid)
    os.kill(future.pid, signal.SIGINT)
    hold.let_go(2)
    settle(js)
    assert free(js) == 2


def close_all_descriptors(js: Jobserver) -> None:
    js.submit(int, consume=0).result()
    os.closerange(3, 1000)


def test_a_job_that_closes_all_descriptors_ends(js: Jobserver) -> None:
    assert isinstance(js(close_all_descriptors, js).exception(DEADLINE), SubmissionDied)


#: Its jobs do not heed Ctrl-C; and something keeps its Jobserver to the very end.
LEAVES_JOBS = """
import ctypes, os, signal, sys, time
from jobserver import Jobserver

def busy():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"begun\\n")
    time.sleep(600)

if __name__ == "__main__":
    js = Jobserver(sys.argv[1], 2)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(js))
    js(busy), js(busy)
    os.write(1, js._owner.open_pool().home.encode() + b"\\n")
"""


@pytest.mark.parametrize("times", [1, 2, 20])
def test_ctrl_c_while_a_program_waits_at_its_end_leaves_nothing(
    tmp_path: Path, method: StartMethod, times: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LEAVES_JOBS)
    command = [sys.executable, str(program), method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            (home,) = {owner.stdout.readline().strip() for _ in range(3)} - {b"begun"}
            until_asleep(owner.pid)
            for _ in range(times):
                owner.send_signal(signal.SIGINT)
            # All that it has started has its output, whose end is therefore the end of all.
            rest, told = owner.communicate(timeout=DEADLINE)
        finally:
            owner.kill()
    assert (rest, b"KeyboardInterrupt" in told) == (b"", True)
    assert not os.path.exists(home)
