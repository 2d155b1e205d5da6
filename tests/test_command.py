"""The `jobserver` command, as `python -m jobserver`: run, exec, status."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import projects
import pytest
import spans
from conftest import DEADLINE, wait_until
from spans import Recorded
from terminals import Terminal, until_asleep
from test_make import MAKES, put_first_on_path

from jobserver import Blocked

COMMAND = [sys.executable, "-m", "jobserver"]

Done = subprocess.CompletedProcess


@pytest.fixture(autouse=True)
def not_below_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOBSERVER", " ".join(COMMAND))


def jobserver(*words: str) -> Done[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def shell(script: str, *words: str) -> Done[str]:
    """Runs a shell's script with a new pool."""
    return jobserver("run", *words, "--", "sh", "-c", script)


def test_a_command_finds_the_new_pool_in_makeflags() -> None:
    done = shell("echo $MAKEFLAGS", "-j3")
    assert done.stdout.startswith("-j3 --jobserver-auth=fifo:/")
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(done.stdout.split("fifo:")[1].split()[0]).exists()


def test_a_pool_can_be_named_by_descriptors() -> None:
    done = shell('echo "$MAKEFLAGS"; $JOBSERVER status', "-j3", "--style", "pipe")
    assert "--jobserver-auth=fifo" not in done.stdout.splitlines()[0]
    assert "3 of 3 slots free" in done.stdout


@pytest.mark.parametrize("what, code", [("exit 3", 3), ("true", 0), ("exec /nowhere/none", 127)])
@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_the_exit_code_of_the_command_is_passed_on(how: list[str], what: str, code: int) -> None:
    assert jobserver(*how, "--", "sh", "-c", what).returncode == code


@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_a_command_that_is_killed_kills_us_by_the_same_signal(how: list[str]) -> None:
    for name in ("TERM", "KILL", "INT"):
        number = getattr(signal, f"SIG{name}")
        assert jobserver(*how, "--", "sh", "-c", f"kill -{name} $$").returncode == -number


@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_a_command_that_cannot_be_run_is_told_of(how: list[str], tmp_path: Path) -> None:
    done = jobserver(*how, "--", "no-such-command")
    assert (done.returncode, "no-such-command" in done.stderr) == (127, True)
    done = jobserver(*how, "--", str(tmp_path))
    assert done.returncode == 126


@pytest.mark.parametrize(
    "words, told",
    [
        (["run"], "CMD"),
        (["run", "-jx", "--", "true"], "invalid value 'x'"),
        (["run", "--style", "queue", "--", "true"], "fifo, pipe"),
        (["walk"], "walk"),
        (["exec", "true"], "comes after `--`"),
        (["run", "-j2", "true"], "comes after `--`"),
        ([], "Usage"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    done = jobserver(*words)
    assert (done.returncode, told in done.stderr) == (2, True)


def test_no_slots_are_too_few() -> None:
    done = jobserver("run", "-j0", "--", "true")
    assert (done.returncode, "between 1 and" in done.stderr) == (125, True)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["exec", "--help"]])
def test_help_is_given(words: list[str]) -> None:
    done = jobserver(*words)
    assert (done.returncode, "Usage: jobserver" in done.stdout) == (0, True)


def test_commands_that_wait_for_slots_never_run_more_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    record = spans.command()
    script = f"for i in 1 2 3 4 5 6; do $JOBSERVER exec -- sh -c '{record}' & done; wait"
    done = shell(script, "-j2")
    assert (done.returncode, done.stderr) == (0, "")
    ran = Recorded.in_log(tmp_path / "log")
    assert (ran.most <= 2, ran.count) == (True, 6)


def test_a_slot_comes_back_however_its_command_or_its_keeper_ends() -> None:
    script = """
        $JOBSERVER exec -- sh -c 'exit 1'
        $JOBSERVER exec -- sh -c 'kill -KILL $$'
        $JOBSERVER exec -- sh -c 'kill -KILL $PPID'
        $JOBSERVER status
    """
    done = shell(script, "-j1")
    assert "1 of 1 slots free" in done.stdout
    assert "slots were" not in done.stderr


def test_status_tells_who_holds_a_slot() -> None:
    script = "$JOBSERVER exec -- sh -c 'echo $$; $JOBSERVER status'"
    pid, summary, _, holder = shell(script, "-j2").stdout.splitlines()
    assert summary.endswith("/fifo: 1 of 2 slots free")
    assert re.match(rf" *{pid} +\d+ +sh ", holder)


def test_run_tells_of_slots_that_a_client_has_lost_or_added() -> None:
    assert "1 of 2 slots were taken and not given back" in shell(LOSE, "-j2").stderr
    add = "printf + > ${MAKEFLAGS##*fifo:}"
    done = shell(add, "-j2", "--style", "fifo")
    assert "1 slots were given back that had not been taken" in done.stderr


def test_exec_without_a_pool_says_so_and_runs_the_command() -> None:
    done = jobserver("exec", "--", "echo", "done")
    assert done.stdout == "done\n"
    assert "there is no pool in force" in done.stderr


def test_sigterm_is_passed_on_and_the_pool_goes() -> None:
    script = "trap 'exit 7' TERM; echo ${MAKEFLAGS##*fifo:}; while :; do sleep 0.01; done"
    running = subprocess.Popen(
        [*COMMAND, "run", "-j1", "--style", "fifo", "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    with running, running.stdout as said:
        fifo = said.readline().strip()
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE) == 7
    assert not os.path.exists(fifo)


#: Says what it gets, until somebody enters a line.
TOLD = """
    for name in HUP INT QUIT TERM; do trap "echo got $name" $name; done
    echo ready
    until read line; do :; done
    echo end
"""


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM"])
@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_a_signal_that_somebody_sends_is_passed_on(how: list[str], name: str) -> None:
    command = [*COMMAND, *how, "--", "sh", "-c", TOLD]
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **ends, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(getattr(signal, f"SIG{name}"))
        assert running.stdout.readline() == f"got {name}\n"
        running.stdin.write("line\n")
        running.stdin.close()
        assert running.stdout.read() == "end\n"
    assert running.returncode == 0


@pytest.mark.parametrize("name, key", [("INT", b"\x03"), ("QUIT", b"\x1c")])
@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_a_key_at_the_terminal_reaches_the_command_once(
    how: list[str], name: str, key: bytes
) -> None:
    terminal = Terminal(*COMMAND, *how, "--", "sh", "-c", TOLD)
    terminal.read_until("ready")
    terminal.press(key)
    terminal.read_until(f"got {name}")
    until_asleep(terminal.pid)  # and has done what it does with the signal
    terminal.press(b"line\n")
    assert terminal.join() == 0
    assert "end" in terminal.shown
    assert terminal.shown.count("got") == 1


@contextmanager
def holding() -> Iterator[str]:
    """A pool of one slot, which is held meanwhile: its MAKEFLAGS."""
    script = "echo $MAKEFLAGS; exec $JOBSERVER exec -- sh -c 'echo held; read end'"
    running = subprocess.Popen(
        [*COMMAND, "run", "-j1", "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None and running.stdout is not None
    with running, running.stdin, running.stdout as said:
        flags = said.readline().strip()
        assert said.readline() == "held\n"
        yield flags
    assert running.returncode == 1  # read met the end of its input


def wait_for_a_waiter(flags: str) -> None:
    """Returns when somebody waits for a slot, as the pool's ledger counts them."""
    ledger = Path(flags.split("fifo:")[1]).with_name("ledger")
    deadline = time.monotonic() + DEADLINE
    while not any(ledger.read_bytes()[16:24]):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["INT", "TERM", "QUIT"])
def test_exec_that_waits_for_a_slot_ends_at_a_signal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, f"SIG{name}")
    with holding() as flags:
        monkeypatch.setenv("MAKEFLAGS", flags)
        with subprocess.Popen([*COMMAND, "exec", "--", "echo", "ran"]) as waiting:
            try:
                wait_for_a_waiter(flags)
                waiting.send_signal(number)
                assert waiting.wait(DEADLINE) == -number
            finally:
                waiting.kill()


@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_a_command_may_handle_ctrl_c_and_end_as_it_likes(how: list[str]) -> None:
    # A terminal sends it to both.
    done = jobserver(*how, "--", "sh", "-c", "trap 'exit 7' INT; kill -INT $PPID; kill -INT $$")
    assert (done.returncode, "Traceback" in done.stderr) == (7, False)


@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_signals_at_the_command_are_as_they_would_be_without_us(how: list[str]) -> None:
    done = jobserver(*how, "--", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        assert ignored >> (number - 1) & 1 == 0


@pytest.mark.parametrize("how", [["run", "-j1"], ["exec"]])
def test_signals_that_are_ignored_stay_ignored(how: list[str]) -> None:
    ignoring = 'trap "" HUP INT QUIT; exec "$@"'
    script = "kill -HUP $PPID; for s in HUP INT QUIT; do kill -$s $$; done; exit 5"
    command = ["sh", "-c", ignoring, "sh", *COMMAND, *how, "--", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 5


@contextmanager
def unwritable(how: str) -> Iterator[int]:
    """A descriptor to which nothing can be written."""
    if how == "full":
        written = os.open("/dev/full", os.O_WRONLY)
    else:
        read, written = os.pipe()
        os.close(read)
    try:
        yield written
    finally:
        os.close(written)


LOSE = "fifo=${MAKEFLAGS##*fifo:}; head -c1 ${fifo%% *} >/dev/null"


@pytest.mark.parametrize("where", ["full", "gone"])
@pytest.mark.parametrize("how", [["run", "-j2", "--"], ["exec", "--"]])
def test_what_cannot_be_told_does_not_keep_the_command_from_its_end(
    how: list[str], where: str
) -> None:
    script = f'[ -z "$MAKEFLAGS" ] || {LOSE}; exit 5'
    command = [*COMMAND, *how, "sh", "-c", script]
    with unwritable(where) as stderr:
        assert subprocess.run(command, stderr=stderr, timeout=DEADLINE).returncode == 5


def test_status_may_be_read_by_somebody_who_has_seen_enough() -> None:
    with unwritable("gone") as stdout:
        done = subprocess.run(
            [*COMMAND, "status"], stdout=stdout, stderr=subprocess.PIPE, timeout=DEADLINE
        )
    assert (done.returncode, done.stderr) == (0, b"")


STALE = [
    ("fifo:/nowhere/fifo", "/nowhere/fifo, that is not there"),
    ("1000,1001", "the descriptors 1000 and 1001, but they are closed"),
    ("-2,-2", "not opened it to this program"),
]


@pytest.mark.parametrize("name, told", STALE)
def test_a_pool_that_cannot_be_joined_is_named_and_done_without(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", f" -j2 --jobserver-auth={name}")
    done = jobserver("exec", "--", "sh", "-c", "exit 5")
    assert (done.returncode, told in done.stderr) == (5, True)
    assert "running the command without a slot" in done.stderr
    done = jobserver("status")
    assert (done.returncode, told in done.stderr) == (0, True)


def test_status_tells_a_borrowed_slot_from_its_command() -> None:
    program = """
import subprocess, sys
from jobserver import Jobserver
def status():
    subprocess.run([sys.executable, "-m", "jobserver", "status"])
def job(js):
    js(status).result()
with Jobserver("fork", 1) as js:
    js(job, js).result()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=DEADLINE
    )
    borrowed = [line.split() for line in done.stdout.splitlines() if "borrowed" in line]
    assert [line[2] for line in borrowed] == ["borrowed"]


# How many run below `run`: never more than it has slots, and as many as that where there is work


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    "version, style",
    [(version, style) for version in MAKES for style in ("pipe", "fifo")[: 1 + (version >= "4.4")]],
)
def test_make_below_run_never_runs_more_than_there_are_slots(
    tmp_path: Path, log: Path, version: str, style: str, slots: int
) -> None:
    projects.for_make(tmp_path, 6)
    command = [MAKES[version], "-s", "-C", str(tmp_path)]
    done = jobserver("run", f"-j{slots}", "--style", style, "--", *command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ran = Recorded.in_log(log)
    assert (ran.most <= slots, ran.count) == (True, 6)


@pytest.mark.parametrize("version", MAKES)
def test_any_make_below_run_shares_its_slots_without_being_told_how(
    tmp_path: Path, log: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_first_on_path(version, tmp_path, monkeypatch)
    projects.for_make(tmp_path, 6)
    done = jobserver("run", "-j3", "--", "make", "-s", "-C", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ran = Recorded.in_log(log)
    assert (ran.most <= 3, ran.count) == (True, 6)


#: Records some jobs, after which as many as there are slots meet, if so many can run at once.
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import spans
from jobserver import Jobserver

def meet(barrier):
    barrier.wait({DEADLINE})

if __name__ == "__main__":
    with Jobserver(sys.argv[1]) as js:
        for future in [js(spans.record, os.environ["LOG"]) for _ in range(4)]:
            future.result()
        if len(sys.argv) > 2:
            barrier = js.context.Barrier(js.slots)
            for future in [js(meet, barrier) for _ in range(js.slots)]:
                future.result()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "program.py").write_text(PROGRAM)
    return f"{sys.executable} {tmp_path / 'program.py'}"


@pytest.mark.parametrize("style", ["fifo", "pipe"])
def test_a_program_below_run_can_use_all_slots_and_no_more(
    log: Path, program: str, style: str, method: str
) -> None:
    for slots in (1, 2):
        done = jobserver(
            "run", f"-j{slots}", "--style", style, "--", *program.split(), method, "meet"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert Recorded.in_log(log).most <= slots


def meeting(tmp_path: Path, version: str) -> list[str]:
    """A make with two recipes at once, each of which has a job that waits for the other's."""
    (tmp_path / "meet.py").write_text(MEET)
    makefile = f"all: a b\na b:\n\t@{sys.executable} meet.py $(if $(filter a,$@),a b,b a)\n"
    (tmp_path / "Makefile").write_text(makefile)
    return [MAKES[version], "-s", "-C", str(tmp_path)]


@pytest.mark.parametrize("version", [version for version in MAKES if version >= "4.4"])
def test_programs_in_recipes_of_a_make_below_run_have_the_slots_of_their_recipes(
    tmp_path: Path, log: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_first_on_path(version, tmp_path, monkeypatch)
    done = jobserver("run", "-j2", "--", *meeting(tmp_path, version))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("above", [False, True], ids=["", "below a make"])
@pytest.mark.parametrize("version", [version for version in MAKES if version >= "4.4"])
def test_programs_in_recipes_of_a_make_below_a_job_have_the_slots_of_their_recipes(
    tmp_path: Path,
    make_jobserver: Any,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    above: bool,
) -> None:
    put_first_on_path(version, tmp_path, monkeypatch)
    if above:
        monkeypatch.setenv("MAKELEVEL", "1")
    js = make_jobserver(slots=2)
    command = meeting(tmp_path, version)
    assert js(subprocess.check_output, command, timeout=DEADLINE).result(DEADLINE) == b""


MEET = f"""
import os, pathlib, sys, time
from jobserver import Jobserver

def meet(mine, other):
    pathlib.Path(mine).touch()
    deadline = time.monotonic() + {DEADLINE}
    while not pathlib.Path(other).exists():
        assert time.monotonic() < deadline, "the other recipe's job does not run"
        time.sleep(0.001)

if __name__ == "__main__":
    with Jobserver("fork") as js:
        js(meet, *sys.argv[1:]).result()
"""


@pytest.mark.parametrize("style", ["fifo", "pipe"])
def test_programs_and_commands_below_run_share_one_implicit_slot(
    log: Path, program: str, style: str
) -> None:
    script = f"""
        for i in 1 2 3; do {program} fork & done
        for i in 1 2 3; do $JOBSERVER exec -- sh -c '{spans.command()}' & done
        wait
    """
    done = shell(script, "-j2", "--style", style)
    assert (done.returncode, done.stderr) == (0, "")
    ran = Recorded.in_log(log)
    assert (ran.most <= 2, ran.count) == (True, 15)


@pytest.mark.parametrize("style", ["fifo", "pipe"])
def test_a_program_below_exec_has_the_slot_of_that_as_its_own(
    log: Path, program: str, style: str
) -> None:
    script = f"for i in 1 2; do $JOBSERVER exec -- {program} fork & done; wait"
    done = shell(script, "-j1", "--style", style)
    assert (done.returncode, done.stderr) == (0, "")
    ran = Recorded.in_log(log)
    assert (ran.most, ran.count) == (1, 8)


def test_a_program_below_a_job_below_run_has_the_slot_of_that_as_its_own(
    log: Path, program: str, tmp_path: Path
) -> None:
    (tmp_path / "above.py").write_text(f"""
import subprocess
from jobserver import Jobserver
with Jobserver("fork") as js:
    for future in [js(subprocess.check_call, {program.split() + ["fork"]}) for _ in range(2)]:
        future.result()
""")
    for slots in (1, 2):
        done = jobserver("run", f"-j{slots}", "--", sys.executable, str(tmp_path / "above.py"))
        assert (done.returncode, done.stderr) == (0, "")
        assert Recorded.in_log(log).most <= slots


@pytest.mark.parametrize("style", ["fifo", "pipe"])
@pytest.mark.parametrize("slots", [1, 2])
def test_exec_below_exec_has_the_slot_of_that_as_its_own(log: Path, slots: int, style: str) -> None:
    nested = "$JOBSERVER exec -- $JOBSERVER exec -- $JOBSERVER exec --"
    script = f"for i in 1 2 3; do {nested} sh -c '{spans.command()}' & done; wait"
    done = shell(script, f"-j{slots}", "--style", style)
    assert (done.returncode, done.stderr) == (0, "")
    ran = Recorded.in_log(log)
    assert (ran.most <= slots, ran.count) == (True, 3)


# Below a job


def run_shell(script: str) -> tuple[int, str]:
    done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    return done.returncode, done.stderr


@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("slots", [1, 2])
def test_commands_below_a_job_share_its_slot_and_those_that_are_free(
    make_jobserver: Any, log: Path, slots: int, tasks: int | None, waiting: str
) -> None:
    js = make_jobserver(slots, max_tasks_per_child=tasks, waiting=waiting)
    one = f"$JOBSERVER exec -- $JOBSERVER exec -- sh -c '{spans.command()}'"
    for future in [js(run_shell, f"for i in 1 2 3; do {one} & done; wait") for _ in range(2)]:
        assert future.result(DEADLINE) == (0, "")
    ran = Recorded.in_log(log)
    assert (ran.most <= slots, ran.count) == (True, 6)
    assert js._owner.open_pool().free() == slots


def leave_behind(script: str, log: Path) -> None:
    subprocess.Popen(["sh", "-c", script])
    wait_until(log.exists)


def test_a_command_that_outlasts_the_job_above_it_keeps_the_slot_until_its_end(
    make_jobserver: Any, log: Path, tmp_path: Path
) -> None:
    js = make_jobserver(slots=1)
    end = tmp_path / "end"
    os.mkfifo(end)
    script = f"exec $JOBSERVER exec -- sh -c 'echo x >> $LOG; read end < {end}'"
    js(leave_behind, script, log).result(DEADLINE)
    try:
        with pytest.raises(Blocked):
            js.submit(int, timeout=0.1)
    finally:
        end.write_text("end\n")
    assert js.submit(int, args=("7",), timeout=DEADLINE).result() == 7


def test_status_shows_each_slot_below_run_once() -> None:
    status = "$JOBSERVER status"
    script = f"$JOBSERVER exec -- sh -c '{status}; $JOBSERVER exec -- {status}'; {status}"
    lines = shell(script, "-j3").stdout.splitlines()
    assert [line.partition(": ")[2] for line in lines if "slots free" in line] == [
        "2 of 3 slots free",
        "2 of 3 slots free",  # the inner command runs on the slot of the outer one
        "3 of 3 slots free",
    ]
    assert len(lines) == 3 + 2 + 3  # two heads, and one and two holders
    assert [line.split()[2] for line in lines if "slots free" not in line].count("lent") == 1


def test_status_of_all_pools_shows_each_slot_below_run_once() -> None:
    status = "$JOBSERVER status"
    script = f"{status}; $JOBSERVER exec -- env MAKEFLAGS= {status}"
    in_force, *lines = shell(script, "-j3").stdout.splitlines()
    name, _, free = in_force.partition(": ")
    assert free == "3 of 3 slots free"
    # There may be pools of others too.
    assert [line for line in lines if line.startswith(name)] == [f"{name}: 2 of 3 slots free"]


def test_run_tells_of_commands_that_it_leaves_behind_on_any_slot() -> None:
    script = """
        for i in 1 2; do $JOBSERVER exec -- sh -c 'echo $$; read end' <&3 & done 3<&0 2>/dev/null
        while [ "$($JOBSERVER status | grep -c 'read end')" != 2 ]; do :; done
    """
    command = [*COMMAND, "run", "-j2", "--", "sh", "-c", script]
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **ends, stderr=subprocess.PIPE, text=True) as running:
        assert running.wait(DEADLINE) == 0
        assert running.stdin is not None and running.stdout is not None and running.stderr
        told = running.stderr.read()
        running.stdin.close()
        pids = running.stdout.read().split()
    assert told.startswith("jobserver: still running on slots of the pool: ")
    assert (sorted(told.split(": ")[2].strip().split(", ")), told.count("\n")) == (sorted(pids), 1)


@pytest.mark.parametrize("action", [("run", "-j2"), ("exec",)])
def test_the_exit_code_is_the_commands_though_children_are_ignored(action: tuple[str, ...]) -> None:
    """By whoever has started us; and the command is born with that as it was."""

    def ignore_children() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    begin = [*COMMAND, *action, "--"]
    told = "import signal, sys; sys.exit(7 * (signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN))"
    for command, code in (([sys.executable, "-c", told], 7), (["sh", "-c", "kill -9 $$"], -9)):
        done = subprocess.run(
            [*begin, *command], timeout=DEADLINE, check=False, preexec_fn=ignore_children
        )
        assert done.returncode == code


def test_a_limit_of_the_size_of_files_is_told(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("jobserver")
    script = 'ulimit -f 20; exec "$@"'  # in 512 or 1024 bytes
    words = ["sh", "-c", script, "sh", str(program), "run", "-j4", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 125
    assert "raise `ulimit -f` (RLIMIT_FSIZE)" in done.stderr
    # Enough for us, and not for the command, which is ended as it is without us.
    writes = f"dd if=/dev/zero of={tmp_path}/file bs=100000 count=1000"
    words[2], words[-1:] = 'ulimit -f 4000; exec "$@"', ["sh", "-c", writes]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ), done


YIELDING = """
import sys
from jobserver import Jobserver

def twice(js):
    return js(pow, 2, 3).result() + js(pow, 2, 4).result()

if __name__ == "__main__":
    with Jobserver(sys.argv[1], waiting=sys.argv[2]) as js:
        print(js(twice, js).result())
"""


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_nested_work_of_a_program_that_is_itself_on_a_slot_ends(
    make_jobserver: Any, tmp_path: Path, method: str, waiting: str
) -> None:
    (tmp_path / "program.py").write_text(YIELDING)
    program = [sys.executable, str(tmp_path / "program.py"), method, waiting]
    done = jobserver("run", "-j1", "--", *COMMAND, "exec", "--", *program)
    assert (done.stdout, done.stderr) == ("24\n", "")
    js = make_jobserver(slots=1)
    assert js(subprocess.check_output, program, timeout=DEADLINE).result(DEADLINE) == b"24\n"


def test_a_limit_that_keeps_the_command_from_starting_is_a_failure_of_ours() -> None:
    script = 'ulimit -n 12; exec "$@"'
    command = ["sh", "-c", script, "sh", *COMMAND, "run", "-j2", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    if "Too many open files" in done.stderr:
        assert done.returncode == 125


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_subcommands(shell: str) -> None:
    asked = [*COMMAND, "completion", shell]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=DEADLINE, check=True)
    for action in ("run", "exec", "status", "completion"):
        assert action in done.stdout
    assert done.stderr == ""


def test_bash_completes_the_words_of_the_command() -> None:
    ask = 'eval "$(%s completion bash)"; COMP_WORDS=(jobserver st); COMP_CWORD=1; '
    ask += '_jobserver jobserver st jobserver; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", ask % shlex.join(COMMAND)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == "status\n"


def test_the_manual_pages_are_those_of_this_command(tmp_path: Path) -> None:
    subprocess.run([*COMMAND, "man", str(tmp_path)], timeout=DEADLINE, check=True)
    kept = Path(__file__).parent.parent / "man" / "data" / "share" / "man" / "man1"
    pages = {page.name: page.read_text() for page in tmp_path.iterdir()}
    assert pages == {page.name: page.read_text() for page in kept.iterdir()}
    assert "jobserver-exec.1" in pages
