"""Processes that the user forks, and processes of multiprocessing, that have a Jobserver.

Such a process may submit jobs of its own to the same slots; the jobs and Futures of the
process that it came from are not its own, and it must neither take nor disturb them. Not
here: jobs that submit jobs, which the package itself has forked.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, METHODS, settle, wait_until
from holding import Hold, free, held

from jobserver import Blocked, Jobserver, SubmissionDied


@pytest.fixture(scope="module", autouse=True)
def multiprocessings_fork_server() -> None:
    """It lives as long as the process, so it must not count as left by a test."""
    multiprocessing.forkserver.ensure_running()


class Forked:
    """A child that the user has forked, and that runs `body`."""

    def __init__(self, body: Callable[[], object]) -> None:
        self._alive, held = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._alive)
                body()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(held)

    def join(self) -> None:
        """Waits until the child and its jobs have ended: all of them hold the pipe."""
        gone = multiprocessing.connection.wait([self._alive], DEADLINE)
        os.close(self._alive)
        if not gone:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert gone, "the child hung"
        assert status == 0, "the child failed: see what it wrote"


def in_fork(body: Callable[[], object]) -> None:
    """Runs `body` in a forked child, to its end."""
    Forked(body).join()


def test_a_forked_child_submits_to_the_same_slots(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=1)
    future = js(held, hold.end)

    def child() -> None:
        with pytest.raises(Blocked):
            js.submit(int, args=(7,), timeout=0)

    in_fork(child)
    hold.let_go()
    future.result()
    in_fork(lambda: js(int, 7).result())
    assert free(js) == 1


def test_a_forked_child_does_not_disturb_what_its_parent_has_running(
    js: Jobserver, hold: Hold
) -> None:
    future = js(held, hold.end)
    called: list[str] = []
    future.when_done(called.append, "called")

    def child() -> None:
        assert js(int, 7).result() == 7
        js.reclaim_resources()
        js.close()

    in_fork(child)
    assert not future.done()
    hold.let_go()
    assert future.result() == future.pid
    assert called == ["called"]
    assert js(int, 8).result() == 8
    assert free(js) == 2


def test_callbacks_that_are_due_in_the_parent_are_not_issued_in_its_child(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(slots=1)
    called: list[int] = []
    future = js(int, 0)
    future.when_done(lambda: called.append(os.getpid()))
    js.submit(int, args=(1,), callbacks=False)  # once that one has finished

    def child() -> None:
        js.submit(int, args=(2,), consume=0).result()
        js.reclaim_resources()
        assert called == []

    in_fork(child)
    future.wait()
    assert called == [os.getpid()]


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_the_parents_running_jobs_are_refused_in_its_child(
    js: Jobserver, hold: Hold, used: bool
) -> None:
    """Also when the child has jobs of its own, which it must not take them for."""
    future = js(held, hold.end)

    own_hold = Hold()

    def child() -> None:
        if used:
            own = js(held, own_hold.end)
        for ask in (future.result, future.exception, future.wait, future.done):
            with pytest.raises(RuntimeError, match=f"belongs to process {os.getppid()}"):
                ask()
        with pytest.raises(RuntimeError, match="belongs to process"):
            future.wait(signal=signal.SIGKILL)
        if used:
            own_hold.let_go()
            assert own.result() == own.pid

    in_fork(child)
    own_hold.close()
    hold.let_go()
    assert future.result() == future.pid


def test_what_had_finished_in_the_parent_can_be_read_in_its_child(js: Jobserver) -> None:
    future = js(int, 7)
    future.wait()

    def child() -> None:
        js(int, 8).result()
        assert future.done() and future.result() == 7

    in_fork(child)
    assert future.result() == 7


def test_a_callback_registered_in_a_child_runs_there_alone(js: Jobserver) -> None:
    future = js(int, 7)
    future.wait()
    called: list[str] = []

    def child() -> None:
        future.when_done(called.append, "in the child")
        assert called == ["in the child"]

    in_fork(child)
    js.reclaim_resources()
    assert called == []


def test_a_fork_while_another_thread_waits_for_a_result(js: Jobserver, hold: Hold) -> None:
    future = js(held, hold.end)
    results: list[int] = []
    waiting = threading.Thread(target=lambda: results.append(future.result()), daemon=True)
    waiting.start()
    for number in range(20):
        in_fork(lambda n=number: js(int, n).result())  # type: ignore[misc]
    hold.let_go()
    waiting.join(DEADLINE)
    assert results == [future.pid]


def test_a_fork_while_another_thread_waits_for_a_slot(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=1)
    js(held, hold.end)
    results: list[int] = []
    waiting = threading.Thread(target=lambda: results.append(js(int, 7).result()), daemon=True)
    waiting.start()
    child = Forked(lambda: js(int, 8).result())
    hold.let_go()
    waiting.join(DEADLINE)
    assert results == [7]
    child.join()
    assert free(js) == 1


def test_a_parent_and_its_children_use_the_slots_at_the_same_time(
    js: Jobserver, method: str
) -> None:
    jobs = {"fork": 100, "forkserver": 50}.get(method, 3)

    def work() -> None:
        for number in range(jobs):
            assert js(int, number).result() == number

    running = [Forked(work), Forked(work)]
    work()
    for child in running:
        child.join()
    assert free(js) == 2


def in_a_call(js: Jobserver) -> None:
    js(int).result()


def in_submit(js: Jobserver) -> None:
    js.submit(int, env={"A": "b"}, preexec_fn=list).result()


def in_map(js: Jobserver) -> None:
    assert list(js.map(abs, [(-1,)])) == [1]


def in_a_later_chunk(js: Jobserver) -> None:
    results = js.map(abs, [(-1,), (-2,)], chunksize=1)
    assert list(results) == [1, 2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older ones do not warn of it")
@pytest.mark.parametrize("method", ["fork"])
@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("submits", [in_a_call, in_submit, in_map, in_a_later_chunk])
def test_the_warning_of_threads_points_at_the_users_line(
    make_jobserver: Any, tasks: int | None, submits: Any
) -> None:
    js, stop = make_jobserver(1, max_tasks_per_child=tasks), threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.warns(DeprecationWarning, match="has threads") as warned:
            submits(js)
    finally:
        stop.set()
        thread.join()
    code = submits.__code__
    lines = range(code.co_firstlineno, code.co_firstlineno + 5)
    assert all(one.filename == __file__ and one.lineno in lines for one in warned)


def test_threads_of_a_child_may_all_begin_at_once(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    """Each may be the first to find that the handle came here by a fork."""
    js = make_jobserver(slots=4)
    js(int, 0).result()

    def child() -> None:
        sys.setswitchinterval(1e-6)
        start = threading.Barrier(4)
        results: list[int] = []

        def work() -> None:
            start.wait(DEADLINE)
            results.append(js(int, 7).result())

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert results == [7] * 4
        js.close()

    for _ in range({"fork": 50, "forkserver": 20}.get(method, 2)):
        in_fork(child)
    assert free(js) == 4


def test_forks_while_another_thread_submits_again_and_again(
    make_jobserver: Callable[..., Jobserver], method: str
) -> None:
    """Whatever lock that thread holds at the fork, the child must not need it."""
    js = make_jobserver(slots=1)
    js(int, 0).result()
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            js.submit(int, consume=0).result()

    submitting = threading.Thread(target=submit, daemon=True)
    submitting.start()
    try:
        for _ in range({"fork": 50, "forkserver": 200}.get(method, 3)):
            in_fork(lambda: js.submit(int, args=(7,), consume=0).result())
    finally:
        stop.set()
        submitting.join(DEADLINE)


def test_a_child_of_a_child_uses_the_same_slots(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=2)
    js(held, hold.end)

    def child() -> None:
        future = js(held, hold.end)
        in_fork(grandchild)
        hold.let_go(2)
        future.result()
        in_fork(lambda: js(int, 7).result())

    def grandchild() -> None:
        with pytest.raises(Blocked):
            js.submit(int, args=(7,), timeout=0)

    in_fork(child)


def test_a_child_that_is_killed_does_not_disturb_its_parent(js: Jobserver, hold: Hold) -> None:
    future = js(held, hold.end)

    def child() -> None:
        js(int, 7).result()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="the child failed"):
        in_fork(child)
    hold.let_go()
    assert future.result() == future.pid
    assert free(js) == 2


AS_SCRIPTS_DO = """
import os, sys
from jobserver import Jobserver

def held(end):
    os.read(end, 1)
    return "parent's"

if __name__ == "__main__":
    end, let_go = os.pipe()
    with Jobserver("fork", 2) as js:
        future = js(held, end)
        called = []
        future.when_done(called.append, "once")
        child = os.fork()
        if child == 0:
            if sys.argv[1] == "used":
                js(int).result()
            sys.exit(3)  # waits for nothing of its parent's, closes nothing of its parent's
        print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
        os.write(let_go, b"x")
        print(future.result(), called, js._owner.open_pool().free())
"""


@pytest.mark.parametrize("used", ["unused", "used"])
def test_a_child_that_ends_as_scripts_do_leaves_its_parents_jobs_alone(
    tmp_path: Path, used: str
) -> None:
    script = tmp_path / "as_scripts_do.py"
    script.write_text(AS_SCRIPTS_DO)
    ended = subprocess.run(
        [sys.executable, str(script), used],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.stdout.splitlines() == ["3", "parent's ['once'] 2"], ended.stderr
    assert ended.returncode == 0


def leave_a_process() -> int:
    """A job that forks a process which outlives it, and says which."""
    child = os.fork()
    if child == 0:
        signal.pause()
    return child


def die_and_leave_a_process(file: Path) -> None:
    file.write_text(str(leave_a_process()))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_is_over_though_a_process_that_it_forked_lives_on(js: Jobserver) -> None:
    future = js(leave_a_process)
    left = future.result()
    try:
        js.close()
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_jobs_death_is_told_though_a_process_that_it_forked_lives_on(
    js: Jobserver, tmp_path: Path
) -> None:
    future = js(die_and_leave_a_process, tmp_path / "pid")
    try:
        with pytest.raises(SubmissionDied) as info:
            future.result()
        assert info.value.signal == signal.SIGKILL
        js.close()
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def submit(js: Jobserver, answer: Any) -> None:
    """In a process of multiprocessing."""
    try:
        js.submit(int, args=(1,), timeout=0)
    except Blocked:
        answer.send("Blocked")
    answer.send(js(int, 7).result())


def submit_and_leave(js: Jobserver, end: Any) -> None:
    js(held, end)


@pytest.mark.parametrize("process_method", METHODS)
def test_a_process_of_multiprocessing_submits_to_the_same_slots(
    make_jobserver: Callable[..., Jobserver], hold: Hold, process_method: str
) -> None:
    js = make_jobserver(slots=1)
    future = js(held, hold.end)
    ours, theirs = multiprocessing.Pipe()
    context: Any = multiprocessing.get_context(process_method)
    process = context.Process(target=submit, args=(js, theirs))
    process.start()
    with ours, theirs:
        assert ours.poll(DEADLINE) and ours.recv() == "Blocked"
        hold.let_go()
        future.result()
        assert ours.poll(DEADLINE) and ours.recv() == 7
    process.join(DEADLINE)
    assert process.exitcode == 0
    process.close()
    assert free(js) == 1


@pytest.mark.parametrize("process_method", METHODS)
def test_a_process_of_multiprocessing_waits_for_its_jobs_at_its_end(
    make_jobserver: Callable[..., Jobserver], hold: Hold, process_method: str
) -> None:
    js = make_jobserver(slots=1)
    context: Any = multiprocessing.get_context(process_method)
    process = context.Process(target=submit_and_leave, args=(js, hold.end))
    process.start()
    hold.let_go()
    process.join(DEADLINE)
    assert process.exitcode == 0
    process.close()
    assert free(js) == 1


# Forks within a call of the parent's


class InBoth:
    """Forks when it is called first; what a body returns or raises in the child is told here."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._read, self._write = os.pipe()
        self._child = 0

    def __call__(self) -> None:
        if not self._child:
            self._child = os.fork() or -1

    def __reduce__(self) -> Any:
        self()
        return int, (7,)

    def run(self, js: Jobserver, body: Callable[[], object]) -> tuple[object, str]:
        """What it returns here, and what the child says that it has returned there."""
        try:
            said: object = body()
        except BaseException as e:
            said = f"{type(e).__name__}: {e}"
        if os.getpid() != self._owner:
            try:
                again = js(abs, -3).result(DEADLINE)
                js.close()
                os.write(self._write, f"{said}, {again}".encode())
            finally:
                os._exit(0)
        os.close(self._write)
        try:
            assert multiprocessing.connection.wait([self._read], DEADLINE), "the child hangs"
            childs = os.read(self._read, 10_000).decode()
        finally:
            os.close(self._read)
            if self._child > 0:
                os.waitpid(self._child, 0)
        return said, childs


def own(future: Any) -> tuple[bool, Any]:
    return future._owner_pid == os.getpid(), future.result(DEADLINE)


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("consume", [0, 1])
def test_a_gate_that_forks_lets_each_process_have_a_job_of_its_own(
    make_jobserver: Callable[..., Jobserver], consume: int, tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    gate = InBoth()

    def body() -> object:
        return own(js.submit(int, args=(7,), sleep_fn=gate, consume=consume))

    assert gate.run(js, body) == ((True, 7), "(True, 7), 3")
    settle(js)
    assert free(js) == 2


@pytest.mark.parametrize("tasks", [1, None])
def test_a_callback_that_forks_within_a_submission_lets_each_process_have_a_job_of_its_own(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    callback = InBoth()
    issued: list[int] = []
    first = js(int)
    first.when_done(callback)
    first.when_done(issued.append, os.getpid())
    wait_until(lambda: js._owner.here().look() and "running" not in repr(first))

    def body() -> object:
        return *own(js.submit(int, args=(7,))), len(issued)

    # What waits after it is the parent's to call.
    assert callback.run(js, body) == ((True, 7, 1), "(True, 7, 0), 3")
    settle(js)
    assert free(js) == 2


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_argument_that_forks_when_it_is_pickled_lets_each_process_have_a_job(
    js: Jobserver,
) -> None:
    argument = InBoth()
    said = argument.run(js, lambda: own(js.submit(abs, args=(argument,))))
    assert said == ((True, 7), "(True, 7), 3")
    settle(js)
    assert free(js) == 2


WAITS: dict[str, Callable[[Jobserver, Any], object]] = {
    "wait": lambda js, other: other.wait(),
    "result": lambda js, other: other.result(),
    "as_completed": lambda js, other: len([*js.as_completed([other])]),
    "map": lambda js, other: len([*js.map(abs, ((n,) for n in range(50)))]),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_callback_that_forks_within_a_wait_leaves_what_is_waited_for_to_its_parent(
    js: Jobserver, hold: Hold, wait: Callable[[Jobserver, Any], object]
) -> None:
    callback = InBoth()
    first = js(int)
    first.when_done(callback)
    first.when_done(hold.let_go)
    other = js.submit(held, args=(hold.end,), callbacks=False)
    parents, childs = callback.run(js, lambda: wait(js, other))
    assert "Error" not in str(parents)
    assert childs.startswith("RuntimeError: ") and f"process {os.getpid()}" in childs
    assert "this is another process, forked from it" in childs
    assert childs.endswith(", 3")
    settle(js)
    assert free(js) == 2


def test_an_input_of_map_that_forks_leaves_the_results_to_its_parent(js: Jobserver) -> None:
    forks = InBoth()

    def rows() -> Iterator[tuple[int]]:
        yield (1,)
        forks()
        yield (2,)

    parents, childs = forks.run(js, lambda: [*js.map(abs, rows())])
    assert parents == [1, 2]
    assert childs.startswith("RuntimeError: these results belong to process")
    settle(js)
    assert free(js) == 2


def test_a_signal_handler_that_forks_within_a_wait_disturbs_nothing(
    js: Jobserver, hold: Hold
) -> None:
    forks = InBoth()
    future = js(held, hold.end)

    def handle(*args: object) -> None:
        forks()
        if forks._child > 0:
            hold.let_go()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        parents, childs = forks.run(js, future.wait)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert parents is True
    assert "RuntimeError: this process was forked from process" in childs
    assert future.result() == future.pid
    settle(js)
    assert free(js) == 2


FORKS_AT_IMPORT = """
import os
import sys

pid = os.fork()
if pid == 0:
    LEAVE
assert os.waitpid(pid, 0)[1] >> 8 == 7

from jobserver import Jobserver


def work():
    return 42


if __name__ == "__main__":
    tasks = None if sys.argv[2] == "None" else 1
    with Jobserver(sys.argv[1], 1, max_tasks_per_child=tasks) as js:
        print([js(work).result() for _ in range(2)])
"""


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("leaves", ["os._exit(7)", "sys.exit(7)"])
def test_a_main_module_may_fork_when_it_is_imported(
    tmp_path: Path, method: Any, tasks: int | None, leaves: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKS_AT_IMPORT.replace("LEAVE", leaves))
    command = [sys.executable, str(program), method, str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (0, "[42, 42]\n"), done.stderr


USES_A_MODULE_THAT_FORKS = """
import sys

if __name__ == "__main__":
    from forks_when_imported import work
    from jobserver import Jobserver

    preload = ["forks_when_imported"] if sys.argv[2] == "preloaded" else []
    with Jobserver(sys.argv[1], 1, preload=preload) as js:
        print([js(work).result() for _ in range(2)])
"""


@pytest.mark.parametrize("leaves", ["os._exit(7)", "sys.exit(7)"])
@pytest.mark.parametrize("when", ["by the job", "preloaded"])
def test_a_module_that_a_job_needs_may_fork_when_it_is_imported(
    tmp_path: Path, method: Any, leaves: str, when: str
) -> None:
    forks = FORKS_AT_IMPORT.split("from jobserver")[0].replace("LEAVE", leaves)
    module, program = tmp_path / "forks_when_imported.py", tmp_path / "program.py"
    module.write_text(forks + "def work():\n    return 42\n")
    program.write_text(USES_A_MODULE_THAT_FORKS)
    command = [sys.executable, str(program), method, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (0, "[42, 42]\n"), done.stderr
