"""The end of a Jobserver: closed by the program, or by the interpreter's exit.

Not here: callbacks that are due at the end (test_callbacks), and killed owners (test_orphans).
Scripts are run where the end of the whole interpreter matters. Semaphores of multiprocessing say
"begun" and "go on".
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, descriptors, settle

from jobserver import Blocked, CallbackRaised, Future, Jobserver, StartMethod, SubmissionDied

LARGE = 1 << 20  # bytes, more than travels in a channel


def nothing() -> None:
    pass


def return_it(value: Any) -> Any:
    return value


def make(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def work_and_touch(file: Path) -> None:
    time.sleep(0.2)  # stands for work
    file.touch()


def fail() -> None:
    raise LookupError("on purpose")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold(begun: Any, go: Any) -> None:
    begun.release()
    assert go.acquire(timeout=DEADLINE)


def parents(js: Jobserver, levels: int) -> set[int]:
    """The pids of the parent processes of this job and of each below it."""
    below = js(parents, js, levels - 1).result() if levels > 1 else set()
    return {os.getppid(), *below}


def leave_a_job_behind(js: Jobserver, file: Path) -> None:
    js(work_and_touch, file)


# Closing


def test_leaving_a_with_statement_waits_for_what_runs(method: StartMethod, tmp_path: Path) -> None:
    files = [tmp_path / str(n) for n in range(3)]
    with Jobserver(method, 2) as js:
        for file in files:
            js(work_and_touch, file)
    assert all(file.exists() for file in files)


def test_leaving_a_with_statement_by_an_exception_waits_too(
    method: StartMethod, tmp_path: Path
) -> None:
    with pytest.raises(LookupError, match="in the body"):
        with Jobserver(method, 1) as js:
            js(work_and_touch, tmp_path / "file")
            raise LookupError("in the body")
    assert (tmp_path / "file").exists()


def test_closing_waits_for_jobs_without_a_slot_and_for_jobs_of_jobs(
    js: Jobserver, tmp_path: Path
) -> None:
    js.submit(work_and_touch, args=(tmp_path / "without a slot",), consume=0)
    js(leave_a_job_behind, js, tmp_path / "of a job")
    js.close()
    assert {file.name for file in tmp_path.iterdir()} == {"without a slot", "of a job"}


def test_a_closed_jobserver_leaves_no_child_no_zombie_and_no_descriptor(
    method: StartMethod,
) -> None:
    before = children(), descriptors()
    js = Jobserver(method, 2)
    kept: list[Future[Any]] = [
        js(nothing),
        js(make, LARGE),
        js(fail),
        js(kill_itself),
        js(parents, js, 1),
        js.submit(nothing, consume=0),
    ]
    kept[0].result()
    with pytest.raises(Blocked):
        begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
        kept.append(js(hold, begun, go))
        kept[-1].result(0)
    go.release()
    js.close()
    assert (children(), descriptors()) == before
    assert all(future.done() for future in kept)


def test_an_error_that_is_kept_keeps_no_descriptor_of_a_closed_jobserver(
    method: StartMethod,
) -> None:
    before = children(), descriptors()
    js = Jobserver(method, 1)
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    running = js(hold, begun, go)
    running.when_done(fail)
    kept: list[BaseException] = []
    for call in (lambda: js.submit(nothing, timeout=0), lambda: running.result(0)):
        with pytest.raises(Blocked) as blocked:
            call()
        kept.append(blocked.value)
    go.release()
    with pytest.raises(CallbackRaised) as raised:
        running.wait()
    kept.append(raised.value)
    js.close()
    assert (children(), descriptors()) == before


def test_a_jobserver_that_was_never_used_is_closed_like_any_other(method: StartMethod) -> None:
    before = children(), descriptors()
    js = Jobserver(method)
    js.close()
    assert (children(), descriptors()) == before


def test_closing_twice_is_harmless(method: StartMethod) -> None:
    with Jobserver(method, 1) as js:
        future = js(return_it, 42)
        js.close()
        js.close()
    assert future.result() == 42


def test_futures_keep_what_came_of_their_jobs(js: Jobserver) -> None:
    small, large, read = js(return_it, 42), js(make, LARGE), js(make, 2 * LARGE)
    failed, died = js(fail), js(kill_itself)
    before = read.result()
    js.close()
    assert small.result() == 42
    assert large.result() == make(LARGE)
    assert read.result() is before
    with pytest.raises(LookupError, match="on purpose"):
        failed.result()
    with pytest.raises(SubmissionDied, match="SIGKILL"):
        died.result()
    for future in (small, large, read, failed, died):
        assert future.done()
        assert future.wait(0)
        assert (future.exception(0) is None) == (future in (small, large, read))


def test_a_callback_registered_after_closing_is_issued_at_once(js: Jobserver) -> None:
    future = js(return_it, 42)
    js.close()
    issued: list[int] = []
    assert future.when_done(lambda: issued.append(future.result())) == 0
    assert issued == [42]


def test_closing_that_was_interrupted_can_be_repeated(js: Jobserver) -> None:
    begun, go = js.context.Semaphore(0), js.context.Semaphore(0)
    future = js(hold, begun, go)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            js.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not future.done()
    go.release()
    js.close()
    assert future.result() is None


def test_several_jobservers_are_closed_apart(make_jobserver: Callable[..., Jobserver]) -> None:
    first, second = make_jobserver(), make_jobserver()
    for js in (first, second):
        js(nothing).result()
    first.close()
    assert second(return_it, 42).result() == 42


# The end of the interpreter

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from jobserver import Jobserver

def work_and_touch(file):
    time.sleep(0.2)  # stands for work
    Path(file).touch()

def submit_later(js, file):
    time.sleep(0.2)
    js(work_and_touch, file).result()

def report_and_read(fifo):
    os.write(1, f"{os.getppid()}\\n".encode())
    with open(fifo, "rb", buffering=0) as file:
        file.read(1)

if __name__ == "__main__":
    method, ending, file = sys.argv[1:]
    js = Jobserver(method, 2)
"""


class Script:
    """A program that makes a Jobserver, does more, and ends."""

    def __init__(self, folder: Path, body: str) -> None:
        self.path = folder / "script.py"
        lines = [f"    {line}\n" for line in body.splitlines()]
        self.path.write_text(SCRIPT + "".join(lines))

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self.path), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)


def read_lines(fd: int, count: int) -> list[str]:
    """So many lines of a pipe that has no more of them yet."""
    text = b""
    while text.count(b"\n") < count:
        assert select.select([fd], [], [], DEADLINE)[0]
        more = os.read(fd, 1024)
        assert more
        text += more
    return text.decode().splitlines()


@pytest.mark.parametrize("ending, code", [("pass", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_the_interpreter_waits_for_running_jobs_before_it_exits(
    method: StartMethod, tmp_path: Path, ending: str, code: int
) -> None:
    script = Script(tmp_path, "js(work_and_touch, file)\nexec(ending)")
    errors = tmp_path / "errors"  # not a pipe: its end would wait for the job
    with errors.open("w") as stderr:
        process = script.start(method, ending, tmp_path / "file", stderr=stderr)
        assert process.wait(DEADLINE) == code
    assert (tmp_path / "file").exists()
    assert ("ZeroDivisionError" if code == 1 else "") in errors.read_text()
    assert "jobserver" not in errors.read_text()


def test_jobs_go_on_submitting_while_the_interpreter_waits_for_them(
    method: StartMethod, tmp_path: Path
) -> None:
    script = Script(tmp_path, "js(submit_later, js, file)")
    process = script.start(method, "", tmp_path / "file")
    assert process.wait(DEADLINE) == 0
    assert (tmp_path / "file").exists()


def test_a_jobserver_dropped_unclosed_leaves_no_zombies_to_gather(method: StartMethod) -> None:
    """They are reaped as further jobs are started, by whichever Jobserver."""

    def use_and_drop() -> None:
        assert Jobserver(method, 1)(int, 7).result() == 7

    before = children()
    for _ in range(5):
        use_and_drop()
    with Jobserver("fork", 1) as js:
        while children() != before:  # some may have needed a moment to end
            js(int).result()
            settle(js)


def test_a_closed_jobserver_cannot_be_entered(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver()
    js.close()
    with pytest.raises(RuntimeError, match="this Jobserver is closed"), js:
        pass
