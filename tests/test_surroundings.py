"""What a job of a job has of its owner under spawn: what the owner's interpreter has, whoever
starts it; and no other owner's job has it."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE

from jobserver import Jobserver

NAME = "SURROUNDINGS_TEST"


def variable() -> str | None:
    return os.environ.get(NAME)


def set_variable(folder: str) -> None:
    os.environ[NAME] = "set"


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def set_limit(folder: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


def where() -> str:
    return os.getcwd()


def move(folder: str) -> None:
    os.chdir(folder)


def output() -> str:
    return os.readlink("/proc/self/fd/1")


def redirect(folder: str) -> None:
    fd = os.open(os.path.join(folder, "output"), os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, 1)
    os.close(fd)


def priority() -> int:
    return os.nice(0)


def lower(folder: str) -> None:
    os.nice(1)


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def set_umask(folder: str) -> None:
    os.umask(0o027)


def privileges() -> str:
    status = Path("/proc/self/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("NoNewPrivs"))


def give_up_privileges(folder: str) -> None:
    no_new_privileges = 38  # PR_SET_NO_NEW_PRIVS
    assert ctypes.CDLL(None).prctl(no_new_privileges, 1, 0, 0, 0) == 0


def lead_a_group(folder: str) -> None:
    os.setpgid(0, 0)


CHANGES: dict[str, tuple[Callable[[str], None], Callable[[], Any]]] = {
    "environment": (set_variable, variable),
    "limits": (set_limit, limit),
    "folder": (move, where),
    "output": (redirect, output),
    "priority": (lower, priority),
    "umask": (set_umask, umask),
    "privileges": (give_up_privileges, privileges),
    "process group": (lead_a_group, os.getpgrp),
}


def changed(js: Jobserver, folder: str, what: str) -> tuple[Any, Any, Any]:
    """In a job: what its own jobs see, before and after it has changed that, and it itself."""
    change, look = CHANGES[what]
    before = js.submit(look).result(DEADLINE)
    change(folder)
    # A process that is idle already has what its owner had when it was hired.
    js._owner.here().dismiss_idle()
    return before, js.submit(look).result(DEADLINE), look()


def seen(js: Jobserver, what: str) -> tuple[int, Any]:
    return os.getpid(), js.submit(CHANGES[what][1]).result(DEADLINE)


@pytest.mark.parametrize("tasks", [1, None])
@pytest.mark.parametrize("what", CHANGES)
def test_a_job_of_a_job_has_what_its_owner_has_and_no_others(
    what: str, tasks: int | None, tmp_path: Path
) -> None:
    with Jobserver("spawn", 1, max_tasks_per_child=tasks) as js:
        job = js.submit(changed, args=(js, str(tmp_path), what))
        before, below, after = job.result(DEADLINE)
        assert below == after != before
        for _ in range(3):  # the process that has changed may have one of these jobs
            process, other = js.submit(seen, args=(js, what)).result(DEADLINE)
            assert other == (after if process == job.pid else before)


def below_of_below(js: Jobserver, depth: int) -> list[tuple[int, str | None]]:
    more = js.submit(below_of_below, args=(js, depth - 1)).result(DEADLINE) if depth else []
    return [(os.getpid(), variable()), *more]


def test_the_environment_of_a_job_is_that_of_all_jobs_below_it() -> None:
    with Jobserver("spawn", 1, max_tasks_per_child=None) as js:
        plain = js.submit(below_of_below, args=(js, 2)).result(DEADLINE)
        below = js.submit(below_of_below, args=(js, 3), env={NAME: "1"}).result(DEADLINE)
        again = js.submit(below_of_below, args=(js, 2)).result(DEADLINE)
    assert [value for _, value in below] == ["1"] * 4
    assert [value for _, value in plain + again] == [None] * 6
    # All but the process of the job that had processes of its own can be used again.
    assert {process for process, _ in plain} - {below[0][0]} < {process for process, _ in again}


def test_a_program_that_changes_its_environment_later_has_jobs_that_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Jobserver("spawn", 1, max_tasks_per_child=None) as js:
        assert js.submit(below_of_below, args=(js, 1)).result(DEADLINE)[1][1] is None
        monkeypatch.setenv(NAME, "2")
        js._owner.here().dismiss_idle()
        below = js.submit(below_of_below, args=(js, 2)).result(DEADLINE)
        assert [value for _, value in below] == ["2"] * 3
