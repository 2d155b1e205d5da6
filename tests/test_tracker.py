"""One resource tracker of multiprocessing's for a tree of jobs, whoever needs it first, and when.

Each test is a program of its own, as the tracker lives as long as that. It prints what it sees,
then how many trackers its session has; the test sees that all is gone after it. Not here: shared
memory as such (test_pickling), and what a child of multiprocessing sees (test_parity).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE, wait_until

#: What the programs share. A block holds b"xyz"; `there` says whether it has a name still.
COMMON = """
import multiprocessing, os, signal, sys, time
from multiprocessing import shared_memory
from jobserver import Jobserver, SubmissionDied

METHOD, TASKS = sys.argv[1], int(sys.argv[2]) or None

def jobserver(slots=2):
    return Jobserver(METHOD, slots, max_tasks_per_child=TASKS)

def make():
    made = shared_memory.SharedMemory(create=True, size=16)
    made.buf[:3] = b"xyz"
    made.close()
    return made.name

def read(name):
    found = shared_memory.SharedMemory(name)
    try:
        return bytes(found.buf[:3]).decode()
    finally:
        found.close()

def take(name):
    found = shared_memory.SharedMemory(name)
    found.close()
    found.unlink()

def there(name):
    return os.path.exists("/dev/shm/" + name)

def trackers():
    # Where CPython forks, there is a moment in which the new process is not known as one.
    deadline = time.monotonic() + 30
    while not (found := found_trackers()):
        assert time.monotonic() < deadline
    return found

def found_trackers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
                session = int(stat.read().rpartition(")")[2].split()[3])
                if session == os.getsid(0) and "resource_tracker import main" in command.read():
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found

def ended(pid):
    # The process is not a child of this one's, perhaps.
    return not os.path.exists(f"/proc/{pid}")

def wait_until(what, *args):
    deadline = time.monotonic() + 30
    while not what(*args):
        assert time.monotonic() < deadline
        time.sleep(0.001)
"""

each_way = pytest.mark.parametrize("tasks", [1, 0], ids=["fresh", "warm"])


def run(tmp_path: Path, method: str, tasks: int, program: str, common: str = COMMON) -> list[str]:
    """What a program prints that ends well, leaves nothing, and of which no tracker complains."""
    script = tmp_path / "program.py"
    script.write_text(common + program)
    process = subprocess.Popen(
        [sys.executable, str(script), method, str(tasks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise
    assert (process.returncode, err) == (0, "")
    wait_until(lambda: not of_session(process.pid))
    return out.splitlines()


def of_session(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":  # that is for the system's init
            found.append(stat.parent.name)
    return found


OWNERS = """
if __name__ == "__main__":
    with jobserver() as js:
        if {before}:
            block = shared_memory.SharedMemory(create=True, size=16)
        js(pow, 2, 3).result()
        if not {before}:
            block = shared_memory.SharedMemory(create=True, size=16)
        block.buf[:3] = b"xyz"
        for _ in range(3):
            print(js(read, block.name).result(), there(block.name))
        print(list(js.map(read, [(block.name,)] * 4)))
        print(len(trackers()))
    print(there(block.name))
    block.close()
    block.unlink()
"""


@each_way
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_block_of_the_owners_outlives_the_jobs_that_attach_it(
    tmp_path: Path, method: str, tasks: int, before: bool
) -> None:
    seen = run(tmp_path, method, tasks, OWNERS.format(before=before))
    assert seen == [*["xyz True"] * 3, str(["xyz"] * 4), "1", "True"]


JOBS = """
def nested(level, fn, *args):
    if not level:
        return fn(*args)
    with jobserver() as js:
        return js(nested, level - 1, fn, *args).result()

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        name = js(nested, {level}, make).result()
        print(there(name), len(trackers()))
        print(js(nested, {level}, read, name).result(), there(name))
        print(js(read, name).result(), there(name), len(trackers()))
        if {read}:
            print(read(name))
    print(there(name))
    with jobserver() as js:
        print(js(read, name).result(), there(name), len(trackers()))
    take(name)
"""


@each_way
@pytest.mark.parametrize(
    ("level", "read"), [(0, True), (0, False), (2, True)], ids=["job", "unread", "nested"]
)
def test_a_block_of_a_jobs_outlives_that_and_the_jobs_that_attach_it(
    tmp_path: Path, method: str, tasks: int, level: int, read: bool
) -> None:
    """Whoever in the tree has needed the tracker first."""
    seen = run(tmp_path, method, tasks, JOBS.format(level=level, read=read))
    expected = ["True 1", "xyz True", "xyz True 1", *["xyz"] * read, "True", "xyz True 1"]
    assert seen == expected


SIBLINGS = """
def make_at_once(barrier):
    barrier.wait(30)
    return make()

if __name__ == "__main__":
    with jobserver(4) as js:
        barrier = multiprocessing.get_context("{context}").Barrier(4)
        names = [future.result() for future in [js(make_at_once, barrier) for _ in range(4)]]
        print(len(trackers()))
        print([js(read, name).result() for name in names])
        print([there(name) for name in names])
        for name in names:
            take(name)
"""


@each_way
def test_jobs_that_need_a_tracker_at_the_same_time_start_one(
    tmp_path: Path, method: str, tasks: int
) -> None:
    # A fork context's barrier is no name that a tracker would have to know.
    seen = run(tmp_path, method, tasks, SIBLINGS.format(context=method))
    assert seen == ["1", str(["xyz"] * 4), str([True] * 4)]


CHILDREN = """
def send(connection, fn, *args):
    connection.send(fn(*args))

def in_child(fn, *args):
    context = multiprocessing.get_context(METHOD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(theirs, fn, *args))
    process.start()
    value = ours.recv()
    process.join()
    return value

def in_pool(fn, *args):
    with multiprocessing.get_context(METHOD).Pool(1) as pool:
        value = pool.apply(fn, args)
        pool.close()
        pool.join()
    return value

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        for there_in in in_child, in_pool:
            name = js(there_in, make).result()
            print(js(there_in, read, name).result(), there(name))
            print(js(read, name).result(), there(name), len(trackers()))
            take(name)
        name = make()
        print(js(in_child, read, name).result(), there(name), len(trackers()))
        take(name)
"""


@each_way
def test_children_of_multiprocessing_in_a_job_share_its_tracker(
    tmp_path: Path, method: str, tasks: int
) -> None:
    seen = run(tmp_path, method, tasks, CHILDREN)
    assert seen == [*["xyz True", "xyz True 1"] * 2, "xyz True 1"]


MANAGER = """
from multiprocessing.managers import SharedMemoryManager

def total(shared):
    return sum(shared)

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        with SharedMemoryManager(ctx=js.context) as manager:
            shared = manager.ShareableList([1, 2, 3])
            for _ in range(3):
                print(js(total, shared).result(), there(shared.shm.name))
            print(len(trackers()))
            shared.shm.close()
"""


@each_way
@pytest.mark.skipif(sys.version_info < (3, 11), reason="SharedMemoryManager takes no context")
def test_blocks_of_a_manager_outlive_the_jobs_that_attach_them(
    tmp_path: Path, method: str, tasks: int
) -> None:
    assert run(tmp_path, method, tasks, MANAGER) == [*["6 True"] * 3, "1"]


SEMAPHORES = """
named = multiprocessing.get_context("spawn")

def use(lock, semaphore, event, barrier, queue):
    with lock, semaphore:
        queue.put(event.is_set())
    barrier.wait(30)
    event.set()

def make_lock():
    lock = named.Lock()
    with lock:
        return len(trackers())

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        if {job_first}:
            print(js(make_lock).result())
        made = [named.Lock(), named.Semaphore(2), named.Event(), named.Barrier(2), named.Queue()]
        for _ in range(3):
            future = js(use, *made)
            made[3].wait(30)
            future.result()
            print(made[4].get(timeout=30))
        print(js(make_lock).result())
        names = os.listdir("/dev/shm")
        print(made[0]._semlock.name.replace("/", "sem.") in names, len(trackers()))
"""


@each_way
@pytest.mark.parametrize("job_first", [True, False], ids=["job", "owner"])
def test_named_semaphores_made_after_a_process_was_born_outlive_its_jobs(
    tmp_path: Path, method: str, tasks: int, job_first: bool
) -> None:
    seen = run(tmp_path, method, tasks, SEMAPHORES.format(job_first=job_first))
    assert seen == [*["1"] * job_first, "False", "True", "True", "1", "True 1"]


ENDED = """
def make_and_stay(connection):
    connection.send(make())
    time.sleep(60)

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with jobserver() as js:
        js(pow, 2, 3).result()
        future = js.submit(make_and_stay, args=(theirs,), time_limit={limit})
        name = ours.recv()
        (tracker,) = trackers()
        {end}
        future.wait()
        print(there(name), trackers() == [tracker])
        print(js(read, name).result(), there(name), trackers() == [tracker])
        take(name)
"""


@each_way
@pytest.mark.parametrize(
    ("limit", "end"),
    [(None, "future.kill()"), (None, "os.kill(future.pid, signal.SIGKILL)"), (1.5, "pass")],
    ids=["ended", "killed", "overdue"],
)
def test_a_tracker_outlives_the_job_that_started_it_whatever_its_end(
    tmp_path: Path, method: str, tasks: int, limit: float | None, end: str
) -> None:
    seen = run(tmp_path, method, tasks, ENDED.format(limit=limit, end=end))
    assert seen == ["True True", "xyz True True"]


KILLED = """
import warnings
warnings.simplefilter("ignore")  # which tells whoever finds it gone

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        name = js(make).result() if {job_first} else make()
        (tracker,) = trackers()
        os.kill(tracker, signal.SIGKILL)
        try:
            os.waitid(os.P_PID, tracker, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            wait_until(ended, tracker)
        if {job_next}:
            print(js(read, name).result(), there(name), len(trackers()))
        print(read(name), len(trackers()))
        print(js(read, name).result(), there(name), len(trackers()))
        (another,) = trackers()
        print(another != tracker)
        take(name)
"""


@each_way
@pytest.mark.parametrize(
    ("job_first", "job_next"), [(True, False), (False, True)], ids=["job-owner", "owner-job"]
)
def test_a_killed_tracker_has_one_successor(
    tmp_path: Path, method: str, tasks: int, job_first: bool, job_next: bool
) -> None:
    program = KILLED.format(job_first=job_first, job_next=job_next)
    seen = run(tmp_path, method, tasks, program)
    assert seen == [*["xyz True 1"] * job_next, "xyz 1", "xyz True 1", "True"]


UNUSED = """
import os, sys
from jobserver import Jobserver

def descriptors():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists("/proc/self/fd/" + fd)]

def imported():
    return "multiprocessing.resource_tracker" in sys.modules

if __name__ == "__main__":
    before = descriptors()
    for _ in range(3):
        with Jobserver("fork", 2, max_tasks_per_child=int(sys.argv[2]) or None) as js:
            print(js(imported).result())
    print(descriptors() == before, imported())
"""


@each_way
def test_nobody_pays_for_a_tracker_that_nobody_needs(tmp_path: Path, tasks: int) -> None:
    seen = run(tmp_path, "fork", tasks, UNUSED, common="")
    assert seen == [*["False"] * 3, "True False"]


FORKS = """
if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        pid = os.fork()
        if not pid:
            signal.pause()
        name = make()
        print(js(read, name).result(), there(name), len(trackers()))
        take(name)
    print(pid, flush=True)
"""


def test_a_program_does_not_wait_for_a_tracker_that_its_forks_keep(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(COMMON + FORKS)
    command = [sys.executable, str(tmp_path / "program.py"), "fork", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        seen = program.stdout.readline()
        fork = int(program.stdout.readline())
        try:
            assert program.wait(DEADLINE) == 0
        finally:
            os.kill(fork, 9)
    assert seen == "xyz True 1\n"


WITHOUT = """
from jobserver import _tracker
_tracker._OPEN = "/nowhere"

if __name__ == "__main__":
    with jobserver() as js:
        js(pow, 2, 3).result()
        name = js(make).result()
        print(js(read, name).result(), there(name), len(trackers()))
        block = make()
        print(js(read, block).result(), there(block), read(name), len(trackers()))
        take(name)
        take(block)
"""


@each_way
def test_where_descriptors_cannot_be_opened_anew_a_tracker_runs_from_the_beginning(
    tmp_path: Path, method: str, tasks: int
) -> None:
    seen = run(tmp_path, method, tasks, WITHOUT)
    assert seen == ["xyz True 1", "xyz True xyz 1"]
