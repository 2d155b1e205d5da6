"""Jobs of several slots: `consume=k`."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, descriptors, take_slot, wait_until
from holding import Hold, free, held
from spans import Recorded, command
from test_make import MAKES

import jobserver
from jobserver import Blocked, Jobserver, SubmissionDied, _native

EACH_WAY = [
    pytest.param(waiting, tasks, id=f"{waiting}-{tasks}")
    for waiting in ("hold", "yield")
    for tasks in (1, None)
]
each_way = pytest.mark.parametrize("waiting, tasks", EACH_WAY)


@contextlib.contextmanager
def computing(log: str, slots: int) -> Iterator[None]:
    """Says in the log that this job uses so many slots meanwhile."""
    write(log, slots)
    yield
    write(log, -slots)


def write(log: str, slots: int) -> None:
    with open(log, "a") as file:
        file.write(f"{time.monotonic_ns()} {slots} {os.getpid()}\n")


def spin() -> None:
    until = time.monotonic() + 0.003
    while time.monotonic() < until:
        pass


def tree(js: Jobserver, log: str, slots: int, below: list[int]) -> int:
    """A job that takes so many slots, and starts jobs that take those below it."""
    with computing(log, slots):
        spin()
    jobs = [js.submit(tree, args=(js, log, each, []), consume=each) for each in below]
    ended = sum(ended_well(job) for job in jobs)
    with computing(log, slots):
        spin()
    return ended + 1


def ended_well(job: jobserver.Future[int]) -> int:
    try:
        return job.result()
    except SubmissionDied:
        return 0


def most_slots_in_use(log: Path) -> int:
    """How many slots jobs used at once, but for those that were killed meanwhile."""
    begun: dict[int, int] = {}
    changes = []
    for line in log.read_text().splitlines():
        when, slots, pid = map(int, line.split())
        if slots > 0:
            begun[pid] = when
        else:
            changes += [(begun.pop(pid), -slots), (when, slots)]
    used = itertools.accumulate(change for _, change in sorted(changes))
    return max(used)


@each_way
@pytest.mark.parametrize("jobs", [2, 4, 8])
def test_jobs_of_several_slots_beside_jobs_of_one_keep_to_the_slots(
    made: Callable[..., Jobserver], tmp_path: Path, waiting: Any, tasks: Any, jobs: int
) -> None:
    js = made(4, waiting=waiting, max_tasks_per_child=tasks)
    log = tmp_path / "log"
    taken = [slots for _ in range(jobs) for slots in (2, 1, 3)]
    below = [1, 3, 2]
    started = [js.submit(tree, args=(js, str(log), each, below), consume=each) for each in taken]
    assert [job.result(DEADLINE) for job in started] == [4] * len(taken)
    assert 1 < most_slots_in_use(log) <= 4


def killed_at_random(log: Path, seed: int) -> Callable[[], None]:
    """Kills a job, mostly, at each call: one that has said something last."""
    choose = random.Random(seed)

    def kill() -> None:
        lines = log.read_text().splitlines()[-12:] if log.exists() else []
        victims = sorted({int(line.split()[2]) for line in lines} & children())
        if victims and choose.random() < 0.8:
            os.kill(choose.choice(victims), signal.SIGKILL)

    return kill


def free_when_reclaimed(js: Jobserver) -> int:
    js.reclaim_resources()
    return int(free(js))


@each_way
@pytest.mark.parametrize("seed", range(3))
def test_kills_of_jobs_of_several_slots_lose_no_slot(
    make_jobserver: Callable[..., Jobserver], tmp_path: Path, waiting: Any, tasks: Any, seed: int
) -> None:
    js = make_jobserver(4, waiting=waiting, max_tasks_per_child=tasks)
    log = tmp_path / "log"
    kill = killed_at_random(log, seed)
    jobs = []
    for each in (2, 1, 3) * 5:
        jobs.append(js.submit(tree, args=(js, str(log), each, [2, 1, 3]), consume=each))
        kill()
    for job in js.as_completed(jobs, DEADLINE):
        ended_well(job)
        kill()
    wait_until(lambda: free_when_reclaimed(js) == 4)  # jobs of killed jobs end soon after these
    assert most_slots_in_use(log) <= 4


def test_two_that_wait_for_all_slots_do_not_wait_for_each_other(
    made: Callable[..., Jobserver], hold: Hold
) -> None:
    js = made(3)
    holders = [js(held, hold.end) for _ in range(3)]
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(js.submit(int, consume=2).result()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiters(js) == 4)
    hold.let_go(3)
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [0] * 4
    for holder in holders:
        holder.wait()


def waiters(js: Jobserver) -> int:
    """How many threads of this process sleep in a poll."""
    tasks = Path("/proc/self/task").iterdir()
    return sum("poll" in (task / "wchan").read_text() for task in tasks)


def test_what_a_waiter_has_gathered_comes_back_if_it_gives_up(
    made: Callable[..., Jobserver],
) -> None:
    js = made(3)
    taken = take_slot(js)
    with pytest.raises(Blocked, match="3 slots were not free in time"):
        js.submit(int, consume=3, timeout=0.05)
    assert free(js) == 2
    with pytest.raises(Blocked, match="3 slots are not free"):
        js.submit(int, consume=3, timeout=0)
    assert free(js) == 2
    assert js.submit(int, consume=2, timeout=0).result() == 0
    del taken
    assert js.submit(int, consume=3, timeout=0).result() == 0


def wait_for_three(js: Jobserver) -> None:
    js.submit(int, consume=3).result()


def test_what_a_killed_waiter_has_gathered_comes_back(
    made: Callable[..., Jobserver], hold: Hold
) -> None:
    js = made(3)
    held_one = js(held, hold.end)
    waiter = js.submit(wait_for_three, args=(js,), consume=0)
    wait_until(lambda: free(js) == 0)  # it holds two, and waits for the third
    os.kill(waiter.pid, signal.SIGKILL)
    with pytest.raises(SubmissionDied):
        waiter.result()
    assert js.submit(int, consume=2).result() == 0
    hold.let_go()
    held_one.result()


def place_below() -> tuple[Any, Any, Any]:
    """In a job: what a Jobserver finds, the threads, and what a program below finds."""
    program = "from jobserver import Jobserver; print(Jobserver().slots)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return Jobserver().slots, os.environ.get("OMP_NUM_THREADS"), told.stdout + told.stderr


@pytest.mark.parametrize("tasks", [1, None])
def test_programs_below_find_a_pool_of_its_slots(
    made: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = made(4, max_tasks_per_child=tasks)
    for slots, expected in ((1, 4), (3, 3), (2, 2), (1, 4)):
        job = js.submit(place_below, consume=slots, threads="slots")
        assert job.result() == (expected, str(slots), f"{expected}\n")
    defaults = js.with_options(consume=2, threads="slots")
    assert defaults(place_below).result() == (2, "2", "2\n")
    assert [*defaults.map(place_below, [()] * 3)] == [(2, "2", "2\n")] * 3


def make_below(folder: str, pass_fds: bool) -> str:
    own = Jobserver()
    fds = own.pass_fds if pass_fds else ()
    told = subprocess.run(
        ["make", "-C", folder], pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return told.stdout.decode()


@pytest.mark.parametrize("style", ["fifo", "pipe"])
def test_a_make_below_runs_as_many_recipes_as_the_job_has_slots(
    made: Callable[..., Jobserver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    style: str,
) -> None:
    if style == "fifo" and max(MAKES) < "4.4":
        pytest.skip("no make here takes a fifo")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").symlink_to(MAKES[max(MAKES)])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    log = tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))
    targets = " ".join(f"t{number}" for number in range(6))
    recipe = command().replace("$", "$$")
    (tmp_path / "Makefile").write_text(f"all: {targets}\n{targets}:\n\t@{recipe}\n")
    js = made(4, style=style)
    told = js.submit(make_below, args=(str(tmp_path), True), consume=2).result()
    assert "warning" not in told
    recorded = Recorded.in_log(log)
    assert (recorded.count, recorded.most) == (6, 2)


def chain(js: Jobserver, slots: list[int]) -> list[int]:
    """In a job: how many slots are free, in it and in each job below."""
    free_here = free(js)
    if not slots:
        return [free_here]
    return [free_here, *js.submit(chain, args=(js, slots[1:]), consume=slots[0]).result()]


@each_way
def test_a_job_of_several_slots_gives_them_to_the_pool_while_it_waits(
    made: Callable[..., Jobserver], waiting: Any, tasks: Any
) -> None:
    js = made(3, waiting=waiting, max_tasks_per_child=tasks)
    assert js.submit(chain, args=(js, [3, 3]), consume=3).result() == [0, 0, 0]
    assert len(js.submit(chain, args=(js, [1, 3, 1, 2, 3]), consume=2).result()) == 6


def meets_two_others(folder: str) -> int:
    """Returns when three such jobs run at once."""
    (Path(folder) / str(os.getpid())).touch()
    wait_until(lambda: len(os.listdir(folder)) >= 3)
    return len(os.listdir(folder))


def maps_below(js: Jobserver, folder: str) -> list[int]:
    return [*js.map(meets_two_others, [(folder,)] * 3, chunksize=1)]


@each_way
def test_a_map_in_a_job_of_several_slots_uses_them(
    made: Callable[..., Jobserver], tmp_path: Path, waiting: Any, tasks: Any
) -> None:
    js = made(3, waiting=waiting, max_tasks_per_child=tasks)
    assert js.submit(maps_below, args=(js, str(tmp_path)), consume=3).result() == [3] * 3


@each_way
def test_a_gate_is_asked_when_the_slots_are_there_and_holds_none(
    made: Callable[..., Jobserver], waiting: Any, tasks: Any
) -> None:
    js = made(3, waiting=waiting, max_tasks_per_child=tasks)
    seen: list[int] = []

    def gate() -> float | None:
        seen.append(free(js))
        return 0.001 if len(seen) < 3 else None

    assert js.submit(int, consume=2, sleep_fn=gate).result() == 0
    assert seen == [3, 3, 3]
    assert js.submit(gated_below, args=(js,), consume=3).result() == 0
    assert js.submit(int, consume=3, sleep_fn=lambda: js(int).result() or None).result() == 0


def raises() -> None:
    raise LookupError("gate")


def slots_after_a_gate_that_raises(js: Jobserver) -> list[int]:
    """In a job: how many slots are free after errors of gates, in a submission and in a map."""
    seen = []
    for submit in (js.submit, lambda fn, **kw: [*js.map(fn, [()] * 3, **kw)]):
        with contextlib.suppress(LookupError):
            submit(int, sleep_fn=raises)
            return []
        seen.append(free(js))
    return seen


@each_way
def test_a_job_of_several_slots_has_them_after_an_error_of_a_gate(
    made: Callable[..., Jobserver], waiting: Any, tasks: Any
) -> None:
    js = made(3, waiting=waiting, max_tasks_per_child=tasks)
    job = js.submit(slots_after_a_gate_that_raises, args=(js,), consume=3)
    assert job.result() == [0, 0]


def gated_below(js: Jobserver) -> int:
    return js.submit(int, sleep_fn=gates_twice()).result()


def gates_twice() -> Callable[[], float | None]:
    delays: Iterator[float | None] = iter((0.001, 0.001, None))
    return lambda: next(delays)


def forking_gate() -> None:
    global forked_child
    forked_child = os.fork()


forked_child = 0


def test_a_gate_that_forks_leaves_the_slots_to_the_parent() -> None:
    js = Jobserver("fork", 3)
    job = js.submit(os.getpid, consume=2, sleep_fn=forking_gate)
    if not forked_child:
        code = 1
        try:
            code = 0 if job.result(DEADLINE) else 1
            js.close()
        finally:
            os._exit(code)
    assert job.result(DEADLINE)
    assert os.waitpid(forked_child, 0)[1] == 0
    assert free(js) == 3
    js.close()


@each_way
def test_map_takes_so_many_slots_for_each_chunk(
    made: Callable[..., Jobserver], tmp_path: Path, waiting: Any, tasks: Any
) -> None:
    js = made(4, waiting=waiting, max_tasks_per_child=tasks)
    log = tmp_path / "log"
    rows = [(js, str(log), 2, [1]) for _ in range(8)]
    assert [*js.map(tree, rows, consume=2, chunksize=1)] == [2] * 8
    assert 2 <= most_slots_in_use(log) <= 4


def test_jobs_of_several_slots_leave_no_descriptor_and_no_home_in_a_process_that_stays(
    made: Callable[..., Jobserver],
) -> None:
    js = made(2, max_tasks_per_child=None)
    js.submit(left, consume=2).result()
    before = js.submit(left, consume=2).result()
    for _ in range(5):
        assert js.submit(left, consume=2).result() == before


def left() -> tuple[int, int, int]:
    homes = [name for name in os.listdir("/dev/shm") if f"-pool-{os.getpid()}-" in name]
    return os.getpid(), len(homes), len(descriptors())


def test_inline_has_the_options_of_several_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    with Jobserver("inline", 4) as js:
        assert js.submit(place_below, consume=3, threads="slots").result() == (3, "3", "3\n")
        with pytest.raises(ValueError, match="consume"):
            js.submit(int, consume=5)
    assert "MAKEFLAGS" not in os.environ


def test_the_binding_takes_all_slots_or_none(js: Jobserver) -> None:
    three = _native.Admission(3, False, 0.0)
    assert js._owner.here().admit(three) == _native.TIMED_OUT
    assert free(js) == 2


def test_a_signal_handler_that_waits_for_slots_gets_what_the_wait_that_it_interrupts_has(
    made: Callable[..., Jobserver], hold: Hold
) -> None:
    js = made(3)
    held_one = js(held, hold.end)
    came: list[int] = []

    def submit_too(*_: object) -> None:
        hold.let_go()
        came.append(js.submit(int, consume=2).result())

    def interrupt() -> None:
        wait_until(lambda: free(js) == 0)  # the main thread holds two, and waits for the third
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, submit_too)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert js.submit(int, consume=3).result() == 0
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert came == [0]
    held_one.wait()


def cpu_seconds_of_a_map(js: Jobserver) -> float:
    begun = time.process_time()
    assert [*js.map(time.sleep, [(0.5,)] * 2, consume=2, chunksize=1)] == [None] * 2
    return time.process_time() - begun


def test_a_map_that_waits_for_several_slots_does_not_spin(made: Callable[..., Jobserver]) -> None:
    js = made(3)  # one is free while a chunk runs
    cpu_seconds_of_a_map(js)
    assert cpu_seconds_of_a_map(js) < 0.25


def ends_at_once() -> None:
    os._exit(3)


def test_a_job_that_dies_leaves_no_home_of_the_pool_below_it(
    made: Callable[..., Jobserver],
) -> None:
    js = made(2)
    job = js.submit(ends_at_once, consume=2)
    with pytest.raises(SubmissionDied):
        job.result()
    homes = [name for name in os.listdir("/dev/shm") if f"jobserver-pool-{job.pid}-" in name]
    assert homes == []


def test_a_map_whose_jobs_take_no_slot_waits_for_none(
    made: Callable[..., Jobserver], tmp_path: Path
) -> None:
    js = made(3)
    taken = [take_slot(js) for _ in range(3)]
    rows = [(str(tmp_path),)] * 3
    assert [*js.map(meets_two_others, rows, consume=0, chunksize=1)] == [3] * 3
    del taken


def maps_at_once(js: Jobserver, count: int) -> None:
    """So many threads iterate over a map each, with more chunks than slots."""

    def iterate() -> None:
        assert [*js.map(time.sleep, [(0.01,)] * 40, chunksize=1)] == [None] * 40

    threads = [threading.Thread(target=iterate) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("method", ["forkserver"])
def test_maps_that_wait_for_slots_do_not_wake_each_other_for_nothing(
    made: Callable[..., Jobserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    js = made(4, max_tasks_per_child=None)
    sleeps: list[None] = []
    sleep = type(js._owner).sleep

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        sleeps.append(None)
        sleep(self, *args, **kwargs)

    monkeypatch.setattr(type(js._owner), "sleep", counted)
    maps_at_once(js, 2)
    assert len(sleeps) < 5 * 80  # 100 or so; with wake-ups for nothing thousands


def place_after_a_refusal(js: Jobserver, end: Any) -> tuple[bool, bool]:
    """In a job of two slots of four: another thread closes the Jobserver while the job waits for
    all four. Whether that was refused, and whether the job has slots again."""
    other = js.submit(held, args=(end,), consume=2)

    def close() -> None:
        # While it waits, the job has no slot.
        wait_until(lambda: (place := jobserver.current()) and place.slot is None)
        js._owner.begin_close()

    closer = threading.Thread(target=close)
    closer.start()
    refused = False
    try:
        js.submit(int, consume=4)
    except RuntimeError:
        refused = True
    closer.join()
    place = jobserver.current()
    other.kill(grace=0)
    return refused, place is not None and place.slot is not None


@each_way
def test_a_job_has_its_slots_after_a_submission_that_was_refused_while_it_waited(
    made: Callable[..., Jobserver], hold: Hold, waiting: Any, tasks: Any
) -> None:
    js = made(4, waiting=waiting, max_tasks_per_child=tasks)
    job = js.submit(place_after_a_refusal, args=(js, hold.end), consume=2)
    assert job.result() == (True, True)
