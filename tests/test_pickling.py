"""Pickling: what travels between owner and job, and what is said when something cannot.

Under fork nothing is pickled on the way to a job, and everything on the way back.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, children, descriptors, settle
from programs import Script

from jobserver import Jobserver

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
    for name in ("cloudpickle", "joblib.externals.cloudpickle"):
        monkeypatch.setitem(sys.modules, name, None)


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


def test_a_list_that_contains_itself_arrives(js: Jobserver) -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert js.submit(len, args=(endless,)).result() == 1
