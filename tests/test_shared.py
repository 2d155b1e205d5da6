"""Idle processes belong to all owners of a tree: a job may run in a process that another owner's
job has used (start methods forkserver and spawn)."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, Literal

import pytest
from conftest import DEADLINE, wait_until
from holding import Hold, held
from killing import Tells, assert_soon, has_ended, kill
from terminals import until_asleep
from trees import recurse

from jobserver import Jobserver, StartMethod, SubmissionDied
from jobserver._start import _starter

Shared = Callable[..., Jobserver]


def make(method: StartMethod, slots: int = 2, **options: Any) -> Jobserver:
    return Jobserver(method, slots, **{"max_tasks_per_child": None, **options})


@pytest.fixture(params=["forkserver", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    """The start methods under which owners share idle processes."""
    return str(request.param)


@pytest.fixture
def shared(method: StartMethod) -> Shared:
    """Makes Jobservers whose owners do."""
    return functools.partial(make, method)


def pid() -> int:
    return os.getpid()


def pids(js: Jobserver, jobs: int) -> tuple[int, list[int]]:
    """A job with jobs of its own: its pid, and theirs."""
    return os.getpid(), [js.submit(pid).result(DEADLINE) for _ in range(jobs)]


def parents_pid() -> int | None:
    parent = multiprocessing.parent_process()
    return None if parent is None else parent.pid


def pids_and_parents(js: Jobserver) -> tuple[int, int, int | None]:
    """A job with a job of its own: its pid, and the other's pid and parent."""
    other = js.submit(pid_and_parent).result(DEADLINE)
    return os.getpid(), *other


def pid_and_parent() -> tuple[int, int | None]:
    return os.getpid(), parents_pid()


def tree_of_pids(js: Jobserver, depth: int) -> set[int]:
    futures = [js.submit(tree_of_pids, args=(js, depth - 1)) for _ in range(2 if depth else 0)]
    return {os.getpid()}.union(*(future.result(DEADLINE) for future in futures))


def test_a_job_that_was_an_owner_leaves_its_processes_to_the_next_owner(shared: Shared) -> None:
    with shared() as js:
        owner, [worker] = js.submit(pids, args=(js, 1)).result(DEADLINE)
        again, [other] = js.submit(pids, args=(js, 1)).result(DEADLINE)
    assert {again, other} == {owner, worker}


def test_a_tree_of_many_jobs_has_few_processes(shared: Shared) -> None:
    depth = 6
    with shared() as js:
        used = js.submit(tree_of_pids, args=(js, depth)).result(DEADLINE)
    assert len(used) <= 2 * (depth + 2) + 6  # 127 jobs; some more on a busy machine


def test_a_job_sees_the_owner_that_has_its_process_now(shared: Shared) -> None:
    with shared(1) as js:
        for _ in range(3):
            owner, worker, parent = js.submit(pids_and_parents, args=(js,)).result(DEADLINE)
            assert parent == owner != worker
        assert js.submit(parents_pid).result(DEADLINE) == os.getpid()


def ran(js: Jobserver, depth: int) -> list[int]:
    """The pid of each job of a tree, once for each job."""
    futures = [js.submit(ran, args=(js, depth - 1)) for _ in range(2 if depth else 0)]
    return [os.getpid()] + [pid for future in futures for pid in future.result(DEADLINE)]


def test_no_process_runs_more_jobs_than_its_bound_whoever_its_owners_are(shared: Shared) -> None:
    with shared(max_tasks_per_child=3) as js:
        jobs = js.submit(ran, args=(js, 5)).result(DEADLINE)
    assert len(jobs) == 63
    assert max(jobs.count(pid) for pid in jobs) <= 3


def test_two_jobservers_share_no_processes(shared: Shared) -> None:
    with shared() as first, shared() as second:
        ours = {*first.submit(tree_of_pids, args=(first, 2)).result(DEADLINE)}
        theirs = {*second.submit(tree_of_pids, args=(second, 2)).result(DEADLINE)}
    assert not ours & theirs


def owns_and_waits(js: Jobserver, tell: Any, end: Any) -> None:
    """A job that waits for a job of its own, and tells the process of another that has ended."""
    holds = js.submit(held, args=(end,))
    tell.send(js.submit(pid).result(DEADLINE))
    holds.result(DEADLINE)


def says_and_holds(tell: Any, end: Any) -> None:
    tell.send(os.getpid())
    held(end)


def test_a_job_survives_an_owner_that_had_its_process_before(
    shared: Shared, tells: Tells, hold: Hold
) -> None:
    with shared(3) as js:
        owner = js.submit(owns_and_waits, args=(js, tells.end, hold.end))
        worker = tells.next()
        until_asleep(owner.pid)
        job = js.submit(says_and_holds, args=(tells.end, hold.end))
        assert tells.next() == worker
        kill(owner.pid)
        assert owner.wait(DEADLINE)
        hold.let_go(2)  # the owner's other job, while it dies, may take one
        assert job.result(DEADLINE) is None


def owns_two_jobs_of_one_process(js: Jobserver, tell: Any, end: Any) -> None:
    tell.send(js.submit(pid).result(DEADLINE))
    js.submit(says_and_holds, args=(tell, end)).result(DEADLINE)


def test_the_second_job_of_a_process_dies_with_its_owner_too(
    shared: Shared, tells: Tells, hold: Hold
) -> None:
    with shared() as js:
        owner = js.submit(owns_two_jobs_of_one_process, args=(js, tells.end, hold.end))
        below = tells.next()
        assert tells.next() == below
        kill(owner.pid)
        assert_soon(lambda: has_ended(below))
        assert owner.wait(DEADLINE)


def owns_a_holder(js: Jobserver, tell: Any, end: Any) -> None:
    js.submit(says_and_holds, args=(tell, end)).result(DEADLINE)


def test_a_job_dies_with_the_owner_that_has_its_process_now(
    shared: Shared, tells: Tells, hold: Hold
) -> None:
    with shared(3) as js:
        # The process has had other owners, and this one.
        used = js.submit(tree_of_pids, args=(js, 2)).result(DEADLINE)
        owner = js.submit(owns_a_holder, args=(js, tells.end, hold.end))
        below = tells.next()
        assert below in used
        kill(owner.pid)
        assert_soon(lambda: has_ended(below))
        try:
            owner.result(DEADLINE)
        except SubmissionDied:
            pass
        else:
            raise AssertionError("the owner has ended")
        assert js.submit(recurse, args=(js, 2, 2)).result(DEADLINE)


def all_have_ended(processes: set[int]) -> bool:
    return all(map(has_ended, processes))


def test_an_idle_process_that_was_killed_is_passed_over(shared: Shared) -> None:
    with shared() as js:
        for _ in range(3):
            used = js.submit(tree_of_pids, args=(js, 2)).result(DEADLINE)
            for process in used:
                os.kill(process, signal.SIGKILL)
            wait_until(functools.partial(all_have_ended, used))
            assert js.submit(recurse, args=(js, 2, 2)).result(DEADLINE)


def closes(js: Jobserver) -> tuple[int, int]:
    with js:
        return os.getpid(), js.submit(pid).result(DEADLINE)


def test_a_job_may_close_the_jobserver_and_a_later_one_in_its_process_use_it_again(
    shared: Shared,
) -> None:
    with shared(1) as js:
        for _ in range(5):
            assert len({*js.submit(closes, args=(js,)).result(DEADLINE)}) == 2


def test_closing_ends_the_shared_processes(shared: Shared) -> None:
    with shared() as js:
        used = js.submit(tree_of_pids, args=(js, 3)).result(DEADLINE)
    assert all(has_ended(process) for process in used)


def leaves(js: Jobserver, end: Any) -> int:
    js.submit(held, args=(end,))
    return os.getpid()


def test_a_process_whose_job_has_left_a_job_behind_gets_no_other_job(
    shared: Shared, hold: Hold
) -> None:
    with shared(3) as js:
        left = js.submit(leaves, args=(js, hold.end)).result(DEADLINE)
        assert js.submit(pid).result(DEADLINE) != left
        hold.let_go()
        assert_soon(lambda: has_ended(left))


def environ_and_job(js: Jobserver, deep: bool) -> list[str | None]:
    below = js.submit(environ_and_job, args=(js, False)).result(DEADLINE) if deep else []
    return [os.environ.get("SHARED_TEST"), *below]


def test_the_environment_of_a_job_does_not_reach_another_owners_job(shared: Shared) -> None:
    with shared(1) as js:
        set_ = js.submit(environ_and_job, args=(js, True), env={"SHARED_TEST": "1"})
        assert set_.result(DEADLINE)[0] == "1"
        for _ in range(3):
            assert js.submit(environ_and_job, args=(js, True)).result(DEADLINE) == [None, None]


def depths(js: Jobserver, levels: int) -> list[int]:
    """How many jobs are above each of the jobs of a chain."""
    below = js.submit(depths, args=(js, levels - 1)).result(DEADLINE) if levels else []
    return [js._owner.here().depth, *below]


def test_a_process_knows_the_depth_of_each_of_its_jobs(shared: Shared) -> None:
    with shared(1) as js:
        for levels in (4, 1, 0, 3):
            chain = js.submit(depths, args=(js, levels)).result(DEADLINE)
            assert chain == [*range(1, levels + 2)]


def grow_a_tree(shared: Shared, tell: Any, end: Any, how: str) -> None:
    """In a process of its own: a tree whose processes are idle then."""
    js = shared()
    used = js.submit(tree_of_pids, args=(js, 4)).result(DEADLINE)
    if how == "drop":
        del js
        gc.collect()
    tell.send(used)
    held(end)


@pytest.mark.parametrize("how", ["kill", "drop"])
def test_idle_processes_end_with_the_jobserver_that_started_their_fork_server(
    shared: Shared, tells: Tells, hold: Hold, how: Literal["kill", "drop"]
) -> None:
    context = multiprocessing.get_context("spawn")
    root = context.Process(target=grow_a_tree, args=(shared, tells.end, hold.end, how))
    root.start()
    used = tells.received()
    assert len(used) > 4
    if how == "kill":
        kill(root.pid or 0)
    assert_soon(lambda: all_have_ended(used))
    hold.let_go()
    root.join(DEADLINE)


def descriptors(js: Jobserver, depth: int) -> dict[int, int]:
    """How many descriptors are open in each process of a chain of jobs."""
    below = js.submit(descriptors, args=(js, depth - 1)).result(DEADLINE) if depth else {}
    return {**below, os.getpid(): len(os.listdir("/proc/self/fd"))}


def test_a_process_that_stays_opens_no_more_descriptors_with_each_job(shared: Shared) -> None:
    with shared(1) as js:
        # Each process has been both an owner and a job without jobs.
        for _ in range(8):
            before = js.submit(descriptors, args=(js, 3)).result(DEADLINE)
        for _ in range(8):
            after = js.submit(descriptors, args=(js, 3)).result(DEADLINE)
    assert before.keys() == after.keys()
    assert max(after.values()) <= max(before.values())


#: A handle that a job has kept.
global_: Any = None


def keep(js: Jobserver) -> int:
    global global_
    global_ = js
    return os.getpid()


def test_a_process_whose_job_has_kept_its_own_jobserver_stays(shared: Shared) -> None:
    with shared(1) as js:
        assert len({js.submit(keep, args=(js,)).result(DEADLINE) for _ in range(3)}) == 1


def test_a_process_whose_job_has_kept_another_jobserver_ends(shared: Shared) -> None:
    # It would keep the other one's fork server alive.
    with shared(1) as js, shared(1) as other:
        other.submit(pid).result(DEADLINE)
        kept = js.submit(keep, args=(other,)).result(DEADLINE)
        assert_soon(lambda: has_ended(kept))


def open_descriptors(_: Jobserver) -> tuple[int, int]:
    return os.getpid(), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("others", ["fork", "forkserver", "spawn"])
def test_a_process_that_stays_keeps_nothing_of_the_handles_that_its_jobs_got(
    shared: Shared, others: Any
) -> None:
    with shared(1) as js:
        seen = []
        for _ in range(4):
            with Jobserver(others, 1) as other:
                other.submit(pid).result(DEADLINE)
                seen.append(js.submit(open_descriptors, args=(other,)).result(DEADLINE))
    assert len({*seen[1:]}) == 1


def close_the_trees_descriptors(js: Jobserver) -> None:
    assert _starter.joined is not None
    for descriptor in _starter.joined.filenos():
        os.close(descriptor)
    js.submit(pid).result(DEADLINE)


def test_a_job_that_closes_the_descriptors_of_the_tree_harms_no_later_job(shared: Shared) -> None:
    with shared() as js:
        for _ in range(3):
            with contextlib.suppress(OSError):
                js.submit(close_the_trees_descriptors, args=(js,)).result(DEADLINE)
            for _ in range(3):
                assert js.submit(recurse, args=(js, 3, 2)).result(DEADLINE)


def helper(js: Jobserver) -> Any:
    starter: Any = js._owner.starter
    return starter._helper


def test_a_tree_goes_on_when_its_helper_is_killed(shared: Shared) -> None:
    with shared() as js:
        for _ in range(3):
            used = js.submit(tree_of_pids, args=(js, 2)).result(DEADLINE)
            kill(helper(js).pid)
            assert js.submit(recurse, args=(js, 3, 2)).result(DEADLINE) == 7
    assert_soon(lambda: all_have_ended(used))


def test_a_job_that_runs_when_the_helper_is_killed_gives_its_result(
    shared: Shared, tells: Tells, hold: Hold
) -> None:
    with shared(3) as js:
        job = js.submit(owns_a_holder, args=(js, tells.end, hold.end))
        tells.next()
        kill(helper(js).pid)
        assert js.submit(recurse, args=(js, 2, 2)).result(DEADLINE) == 3
        hold.let_go()
        assert job.result(DEADLINE) is None


def exits(js: Jobserver) -> int | None:
    try:
        js.submit(os._exit, args=(3,)).result(DEADLINE)
    except SubmissionDied as e:
        return e.exitcode
    return None


def test_each_owner_is_told_exactly_how_its_job_died(shared: Shared) -> None:
    with shared(1) as js:
        js.submit(tree_of_pids, args=(js, 3)).result(DEADLINE)
        for _ in range(3):
            assert js.submit(exits, args=(js,)).result(DEADLINE) == 3
        with pytest.raises(SubmissionDied) as killed:
            js.submit(signal.raise_signal, args=(signal.SIGKILL,)).result(DEADLINE)
        assert killed.value.signal == signal.SIGKILL
        assert js.submit(recurse, args=(js, 2, 2)).result(DEADLINE) == 3


# Under spawn an only owner needs no helper.


def test_a_spawned_pool_has_a_helper_once_there_may_be_other_owners() -> None:
    with make("spawn", 1) as js:
        alone = js.submit(pid).result(DEADLINE)
        assert not helper(js).running
        owner, [worker] = js.submit(pids, args=(js, 1)).result(DEADLINE)
        assert helper(js).running
        assert alone not in (owner, worker)
        again, [other] = js.submit(pids, args=(js, 1)).result(DEADLINE)
        assert {again, other} == {owner, worker}


def test_a_process_that_was_busy_when_the_helper_came_can_be_an_owner(
    tells: Tells, hold: Hold
) -> None:
    with make("spawn", 2) as js:
        job = js.submit(says_and_holds, args=(tells.end, hold.end))
        before = tells.next()
        owner, [worker] = js.submit(pids, args=(js, 1)).result(DEADLINE)
        hold.let_go()
        job.result(DEADLINE)
        for _ in range(4):
            used = js.submit(tree_of_pids, args=(js, 2)).result(DEADLINE)
        assert before not in used  # it has had jobs of its own
