"""Waiting costs nothing: a program that waits is not woken while nothing happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE
from holding import Hold, held

from jobserver import Future, Jobserver, StartMethod

#: How long it is watched, in seconds.
WATCHED = 10

#: A wait that has brought no news for a second is left once, to look whether news can come.
QUIET = 1.5


def switches(pid: int) -> tuple[int, int]:
    """How often a process has gone to sleep, and how often it has been made to."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    counts = dict(line.split(":") for line in status if "ctxt_switches" in line)
    return int(counts["voluntary_ctxt_switches"]), int(counts["nonvoluntary_ctxt_switches"])


def sleeps(pid: int) -> bool:
    """Whether it sleeps in a system call that it does so in for good."""
    return "poll" in Path(f"/proc/{pid}/wchan").read_text()


def wait_for_a_slot(js: Jobserver) -> int:
    return js(int, "7").result()


def wait_for_a_result(js: Jobserver, end: Any) -> Any:
    return js.submit(held, args=(end,), consume=0).result() and 7


@contextlib.contextmanager
def those_who_wait(method: StartMethod, waiting: Any) -> Iterator[list[int]]:
    """Processes that wait for a slot of a full pool, or for a result."""
    hold = Hold()
    with Jobserver(method, 2, waiting=waiting) as js:
        try:
            holders = [js(held, hold.end) for _ in range(2)]
            waiters: list[Future[int]] = [
                js.submit(wait_for_a_slot, args=(js,), consume=0),
                js.submit(wait_for_a_slot, args=(js,), consume=0),
                js.submit(wait_for_a_result, args=(js, hold.end), consume=0),
            ]
            yield [future.pid for future in waiters]
        finally:
            hold.let_go(3)
        assert [future.result(DEADLINE) for future in waiters] == [7, 7, 7]
        assert len([future.result(DEADLINE) for future in holders]) == 2
    hold.close()


@pytest.mark.slow
def test_nothing_wakes_those_who_wait_on_a_full_pool() -> None:
    # Two pools in the time of one.
    with those_who_wait("fork", "hold") as some, those_who_wait("forkserver", "yield") as others:
        pids = some + others
        settle_down(pids)
        before = [switches(pid) for pid in pids]
        time.sleep(WATCHED)  # what is watched is this time itself
        assert [switches(pid) for pid in pids] == before


def settle_down(pids: list[int]) -> None:
    """Until all sleep, and have been seen to sleep on."""
    deadline = time.monotonic() + DEADLINE
    seen: list[Any] = []
    since = time.monotonic()
    while time.monotonic() < since + QUIET:
        assert time.monotonic() < deadline, "they do not come to rest"
        now = [(sleeps(pid), switches(pid)) for pid in pids]
        if now != seen or not all(asleep for asleep, _ in now):
            seen, since = now, time.monotonic()
        time.sleep(0.005)
