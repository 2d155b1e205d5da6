"""The fork server's helper process: its life and death, its processes ahead of need, and what it
imports ahead of need (`preload`).

Not here: Ctrl-C while it does not answer (test_interrupts), and its limits (test_system_limits).
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import DEADLINE, children, reap, wait_until
from holding import Hold, free, held
from test_close import parents
from test_deaths import Pipes, assert_unknown, death_of, say_and_hold, told
from test_threads import join, together, until_asleep

from jobserver import Jobserver
from jobserver._start import introduction


@pytest.fixture
def method() -> str:
    return "forkserver"


@pytest.fixture
def busy(make_jobserver: Callable[..., Jobserver]) -> Iterator[Jobserver]:
    """A Jobserver of two slots that has submitted enough to have processes ahead."""
    js = make_jobserver(2, max_tasks_per_child=1)
    for _ in range(6):
        js(pid).result()
    reap(js)
    yield js


def pid() -> int:
    return os.getpid()


def helper(js: Jobserver) -> int:
    starter: Any = js._owner.starter
    return int(starter._helper.pid)


def children_of(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ahead(js: Jobserver) -> list[int]:
    """The pids of the processes ahead, when they are all there."""
    return list(wait_until(lambda: len(found := children_of(helper(js))) == 2 and found))


def test_there_are_as_many_processes_ahead_as_slots_and_none_holds_one(busy: Jobserver) -> None:
    assert len(ahead(busy)) == 2
    assert free(busy) == 2


def test_who_submits_one_job_has_no_processes_ahead(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(2, max_tasks_per_child=1)
    js(pid).result()
    wait_until(lambda: not children_of(helper(js)))


def test_the_next_jobs_have_the_processes_ahead(busy: Jobserver) -> None:
    there = ahead(busy)
    assert [busy(pid).result() for _ in range(2)] == there


def test_processes_ahead_that_were_killed_are_passed_over(busy: Jobserver) -> None:
    for _ in range(5):
        for process in ahead(busy):
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: not children_of(helper(busy)))
        assert busy(pid).result() not in (0, os.getpid())
        reap(busy)


@pytest.mark.fresh
def test_processes_ahead_end_when_memory_is_short_and_cost_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short_of_memory.py").write_text(
        "import jobserver._job\njobserver._job.memory_is_short = lambda: True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Jobserver("forkserver", 2, preload=["short_of_memory"]) as js:
        for _ in range(6):
            js(pid).result()
        reap(js)
        there = ahead(js)
        wait_until(lambda: not children_of(helper(js)))
        assert js(pid).result() not in there


def test_a_killed_helper_with_processes_ahead_is_replaced(busy: Jobserver) -> None:
    there = ahead(busy)
    before = helper(busy)
    os.kill(before, signal.SIGKILL)
    futures = [busy(pid) for _ in range(6)]
    assert all(future.result() == future.pid for future in futures)
    assert helper(busy) != before
    wait_until(lambda: not any(os.path.exists(f"/proc/{process}/exe") for process in there))


def test_closing_ends_the_processes_ahead_though_a_child_has_their_channels(
    busy: Jobserver,
) -> None:
    there = ahead(busy)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    busy.close()  # which waits for the helper, and that for its children
    assert not any(os.path.exists(f"/proc/{process}") for process in there)
    os.close(writer)
    os.waitpid(child, 0)


def folder_and_path() -> tuple[str, list[str]]:
    return os.getcwd(), sys.path


def test_a_job_is_as_its_owner_is_now_though_its_process_was_there_before(
    busy: Jobserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead(busy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, path = busy(folder_and_path).result()
    assert (folder, path[0]) == (str(tmp_path), str(tmp_path))


def while_a_submission_waits(js: Jobserver, fn: Any, *args: Any, change: Any) -> Any:
    """The Future of a job whose submission waited for the only slot during a change."""
    futures: list[Any] = []
    hold = Hold()
    js(int).result()  # there is a fork server now
    first = js(held, hold.end)
    submitting = threading.Thread(target=lambda: futures.append(js(fn, *args)))
    submitting.start()
    until_asleep(submitting)
    change()
    hold.close()
    join(submitting)
    assert first.result(DEADLINE) == first.pid
    assert futures[0].pid != first.pid
    return futures[0]


def test_a_job_is_as_its_owner_is_when_its_submission_has_a_slot(
    make_jobserver: Callable[..., Jobserver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    js = make_jobserver(1, max_tasks_per_child=1)
    move = functools.partial(monkeypatch.chdir, tmp_path)
    future = while_a_submission_waits(js, folder_and_path, change=move)
    assert future.result(DEADLINE)[0] == str(tmp_path)


def test_ctrl_c_does_not_end_a_helper_whose_modules_have_started_the_resource_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "starts_the_tracker.py").write_text(
        "from multiprocessing import resource_tracker\nresource_tracker.ensure_running()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Jobserver("forkserver", 1, preload=["starts_the_tracker"]) as js:
        js(pid).result()
        before = helper(js)
        status = Path(f"/proc/{before}/status").read_text()
        [blocked] = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")]
        assert int(blocked, 16) & 1 << signal.SIGINT - 1
        os.kill(before, signal.SIGINT)
        js(pid).result()
        assert helper(js) == before


def test_no_job_goes_to_a_worker_whose_helper_is_killed_while_its_submission_waits(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)

    def kill_helper() -> None:
        killed = helper(js)
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)

    future = while_a_submission_waits(js, os._exit, 7, change=kill_helper)
    assert future.exception(DEADLINE).exitcode == 7


def test_no_job_goes_to_a_worker_that_comes_idle_after_its_helper_was_replaced(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(2, max_tasks_per_child=None)
    hold = Hold()
    old = js(held, hold.end)
    killed = helper(js)
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    assert js(pid).result(DEADLINE) != old.pid
    hold.close()
    assert old.result(DEADLINE) == old.pid
    for _ in range(2):
        future: Any = js(os._exit, 7)
        assert future.exception(DEADLINE).exitcode == 7
        assert future.pid != old.pid


def loaded(module: str) -> bool:
    return module in sys.modules


def test_the_fork_server_imports_what_is_to_be_preloaded() -> None:
    with Jobserver("forkserver", 1, preload=["this"]) as js:
        assert js(loaded, "this").result()
    with Jobserver("forkserver", 1) as js:
        assert not js(loaded, "this").result()


def test_a_preload_that_fails_is_told_and_costs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fails_to_load.py").write_text("raise OSError('of the module')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Jobserver("forkserver", 1, preload=["fails_to_load", "this"]) as js:
        assert js(loaded, "this").result()
    assert "of the module" in capfd.readouterr().err


def test_hooks_of_forks_that_the_users_modules_register_run_in_jobs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    (tmp_path / "registers_a_hook.py").write_text(
        "import os\n"
        "def tell():\n"
        f"    with open({str(told)!r}, 'a') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "os.register_at_fork(after_in_child=tell)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Jobserver("forkserver", 1, preload=["registers_a_hook"]) as js:
        job = js(pid).result()
    assert told.read_text().split() == [str(job)]


@pytest.mark.parametrize(
    "wrong, error",
    [
        ("json", TypeError),
        (3, TypeError),
        ([3], TypeError),
        (["no_such_module_anywhere"], ModuleNotFoundError),
        ([""], ModuleNotFoundError),
    ],
)
def test_a_useless_preload_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="preload"):
        Jobserver("forkserver", 1, preload=wrong)


def folder_and_argv() -> tuple[str, list[str]]:
    return os.getcwd(), list(sys.argv)


@pytest.mark.fresh
def test_a_job_sees_what_its_owner_has_changed_in_place(
    make_jobserver: Callable[..., Jobserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "before"])
    js = make_jobserver(1)
    assert js(folder_and_argv).result()[1] == ["program", "before"]
    sys.argv[1] = "after"
    assert js(folder_and_argv).result()[1] == ["program", "after"]


def test_what_the_helper_could_not_prepare_for_each_job_tries_again(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(1, max_tasks_per_child=1)
    home = Path(js._owner.open_pool().home)
    aside = home.with_name(home.name + "-aside")
    home.rename(aside)
    try:
        assert js(pid).exception() is not None
    finally:
        aside.rename(home)
    assert js(pid).result() != os.getpid()


def test_a_submission_within_another_that_starts_the_helper_is_not_mistaken_for_it(
    make_jobserver: Callable[..., Jobserver],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    js = make_jobserver(2)
    before = os.getcwd()
    pickling: Any = vars(introduction)["pickling"]
    introduced = pickling.dump_launch

    def interrupted(*objects: Any) -> Any:
        # As a signal handler may do just here.
        message = introduced(*objects)
        if isinstance(objects[0], introduction.Preparation):
            monkeypatch.undo()
            os.chdir(tmp_path)
            inside.append(js(folder_and_argv).result()[0])
            os.chdir(before)
        return message

    inside: list[str] = []
    monkeypatch.setattr(pickling, "dump_launch", interrupted)
    assert js(folder_and_argv).result()[0] == before
    assert inside == [str(tmp_path)]


@pytest.mark.parametrize(
    "customized, said",
    [
        (
            "import os\n"
            "os.register_at_fork(after_in_child=lambda: os.write(2, b'%d ' % os.getpid()))\n",
            "{job} ",
        ),
        # Nobody would ever release it.
        ("import os, threading\nos.register_at_fork(before=threading.Lock().acquire)\n", ""),
    ],
    ids=["in the child", "before"],
)
def test_hooks_of_forks_that_start_with_the_interpreter_run_in_jobs_only(
    make_jobserver: Callable[..., Jobserver],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    customized: str,
    said: str,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(customized)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    js = make_jobserver(1, max_tasks_per_child=1)
    job = js(pid).result(timeout=30)
    assert capfd.readouterr().err == said.format(job=job)


THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start(); "
HOOK = "import os; os.register_at_fork(after_in_child=print); "


@pytest.mark.parametrize(
    "first, expected", [("", True), (THREAD, False), (HOOK, False)], ids=["alone", "thread", "hook"]
)
def test_forks_are_rehearsed_where_nobody_would_notice(first: str, expected: bool) -> None:
    asked = "from jobserver._start import forkserver; print(forkserver._nobody_minds_forks())"
    command = [sys.executable, "-I", "-c", first + asked]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{expected}\n"


@pytest.fixture
def helper_of(js: Jobserver) -> Iterator[Callable[[], int]]:
    """The pid of the Jobserver's fork server, which must be running."""
    before = children()

    def find() -> int:
        (pid,) = children() - before
        return pid

    yield find


def kill(pid: int) -> None:
    """Kills a child and waits for its end, but leaves it to be reaped."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


with_a_helper = pytest.mark.parametrize("method", ["forkserver"])


def die_holding(conn: Connection, signum: int) -> None:
    """Waits to be told, then dies."""
    conn.send("running")
    conn.recv()
    signal.raise_signal(signum)


def submit_after(conn: Connection, js: Jobserver) -> int:
    js(os.getpid).result()
    conn.send("running")
    conn.recv()
    return js(os.getpid).result()


@with_a_helper
def test_a_killed_helper_is_replaced(js: Jobserver, helper_of: Callable[[], int]) -> None:
    helpers = set()
    for _ in range(3):
        assert js.submit(abs, args=(-1,), timeout=DEADLINE).result(DEADLINE) == 1
        helpers.add(helper_of())
        kill(helper_of())
    assert len(helpers) == 3


@with_a_helper
def test_a_helper_that_is_dying_costs_no_submission(
    js: Jobserver, helper_of: Callable[[], int]
) -> None:
    for n in range(10):
        assert js.submit(abs, args=(-n,), timeout=DEADLINE).result(DEADLINE) == n
        os.kill(helper_of(), signal.SIGKILL)  # and submits without waiting for its end


@with_a_helper
@pytest.mark.parametrize(
    "how, told", [("os._exit(3)", "code 3"), ("os.kill(os.getpid(), 9)", "KILL")]
)
def test_a_helper_that_ends_again_and_again_is_an_error_that_says_how(
    make_jobserver: Callable[..., Jobserver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    told: str,
) -> None:
    (tmp_path / "ends_the_helper.py").write_text(f"import os\n{how}\n")
    monkeypatch.syspath_prepend(tmp_path)
    js = make_jobserver(preload=["ends_the_helper"])
    for call in (js, lambda fn: js.submit(fn, timeout=0), lambda fn: js.map(fn, [()])):
        with pytest.raises(RuntimeError, match=f"no job was started: .*{told}") as raised:
            call(int)
        assert type(raised.value) is RuntimeError
    assert js._owner.open_pool().free() == 2


@with_a_helper
def test_a_job_outlives_its_helper(
    js: Jobserver, helper_of: Callable[[], int], pipes: Pipes
) -> None:
    ours, theirs = pipes()
    future = js(say_and_hold, theirs)
    assert told(ours) == "running"
    kill(helper_of())
    assert not future.done()
    ours.send("still here")
    assert future.result(DEADLINE) == "still here"


@with_a_helper
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_death_without_a_helper_is_told_as_unknown(
    js: Jobserver, helper_of: Callable[[], int], pipes: Pipes, signum: int
) -> None:
    ours, theirs = pipes()
    future = js(die_holding, theirs, signum)
    theirs.close()
    assert told(ours) == "running"
    kill(helper_of())
    ours.send("die")
    assert_unknown(death_of(future))
    assert js(abs, -1).result(DEADLINE) == 1


@with_a_helper
def test_a_job_whose_helper_is_gone_can_still_be_signalled(
    js: Jobserver, helper_of: Callable[[], int], pipes: Pipes
) -> None:
    ours, theirs = pipes()
    future = js(say_and_hold, theirs)
    assert told(ours) == "running"
    kill(helper_of())
    assert future.wait(DEADLINE, signal=signal.SIGKILL)
    assert_unknown(death_of(future))


@with_a_helper
def test_a_job_replaces_a_killed_helper_too(
    js: Jobserver, helper_of: Callable[[], int], pipes: Pipes
) -> None:
    ours, theirs = pipes()
    future = js(submit_after, theirs, js)
    assert told(ours) == "running"
    kill(helper_of())
    ours.send("submit")
    assert future.result(DEADLINE) > 0


@with_a_helper
def test_the_helper_is_deaf_to_ctrl_c(js: Jobserver, helper_of: Callable[[], int]) -> None:
    js(abs, -1).result(DEADLINE)
    helper = helper_of()
    os.kill(helper, signal.SIGINT)
    assert js(abs, -1).result(DEADLINE) == 1
    assert helper_of() == helper


@with_a_helper
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("killed", [False, True], ids=["first", "after a kill"])
def test_threads_that_submit_at_once_start_one_helper(
    make_jobserver: Callable[..., Jobserver],
    helper_of: Callable[[], int],
    killed: bool,
) -> None:
    js = make_jobserver(slots=4)
    if killed:
        js(abs, -1).result(DEADLINE)
        kill(helper_of())
    results: list[int] = []
    ready = threading.Barrier(16)

    def submit() -> None:
        ready.wait(DEADLINE)
        results.append(js.submit(abs, args=(-1,), timeout=DEADLINE).result(DEADLINE))

    threads = [threading.Thread(target=submit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [1] * 16
    helper_of()  # raises unless there is exactly one


def use_handle(js: Jobserver) -> int:
    return js.submit(int, args=(7,), consume=0).result()


@with_a_helper
def test_a_handle_can_be_an_argument_also_of_the_job_that_finds_the_helper_killed(
    js: Jobserver,
) -> None:
    assert js(use_handle, js).result() == 7
    starter: Any = js._owner.starter
    os.kill(starter._helper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, starter._helper.pid, os.WEXITED | os.WNOWAIT)
    assert js(use_handle, js).result() == 7


def test_one_helper_serves_the_whole_tree_and_is_gone_after_closing() -> None:
    before = children()
    js = Jobserver("forkserver", 3)
    helpers = js(parents, js, 3).result()
    assert helpers == children() - before
    assert len(helpers) == 1
    js.close()
    assert children() == before


def test_threads_that_submit_first_start_one_fork_server(hasty: None) -> None:
    before = children()
    for _ in range(10):
        with Jobserver("forkserver", 4) as js:
            together(*[lambda js=js: js(int, 0).result()] * 4)
        assert children() == before


def test_threads_that_find_the_fork_server_killed_all_get_their_jobs(hasty: None) -> None:
    before = children()
    for _ in range(10):
        with Jobserver("forkserver", 4) as js:
            js(int, 0).result()
            starter: Any = js._owner.starter
            os.kill(starter._helper.pid, signal.SIGKILL)
            results: list[int] = []
            together(*[lambda js=js, r=results: r.append(js(int, 7).result())] * 4)
            assert results == [7] * 4
        assert children() == before
