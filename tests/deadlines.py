"""A deadline for every test, whatever it hangs in, and signals as a program at a terminal has them.

A plugin of pytest's, and the program that watches it: one that is nobody's child, so that tests
which count or reap children do not see it, and needs no thread, since tests fork. When a test
takes too long it has pytest say where each of its threads is, and end; and it ends what runs
below. Not here: how long a test waits for one thing (conftest.DEADLINE).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Of one test, in seconds, unless `--deadline` says otherwise; the slowest take a tenth of it.
LIMIT = 300.0

#: How long pytest may take to say where it is.
SAYING = 10.0

#: What a shell's background job and nohup ignore, and whoever else; then no Ctrl-C that a test
#: sends would arrive, neither here nor in the programs that are started here, which inherit it.
SIGNALS = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2")

#: The pipe to the one who watches.
_said: int | None = None


def pytest_addoption(parser) -> None:  # type: ignore[no-untyped-def]
    text = f"how many seconds one test may take ({LIMIT:g})"
    parser.addoption("--deadline", type=float, default=LIMIT, metavar="SECONDS", help=text)


def pytest_configure(config) -> None:  # type: ignore[no-untyped-def]
    global _said
    heed_signals()
    capture = config.pluginmanager.getplugin("capturemanager")
    command = [
        sys.executable,
        "-S",
        __file__,
        str(os.getpid()),
        str(config.getoption("--deadline")),
    ]
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        watching = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert watching.stdin is not None
    _said = os.dup(watching.stdin.fileno())
    watching.stdin.close()
    watching.wait()  # the one who watches is its child


def pytest_unconfigure() -> None:
    global _said
    if _said is not None:
        os.close(_said)
        _said = None


def pytest_runtest_logstart(nodeid: str) -> None:
    say(nodeid)


def pytest_sessionfinish() -> None:
    say("the end of the session")


def say(what: str) -> None:
    """What begins now."""
    if _said is not None:
        with contextlib.suppress(OSError):  # as when a test has closed it
            os.write(_said, f"{what}\n".encode())


def heed_signals() -> None:
    for name in SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = name == "SIGINT"
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [getattr(signal, name) for name in SIGNALS])


# The one who watches.


def started(pid: int) -> str | None:
    """When this process was started, which nobody else of that pid was; None if it is gone."""
    fields = _stat(pid)
    return fields[19] if fields else None


def _stat(pid: int) -> list[str]:
    """What /proc says of a process, from its state on; nothing of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return fields if fields[0] not in "ZX" else []


def below(top: int) -> dict[int, str]:
    """The processes below this one, and when each was started."""
    known = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    found: dict[int, str] = {}
    parents = [top]
    for parent in parents:
        new = [pid for pid, fields in known.items() if fields and fields[1] == str(parent)]
        parents += new
        found.update((pid, known[pid][19]) for pid in new)
    return found


def kill(pid: int, born: str | None, number: int) -> None:
    if born is not None and started(pid) == born:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def watch(pytest_pid: int, limit: float) -> None:
    """Until pytest closes the pipe, or is too late."""
    born, what = started(pytest_pid), "the start"
    while select.select([0], [], [], limit)[0]:
        said = os.read(0, 65536)
        if not said:
            return
        what = said.decode(errors="replace").splitlines()[-1]
    if started(pytest_pid) != born:
        return
    sys.stderr.write(f"\n{what} has not ended within {limit:g} seconds\n")
    sys.stderr.flush()
    family = below(pytest_pid)
    kill(pytest_pid, born, signal.SIGABRT)  # at which pytest says where it is
    until = time.monotonic() + min(SAYING, limit)
    while started(pytest_pid) == born and time.monotonic() < until:
        select.select([], [], [], 0.01)
    kill(pytest_pid, born, signal.SIGKILL)
    for pid, born_then in family.items():
        kill(pid, born_then, signal.SIGKILL)


if __name__ == "__main__":
    if os.fork() == 0:
        os.setsid()
        watch(int(sys.argv[1]), float(sys.argv[2]))
    os._exit(0)
