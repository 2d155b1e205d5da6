"""The ledger: slots that outlast whoever is killed, and come back by themselves.

Pipes say that something has begun, and that it may end. Not here: the slots of a killed owner's
jobs (test_orphans), slots that waiting jobs lend and yield (test_waiting), many kills at random
moments (test_chaos), and how well yielding uses the slots (benchmarks/slot_use.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from conftest import DEADLINE, take_slot
from holding import Hold, free, held
from killing import Tells, kill, needs_pidfd, say_and_hold

from jobserver import Jobserver

Make = Callable[..., Jobserver]


def test_a_slot_is_free_when_the_result_is_complete_though_the_owner_looks_at_nothing(
    made: Make, hold: Hold
) -> None:
    js = made(1)
    future = js(held, hold.end)
    assert free(js) == 0
    hold.let_go()
    # The event itself: a byte in the pool's pipe. Nothing of ours is asked meanwhile.
    deadline = time.monotonic() + DEADLINE
    while not free(js):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert future._outcome is None
    assert take_slot(js) is not None
    assert future.result(DEADLINE)


def take_and_tell(js: Jobserver, tell: Connection) -> int:
    tell.send(os.getpid())
    return js.submit(os.getpid, timeout=DEADLINE).result(DEADLINE)


def own_one_busily(js: Jobserver, tell: Connection, busy: Connection) -> None:
    """Has a job running, and looks at nothing until it is let go."""
    js(say_and_hold, tell, busy)
    held(busy)


@needs_pidfd
def test_who_waits_for_a_slot_wakes_when_a_holder_is_killed_whose_owner_is_busy(
    made: Make, hold: Hold, tells: Tells
) -> None:
    js = made(1)
    owner = js.submit(own_one_busily, args=(js, tells.end, hold.end), consume=0)
    holder = tells.next()
    waiter = js.submit(take_and_tell, args=(js, tells.end), consume=0)
    asleep = tells.next()
    wait_until_asleep(asleep)
    kill(holder)
    assert waiter.result(DEADLINE)
    hold.let_go()
    owner.result(DEADLINE)


def wait_until_asleep(pid: int) -> None:
    """Returns when a process sleeps in poll, where it has no more to do by itself."""
    deadline = time.monotonic() + DEADLINE
    while b"poll" not in Path(f"/proc/{pid}/wchan").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.001)
