"""What a job sees is what a child of multiprocessing sees.

Wherever it can be, a test runs one function in both, by the same start method, and compares.
The rest says what multiprocessing promises and shows that it holds in a job. Not here:
results, environment and deaths, which are ours alone.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.process
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE

from jobserver import Jobserver


@pytest.fixture(scope="module", autouse=True)
def multiprocessings_fork_server() -> None:
    """It lives as long as the process, so it must not count as left by a test."""
    multiprocessing.forkserver.ensure_running()


def send(connection: Any, fn: Callable[..., Any], *args: Any) -> None:
    connection.send(fn(*args))


def by_multiprocessing(method: str, fn: Callable[..., Any], *args: Any) -> Any:
    """What `fn` returns in a child of multiprocessing."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    with ours, theirs:
        process = context.Process(target=send, args=(theirs, fn, *args))
        process.start()
        assert ours.poll(DEADLINE), "the child of multiprocessing has sent nothing"
        value = ours.recv()
        process.join(DEADLINE)
        process.close()
    return value


# What there is to see.


def surroundings() -> dict[str, Any]:
    """Everything that a function can look at and that does not differ from child to child."""
    me: Any = multiprocessing.current_process()
    parent: Any = multiprocessing.parent_process()
    umask = os.umask(0)
    os.umask(umask)
    return {
        "standard input": sys.stdin.read(),
        "descriptor 0": os.read(0, 1),
        "is a process": isinstance(me, multiprocessing.process.BaseProcess),
        "name ends in a number": me.name.rpartition("-")[2].isdigit(),
        "pid": me.pid == os.getpid() == me.ident,
        "alive": me.is_alive(),
        "exit code": me.exitcode,
        "daemon": me.daemon,
        "key": bytes(me.authkey),
        "type of the parent": type(parent).__name__,
        "name of the parent": parent.name,
        "pid of the parent": parent.pid,
        "parent is alive": parent.is_alive(),
        "child of the parent": os.getppid() == parent.pid,
        "children": multiprocessing.active_children(),
        "start method": multiprocessing.get_start_method(),
        "threads": (threading.active_count(), threading.current_thread().name),
        "main thread": threading.current_thread() is threading.main_thread(),
        "arguments": sys.argv,
        "folder": os.getcwd(),
        "search path": sys.path,
        "file mode mask": umask,
        "flags": tuple(sys.flags),
        "warning options": sys.warnoptions,
        "main module": sys.modules["__main__"].__name__,
        "handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGPIPE)],
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "group": os.getpgrp(),
        "session": os.getsid(0),
    }


def test_a_job_sees_what_a_child_of_multiprocessing_sees(js: Jobserver, method: str) -> None:
    assert js(surroundings).result() == by_multiprocessing(method, surroundings)


def names_of_all_above(js: Jobserver, depth: int) -> list[str]:
    parent: Any = multiprocessing.parent_process()
    names = [parent.name] if depth == 0 else js(names_of_all_above, js, depth - 1).result()
    return [*names, multiprocessing.current_process().name]


def test_a_job_of_a_job_has_that_as_its_parent(js: Jobserver) -> None:
    parents_name, *names = js(names_of_all_above, js, 1).result()
    assert parents_name == names[1]


def test_a_job_submitted_by_a_thread_sees_the_same(js: Jobserver, method: str) -> None:
    seen: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: seen.append(js(surroundings).result()))
    thread.start()
    thread.join(DEADLINE)
    expected = by_multiprocessing(method, surroundings)
    if method == "fork":
        expected["threads"] = (1, thread.name)  # it goes on as the thread that forked
    assert seen == [expected]


def test_a_job_sees_the_owners_folder_and_arguments_as_they_are_now(
    js: Jobserver, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork server that was started before the change must not matter."""
    js(int).result()
    by_multiprocessing(method, int)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["changed", "-x"])
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    seen = js(surroundings).result()
    assert (seen["folder"], seen["arguments"]) == (str(tmp_path), ["changed", "-x"])
    assert seen == by_multiprocessing(method, surroundings)


def test_the_names_of_jobs_differ(js: Jobserver) -> None:
    assert js(job_name).result() != js(job_name).result()


def job_name() -> str:
    return multiprocessing.current_process().name


def random_number() -> float:
    return random.random()


def test_random_numbers_differ_between_jobs_and_from_the_owners(js: Jobserver) -> None:
    random.seed(1)
    numbers = [js(random_number).result() for _ in range(2)] + [random.random()]
    assert len(set(numbers)) == 3


# What there is to do.


class Lines(logging.Handler):
    """Keeps what is logged. (A file's own lock, unlike a handler's, would not survive a fork
    while another thread writes; that is so in multiprocessing too.)"""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


lines = Lines()
logger = logging.getLogger("job")
logger.addHandler(lines)
logger.propagate = False


def log(message: str) -> str:
    logger.warning(message)
    return lines.last


def test_a_job_logs_while_its_owner_logs_in_another_thread(js: Jobserver) -> None:
    """Under fork, the handler's lock may be held at that moment."""
    stop = threading.Event()

    def log_on() -> None:
        while not stop.is_set():
            logger.warning("owner")

    thread = threading.Thread(target=log_on)
    thread.start()
    try:
        for number in range(5):
            assert js(log, f"job {number}").result() == f"job {number}"
    finally:
        stop.set()
        thread.join(DEADLINE)


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def add_in_a_loop(a: int, b: int) -> int:
    return asyncio.run(add(a, b))


def test_a_job_runs_asyncio(js: Jobserver) -> None:
    assert js(add_in_a_loop, 3, 4).result() == 7


def test_a_job_runs_asyncio_also_when_its_owner_does(js: Jobserver) -> None:
    async def main() -> int:
        return js(add_in_a_loop, 3, 4).result()

    assert asyncio.run(main()) == 7


def sum_in_threads() -> int:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        return sum(pool.map(abs, range(-9, 1)))


def test_a_job_uses_threads(js: Jobserver) -> None:
    assert js(sum_in_threads).result() == 45


def test_a_job_uses_threads_also_when_its_owner_does(js: Jobserver) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(abs, range(-9, 1))) == 45
        assert js(sum_in_threads).result() == 45


def run_a_program() -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", "print(input())"], input="7", capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_a_job_runs_programs(js: Jobserver) -> None:
    assert js(run_a_program).result() == (0, "7\n")


def child_of_mine() -> dict[str, Any]:
    """In a child of a job."""
    parent: Any = multiprocessing.parent_process()
    return {"parent": parent.pid, "parent is alive": parent.is_alive(), "pid": os.getpid()}


def start_a_child(method: str) -> tuple[int, dict[str, Any]]:
    return os.getpid(), by_multiprocessing(method, child_of_mine)


def test_a_job_starts_processes_of_multiprocessing(js: Jobserver, method: str) -> None:
    pid, seen = js(start_a_child, method).result()
    assert seen["parent"] == pid and seen["parent is alive"] and seen["pid"] != pid


def sum_in_processes(method: str) -> int:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return sum(pool.map(abs, range(-9, 1)))


def test_a_job_uses_a_pool_of_multiprocessing(js: Jobserver, method: str) -> None:
    assert js(sum_in_processes, method).result() == 45


def sum_in_an_executor(method: str) -> int:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return sum(pool.map(abs, range(-9, 1)))


def test_a_job_uses_a_process_pool_executor(js: Jobserver, method: str) -> None:
    assert js(sum_in_an_executor, method).result() == 45


@pytest.mark.parametrize("method", ["fork"])
def test_a_job_uses_a_process_pool_executor_also_when_its_owner_does(
    js: Jobserver, method: str
) -> None:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert sum(pool.map(abs, range(-9, 1))) == 45
        assert js(sum_in_an_executor, method).result() == 45


# How it ends.


def touch_when_main_ends(file: Path) -> None:
    threading.main_thread().join()
    file.touch()


def start_a_thread(file: Path) -> None:
    threading.Thread(target=touch_when_main_ends, args=(file,)).start()


def test_threads_of_a_job_are_joined_at_its_end(js: Jobserver, tmp_path: Path) -> None:
    js(start_a_thread, tmp_path / "touched")
    js.close()
    assert (tmp_path / "touched").exists()


def start_an_endless_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return 7


def test_daemonic_threads_of_a_job_do_not_keep_it(js: Jobserver) -> None:
    assert js(start_an_endless_thread).result() == 7
    js.close()


def touch_when_the_parent_returns(file: Path) -> None:
    parent: Any = multiprocessing.parent_process()
    assert parent.is_alive()  # it is waiting for us
    file.touch()


def leave_a_child(method: str, file: Path) -> int:
    context: Any = multiprocessing.get_context(method)
    context.Process(target=touch_when_the_parent_returns, args=(file,)).start()
    return 7


def test_children_of_a_job_are_joined_at_its_end(
    js: Jobserver, method: str, tmp_path: Path
) -> None:
    assert js(leave_a_child, method, tmp_path / "touched").result() == 7
    js.close()
    assert (tmp_path / "touched").exists()


def leave_an_endless_daemon(method: str) -> int:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=signal.pause, daemon=True)
    process.start()
    return int(process.pid)


def test_daemonic_children_of_a_job_end_with_it(js: Jobserver, method: str) -> None:
    pid = js(leave_an_endless_daemon, method).result()
    js.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def fill(queue: Any) -> int:
    for number in range(100):
        queue.put(b"x" * 10_000 + bytes([number]))
    return 7


def test_a_queue_that_a_job_has_filled_is_flushed(js: Jobserver) -> None:
    queue: Any = js.context.Queue()
    future = js(fill, queue)
    assert [queue.get(timeout=DEADLINE)[-1] for _ in range(100)] == [*range(100)]
    assert future.result() == 7
    queue.close()
    queue.join_thread()


def register(file: Path) -> None:
    atexit.register(file.touch)


def test_what_a_job_registers_with_atexit_runs_where_it_does_in_multiprocessing(
    js: Jobserver, method: str, tmp_path: Path
) -> None:
    js(register, tmp_path / "job").result()
    js.close()
    by_multiprocessing(method, register, tmp_path / "child")
    assert (tmp_path / "job").exists() == (tmp_path / "child").exists()


def test_what_its_owner_has_registered_with_atexit_does_not_run_in_a_job(
    js: Jobserver, tmp_path: Path
) -> None:
    atexit.register((tmp_path / "touched").touch)
    try:
        js(int).result()
        js.close()
    finally:
        atexit.unregister((tmp_path / "touched").touch)
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    made = shared_memory.SharedMemory(create=True, size=16)
    yield made
    made.close()
    made.unlink()


def write(name: str, text: bytes) -> bytes:
    """Returns what was in the shared memory before."""
    attached: Any = shared_memory.SharedMemory(name)
    before = bytes(attached.buf[: len(text)])
    attached.buf[: len(text)] = text
    attached.close()
    return before


def test_shared_memory_outlives_the_jobs_that_attach_it(
    js: Jobserver, memory: shared_memory.SharedMemory
) -> None:
    js(write, memory.name, b"first").result()
    assert js(write, memory.name, b"other").result() == b"first"
    js.close()
    assert write(memory.name, b"again") == b"other"


# Scripts, for what is decided when a program starts.


def run_script(folder: Path, text: str, *args: str, options: tuple[str, ...] = ()) -> list[str]:
    """The lines that a script prints."""
    script = folder / "script.py"
    script.write_text(text)
    return run_program(*options, str(script), *args, folder=folder)


def run_program(*args: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PRINTS = """
import sys
from jobserver import Jobserver

def speak():
    print("job")

if __name__ == "__main__":
    print("owner, before")
    with Jobserver(sys.argv[1], 2) as js:
        js(speak).result()
        print("owner, between")
        js(speak).result()
    print("owner, after")
"""


def test_what_is_printed_comes_once_and_in_order(tmp_path: Path, method: str) -> None:
    """Into a pipe, so that nothing is written before somebody flushes it."""
    assert (
        run_script(tmp_path, PRINTS, method)
        == [
            "owner, before",
            "job",
            "owner, between",
            "job",
            "owner, after",
        ]
        or method != "fork"
    )


MAIN = """
import sys
from jobserver import Jobserver

class Pair:
    def __init__(self, left, right):
        self.left, self.right = left, right

def swap(pair):
    return Pair(pair.right, pair.left)

def main():
    with Jobserver(sys.argv[1], 2) as js:
        swapped = js(swap, Pair(1, 2)).result()
        print(type(swapped) is Pair, swapped.left, swapped.right)

if __name__ == "__main__":
    main()
"""


def test_what_the_main_module_defines_can_be_sent_and_returned(tmp_path: Path, method: str) -> None:
    assert run_script(tmp_path, MAIN, method) == ["True 2 1"]


def test_so_it_can_when_the_main_module_is_run_by_its_name(tmp_path: Path, method: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(MAIN)
    assert run_program("-m", "package.module", method, folder=tmp_path) == ["True 2 1"]
    if method == "fork":  # the others load no `__main__.py`, nor does multiprocessing
        (tmp_path / "package" / "__main__.py").write_text(MAIN)
        assert run_program("-m", "package", method, folder=tmp_path) == ["True 2 1"]


def test_a_program_without_a_main_module_submits_what_can_be_imported(
    tmp_path: Path, method: str
) -> None:
    text = f"from jobserver import Jobserver\nprint(Jobserver({method!r}, 2)(pow, 2, 5).result())"
    assert run_program("-c", text, folder=tmp_path) == ["32"]


UNGUARDED = """
import sys
from jobserver import Jobserver

js = Jobserver(sys.argv[1], 2)
print(js(pow, 2, 5).result())
"""


def test_a_script_without_the_idiom_of_multiprocessing_runs_too(
    tmp_path: Path, method: str
) -> None:
    assert run_script(tmp_path, UNGUARDED, method) == ["32"]


OPTIONS = """
import multiprocessing, sys
from jobserver import Jobserver

def options():
    return tuple(sys.flags), sys.warnoptions, sys._xoptions, __debug__

def send(connection):
    connection.send(options())

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe(duplex=False)
    context.Process(target=send, args=(theirs,)).start()
    with Jobserver(sys.argv[1], 2) as js:
        print(js(options).result() == ours.recv() == options())
"""


def test_a_job_runs_under_the_interpreters_options(tmp_path: Path, method: str) -> None:
    options = ("-O", "-B", "-X", "utf8", "-W", "error::ImportWarning")
    assert run_script(tmp_path, OPTIONS, method, options=options) == ["True"]


MASK = """
import multiprocessing, os, sys
from jobserver import Jobserver

def mask():
    return os.umask(0)

def send(connection):
    connection.send(mask())

if __name__ == "__main__":
    os.umask(0o27)
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe(duplex=False)
    context.Process(target=send, args=(theirs,)).start()
    with Jobserver(sys.argv[1], 2) as js:
        print(oct(js(mask).result()), oct(ours.recv()))
"""


def test_a_job_has_its_owners_file_mode_mask(tmp_path: Path, method: str) -> None:
    assert run_script(tmp_path, MASK, method) == ["0o27 0o27"]


MAKES_MEMORY = """
import sys
from multiprocessing import shared_memory
from jobserver import Jobserver

def make():
    made = shared_memory.SharedMemory(create=True, size=16)
    made.buf[:5] = b"hello"
    made.close()
    return made.name

def take(name):
    try:
        found = shared_memory.SharedMemory(name)
    except FileNotFoundError:
        return "gone"
    text = bytes(found.buf[:5]).decode()
    found.close()
    found.unlink()
    return text

if __name__ == "__main__":
    with Jobserver(sys.argv[1], 2) as js:
        name = js(make).result()
    print(take(name))
"""


def test_shared_memory_that_a_job_has_made_lives_on(tmp_path: Path, method: str) -> None:
    """In programs that have not used multiprocessing's resource tracker before."""
    assert run_script(tmp_path, MAKES_MEMORY, method) == ["hello"]


def make_shared(name: str) -> None:
    shared_memory.SharedMemory(name, create=True, size=16).close()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_killed_resource_tracker_is_replaced_before_the_next_job(js: Jobserver) -> None:
    js(int).result()
    tracker: Any = resource_tracker._resource_tracker
    os.kill(tracker._pid, signal.SIGKILL)
    os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
    name = f"jobserver-{os.getpid()}"
    with pytest.warns(UserWarning, match="resource_tracker"):
        js(make_shared, name).result()
    js.close()
    memory = shared_memory.SharedMemory(name)
    memory.close()
    memory.unlink()


def broken_pipes() -> str:
    return str(signal.getsignal(signal.SIGPIPE))


def put_broken_pipes(queue: Any) -> None:
    queue.put(broken_pipes())


def test_a_job_takes_broken_pipes_as_a_child_of_multiprocessing_does(
    js: Jobserver, method: Any
) -> None:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=put_broken_pipes, args=(queue,))
    child.start()
    assert js(broken_pipes).result() == queue.get()
    child.join()
