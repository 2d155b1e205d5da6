"""Pickling: what travels between owner and job, and what is said when something cannot.

Under fork nothing is pickled on the way to a job, and everything on the way back.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import zipapp
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, children, descriptors, settle

import jobserver
from jobserver import Jobserver, _main

with_pickled_work = pytest.mark.parametrize("method", ["forkserver", "spawn"])


class NotPicklable:
    """Can be called, but not be pickled."""

    def __call__(self, *args: object) -> str:
        return "called"

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("this is not for sending")


def load_only_in(pid: int) -> str:
    if os.getpid() != pid:
        raise ImportError("this is not for loading")
    return "loaded"


class NotLoadable(NotPicklable):
    """Can be pickled, and unpickled only in the process that made it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __reduce__(self) -> Any:
        return load_only_in, (self.pid,)


class NotPicklableError(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("this is not for sending")


class NotLoadableError(Exception):
    def __reduce__(self) -> Any:
        return load_error_only_in, (os.getpid(),)


def load_error_only_in(pid: int) -> NotLoadableError:
    load_only_in(pid)
    return NotLoadableError()


class PickyError(Exception):
    """Pickles, but cannot be made again from its arguments, as many exceptions of users."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class ImpostorError(Exception):
    """Comes out of its pickle as something that is no exception."""

    def __reduce__(self) -> Any:
        return str, ("no exception",)


def make(kind: Callable[..., Any], *args: object) -> Any:
    return kind(*args)


def make_deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


def iterate() -> Iterator[None]:
    yield


def raise_new(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


def call(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def call_then(fn: Callable[[Any], Any], argument: Any, then: Callable[[], Any]) -> Any:
    fn(argument)
    return then()


def make_adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def error_of(act: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        act()
    return caught.value


def told(conn: Connection) -> Any:
    """What the other side says, in time."""
    assert conn.poll(DEADLINE), "nothing was said"
    return conn.recv()


@pytest.fixture
def one_slot(make_jobserver: Callable[..., Jobserver]) -> Iterator[Jobserver]:
    """A Jobserver whose only slot must be there again when the test is over."""
    js = make_jobserver(slots=1)
    yield js
    assert js.submit(abs, args=(-1,), timeout=DEADLINE).result(DEADLINE) == 1


@pytest.fixture(params=["with cloudpickle", "without cloudpickle"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not cloudpickle is installed."""
    if request.param == "without cloudpickle":
        hide_cloudpickle(monkeypatch)
    else:
        pytest.importorskip("cloudpickle")


def hide_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


def work_with(where: str, it: Any) -> dict[str, Any]:
    """A submission that has `it` somewhere."""
    return {
        "the function": {"fn": it},
        "an argument": {"fn": print, "args": (1, it)},
        "a keyword argument": {"fn": dict, "kwargs": {"key": it}},
        "preexec_fn": {"fn": print, "preexec_fn": it},
    }[where]


everywhere = pytest.mark.parametrize(
    "where", ["the function", "an argument", "a keyword argument", "preexec_fn"]
)


@with_pickled_work
@everywhere
def test_what_cannot_be_pickled_is_refused_before_anything_starts(
    one_slot: Jobserver, either_way: None, where: str
) -> None:
    before = children(), descriptors()
    with pytest.raises(pickle.PicklingError, match="this is not for sending"):
        one_slot.submit(**work_with(where, NotPicklable()))
    assert (children(), descriptors()) == before


@with_pickled_work
@everywhere
def test_what_the_job_cannot_load_fails_its_own_future(one_slot: Jobserver, where: str) -> None:
    future = one_slot.submit(**work_with(where, NotLoadable()))
    error = future.exception(DEADLINE)
    assert isinstance(error, pickle.UnpicklingError)
    assert "could not load what it was to run" in str(error)
    assert "ImportError: this is not for loading" in str(error)
    assert "in load_only_in" in str(error.__cause__)
    assert error_of(future.result) is error


@pytest.mark.parametrize("method", ["fork"])
@everywhere
def test_fork_pickles_nothing_on_the_way_to_a_job(js: Jobserver, where: str) -> None:
    for it in (NotPicklable(), NotLoadable()):
        work = work_with(where, it)
        work["fn"] = work["fn"] if where == "the function" else print
        work.pop("kwargs", None)
        assert js.submit(**work).result(DEADLINE) in ("called", None)


def test_a_result_that_cannot_be_pickled_is_an_error_on_its_future(
    one_slot: Jobserver, either_way: None
) -> None:
    error = one_slot(make, NotPicklable).exception(DEADLINE)
    assert isinstance(error, pickle.PicklingError)
    assert "what the job returned, a NotPicklable, cannot be pickled" in str(error)
    assert "this is not for sending" in str(error)


def test_a_result_that_its_owner_cannot_load_is_an_error_on_its_future(
    one_slot: Jobserver,
) -> None:
    future = one_slot(make, NotLoadable)
    error = future.exception(DEADLINE)
    assert isinstance(error, pickle.UnpicklingError)
    assert "what the job returned cannot be unpickled here" in str(error)
    assert "ImportError: this is not for loading" in str(error)
    assert error_of(future.result) is error


def test_results_of_kinds_that_never_travel_are_errors(js: Jobserver) -> None:
    for fn, args in ((threading.Lock, ()), (iterate, ()), (make_deep, (100_000,))):
        error = js.submit(fn, args=args).exception(DEADLINE)
        assert isinstance(error, pickle.PicklingError), fn
        assert "what the job returned" in str(error)


@pytest.mark.parametrize(
    "kind, args, kept",
    [
        (NotPicklableError, ("x",), "NotPicklableError: x"),
        (PickyError, (404, "gone"), "PickyError: 404: gone"),
    ],
)
def test_an_exception_that_cannot_be_pickled_is_told_in_words(
    one_slot: Jobserver, kind: type[BaseException], args: tuple[Any, ...], kept: str
) -> None:
    error = one_slot(raise_new, kind, *args).exception(DEADLINE)
    assert isinstance(error, pickle.PicklingError)
    assert kept in str(error) and "cannot be pickled" in str(error)
    assert "in raise_new" in str(error.__cause__)


def test_an_exception_that_its_owner_cannot_load_is_told_in_words(one_slot: Jobserver) -> None:
    error = one_slot(raise_new, NotLoadableError).exception(DEADLINE)
    assert isinstance(error, pickle.UnpicklingError)
    assert "NotLoadableError" in str(error)
    assert "this is not for loading" in str(error)
    assert "in raise_new" in str(error.__cause__)


def test_an_exception_that_pickles_as_something_else_is_told_in_words(
    one_slot: Jobserver,
) -> None:
    error = one_slot(raise_new, ImpostorError, "the reason").exception(DEADLINE)
    assert isinstance(error, pickle.PickleError)
    assert "ImpostorError: the reason" in str(error)
    assert "in raise_new" in str(error.__cause__)


def test_failed_pickling_costs_no_descriptor(js: Jobserver) -> None:
    def fail() -> None:
        for kind in (NotPicklable, NotLoadable):
            assert js(make, kind).exception(DEADLINE) is not None

    fail()
    settle(js)
    before = descriptors()
    for _ in range(4):
        fail()
    settle(js)
    assert descriptors() == before


@with_pickled_work
def test_more_descriptors_than_a_message_carries_are_refused(one_slot: Jobserver) -> None:
    assert one_slot(abs, -1).result(DEADLINE) == 1  # a helper is there now
    ours, theirs = one_slot.context.Pipe()
    with ours, theirs:
        many = [Connection(os.dup(theirs.fileno())) for _ in range(254)]
        settle(one_slot)
        before = descriptors()
        with pytest.raises(ValueError, match="253 descriptors"):
            one_slot(print, many)
        settle(one_slot)
        assert descriptors() == before
        for each in many:
            each.close()


@with_pickled_work
@everywhere
def test_without_cloudpickle_a_lambda_is_refused_with_advice(
    one_slot: Jobserver, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    hide_cloudpickle(monkeypatch)
    with pytest.raises(pickle.PicklingError) as caught:
        one_slot.submit(**work_with(where, lambda: None))
    assert "<lambda>" in str(caught.value)
    assert "pip install cloudpickle" in str(caught.value)
    assert 'context="fork"' in str(caught.value)


@pytest.mark.parametrize("method", ["fork"])  # whose jobs inherit that it is missing
def test_without_cloudpickle_a_returned_lambda_is_an_error_with_advice(
    one_slot: Jobserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_cloudpickle(monkeypatch)
    error = one_slot(make_adder, 1).exception(DEADLINE)
    assert isinstance(error, pickle.PicklingError)
    assert "pip install cloudpickle" in str(error)
    assert "context=" not in str(error), "it is fork already"


def test_lambdas_and_closures_travel_everywhere(js: Jobserver) -> None:
    pytest.importorskip("cloudpickle")
    n = 3
    assert js(lambda x: x + n, 1).result(DEADLINE) == 4
    assert js(call, lambda x: x * n, 2).result(DEADLINE) == 6
    assert js(make_adder, 5).result(DEADLINE)(1) == 6
    environment = js.submit(os.getenv, args=("N",), preexec_fn=lambda: set_variable("N", str(n)))
    assert environment.result(DEADLINE) == "3"


def set_variable(name: str, value: str) -> None:
    os.environ[name] = value


def test_a_lambda_travels_with_what_only_a_job_may_have(js: Jobserver) -> None:
    pytest.importorskip("cloudpickle")
    ours, theirs = js.context.Pipe()
    lock = js.context.Lock()
    with ours, theirs:
        future = js(lambda: call_then(theirs.send, lock.acquire(), lambda: js(abs, -2).result()))
        assert future.result(DEADLINE) == 2
        assert told(ours) is True
    assert not lock.acquire(block=False)


def put_all(queue: Any, values: list[Any]) -> None:
    for value in values:
        queue.put(value)


def double(queue: Any, results: Any) -> None:
    results.put(2 * queue.get(timeout=DEADLINE))


def set_then_wait(mine: Any, other: Any) -> bool:
    mine.set()
    return bool(other.wait(DEADLINE))


def answer(conn: Connection) -> None:
    with conn:
        conn.send(conn.recv() + 1)


def acquire(lock: Any) -> bool:
    return bool(lock.acquire(False))


def send_bytes(sock: socket.socket) -> None:
    with sock:
        sock.sendall(b"from the job")


def write_shared(memory: shared_memory.SharedMemory) -> None:
    bytes_of(memory)[:5] = b"hello"
    memory.close()


def bytes_of(memory: shared_memory.SharedMemory) -> memoryview:
    assert memory.buf is not None
    return memory.buf


def set_item(mapping: Any) -> None:
    mapping["key"] = "value"


def test_a_job_talks_over_a_connection(js: Jobserver) -> None:
    ours, theirs = js.context.Pipe()
    with ours, theirs:
        future = js(answer, theirs)
        theirs.close()
        ours.send(1)
        assert told(ours) == 2
        future.result(DEADLINE)


def test_a_connection_closed_by_its_job_and_its_owner_is_at_its_end(js: Jobserver) -> None:
    ours, theirs = js.context.Pipe()
    with ours, theirs:
        future = js(answer, theirs)
        theirs.close()
        ours.send(1)
        future.result(DEADLINE)
        js.close()
        assert told(ours) == 2
        with pytest.raises(EOFError):
            told(ours)


def test_one_connection_can_go_to_several_jobs(js: Jobserver) -> None:
    ours, theirs = js.context.Pipe()
    with ours, theirs:
        for n in range(3):
            future = js(answer, theirs)
            ours.send(n)
            assert told(ours) == n + 1
            future.result(DEADLINE)


def test_a_job_puts_into_queues_and_gets_from_them(js: Jobserver) -> None:
    queue, results = js.context.Queue(), js.context.Queue()
    try:
        queue.put(21)
        js(double, queue, results).result(DEADLINE)
        assert results.get(timeout=DEADLINE) == 42
        values = [bytes(100_000), None, "text"]
        js(put_all, queue, values).result(DEADLINE)
        assert [queue.get(timeout=DEADLINE) for _ in values] == values
    finally:
        for each in (queue, results):
            each.close()
            each.join_thread()


def test_a_job_shares_locks_and_semaphores(js: Jobserver) -> None:
    for lock in (js.context.Lock(), js.context.Semaphore(1), js.context.BoundedSemaphore(1)):
        assert js(acquire, lock).result(DEADLINE) is True
        assert js(acquire, lock).result(DEADLINE) is False
        lock.release()


def test_jobs_meet_at_events(js: Jobserver) -> None:
    first, second = js.context.Event(), js.context.Event()
    futures = [js(set_then_wait, first, second), js(set_then_wait, second, first)]
    assert [future.result(DEADLINE) for future in futures] == [True, True]
    assert first.is_set() and second.is_set()


def test_a_socket_can_be_an_argument(js: Jobserver) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        js(send_bytes, theirs).result(DEADLINE)
        theirs.close()
        ours.settimeout(DEADLINE)
        assert ours.recv(100) == b"from the job"


def test_a_managers_proxy_can_be_an_argument(js: Jobserver) -> None:
    # A manager of the forkserver context would leave multiprocessing's own server behind.
    with multiprocessing.get_context("fork").Manager() as manager:
        mapping = manager.dict()
        js(set_item, mapping).result(DEADLINE)
        assert dict(mapping) == {"key": "value"}


def test_shared_memory_of_the_owner_outlives_the_job(js: Jobserver) -> None:
    memory = shared_memory.SharedMemory(create=True, size=16)
    try:
        for _ in range(2):
            bytes_of(memory)[:5] = bytes(5)
            js(write_shared, memory).result(DEADLINE)
            assert bytes(bytes_of(memory)[:5]) == b"hello"
        js.close()
        again = shared_memory.SharedMemory(memory.name)
        assert bytes(bytes_of(again)[:5]) == b"hello"
        again.close()
    finally:
        memory.close()
        memory.unlink()


@with_pickled_work
@pytest.mark.parametrize("kind", ["Lock", "Queue", "Event"])
def test_a_lock_of_the_fork_context_is_a_clear_error_elsewhere(
    one_slot: Jobserver, either_way: None, kind: str
) -> None:
    """Newer CPythons notice by themselves; with older ones the job would use a stray address."""
    make_lock = getattr(multiprocessing.get_context("fork"), kind)
    error = error_of(lambda: one_slot(print, make_lock()).result(DEADLINE))
    assert isinstance(error, pickle.PickleError)
    assert "fork context" in str(error)
    del error
    gc.collect()  # a Queue that was not used closes its pipe only then


@pytest.mark.parametrize("method", ["fork"])
def test_a_lock_of_another_context_works_under_fork(js: Jobserver) -> None:
    lock = multiprocessing.get_context("spawn").Lock()
    assert js(acquire, lock).result(DEADLINE) is True
    assert js(acquire, lock).result(DEADLINE) is False


def test_an_argument_that_only_processes_may_have_cannot_be_a_result(js: Jobserver) -> None:
    error = js(make, js.context.Lock).exception(DEADLINE)
    assert isinstance(error, pickle.PicklingError)
    assert "what the job returned" in str(error)


class Script:
    """Runs programs of users' kind, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(self, *args: str) -> tuple[int, str, str]:
        """Runs Python on the arguments; returns exit code, output and error output."""
        package = str(Path(jobserver.__file__).parent.parent)
        process = subprocess.Popen(
            [sys.executable, *args],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": package},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all the jobs it may have started
            process.communicate()
            raise
        return process.returncode, out, err


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


PROGRAM = """
    import sys
    from jobserver import Jobserver
    import beside

    class Trouble(Exception):
        pass

    class Point:
        def __init__(self, x):
            self.x = x

    def double(point):
        return Point(beside.double(point.x))

    def nested(js, point):
        return js(double, point).result()

    def trouble():
        raise Trouble("in " + __name__)

    if __name__ == "__main__":
        with Jobserver(sys.argv[1], slots=2) as js:
            point = js(nested, js, Point(21)).result()
            assert type(point) is Point
            try:
                js(trouble).result()
            except Trouble as e:
                print(point.x, e)
"""

BESIDE = """
    def double(x):
        return 2 * x
"""


def expected_name(method: str) -> str:
    """What multiprocessing calls the main module in a child."""
    return "__main__" if method == "fork" else "__mp_main__"


def test_functions_of_a_script_run_in_jobs(script: Script, method: str) -> None:
    script.write("program.py", PROGRAM)
    script.write("beside.py", BESIDE)
    expected = (0, f"42 in {expected_name(method)}\n", "")
    assert script.run("program.py", method) == expected


def test_functions_of_a_module_run_by_name_run_in_jobs(script: Script, method: str) -> None:
    script.write("package/__init__.py", "")
    script.write("package/module.py", PROGRAM.replace("import beside", "from . import beside"))
    script.write("package/beside.py", BESIDE)
    expected = (0, f"42 in {expected_name(method)}\n", "")
    assert script.run("-m", "package.module", method) == expected


UNGUARDED = """
    import sys
    from jobserver import Jobserver

    with open("runs", "a") as file:
        file.write("run\\n")

    def double(x):
        return 2 * x

    with Jobserver(sys.argv[1], slots=2) as js:
        print(js(double, 21).result())
"""


@with_pickled_work
def test_a_missing_guard_is_explained_and_starts_no_bomb(script: Script, method: str) -> None:
    script.write("program.py", UNGUARDED)
    code, out, err = script.run("program.py", method)
    assert (code, out) == (1, "")
    assert re.search(r"program.py, line \d+, starts a job, and so each job would start", err)
    assert err.endswith('\n\n    if __name__ == "__main__":\n        main()\n\n')
    assert len(err.splitlines()) <= 15 and err.count("Traceback") == 1
    # The owner, the job, and before it the helper if there is one.
    assert len((script.folder / "runs").read_text().splitlines()) <= 3


@pytest.mark.parametrize("method", ["fork"])
def test_fork_needs_no_guard(script: Script, method: str) -> None:
    script.write("program.py", UNGUARDED)
    assert script.run("program.py", method) == (0, "42\n", "")


def test_a_missing_guard_that_exits_is_still_an_error_not_a_hang(
    script: Script, method: str
) -> None:
    script.write("program.py", UNGUARDED + "\n    sys.exit(0)\n")
    code, out, err = script.run("program.py", method)
    if method == "fork":
        assert (code, out) == (0, "42\n")
    else:
        assert code == 1
        assert 'if __name__ == "__main__"' in err


@with_pickled_work
@pytest.mark.parametrize(
    "end, told",
    [("sys.exit(3)", "3"), ("sys.exit('no licence')", "'no licence'"), ("os._exit(4)", "4")],
)
def test_a_main_module_that_ends_the_process_when_it_is_imported_is_told_of(
    script: Script, method: str, end: str, told: str
) -> None:
    program = f"""
        import os, sys
        from jobserver import Jobserver

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                print(js(abs, -42).result())
        {end}
    """
    script.write("program.py", program)
    code, out, err = script.run("program.py", method)
    assert (code, out) == (1, "")
    assert f"program.py, line 8, ends the process, with {told}" in err
    assert err.count("Traceback") == 1 and len(err.splitlines()) <= 15


@with_pickled_work
def test_an_import_that_fails_in_a_job_is_told_of_without_our_own_frames(
    script: Script, method: str
) -> None:
    program = """
        import sys
        from jobserver import Jobserver

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                print(js(abs, -42).result())
        else:
            import nowhere_to_be_found
    """
    script.write("program.py", program)
    _, _, err = script.run("program.py", method)
    in_the_job = err.partition("The above exception")[0]
    assert "ModuleNotFoundError: No module named 'nowhere_to_be_found'" in in_the_job
    assert [line for line in in_the_job.splitlines() if line.startswith("  File")] == [
        f'  File "{script.folder}/program.py", line 9, in <module>'
    ]
    assert "sys.path" in err.splitlines()[-1]


def test_a_script_may_read_its_arguments_as_it_is_imported(script: Script, method: str) -> None:
    script.write(
        "program.py",
        """
        import argparse
        from jobserver import Jobserver

        parser = argparse.ArgumentParser()
        parser.add_argument("method")
        method = parser.parse_args().method

        def get():
            return method

        if __name__ == "__main__":
            with Jobserver(method, slots=2) as js:
                print(js(get).result())
        """,
    )
    assert script.run("program.py", method) == (0, f"{method}\n", "")


def test_a_program_without_a_file_can_run_what_is_imported(script: Script, method: str) -> None:
    program = f"""if True:
        from jobserver import Jobserver
        with Jobserver({method!r}, slots=2) as js:
            print(js(abs, -42).result())
    """
    assert script.run("-c", program) == (0, "42\n", "")


#: Programs whose functions no job finds, which imports their main modules or cannot.
OUT_OF_REACH = """
import sys
{hide}
from jobserver import Jobserver

if {guard}:
    def double(x):
        return 2 * x

    class Doubler:
        def double(self, x):
            return double(x)

if __name__ == "__main__":
    with Jobserver(sys.argv[1], slots=2, max_tasks_per_child={tasks}) as js:
        print(js(double, 21).result(), js(Doubler().double, 4).result())
        print(*js.map(double, [(1,), (2,)]), js("__main__".upper).result())
"""

HIDE = 'sys.modules["cloudpickle"] = None'


@pytest.fixture(params=["-c", "below the guard", "a zip file", "a folder"])
def out_of_reach(request: pytest.FixtureRequest, script: Script) -> Callable[..., Any]:
    """Runs such a program."""

    def run(method: str, tasks: int | None, hide: str = "") -> tuple[int, str, str]:
        guard = '__name__ == "__main__"' if request.param == "below the guard" else "True"
        text = OUT_OF_REACH.format(hide=hide, guard=guard, tasks=tasks)
        if request.param == "-c":
            return script.run("-c", text, method)
        script.write("app/__main__.py" if "a " in request.param else "program.py", text)
        if request.param == "below the guard":
            return script.run("program.py", method)
        if request.param == "a zip file":
            zipapp.create_archive(script.folder / "app", script.folder / "app.pyz")
            return script.run("app.pyz", method)
        return script.run("app", method)

    return run


@pytest.mark.parametrize("tasks", [1, None])
def test_functions_of_a_main_module_that_jobs_cannot_import_travel_by_value(
    out_of_reach: Callable[..., Any], method: str, tasks: int | None
) -> None:
    pytest.importorskip("cloudpickle")
    assert out_of_reach(method, tasks) == (0, "42 8\n2 4 __MAIN__\n", "")


@pytest.mark.parametrize("tasks", [1, None])
def test_without_cloudpickle_they_are_refused_with_advice_where_they_would_have_to_travel(
    out_of_reach: Callable[..., Any], method: str, tasks: int | None
) -> None:
    code, out, err = out_of_reach(method, tasks, HIDE)
    if method == "fork":
        assert (code, out, err) == (0, "42 8\n2 4 __MAIN__\n", "")
    else:
        assert (code, out) == (1, "")
        last = err.splitlines()[-1]
        assert "PicklingError: double " in last
        assert "pip install cloudpickle" in last


@with_pickled_work
def test_advice_of_what_cannot_be_pickled_is_what_can_help(
    one_slot: Jobserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_cloudpickle(monkeypatch)

    def told(argument: object) -> str:
        with pytest.raises(pickle.PicklingError) as caught:
            one_slot(print, argument)
        return str(caught.value)

    for of_code in (lambda: 0, pickle):
        assert "pip install cloudpickle" in told(of_code)
    for stays in (threading.Lock(), (n for n in "ab")):
        assert "cloudpickle" not in told(stays) and 'context="fork"' in told(stays)
    future = told(one_slot(int))
    assert "cloudpickle" not in future and "fork" not in future


@with_pickled_work
def test_shared_memory_that_a_job_makes_outlives_the_job(script: Script, method: str) -> None:
    """As it does where multiprocessing starts a process by these methods."""
    script.write(
        "program.py",
        """
        import sys
        from multiprocessing import shared_memory
        from jobserver import Jobserver

        def make():
            memory = shared_memory.SharedMemory(create=True, size=16)
            memory.buf[:5] = b"hello"
            memory.close()
            return memory.name

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=1) as js:
                name = js(make).result()
            memory = shared_memory.SharedMemory(name)
            print(bytes(memory.buf[:5]).decode())
            memory.close()
            memory.unlink()
        """,
    )
    assert script.run("program.py", method) == (0, "hello\n", "")


def test_jobs_share_values(script: Script, method: str) -> None:
    """In a program of its own, since the memory of a Value is never given back."""
    script.write(
        "program.py",
        """
        import sys
        from jobserver import Jobserver

        def increment(value, times):
            for _ in range(times):
                with value.get_lock():
                    value.value += 1

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                value = js.context.Value("i", 0)
                for future in [js(increment, value, 200) for _ in range(2)]:
                    future.result()
            print(value.value)
        """,
    )
    assert script.run("program.py", method) == (0, "400\n", "")


def test_a_connection_that_comes_back_is_no_descriptor_of_the_owners(
    script: Script, method: str
) -> None:
    """In a program of its own: what it took for the connection's descriptor it would close."""
    script.write(
        "program.py",
        """
        import sys
        from multiprocessing import Pipe
        from jobserver import Jobserver

        def returned():
            return Pipe()[0]

        def raised():
            raise ValueError(Pipe()[0])

        if __name__ == "__main__":
            with Jobserver(sys.argv[1], slots=2) as js:
                futures = [js(returned), js(raised)]
            # With the jobs at their end, nobody is left to hand a descriptor over.
            for future in futures:
                print(type(future.exception()).__name__)
        """,
    )
    code, out, err = script.run("program.py", method)
    assert (code, err) == (0, "")
    for line in out.splitlines():
        assert line in ("PicklingError", "UnpicklingError")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("name", ["T", "Outer", "é", "x" * 150, "x" * 250])
def test_a_name_is_found_in_a_pickle_and_not_where_it_is_part_of_another(name: str) -> None:
    def is_found(*values: Any) -> bool:
        return _main._may_have(pickle.dumps(values, pickle.HIGHEST_PROTOCOL), name.encode())

    numbers = list(range(100_000))  # all pairs of bytes are in their pickle
    assert is_found(numbers, name)
    assert is_found(numbers, f"{name}.inner")
    assert is_found(numbers, f"{name}.{'y' * 300}")
    assert is_found(numbers, f"a{name}", f"{name}a") is (len(name) > 200)  # by reading, then


def test_a_list_that_contains_itself_arrives(js: Jobserver) -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert js.submit(len, args=(endless,)).result() == 1
