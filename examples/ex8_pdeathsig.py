"""Tie a job's life to its owner's, with the kernel's own means, through preexec_fn.

prctl(PR_SET_PDEATHSIG) asks Linux to send a process a signal as soon as its parent dies, however
it dies. Set in preexec_fn, it makes a job end with its owner even if the owner is killed with
SIGKILL and can clean up nothing. Here a job is the owner of another job and is killed.

Linux only. And only with the start method "fork", where a job's parent is its owner: under
"forkserver" the parent is the fork server, which lives on when an owner dies, so the signal would
never come.

Run:  python examples/ex8_pdeathsig.py
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from jobserver import Jobserver, SubmissionDied

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2


def prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")


def end_with(owner: int) -> None:
    """Runs in the job, before its function: have this process killed when its owner dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL.value)
    # The owner may have died before the line above. Then there is nobody left whose death could
    # be told, and another process has become the parent.
    if os.getppid() != owner:
        os._exit(1)


def sleeper(connection: Connection) -> None:
    """Report this process and the signal that it has asked for, then sleep for a minute."""
    asked_for = ctypes.c_int()
    prctl(PR_GET_PDEATHSIG, ctypes.byref(asked_for))
    connection.send((os.getpid(), asked_for.value))
    time.sleep(60)


def owner(js: Jobserver, connection: Connection) -> None:
    """A job that owns another job, and waits for it."""
    preexec_fn = functools.partial(end_with, os.getpid())
    js.submit(sleeper, args=(connection,), preexec_fn=preexec_fn).result()


def main() -> None:
    if sys.platform != "linux":
        print("prctl(PR_SET_PDEATHSIG) is Linux's own: nothing to show here")
        return
    # Both jobs inherit the pipe's writing end. It closes, and the reading end tells so, when the
    # last process that has it open is gone.
    reading, writing = multiprocessing.Pipe(duplex=False)
    with Jobserver(context="fork", slots=2) as js:
        future = js(owner, js, writing)
        writing.close()
        assert reading.poll(10), "the sleeper must report"
        report: tuple[int, int] = reading.recv()
        pid, asked_for = report
        print(f"job {future.pid} owns job {pid}, which asked for {signal.Signals(asked_for).name}")
        assert asked_for == signal.SIGKILL

        assert future.wait(timeout=10, signal=signal.SIGKILL)
        died = future.exception()
        assert isinstance(died, SubmissionDied) and died.signal == signal.SIGKILL
        print("told:", died)

        assert reading.poll(10), "the sleeper must end with its owner"
        try:
            reading.recv()
        except EOFError:
            print(f"job {pid} has ended with its owner")
        else:
            raise AssertionError("the sleeper must not say anything more")


if __name__ == "__main__":
    main()
