"""Jobs that tell who they are, kills, and what must be so soon after one.

A module of its own, and not part of conftest, because jobs import what they run.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE
from holding import held

from jobserver import Future, Jobserver

#: How soon after a kill all must be as it was, in seconds: a promise, not a measurement.
SOON = 1.0


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs os.pidfd_open")


class Tells:
    """Pids that jobs tell this process."""

    def __init__(self) -> None:
        self._ours, self.end = multiprocessing.Pipe(duplex=False)

    def next(self) -> int:
        return int(self.received())

    def received(self) -> Any:
        """What a job has told, pids or not."""
        assert self._ours.poll(DEADLINE), "no job has told its pid"
        return self._ours.recv()

    def owner_and_jobs(self, future: Future[Any]) -> tuple[int, set[int]]:
        """Of a job that has two: all three must tell."""
        pids = {self.next() for _ in range(3)}
        assert future._pid in pids and len(pids) == 3
        return future._pid, pids - {future._pid}

    def close(self) -> None:
        self._ours.close()
        self.end.close()


def say_and_hold(tell: Connection, end: Connection) -> int:
    tell.send(os.getpid())
    return held(end)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat[stat.rindex(b")") + 2 :].split()[0] in (b"Z", b"X")


def assert_soon(condition: Callable[[], object]) -> None:
    """Steps of a poll: what is waited for here has no event that is ours."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill(pid: int) -> None:
    """The kill is complete when this returns."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        assert select.select([pidfd], [], [], DEADLINE)[0]
    finally:
        os.close(pidfd)


def take_all(js: Jobserver) -> None:
    """The next attempt to use the slots finds all of them."""
    end, ours = multiprocessing.Pipe(duplex=False)
    with end, ours:
        jobs = [js.submit(held, args=(end,), timeout=SOON) for _ in range(js.slots)]
        os.write(ours.fileno(), b"x" * len(jobs))
        for job in jobs:
            job.result(DEADLINE)
