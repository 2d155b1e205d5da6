"""Slots shared with GNU Make: as its client in a recipe, and as its server in a job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator

import projects
import pytest
from conftest import DEADLINE
from spans import Recorded

from jobserver import Jobserver, StartMethod

TESTS = str(Path(__file__).parent)


def found() -> dict[str, str]:
    """The makes of this machine by version: the system's, and that of the package gnumake."""
    places = [shutil.which("make", path="/usr/bin:/bin:/usr/local/bin")]
    places.append(shutil.which("make", path=str(Path(sys.executable).parent)))
    makes = {}
    for make in filter(None, places):
        words = subprocess.run([make, "--version"], capture_output=True, text=True).stdout.split()
        makes[words[2]] = make
    return makes


MAKES = found()
#: From 4.4 on, make has two styles.
WAYS: list[tuple[str, list[str]]] = [(version, []) for version in MAKES] + [
    (version, ["--jobserver-style=pipe"]) for version in MAKES if version >= "4.4"
]


@pytest.fixture(autouse=True)
def not_below_another_make(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def put_first_on_path(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has programs find this make, and pools be named as it takes them."""
    (folder / "bin").mkdir()
    (folder / "bin" / "make").symlink_to(MAKES[version])
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)


@pytest.fixture(params=WAYS, ids=lambda way: " ".join([way[0], *way[1]]))
def make(request: pytest.FixtureRequest) -> list[str]:
    """A make with its style."""
    version, style = request.param
    return [MAKES[version], *style]


#: What every recipe of these tests begins with.
PRELUDE = f"""
import os, sys
sys.path.insert(0, {TESTS!r})
import spans
from jobserver import Jobserver
"""

RECIPE = (
    PRELUDE
    + """
def main(method):
    with Jobserver(method) as js:
        for future in [js(spans.record, os.environ["LOG"]) for _ in range(4)]:
            future.result()
"""
)


def run_make(
    tmp_path: Path, make: list[str], recipe: str, *argv: str, targets: str = "a b", plus: str = "+"
) -> str:
    """Runs a recipe's program for each target. What make and the recipes complained of."""
    program = f'{recipe}\nif __name__ == "__main__":\n    main(*sys.argv[1:])\n'
    (tmp_path / "recipe.py").write_text(program)
    makefile = f"all: {targets}\n.PHONY: all {targets}\n{targets}:\n\t{plus}@$(RECIPE)\n"
    (tmp_path / "Makefile").write_text(makefile)
    command = f"RECIPE={sys.executable} {tmp_path / 'recipe.py'} {' '.join(argv)}"
    done = subprocess.run(
        [*make, "-C", str(tmp_path), "--no-print-directory", command, "-j2"],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert done.stdout == ""
    return done.stderr


def test_recipes_share_the_slots_of_make_and_give_them_back(
    tmp_path: Path, log: Path, make: list[str], method: StartMethod
) -> None:
    # make itself complains at its end if a token is missing or there is one too many.
    assert run_make(tmp_path, make, RECIPE, method) == ""
    ran = Recorded.in_log(log)
    assert (ran.most <= 2, ran.count) == (True, 8)


NESTED = (
    PRELUDE
    + """
def tree(js, depth):
    if depth == 0:
        return spans.record(os.environ["LOG"])
    for future in [js(tree, js, depth - 1) for _ in range(2)]:
        future.result()

def main(waiting):
    with Jobserver("fork", waiting=waiting) as js:
        tree(js, 3)
"""
)


@pytest.mark.parametrize("waiting", ["hold", "yield"])
def test_nested_work_in_recipes_ends_and_keeps_to_the_slots_of_make(
    tmp_path: Path, log: Path, make: list[str], waiting: str
) -> None:
    assert run_make(tmp_path, make, NESTED, waiting) == ""
    ran = Recorded.in_log(log)
    assert (ran.most <= 2, ran.count) == (True, 16)


FAILING = (
    PRELUDE
    + """
def main():
    js = Jobserver("fork")
    js(spans.record, os.environ["LOG"])
    js(spans.record, os.environ["LOG"])
    raise SystemExit(3)
"""
)


def test_a_recipe_that_fails_gives_back_what_it_has(
    tmp_path: Path, log: Path, make: list[str]
) -> None:
    complaints = run_make(tmp_path, make, FAILING, targets="a")
    assert "Error 3" in complaints
    assert "token" not in complaints


ENDING = (
    PRELUDE
    + """
import signal, socket

def hold(begun):
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())  # pause() would miss a signal just before it
    begun.release()
    woken.recv(1)

def meet(barrier):
    barrier.wait(30)

def main(how):
    js = Jobserver("fork")
    if how == "meet":
        barrier = js.context.Barrier(2)
        for future in [js(meet, barrier), js(meet, barrier)]:
            future.result()
        open(os.environ["LOG"], "w").write("all slots are there")
        return
    os.setpgid(0, 0)
    begun = js.context.Semaphore(0)
    held = [js(hold, begun), js(hold, begun)]
    for _ in held:
        begun.acquire()
    whom, number = how.split("-")
    if whom == "all":
        os.killpg(0, int(number))
    elif whom == "root":
        os.kill(os.getpid(), int(number))
    else:
        os._exit(int(number))
    held[0].result()
"""
)


@pytest.mark.parametrize("how", ["all-9", "all-15", "all-2", "root-9", "root-15", "exit-3"])
def test_a_recipe_that_ends_while_its_jobs_run_leaves_make_all_its_slots(
    tmp_path: Path, log: Path, make: list[str], how: str
) -> None:
    then = ["||", sys.executable, str(tmp_path / "recipe.py"), "meet"]
    complaints = run_make(tmp_path, make, ENDING, how, *then, targets="a")
    assert log.read_text() == "all slots are there"
    assert "token" not in complaints


FLAGS = """
import fcntl, os, sys
from jobserver import Jobserver
from jobserver._native import join_pool

def main():
    pool, _, _ = join_pool([os.environ["MAKEFLAGS"]])
    auth = pool.auth
    fds = [] if auth.startswith("fifo:") else [int(fd) for fd in auth.split(",")]
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
    with Jobserver("fork") as js:
        js(int).result()
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds] == before
"""


def test_the_ends_of_makes_pipe_stay_as_they_are(tmp_path: Path, make: list[str]) -> None:
    assert run_make(tmp_path, make, FLAGS) == ""


ALONE = """
import sys
from jobserver import Jobserver

def main():
    with Jobserver("fork") as js:
        print(js(int, "7").result() + js(int, "7").result(), file=sys.stderr)
"""


def test_a_recipe_that_make_has_not_opened_its_pool_to_is_warned_and_works(
    tmp_path: Path, make: list[str]
) -> None:
    complaints = run_make(tmp_path, make, ALONE, targets="a", plus="")
    warned = "put `+` before the command" in complaints
    version = next(version for version, program in MAKES.items() if program == make[0])
    # A pipe is open to recipes with a `+` only, a fifo to all.
    assert warned == (version < "4.4" or "--jobserver-style=pipe" in make)
    assert complaints.count("RuntimeWarning") == warned
    assert complaints.splitlines()[-1] == "14"


def tell(directory: Path, **pipes: int) -> Iterator[tuple[str, str]]:
    yield "--jobserver-auth=3,4 --jobserver-auth=-2,-2", "make has a pool of slots but"
    yield "--jobserver-auth=sem:what", "unknown way"
    yield f"--jobserver-auth=fifo:{directory}/none", "not there"
    yield f"--jobserver-auth=fifo:{directory}", "not there"
    yield "--jobserver-auth=1000,1001", "are closed"
    yield f"--jobserver-fds={pipes['file']},{pipes['file']}", "something else"
    yield f"--jobserver-auth={pipes['write']},{pipes['read']}", "something else"


def test_a_pool_that_is_not_there_is_told_of_once_and_one_of_our_own_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (read, write), file = os.pipe(), os.open(__file__, os.O_RDONLY)
    try:
        for flags, complaint in tell(tmp_path, read=read, write=write, file=file):
            monkeypatch.setenv("MAKEFLAGS", f" -j9 {flags}")
            with pytest.warns(RuntimeWarning, match=complaint) as warned, Jobserver("fork") as js:
                assert js.slots != 9
                assert js(int, 7).result() == 7
            assert [warning.filename for warning in warned] == [__file__]
    finally:
        for fd in (read, write, file):
            os.close(fd)


def test_no_other_options_of_make_are_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "kn -j9 -- X=--jobserver-auth=3,4")
    with Jobserver("fork") as js:
        assert js.slots == os.cpu_count() or js.slots < 9


# Below a job of ours


def flags_of_this_and_a_program() -> list[tuple[str, str | None]]:
    names = ("MAKEFLAGS", "CARGO_MAKEFLAGS")
    program = "import os, sys; print(*(os.environ.get(n, '') for n in sys.argv[1:]), sep='\\n')"
    command = [sys.executable, "-c", program, *names]
    seen = subprocess.check_output(command, text=True).splitlines()
    return [(flags, os.environ.get(name)) for name, flags in zip(names, seen)]


# Not under forkserver, where jobs have the environment of the helper.
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_makeflags_say_at_each_submission_is_what_a_job_has_beside_the_pool(
    make_jobserver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own environment and in that of its programs, though it is prepared ahead."""
    js = make_jobserver(slots=1, style="fifo")
    named = f"--jobserver-auth={js._owner.open_pool().auth}"
    for own in ("k", "n", None, "k"):
        if own is None:
            monkeypatch.delenv("MAKEFLAGS")
            monkeypatch.setenv("CARGO_MAKEFLAGS", "-j7")
        else:
            monkeypatch.setenv("MAKEFLAGS", own)
        (flags, same), (cargos, cargos_same) = js(flags_of_this_and_a_program).result()
        assert flags == same
        assert flags.split(" ")[0] == (own or "")
        assert flags.endswith(named)
        assert cargos == (cargos_same or "")
        assert cargos.endswith(named) == ("CARGO_MAKEFLAGS" in os.environ)


#: In a job, what it has until its end.
kept: list[Jobserver] = []


def make_one_and_keep_it(use: bool) -> str:
    kept.append(Jobserver(slots=2))
    owner: Any = kept[-1]._owner
    if use:
        return kept[-1](str, owner.open_pool().home).result()
    return str(owner._pool.home)  # `open_pool` would use it


@pytest.mark.parametrize("tasks", [1, 3, None])
@pytest.mark.parametrize("use", [False, True], ids=["unused", "used"])
def test_the_home_of_a_pool_that_a_job_has_made_goes_with_its_process(
    make_jobserver: Any, use: bool, tasks: int | None
) -> None:
    js = make_jobserver(slots=1, max_tasks_per_child=tasks)
    home = js(make_one_and_keep_it, use).result()
    js(os.getpid).result()
    js.close()
    assert not os.path.exists(home)


def join() -> tuple[int, str]:
    js = Jobserver()
    return js.slots, js(os.getcwd).result()


def test_a_library_deep_in_a_job_joins_the_pool_without_a_handle(
    method: StartMethod, make_jobserver: Any
) -> None:
    js = make_jobserver(slots=1)
    assert js(join).result() == (1, os.getcwd())
    assert js._owner.open_pool().free() == 1


def join_in_a_fork() -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = Jobserver("fork").submit(int, args=(7,), timeout=DEADLINE).result()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_of_a_job_can_join_the_pool_like_a_program_below_it(
    make_jobserver: Any,
) -> None:
    assert make_jobserver(slots=1)(join_in_a_fork).result() == 7


def join_in_threads() -> int:
    """How many implicit slots threads have that all join make's pool at once."""
    barrier, homes = threading.Barrier(8), []

    def join() -> None:
        barrier.wait()
        homes.append(Jobserver("fork")._owner.open_pool().home)

    threads = [threading.Thread(target=join) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(set(homes))


def test_threads_that_join_at_once_have_one_implicit_slot(js: Jobserver) -> None:
    def in_a_fork() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(join_in_threads())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    if js.context.get_start_method() == "fork":
        assert [js(in_a_fork).result() for _ in range(5)] == [1] * 5


def test_a_pool_of_its_own_is_made_when_a_job_asks_for_so_many_slots(js: Jobserver) -> None:
    def own() -> int:
        with Jobserver("fork", slots=5) as other:
            return other.slots

    if js.context.get_start_method() == "fork":
        assert js(own).result() == 5


def run_program(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=DEADLINE
    )
    return done.stdout + done.stderr


BELOW = """
from jobserver import Jobserver
with Jobserver("fork") as js:
    print(js.slots, [js(int, n).result() for n in range(3)])
"""


def test_a_program_below_a_job_shares_the_slots_and_uses_the_jobs_own_first(
    make_jobserver: Any,
) -> None:
    js = make_jobserver(slots=1)
    assert js(run_program, BELOW).result() == "1 [0, 1, 2]\n"
    assert js._owner.open_pool().free() == 1


def make_all_with(js: Jobserver, make: str, directory: str) -> str:
    """Runs make, without a number of jobs of its own, so that it inherits the pool's ends: what it
    complained of."""
    return subprocess.run(
        [make, "-C", directory, "-s"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        pass_fds=js.pass_fds,
    ).stderr


@pytest.mark.parametrize("version", MAKES)
def test_any_make_shares_the_slots_of_a_pool_in_pipe_style(
    tmp_path: Path, log: Path, version: str, method: StartMethod
) -> None:
    projects.for_make(tmp_path, 6)
    with Jobserver(method, 3, style="pipe") as js:
        makes = [js(make_all_with, js, MAKES[version], str(tmp_path)) for _ in range(2)]
        assert [future.result() for future in makes] == ["", ""]
        ran = Recorded.in_log(log)
        assert (ran.most <= 3, ran.count) == (True, 12)
        assert js(run_program_with, js, BELOW).result() == "3 [0, 1, 2]\n"
        assert js._owner.open_pool().free() == 3


def run_program_with(js: Jobserver, text: str) -> str:
    command = [sys.executable, "-c", text]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, pass_fds=js.pass_fds
    )
    return done.stdout + done.stderr


def make_by(how: str, directory: str) -> tuple[int, str]:
    """Runs make, as programs do that know nothing of slots: its exit code, and its complaints."""
    if how == "system":  # which lets all descriptors be inherited
        complaints = Path(directory, "complaints")
        code = os.system(f"make -s -C {directory} 2>{complaints}")
        return os.WEXITSTATUS(code), complaints.read_text()
    done = subprocess.run(["make", "-s", "-C", directory], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("how", ["system", "subprocess"])
@pytest.mark.parametrize("version", MAKES)
def test_no_make_dies_of_the_pool_that_a_job_names_to_it(
    tmp_path: Path,
    log: Path,
    version: str,
    how: str,
    make_jobserver: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_first_on_path(version, tmp_path, monkeypatch)
    projects.for_make(tmp_path, 6)
    js = make_jobserver(slots=3)
    made = [js(make_by, how, str(tmp_path)) for _ in range(2)]
    alone = how == "subprocess" and version < "4.4"  # which inherits nothing, and knows no fifo
    for code, complaints in (future.result() for future in made):
        assert code == 0
        assert ("using -j1" in complaints) == alone
        assert complaints.count("\n") == alone
    ran = Recorded.in_log(log)
    assert (ran.most <= 3, ran.count) == (True, 12)
    assert js._owner.open_pool().free() == 3


def test_a_script_around_make_may_be_of_any_make(
    tmp_path: Path, log: Path, make_jobserver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "make").write_text(f'#!/bin/sh\nexec {list(MAKES.values())[0]} "$@"\n')
    (tmp_path / "make").chmod(0o755)
    (tmp_path / "project").mkdir()
    projects.for_make(tmp_path / "project", 6)
    js = make_jobserver(slots=3)
    assert js(make_by, "system", str(tmp_path / "project")).result() == (0, "")
    assert Recorded.in_log(log).most <= 3


def test_a_make_that_was_told_to_run_one_job_has_one_slot_for_its_programs(
    tmp_path: Path, make: list[str]
) -> None:
    slots = PRELUDE + "print(Jobserver().slots, Jobserver(slots=2).slots)\n"
    (tmp_path / "program.py").write_text(slots)
    (tmp_path / "Makefile").write_text(f"a:\n\t@{sys.executable} program.py\n")
    command = [make[0], "-s", "-j1", "-C", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == ("1 2\n", "")


def flags_of_ends(js: Jobserver, change: bool) -> list[bool]:
    """Whether each end would not wait, in this job, which perhaps changes that."""
    ends = [os.get_blocking(end) for end in js.pass_fds]
    if change:
        for end in js.pass_fds:
            os.set_blocking(end, not os.get_blocking(end))
    return [not blocking for blocking in ends]


@pytest.mark.parametrize("tasks", [1, None])
def test_each_job_has_the_ends_as_make_has_them_and_for_itself(
    make_jobserver: Any, tasks: int | None
) -> None:
    js = make_jobserver(slots=2, style="pipe", max_tasks_per_child=tasks)
    with Jobserver(js.context, 1, style="pipe") as other:  # in a process of its own
        assert js(flags_of_ends, js, change=True).result() == [True, False]
        assert other(flags_of_ends, other, change=False).result() == [True, False]
    if tasks == 1:
        assert js(flags_of_ends, js, change=False).result() == [True, False]
