"""What a program does to descriptors that it has not opened costs no slot, and nothing of ours is
written to its files, read from them, or closed with them. No descriptor of ours is 0, 1 or 2."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, each_method
from holding import Hold, held

from jobserver import Jobserver, SubmissionDied

#: What a job keeps open until its process ends.
kept: dict[int, int] = {}


def keep(*numbers: int) -> None:
    kept.update({number: os.fstat(number).st_ino for number in numbers})


def close_them(folder: Path) -> None:
    os.closerange(3, 1000)


def open_others(folder: Path) -> None:
    os.closerange(3, 1000)
    flags = os.O_RDWR | os.O_CREAT
    keep(*(os.open(folder / f"other-{os.getpid()}-{n}", flags) for n in range(30)))


def put_a_file_over_them(folder: Path) -> None:
    file = os.open(folder / f"over-{os.getpid()}", os.O_RDWR | os.O_CREAT)
    keep(*(os.dup2(file, number) for number in range(3, 256) if number != file))


def put_a_fifo_over_them(folder: Path) -> None:
    fifo = os.open(folder / "fifo", os.O_RDWR)
    keep(*(os.dup2(fifo, number) for number in range(3, 256) if number != fifo))


def put_sockets_over_them(folder: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    high = os.dup2(theirs.detach(), 900)
    keep(*(os.dup2(ours.fileno(), number) for number in range(3, 256) if number != ours.fileno()))
    ours.detach()
    peers.append(high)


peers: list[int] = []

WAYS = [
    close_them,
    open_others,
    put_a_file_over_them,
    put_a_fifo_over_them,
    put_sockets_over_them,
]


def check_kept() -> None:
    """What was opened is as it was left."""
    for number, inode in kept.items():
        assert os.fstat(number).st_ino == inode
    for peer in peers:
        with pytest.raises(BlockingIOError):
            os.read(peer, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where jobs open files, none of which has anything in it at the end but what was there."""
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, b"theirs")
    try:
        yield tmp_path
        assert os.read(fifo, 1000) == b"theirs"
        for path in tmp_path.iterdir():
            assert path.name == "fifo" or path.read_bytes() == b""
    finally:
        os.close(fifo)


@pytest.fixture(params=[1, None], ids=["one-job", "many-jobs"])
def tasks(request: pytest.FixtureRequest) -> int | None:
    """How many jobs a process may run."""
    return request.param  # type: ignore[no-any-return]


def meddle(way: Callable[[Path], None], folder: Path, *whatever: Any) -> bytes:
    way(folder)
    check_kept()
    return b"x" * 200_000 if whatever else b""


def all_slots_are_free(js: Jobserver, slots: int = 2) -> None:
    futures = [js.submit(pow, args=(2, 3), timeout=DEADLINE) for _ in range(slots)]
    assert [future.result(DEADLINE) for future in futures] == [8] * slots


def test_a_job_that_closes_what_is_not_its_own_costs_no_slot_and_no_file(
    make_jobserver: Any, tasks: int | None, folder: Path
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    for way, consume, large in itertools.product(WAYS, (1, 0), (False, True)):
        future = js.submit(
            meddle, args=(way, folder, *[1] * large), consume=consume, timeout=DEADLINE
        )
        with pytest.raises(SubmissionDied):
            future.result(DEADLINE)
        all_slots_are_free(js)


def close_what_came(number: int, folder: Path, connection: Connection) -> int:
    """Closes all that is above the descriptors of the process itself."""
    os.closerange(number, 1000)
    keep(*(os.open(folder / f"came-{os.getpid()}-{n}", os.O_RDWR | os.O_CREAT) for n in range(9)))
    vars(connection)["_handle"] = None
    return os.getpid()


def highest() -> int:
    return max(map(int, os.listdir("/proc/self/fd")))


def are_kept() -> int:
    check_kept()
    return os.getpid()


def test_what_came_with_a_job_is_closed_only_if_it_still_is_that(
    make_jobserver: Any, folder: Path
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    js(highest).result(DEADLINE)
    top = js(highest).result(DEADLINE)
    ours, theirs = Pipe()
    with ours, theirs:
        future = js.submit(close_what_came, args=(top, folder, theirs), timeout=DEADLINE)
        try:
            pid = future.result(DEADLINE)
        except SubmissionDied:
            pid = None  # what it ran in had something of its own above those
    stayed = js(are_kept).result(DEADLINE)
    assert pid is None or stayed == pid


def test_calls_of_map_that_close_descriptors_cost_no_slot(
    make_jobserver: Any, tasks: int | None, folder: Path
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    results = js.map(meddle, [(way, folder) for way in WAYS], timeout=DEADLINE)
    for _ in WAYS:
        with pytest.raises(SubmissionDied):
            next(results)
    all_slots_are_free(js)


def own_jobs(js: Jobserver, way: Callable[[Path], None], folder: Path) -> None:
    """With jobs that run, and others after."""
    running = js.submit(pow, args=(2, 3), consume=0)
    way(folder)
    with contextlib.suppress(SubmissionDied, OSError):
        assert running.result(DEADLINE) == 8
    with contextlib.suppress(SubmissionDied, OSError):
        assert js.submit(pow, args=(2, 3), timeout=DEADLINE).result(DEADLINE) == 8
    check_kept()


def test_a_job_with_jobs_that_closes_descriptors_costs_no_slot(
    make_jobserver: Any, tasks: int | None, folder: Path
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    for way in WAYS:
        with pytest.raises(SubmissionDied):
            js.submit(own_jobs, args=(js, way, folder), timeout=DEADLINE).result(DEADLINE)
        all_slots_are_free(js)


#: A program that has jobs running, closes what it has not opened, and goes on.
OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_descriptors
from jobserver import Jobserver

def told(what):
    try:
        print(what())
    except Exception as e:
        print(type(e).__name__, e)

if __name__ == "__main__":
    _, _, method, tasks, way, folder = sys.argv
    js = Jobserver(method, max_tasks_per_child=None if tasks == "None" else 1)
    running = [js.submit(pow, args=(2, 3), consume=0), js.submit(input, consume=0)]
    running += [js(pow, 2, 3), js(test_descriptors.wait_for_ever)]
    getattr(test_descriptors, way)(Path(folder))
    told(lambda: js(pow, 2, 3).result(30))
    told(lambda: js.submit(pow, args=(2, 3), consume=0).result(30))
    told(lambda: list(js.map(pow, [(2, 3)] * 3, timeout=30)))
    told(lambda: running[-1].kill())
    for future in running:
        told(lambda: future.result(30))
    told(js.reclaim_resources)
    told(js.close)
    told(js.close)
    told(lambda: Jobserver(method, 1)(pow, 2, 3).result(30))
    test_descriptors.check_kept()
    print("went on", flush=True)
"""


def wait_for_ever() -> None:
    read, _write = os.pipe()
    os.read(read, 1)


@each_method
@pytest.mark.parametrize("way", [way.__name__ for way in WAYS])
def test_an_owner_that_closes_descriptors_gets_errors_and_costs_others_no_slot(
    method: str, tasks: int | None, way: str, folder: Path, tmp_path_factory: Any
) -> None:
    program = tmp_path_factory.mktemp("program") / "owner.py"
    program.write_text(OWNER)
    here = str(Path(__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-m", "jobserver", "run", "-j3", "--"]
        + [sys.executable, str(program), here, method, str(tasks), way, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ran.stdout.endswith("went on\n"), ran.stdout + ran.stderr
    assert "slots" not in ran.stderr
    assert "8\nwent on" in ran.stdout, "a new Jobserver works"


#: A program that tells, in a file, whether its jobs find their standard streams as they should:
#: each is open, and as its own, or the null device; and whether its own stay as they are.
STANDARD = """
import os, sys
from jobserver import Jobserver

def standard():
    found = {}
    for number in range(3):
        try:
            found[number] = os.fstat(number).st_rdev, os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass
    return found

def warn():
    os.write(2, b"a library's warning")  # which is to go into nothing of ours
    return standard()

def nested(js):
    return js(warn).result(30)

def check(found, before):
    null = os.stat(os.devnull).st_rdev
    for number in range(3):
        assert found[number][0] == null or found[number] == before.get(number), found

def main(method):
    before = standard()
    for tasks in (1, None):
        with Jobserver(method, max_tasks_per_child=tasks) as js:
            for _ in range(2):
                check(js.submit(warn, consume=0).result(30), before)
                check(js(nested, js).result(30), before)
            assert list(js.map(pow, [(2, 3)] * 9)) == [8] * 9
            assert standard() == before

if __name__ == "__main__":
    try:
        main(sys.argv[1])
        told = "well"
    except BaseException as e:
        told = repr(e)
    with open(sys.argv[2], "w") as file:
        file.write(told)
"""

SOME_CLOSED = [" ".join(f"{stream}>&-" for stream in some) for some in ((0,), (1,), (2,))]
ALL_CLOSED = "0>&- 1>&- 2>&-"
SOME_CLOSED += ["0>&- 1>&-", "0>&- 2>&-", "1>&- 2>&-", ALL_CLOSED]


@each_method
@pytest.mark.parametrize(
    ("closed", "action"),
    [*((some, "") for some in SOME_CLOSED), (ALL_CLOSED, "run -j3"), (ALL_CLOSED, "exec")],
)
def test_a_program_without_standard_streams_finds_nothing_of_ours_there(
    method: str, closed: str, action: str, tmp_path: Path
) -> None:
    program, told = tmp_path / "program.py", tmp_path / "told"
    program.write_text(STANDARD)
    words = [sys.executable, str(program), method, str(told)]
    if action:
        words = [sys.executable, "-m", "jobserver", *action.split(), "--", *words]
    subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], timeout=DEADLINE, check=False)
    assert told.read_text() == "well"


@pytest.mark.parametrize("closed", SOME_CLOSED)
def test_the_command_without_standard_streams_keeps_its_slots(closed: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    status = f"{sys.executable} -m jobserver status > {told}; echo warning >&2"
    words = [sys.executable, "-m", "jobserver", "run", "-j3", "--style", "pipe", "--"]
    words += ["sh", "-c", f"echo warning >&2; echo warning; {status}"]
    subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], timeout=DEADLINE, check=False)
    assert "2 of 3 slots free" in told.read_text() or "3 of 3 slots free" in told.read_text()


#: Ends its program's jobs, or not, and closes all descriptors, as daemons do.
AT_THE_END = """
import gc, os, sys
from jobserver import Jobserver

def work(file):
    open(file + ".begun", "w").close()
    while not os.path.exists(file + ".go"):
        pass
    open(file, "w").close()

if __name__ == "__main__":
    method, how, file = sys.argv[1:]
    js = Jobserver(method, 2, orphans="keep")
    js(int).result()
    if how == "dropped":
        js(work, file)
        while not os.path.exists(file + ".begun"):
            pass  # from here on, the job itself keeps the pool's home
        del js
        gc.collect()
    os.closerange(3, 256)
    open(file + ".go", "w").close()
    if how == "closed":
        helper = getattr(js._owner.starter, "_helper", None)
        pid = helper and helper.pid
        js.close()
        if pid is None or not os.path.exists(f"/proc/{pid}"):
            open(file, "w").close()
"""


@each_method
@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_the_end_of_a_program_that_has_closed_descriptors_waits_and_leaves_nothing(
    method: str, how: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(AT_THE_END)
    command = [sys.executable, str(tmp_path / "program.py"), method, how, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "file").exists()


def sockets() -> set[int]:
    numbers = map(int, os.listdir("/proc/self/fd"))
    with_names = ((number, f"/proc/self/fd/{number}") for number in numbers)
    return {n for n, name in with_names if os.path.exists(name) and "socket" in os.readlink(name)}


class Losing:
    """Two jobs, of which the second one's channel is closed by the program."""

    def __init__(self, js: Jobserver) -> None:
        self.hold = Hold()
        self.other = js(held, self.hold.end)
        before = sockets()
        self.losing = js(held, self.hold.end)
        self.channel = sockets() - before

    def lose(self) -> None:
        for number in self.channel:
            os.close(number)

    def assert_told(self) -> None:
        assert isinstance(self.losing.exception(DEADLINE), OSError)
        self.hold.close()
        assert self.other.result(DEADLINE) == self.other.pid


def test_the_loss_of_a_new_jobs_channel_is_told_after_a_time_in_which_nothing_came() -> None:
    hold = Hold()
    with Jobserver("spawn", 3) as js:
        first = js(held, hold.end)
        assert not first.wait(1.5)
        jobs = Losing(js)
        jobs.lose()
        jobs.assert_told()
        hold.close()
        assert first.result(DEADLINE) == first.pid


def test_a_loss_is_told_after_the_program_has_done_other_work() -> None:
    with Jobserver("fork", 3) as js:
        assert js(int, 7).result(DEADLINE) == 7
        time.sleep(1.2)  # the check that this job has asked for is overdue when the next ones begin
        jobs = Losing(js)
        assert not jobs.losing.wait(0.3)
        jobs.lose()
        jobs.assert_told()


def test_a_loss_is_told_while_other_jobs_come_and_go() -> None:
    with Jobserver("fork", 3) as js:
        jobs = Losing(js)
        jobs.lose()
        deadline = time.monotonic() + DEADLINE
        while not jobs.losing.done() and time.monotonic() < deadline:
            js(time.sleep, 0.05).result(DEADLINE)
        jobs.assert_told()
