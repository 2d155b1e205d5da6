"""What every test shares: each start method in turn, and proof that nothing is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from holding import Hold, free, held

from jobserver import Jobserver, JobserverExecutor, StartMethod, _native

METHODS = ("fork", "forkserver", "spawn")

#: For a file whose subject is the owner's side, the same however its jobs are born: its tests run
#: over those methods between which the owner's own part differs, in how an end is noticed and
#: whether arguments are pickled, unless they say `each_method`.
OWNERS_METHODS = ("fork", "forkserver")
each_method = pytest.mark.parametrize("method", METHODS)

#: No test waits longer than this for anything, in seconds; it bounds hangs, not speed.
DEADLINE = 60.0

#: And no test takes longer than that says, whatever it hangs in.
pytest_plugins = ("deadlines",)

#: Jobs are given this process's path, and so find a pytest there that costs them next to nothing.
IN_JOBS = str(Path(__file__).with_name("in_jobs"))
if IN_JOBS not in sys.path:
    sys.path.insert(0, IN_JOBS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--warm",
        action="store_true",
        help="have each process run many jobs, wherever a test says nothing about that",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--warm"):
        defaults: Any = Jobserver.__init__.__kwdefaults__
        defaults["max_tasks_per_child"] = None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--warm"):
        # What is true of a process that has one job only.
        gone = [item for item in items if item.get_closest_marker("fresh")]
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each start method in turn."""
    return str(request.param)


@pytest.fixture
def make_jobserver(method: StartMethod) -> Iterator[Callable[..., Jobserver]]:
    """Makes Jobservers of the start method at hand, closed at the test's end."""
    made: list[Jobserver] = []

    def make(slots: int = 2, **kwargs: Any) -> Jobserver:
        made.append(Jobserver(method, slots, **kwargs))
        return made[-1]

    yield make
    for js in made:
        js.close()


@pytest.fixture
def js(make_jobserver: Callable[..., Jobserver]) -> Jobserver:
    """A Jobserver of two slots."""
    return make_jobserver()


def children(process: int | str = "self") -> set[int]:
    """The pids of a process's children, zombies included; without multiprocessing's own
    resource tracker, which lives as long as this process."""
    pids: set[int] = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends just now
            pids.update(int(pid) for pid in (task / "children").read_text().split())
    tracker: Any = multiprocessing.resource_tracker
    return pids - {tracker._resource_tracker._pid}


def descriptors() -> dict[int, str]:
    """The open descriptors, and what they are; but for what libffi opens when ctypes is first used,
    and keeps, and for the end of the resource tracker's pipe."""
    found: dict[int, str] = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # that of the listing itself
    tracker: Any = multiprocessing.resource_tracker
    found.pop(tracker._resource_tracker._fd, None)
    return {fd: file for fd, file in found.items() if "/libffi.so" not in file}


@pytest.fixture
def hold(make_jobserver: Any) -> Iterator[Hold]:
    """Torn down before the Jobserver, whose closing waits for the jobs."""
    made = Hold()
    yield made
    made.close()


@pytest.fixture
def executor(method: str) -> Iterator[JobserverExecutor]:
    """An executor of two slots."""
    made = JobserverExecutor(2, method)
    yield made
    made.shutdown()


@pytest.fixture
def full(executor: JobserverExecutor, hold: Hold) -> list[futures.Future[Any]]:
    """Jobs that have both slots of the executor until the test lets them go."""
    running = [executor.submit(held, hold.end) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in running))
    return running


def wait_until(what: Callable[[], Any]) -> Any:
    """What this returns as soon as that is true."""
    deadline = time.monotonic() + DEADLINE
    while not (seen := what()):
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.001)
    return seen


def take_slot(js: Jobserver) -> Any:
    """Takes a slot by hand; it comes back when this is dropped. None if none is free."""
    admission = _native.Admission(True, False, 0.0)
    return None if js._owner.here().admit(admission) else admission


def reap(js: Jobserver) -> None:
    """Returns when all that has ended is reaped: a job's result comes before its end does."""
    deadline = time.monotonic() + DEADLINE
    while js._owner.here().outstanding:
        assert time.monotonic() < deadline, "a job has not ended"
        js.reclaim_resources()


def settle(js: Jobserver) -> None:
    """The same, and no process waits for jobs."""
    starter: Any = js._owner.starter
    reap(js)
    js._owner.here().dismiss_idle()
    reap(js)
    if hasattr(starter, "_helper"):
        starter._helper.dismiss_idle()


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no child process, zombie, descriptor or thread more than before."""
    # Requested first so that it is torn down last.
    before = children(), descriptors(), threading.active_count()
    yield
    multiprocessing.active_children()  # reaps what the test itself started through it
    assert children() - before[0] == set()
    new = {fd: what for fd, what in descriptors().items() if before[1].get(fd) != what}
    assert new == {}
    assert threading.active_count() == before[2]


@pytest.fixture
def tells() -> Iterator[Any]:
    """The pids that jobs tell this process."""
    from killing import Tells  # which needs this module

    made = Tells()
    yield made
    made.close()


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Runs programs in a folder of their own."""
    from programs import Script  # which needs this module

    return Script(tmp_path)


@pytest.fixture
def made(make_jobserver: Callable[..., Jobserver]) -> Iterator[Callable[..., Jobserver]]:
    """Makes Jobservers, all slots of which must be free at the test's end."""
    all_made: list[Jobserver] = []

    def make(slots: int = 2, **kwargs: Any) -> Jobserver:
        all_made.append(make_jobserver(slots, **kwargs))
        return all_made[-1]

    yield make
    for js in all_made:
        settle(js)
        assert free(js) == js.slots


@pytest.fixture
def pipes(js: Jobserver) -> Iterator[Callable[[], tuple[Connection, Connection]]]:
    """Makes pipes between the test and its jobs: (ours, theirs)."""
    made: list[Connection] = []

    def make() -> tuple[Connection, Connection]:
        made.extend(js.context.Pipe())
        return made[-2], made[-1]

    yield make
    for conn in made:
        with contextlib.suppress(OSError):  # closed, or nobody is there
            conn.send("end")  # to jobs that a failed test leaves waiting
    js.close()
    for conn in made:
        conn.close()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Has the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
