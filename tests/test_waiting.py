"""Waiting: it costs nothing, and nested work ends on however few slots, whichever way each of
its jobs waits.

A job that gives its slot away while it waits needs one again to go on; whoever waits for it must
not keep the last. Not here: how many jobs run at once (test_slots), how long a Future waits
(test_futures), and what ends a wait (test_interrupts).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import spans
from conftest import DEADLINE, METHODS, OWNERS_METHODS, settle, wait_until
from holding import Hold, free, held
from killing import assert_soon
from spans import Recorded
from terminals import until_asleep
from trees import recurse, recurse_in_turn, timed

from jobserver import Blocked, Future, Jobserver, StartMethod, _native

Make = Callable[..., Jobserver]

#: The start methods whose jobs are not each a new interpreter.
FORKS = ("fork", "forkserver")

#: How a job may wait for one of its own.
WAYS = ["result", "with", "close", "without a slot", "as_completed", "map", "hold", "yield"]


def level(plan: list[tuple[str, int]], js: Any) -> Any:
    """Does what stands first in the plan, by jobs that do the rest: how many jobs that made."""
    if not plan:
        return 1
    (way, fan), rest = plan[0], plan[1:]
    mode: Any = way
    if mode in ("hold", "yield"):
        js = Jobserver(js.context, waiting=mode)
    if way == "with":
        with Jobserver(js.context) as own:
            futures = [own(level, rest, own) for _ in range(fan)]
            return 1 + sum(future.result() for future in futures)
    if way == "map":
        return 1 + sum(js.map(level, [(rest, js)] * fan, chunksize=1))
    consume = 0 if way == "without a slot" else 1
    futures = [js.submit(level, args=(rest, js), consume=consume) for _ in range(fan)]
    if way == "close":
        js.close()
    if way == "as_completed":
        return 1 + sum(future.result() for future in js.as_completed(futures))
    return 1 + sum(future.result() for future in futures)


def jobs_of(plan: list[tuple[str, int]]) -> int:
    return 1 + (plan[0][1] * jobs_of(plan[1:]) if plan else 0)


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("way", WAYS)
def test_a_chain_of_jobs_that_wait_in_one_way_ends_on_one_slot(
    method: Any, way: str, waiting: Any, tasks: int | None
) -> None:
    with Jobserver(method, 1, waiting=waiting, max_tasks_per_child=tasks) as js:
        assert js(level, [(way, 1)] * 3, js).result(DEADLINE) == 4


@pytest.mark.parametrize("seed", range(25))
def test_trees_of_jobs_that_wait_in_any_ways_end_on_few_slots(method: Any, seed: int) -> None:
    choose = random.Random(seed)
    deep = 3 if method == "spawn" else 4
    plan = [(choose.choice(WAYS), choose.choice([1, 1, 2])) for _ in range(choose.randint(2, deep))]
    waiting: Any = choose.choice(["hold", "yield"])
    tasks = choose.choice([1, None])
    slots = choose.choice([1, 1, 2])
    with Jobserver(method, slots, waiting=waiting, max_tasks_per_child=tasks) as js:
        assert js(level, plan, js).result(DEADLINE) == jobs_of(plan), (plan, waiting, tasks, slots)
        assert js._owner.open_pool().free() == slots


PROGRAM = """
import sys
from jobserver import Jobserver

def leaf():
    return 1

def without_a_slot(js, depth):
    if depth:
        return js.submit(without_a_slot, args=(js, depth - 1), consume=0).result() + 1
    return js(leaf).result() + 1

if __name__ == "__main__":
    method, depth = sys.argv[1:]
    with Jobserver(method) as js:
        print(js.submit(without_a_slot, args=(js, int(depth)), consume=0).result())
"""


def run_below(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    return done.stdout + done.stderr


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("how", [[], ["-m", "jobserver", "exec", "--", sys.executable]])
def test_jobs_without_a_slot_of_a_program_below_a_job_use_the_slot_of_that(
    method: Any, tmp_path: Any, how: list[str], depth: int
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, *how, str(tmp_path / "program.py"), method, str(depth)]
    with Jobserver(method, 1) as js:
        assert js(run_below, command).result(DEADLINE) == f"{depth + 2}\n"


def test_a_job_that_waits_in_hold_mode_keeps_its_slot_while_its_jobs_keep_theirs(
    js: Jobserver,
) -> None:
    assert js(others_find_a_slot, js).result(DEADLINE) == 1


def others_find_a_slot(js: Jobserver) -> int:
    """With two slots: how many are left beside this job's while that waits for one."""
    return js(free_slots, js).result(DEADLINE) + 1


def free_slots(js: Jobserver) -> int:
    return js._owner.open_pool().free()


def fire_and_forget(js: Any, end: Any) -> None:
    """Leaves a job that needs a slot for one of its own to this process's end."""
    js.submit(level, args=([("result", 1)], js), consume=0)
    if end is not None:
        sys.exit(end)


def wait_for_one_that_leaves_jobs(js: Any, consume: int, end: Any, closes: bool) -> str:
    with Jobserver(js.context) if closes else contextlib.nullcontext(js) as own:
        error = own.submit(fire_and_forget, args=(own, end), consume=consume).exception()
        return type(error).__name__


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("end", [None, 3])
@pytest.mark.parametrize("consume", [0, 1])
def test_a_job_that_waits_at_its_end_for_what_it_has_left_gets_it_done(
    method: Any, consume: int, end: Any, closes: bool
) -> None:
    with Jobserver(method, 1) as js:
        told = js(wait_for_one_that_leaves_jobs, js, consume, end, closes).result(DEADLINE)
        assert told == ("NoneType" if end is None else "SubmissionDied")


def let_go_and_nest(js: Any, owner: int, fifo: str) -> Any:
    until_asleep(owner)
    Path(fifo).write_text("go on\n")
    return js(int, 7).result()


def wait_while_a_program_has_the_slot(js: Any, folder: str) -> Any:
    """Its own slot is lent when it begins to wait, and comes back while it does."""
    begun, fifo = f"{folder}/begun", f"{folder}/fifo"
    script = f"touch {begun}; exec cat {fifo}"
    command = [sys.executable, "-m", "jobserver", "exec", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        wait_until(lambda: Path(begun).exists())
        future = js.submit(let_go_and_nest, args=(js, os.getpid(), fifo), consume=0)
        return future.result(), program.communicate()[0]


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_a_slot_that_is_lent_when_a_wait_begins_is_of_use_to_others_when_it_comes_back(
    method: Any, waiting: Any, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Jobserver(method, 1, waiting=waiting) as js:
        waited = js(wait_while_a_program_has_the_slot, js, str(tmp_path)).result(DEADLINE)
        assert waited == (7, "go on\n")
        assert js._owner.open_pool().free() == 1


HAND_ON = """
import sys
sys.path.insert(0, sys.argv[1])
from test_waiting import wait_and_record
from jobserver import Jobserver

if __name__ == "__main__":
    with Jobserver(sys.argv[2]) as js:
        js(wait_and_record, js, *sys.argv[3:]).result()
"""


def wait_and_record(js: Any, log: str, waits: str) -> None:
    """Gives its slot away, which is that of a job above, and takes one again."""
    js.submit(tell_and_wait, args=(waits, os.getpid()), consume=0).result()
    spans.record(log)


def tell_and_wait(waits: str, owner: int) -> None:
    until_asleep(owner)
    Path(waits).touch()
    wait_until(lambda: Path(f"{waits}.over").exists())


def record_meanwhile(log: str, waits: str) -> None:
    Path(f"{waits}.over").touch()
    spans.record(log)


def hand_on(js: Any, method: str, log: str, waits: str) -> None:
    """Hands the slot on that a job of a program below had borrowed."""
    command = [sys.executable, "-c", HAND_ON, os.path.dirname(__file__), method, log, waits]
    with subprocess.Popen(command):
        wait_until(lambda: Path(waits).exists())
        js(record_meanwhile, log, waits).result()


def test_a_slot_that_was_handed_on_is_not_borrowed_from_who_had_it(
    method: Any, tmp_path: Path
) -> None:
    log, waits = str(tmp_path / "log"), str(tmp_path / "waits")
    with Jobserver(method, 1, waiting="yield") as js:
        js(hand_on, js, method, log, waits).result(DEADLINE)
        assert js._owner.open_pool().free() == 1
    ran = spans.Recorded.in_log(Path(log))
    assert (ran.most, ran.count) == (1, 2)


CHAIN = """
import ast, sys
sys.path.insert(0, sys.argv[1])
from test_waiting import level
from jobserver import Jobserver

if __name__ == "__main__":
    with Jobserver(sys.argv[2]) as js:
        print(js(level, ast.literal_eval(sys.argv[3]), js).result())
"""


@pytest.mark.parametrize("seed", range(20))
def test_trees_of_jobs_of_a_program_below_a_job_end_on_one_slot(method: Any, seed: int) -> None:
    choose = random.Random(seed)
    plan = [(choose.choice(WAYS), choose.choice([1, 1, 2])) for _ in range(choose.randint(2, 3))]
    command = [sys.executable, "-c", CHAIN, os.path.dirname(__file__), method, str(plan)]
    with Jobserver(method, 1) as js:
        assert js(run_below, command).result(DEADLINE) == f"{jobs_of(plan)}\n", plan
        assert js._owner.open_pool().free() == 1


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("method", FORKS)
def test_recursion_ends_on_few_slots(made: Make, waiting: str, slots: int) -> None:
    js = made(slots, waiting=waiting)
    assert js(recurse, js, 5, 3).result(DEADLINE) == sum(3**level for level in range(5))


@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("method", ["spawn"])
def test_recursion_of_spawned_jobs_ends_on_one_slot(made: Make, waiting: str) -> None:
    js = made(1, waiting=waiting)
    assert js(recurse_in_turn, js, 4).result(DEADLINE) == 4


def submit_gated(js: Jobserver) -> int:
    asked: list[None] = []
    job = js.submit(os.getpid, sleep_fn=lambda: asked.append(None))
    assert job.result() != os.getpid()
    return len(asked)


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_a_gated_submission_of_a_job_ends_on_one_slot(made: Make, waiting: str) -> None:
    js = made(1, waiting=waiting)
    assert js(submit_gated, js).result(DEADLINE) >= 1


def submit_at_once(js: Jobserver, levels: int, gated: bool) -> int:
    """How many levels below there was a slot for."""
    gate = (lambda: None) if gated else None
    try:
        job = js.submit(submit_at_once, args=(js, levels - 1, gated), timeout=0, sleep_fn=gate)
    except Blocked:
        return 0
    return 1 + job.result()


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_a_submission_that_does_not_wait_is_not_lent_a_slot(
    made: Make, slots: int, gated: bool
) -> None:
    js = made(slots)
    assert js(submit_at_once, js, 9, gated).result(DEADLINE) == slots - 1


def submit_without_a_slot(js: Jobserver, wait: bool) -> int:
    future = js.submit(recurse, args=(js, 2, 2), consume=0)
    if wait:
        return future.result()
    js.close()
    return future.result(0)


@pytest.mark.parametrize("wait", [True, False], ids=["in result", "in close"])
def test_whoever_waits_for_a_job_without_a_slot_leaves_its_own_to_the_jobs_of_that_one(
    made: Make, wait: bool
) -> None:
    js = made(1)
    assert js(submit_without_a_slot, js, wait).result(DEADLINE) == 3
    assert_soon(lambda: free(js) == 1)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("method", FORKS)
def test_jobs_that_yield_never_run_more_at_once_than_there_are_slots(
    made: Make, slots: int
) -> None:
    js = made(slots, waiting="yield")
    spans = js(timed, js, 4).result(DEADLINE)
    assert Recorded.of(spans).most <= slots


@pytest.mark.parametrize("name", ["waiting", "orphans"])
@pytest.mark.parametrize("value", ["", "never", None, 1, b"hold"])
@pytest.mark.parametrize("method", METHODS[:1])
def test_unknown_ways_are_refused_by_name(method: StartMethod, name: str, value: Any) -> None:
    ways: Any = {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        Jobserver(method, 1, **ways)


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


@pytest.mark.parametrize("method", OWNERS_METHODS)
def test_waiting_for_a_call_of_map_costs_no_cpu(js: Jobserver, hold: Hold) -> None:
    for calls in (1, 5):  # with nothing more to start, and with something
        results = js.map(held, [(hold.end,)] * calls, chunksize=1, timeout=0.5)
        before = time.process_time()
        with pytest.raises(Blocked):
            next(results)
        assert time.process_time() - before < 0.25
        results.close()
        hold.let_go(min(calls, 2))
        settle(js)


@pytest.mark.parametrize("method", OWNERS_METHODS)
def test_waiting_for_what_completes_first_costs_no_cpu(js: Jobserver, hold: Hold) -> None:
    job = js(held, hold.end)
    completed = js.as_completed([job], timeout=0.5)
    before = time.process_time()
    with pytest.raises(Blocked):
        next(completed)
    assert time.process_time() - before < 0.25
    hold.let_go()


def close_in_a_handler(js: Jobserver) -> int:
    """A job that closes its Jobserver in a wait for which it has given its slot away."""
    signal.signal(signal.SIGALRM, lambda *_: js.close())
    js.submit(signal_owner_once_asleep, consume=0).result()
    pool: Any = _native.own_pool()
    return int(pool.free())


def signal_owner_once_asleep() -> None:
    until_asleep(os.getppid())
    os.kill(os.getppid(), signal.SIGALRM)


def test_a_job_goes_on_with_a_slot_though_its_jobserver_was_closed_in_its_wait() -> None:
    with Jobserver("fork", 1) as js:
        assert js(close_in_a_handler, js).result(DEADLINE) == 0
