"""Pid and time namespaces, as containers and sandboxes have them, and pids that are used again.

A pid means nothing in another namespace, where all holders of slots seem to be dead: whoever is
there must not take their slots. Not here: kills in one namespace (test_ledger, test_chaos).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Callable

import pytest
from conftest import DEADLINE
from holding import Hold, held

from jobserver import Jobserver, StartMethod

#: What puts a program into namespaces of its own.
NAMESPACES = {
    "pid": ["unshare", "--pid", "--fork"],
    "pid and /proc": ["unshare", "--pid", "--fork", "--mount-proc"],
    "time": ["unshare", "--time", "--boottime", "100000"],
}


def works(way: list[str]) -> bool:
    try:
        return subprocess.run([*way, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        return False


ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way, id=name, marks=pytest.mark.skipif(not works(way), reason="needs namespaces")
        )
        for name, way in NAMESPACES.items()
    ],
)
needs_pids = pytest.mark.skipif(not works(NAMESPACES["pid and /proc"]), reason="needs namespaces")


def output(*command: str) -> str:
    """What a command prints and complains of."""
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, text=True, timeout=DEADLINE, **out).stdout  # type: ignore


def run(way: list[str], program: str) -> str:
    """The same of a Python program in these namespaces."""
    return output(*way, sys.executable, "-c", program)


COUNT = """
import os, warnings
from jobserver import Blocked, Jobserver
warnings.simplefilter("ignore", RuntimeWarning)
js, jobs, (end, go) = Jobserver("fork"), [], os.pipe()
try:
    while True:
        jobs.append(js.submit(os.read, args=(end, 1), timeout=0))
except Blocked:
    print(len(jobs))
os.write(go, b"x" * len(jobs))
"""


@ways
def test_a_program_elsewhere_below_a_job_takes_no_slot_that_is_held(
    make_jobserver: Callable[..., Jobserver], way: list[str], hold: Hold
) -> None:
    js = make_jobserver(slots=3)
    for _ in range(2):
        js(held, hold.end)
    # The slot that it was started on, and none of the two that are held.
    assert js(run, way, COUNT).result(DEADLINE) == "1\n"


WARNED = "from jobserver import Jobserver; print(Jobserver('fork').slots)"


@needs_pids
def test_a_program_in_another_pid_namespace_says_why_it_does_not_join(
    make_jobserver: Callable[..., Jobserver], method: StartMethod
) -> None:
    js = make_jobserver(slots=3)
    said = js(run, NAMESPACES["pid"], WARNED).result(DEADLINE)
    assert "RuntimeWarning: the pool of slots belongs to another pid or time namespace" in said
    assert said.splitlines()[-1] == "1"


@needs_pids
def test_exec_and_status_elsewhere_say_so(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver()
    command = [*NAMESPACES["pid"], sys.executable, "-m", "jobserver"]
    said = js(output, *command, "exec", "--", "echo", "done").result(DEADLINE)
    assert "another pid or time namespace" in said and said.splitlines()[-1] == "done"
    assert "another pid or time namespace" in js(output, *command, "status").result(DEADLINE)


def unshare_pids() -> None:
    """Children of this process are in a pid namespace of their own from now on."""
    import ctypes

    clone_newpid = 0x20000000
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newpid):
        raise OSError(ctypes.get_errno(), "unshare")


def submit_elsewhere(js: Jobserver) -> str:
    """A job whose own jobs would be in another namespace."""
    unshare_pids()
    try:
        return str(js(os.getpid).result(DEADLINE))
    except Exception as e:
        return f"{type(e).__name__}: {e}"


@needs_pids
@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_a_job_forked_into_another_namespace_is_refused_and_costs_no_slot(waiting: Any) -> None:
    with Jobserver("fork", 1, waiting=waiting) as js:
        assert "another pid or time namespace" in js(submit_elsewhere, js).result(DEADLINE)
        assert js.submit(pow, args=(2, 3), timeout=DEADLINE).result() == 8


POOLS = """
import os, sys
from jobserver import Jobserver
for _ in range(int(sys.argv[1])):  # so that pids are others than in the other namespace
    os.waitpid(os.posix_spawnp("true", ["true"], {**os.environ}), 0)
ready, go = int(sys.argv[2]), int(sys.argv[3])
if os.fork() == 0:
    os.write(ready, b"x")
    os.read(go, 1)
    for _ in range(1500):
        with Jobserver("fork", 1):
            pass
    print("made")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) if sys.version_info >= (3, 9) else os.wait()[1])
"""


@needs_pids
def test_namespaces_that_share_memory_leave_each_other_s_new_homes_alone() -> None:
    (ready, said), (go, start) = os.pipe(), os.pipe()
    command = [*NAMESPACES["pid and /proc"], sys.executable, "-c", POOLS]
    running = [
        subprocess.Popen(
            [*command, str(number), str(said), str(go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(said, go),
        )
        for number in (0, 20, 40)
    ]
    try:
        for _ in running:
            os.read(ready, 1)
        os.write(start, b"xxx")
        outputs = [each.communicate(timeout=DEADLINE)[0] for each in running]
    finally:
        for each in running:
            each.kill()
        for fd in (ready, said, go, start):
            os.close(fd)
    assert outputs == ["made\n"] * 3


# Pids that are used again

AGAIN = """
import os, signal, subprocess, sys, time
from jobserver import Jobserver

def flags():
    return os.environ["MAKEFLAGS"]

js = Jobserver("fork", 1)
os.environ["MAKEFLAGS"] = js(flags).result()
js.reclaim_resources()
command = [sys.executable, "-m", "jobserver", "exec", "--", "sh", "-c", "echo $$; read end"]
above = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
holder = int(above.stdout.readline())
time.sleep(0.02)  # where a time tells processes apart, it has ticks of 10 ms
above.kill()  # before it can see what becomes of the holder
above.wait()
os.kill(holder, signal.SIGKILL)
os.waitpid(holder, 0)  # a process without a parent is ours: we are the first of this namespace
while True:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(holder - 1))
    pid = os.fork()
    if pid == 0:
        signal.pause()
    if pid == holder:
        break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
try:
    print(js.submit(pow, args=(2, 3), timeout=20).result())
finally:
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    js.close()
"""


@needs_pids
def test_a_dead_holder_whose_pid_is_used_again_at_once_does_not_keep_its_slot() -> None:
    assert run(NAMESPACES["pid and /proc"], AGAIN) == "8\n"
