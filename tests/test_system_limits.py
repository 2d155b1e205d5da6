"""When the system refuses: an error that names the limit, and nothing lost.

Each limit is met in a program of its own, which then raises it and goes on. Which limit the
kernel enforces how is used throughout: no process may be started under RLIMIT_NPROC 0 (but
by root, so as another user), nor in a process namespace whose first process has ended
(ENOMEM); no descriptor has a number of RLIMIT_NOFILE or above.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE

PRELUDE = '''
import ctypes, errno, os, resource, sys, time
from jobserver import Jobserver, SubmissionDied

def descriptors():
    numbers = map(int, os.listdir("/proc/self/fd"))
    return {fd for fd in numbers if os.path.exists(f"/proc/self/fd/{fd}")}  # not the listing's

def settle(js):
    """Until what has ended is reaped, and no process waits for jobs."""
    while js._owner.here().outstanding or js._owner.here().idle:
        js.reclaim_resources()
        if not js._owner.here().outstanding:
            js._owner.here().dismiss_idle()
    if hasattr(js._owner.starter, "_helper"):
        js._owner.starter._helper.dismiss_idle()

def warm_up(js):
    """Has everything made that is made once, what waits need included."""
    for future in [js(time.sleep, 0.1) for _ in range(js.slots + 1)]:
        future.result()
    settle(js)

def told(call, *args):
    """How a refusal reads: the number of the error, and its text."""
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode[e.errno], str(e)

def unshare(what):
    """A new namespace, in a new one of users for whom that is needed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(what) and libc.unshare(what | 0x10000000):
        print("no namespaces")
        sys.exit()
    return libc

def held(end):
    os.read(end, 1)
    return 7

'''

MAIN = """
if __name__ == "__main__":
    main(*sys.argv[1:])
"""


class Program:
    """Runs the body of a script, and shows what it printed."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "program.py"

    def run(self, body: str, *args: str, set_up: Callable[[], object] | None = None) -> list[str]:
        self._script.write_text(PRELUDE + body + MAIN)
        done = subprocess.run(
            [sys.executable, str(self._script), *args],
            preexec_fn=set_up,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if done.stdout == "no namespaces\n":
            pytest.skip("needs a new namespace, which this system gives neither root nor users")
        return done.stdout.splitlines()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    tmp_path.chmod(0o755)
    return Program(tmp_path)


def become_a_user() -> None:
    """Gives up being root, whom no limit of processes binds, but for reading any file."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    keep_caps, ambient, raise_it, read_any = 8, 47, 2, 2
    libc.prctl(keep_caps, 1, 0, 0, 0)
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(1 << read_any, 1 << read_any, 1 << read_any, 0, 0, 0)
    assert libc.capset(header, sets) == 0
    assert libc.prctl(ambient, raise_it, read_any, 0, 0) == 0


NO_PROCESS = """
def main(method, whose):
    with Jobserver(method, 1) as js:
        limited = 0
        if (method, whose) != ("forkserver", "the owner's"):  # where that starts the helper
            warm_up(js)
        if whose == "the fork server's":
            limited = js._owner.starter._helper.pid
        _, hard = resource.prlimit(limited, resource.RLIMIT_NPROC)
        resource.prlimit(limited, resource.RLIMIT_NPROC, (0, hard))
        number, text = told(js, int)
        print(number, "RLIMIT_NPROC" in text)
        before = descriptors()  # the pipe of the resource tracker is there now
        assert (number, text) == told(js, int)
        print(js._owner.open_pool().free(), descriptors() == before)
        resource.prlimit(limited, resource.RLIMIT_NPROC, (hard, hard))
        print(js(int, 7).result())
"""


@pytest.mark.parametrize(
    ("method", "whose"),
    [
        ("fork", "the owner's"),
        ("forkserver", "the owner's"),
        ("forkserver", "the fork server's"),
        ("spawn", "the owner's"),
    ],
)
def test_too_many_processes(program: Program, method: str, whose: str) -> None:
    lines = program.run(NO_PROCESS, method, whose, set_up=become_a_user)
    assert lines == ["EAGAIN True", "1 True", "7"]


NO_MEMORY = """
def main(method):
    with Jobserver(method, 1) as js:
        pid = os.fork()
        if pid == 0:
            unshare(0x20000000)  # CLONE_NEWPID
            first = os.fork()
            if first == 0:
                os._exit(0)
            os.waitpid(first, 0)
            number, text = told(js, int)
            print(number, "memory" in text)
            before = descriptors()
            assert (number, text) == told(js, int)
            print(js._owner.open_pool().free(), descriptors() == before, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(js(int, 7).result())
"""


def test_too_little_memory_for_a_process(program: Program, method: str) -> None:
    lines = program.run(NO_MEMORY, method)
    assert lines == ["ENOMEM True", "1 True", "7"]


NO_DESCRIPTOR = """
def main(method, size):
    with Jobserver(method, 2) as js:
        js(bytes, int(size)).result()
        warm_up(js)
        while max(descriptors()) >= len(descriptors()):
            os.open(os.devnull, os.O_RDONLY)  # no number is left out
        before = descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for spare in range(12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + spare, hard))
            outcome = told(lambda: len(js(bytes, int(size)).result()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            settle(js)
            if outcome != int(size):
                number, text = outcome
                assert (number, "RLIMIT_NOFILE" in text) == ("EMFILE", True), (spare, text)
            if spare == 0:
                print(number)
            assert (js._owner.open_pool().free(), descriptors()) == (2, before), (spare, outcome)
        print(outcome)
"""


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_too_many_descriptors_whichever_is_the_last(
    program: Program, method: str, size: int
) -> None:
    """From none to spare upwards, until job and result come through."""
    assert program.run(NO_DESCRIPTOR, method, str(size)) == ["EMFILE", str(size)]


NO_DESCRIPTOR_LEFT = """
def main(spare):
    end, let_go = os.pipe()
    with Jobserver("fork", 100) as js:
        while max(descriptors()) >= len(descriptors()):
            os.open(os.devnull, os.O_RDONLY)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + int(spare), hard))
        futures = []
        while True:
            try:
                futures.append(js(held, end))
            except OSError as e:
                print(errno.errorcode[e.errno])
                break
        os.write(let_go, b"x" * 100)
        print({future.result() for future in futures}, len(futures) > 5)
        print(js(int, 7).result())
"""


@pytest.mark.parametrize("spare", [20, 21, 22])
def test_results_arrive_also_when_no_descriptor_is_left_to_wait_with(
    program: Program, spare: int
) -> None:
    lines = program.run(NO_DESCRIPTOR_LEFT, str(spare))
    assert lines == ["EMFILE", "{7} True", "7"]


NO_DESCRIPTOR_IN_THE_FORK_SERVER = """
from multiprocessing import Pipe

def held(end):
    os.read(end.fileno(), 1)
    return 7

def main():
    end, let_go = Pipe(False)
    with Jobserver("forkserver", 2) as js:
        future = js(held, end)
        helper = js._owner.starter._helper.pid
        _, hard = resource.prlimit(helper, resource.RLIMIT_NOFILE)
        numbers = set(map(int, os.listdir(f"/proc/{helper}/fd")))
        first = min(set(range(len(numbers) + 1)) - numbers)
        before = descriptors()
        resource.prlimit(helper, resource.RLIMIT_NOFILE, (first, hard))
        number, text = told(js, int)
        print(number, "RLIMIT_NOFILE" in text)
        print(js._owner.open_pool().free(), descriptors() == before, future.done())
        resource.prlimit(helper, resource.RLIMIT_NOFILE, (hard, hard))
        print(js(int, 7).result())
        os.write(let_go.fileno(), b"x")
        print(future.result())
"""


def test_too_many_descriptors_in_the_fork_server(program: Program) -> None:
    """Its other jobs run on meanwhile: one of them ends only after the refusal."""
    lines = program.run(NO_DESCRIPTOR_IN_THE_FORK_SERVER)
    assert lines == ["EMFILE True", "1 True False", "7", "7"]


FULL = """
def main(method):
    libc = unshare(0x00020000)  # CLONE_NEWNS
    private = 1 << 14 | 1 << 18
    assert libc.mount(b"none", b"/", None, private, None) == 0
    assert libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, b"size=320k,mode=1777") == 0
    with Jobserver(method, 1) as js:
        warm_up(js)
        before = descriptors()
        number, text = told(lambda: js(bytes, 1_000_000).result())
        print("result:", number, "/dev/shm" in text)
        settle(js)
        number, text = told(lambda: js(len, bytes(1_000_000)).result()) if method != "fork" else (
            number, text)
        print("argument:", number, "/dev/shm" in text)
        print(js._owner.open_pool().free(), descriptors() == before)
        print(len(js(bytes, 100_000).result()))
"""


def test_a_full_file_system_for_memory_files(
    program: Program, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSERVER_PORTABLE", "1")
    lines = program.run(FULL, method)
    assert lines == ["result: ENOSPC True", "argument: ENOSPC True", "1 True", "100000"]


TOO_LARGE = """
def main(method):
    with Jobserver(method, 1) as js:
        warm_up(js)
        before = descriptors()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = 200_000
        number, text = told(lambda: js(shout, limit, 1_000_000).result())
        print(number)
        settle(js)
        print(js._owner.open_pool().free(), descriptors() == before)
        print(len(js(shout, limit, 100_000).result()))

def shout(limit, size):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    return bytes(size)
"""


def test_a_result_larger_than_a_file_may_be(program: Program, method: str) -> None:
    assert program.run(TOO_LARGE, method) == ["EFBIG", "1 True", "100000"]


SHORT_OF_MEMORY = """
def main(method):
    with Jobserver(method, 1) as js:
        try:
            js(bytes, 1 << 50).result()
        except MemoryError as e:
            print("MemoryError in the job:", "MemoryError" in str(e.__cause__))
        size = 300_000_000
        future = js(bytes, size)
        future.wait()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + size // 3, hard))
        try:
            future.result()
        except Exception as e:
            print("in the owner:", "MemoryError" in repr(e))
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        print(js(int, 7).result(), js._owner.open_pool().free())
"""


def test_a_result_that_does_not_fit_into_memory(program: Program, method: str) -> None:
    assert program.run(SHORT_OF_MEMORY, method) == [
        "MemoryError in the job: True",
        "in the owner: True",
        "7 1",
    ]


NO_ROOM_TO_MAP = """
def main(method):
    with Jobserver(method, 1) as js:
        size = 300_000_000
        future = js(bytes, size)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + size // 3, hard))
        future.wait()
        print(type(future._outcome).__name__)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        print(len(future.result()) == size)
"""


def test_a_result_that_cannot_be_mapped_is_kept_as_a_file(program: Program, method: str) -> None:
    assert program.run(NO_ROOM_TO_MAP, method) == ["MemoryFile", "True"]
