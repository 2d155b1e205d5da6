"""`env` and `preexec_fn`: what surrounds a job's function, and in which order.

The environment comes first, then the import of what the job is to run, then `preexec_fn`, then the
function, within what `preexec_fn` returned. Not here: which values are refused (test_arguments).
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from jobserver import Jobserver, SubmissionDied

NAME = "JOBSERVER_TEST"

#: What happened in a job, in order. In the owner it stays empty.
events: list[object] = []


@pytest.fixture(autouse=True)
def nothing_happens_in_the_owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(NAME, raising=False)
    yield
    assert events == []


def getenv() -> str | None:
    return os.environ.get(NAME)


def getenv_of_a_program() -> str:
    program = f"import os; print(ascii(os.environ.get({NAME!r})))"
    return subprocess.check_output([sys.executable, "-c", program], text=True).strip()


def happen(event: object) -> list[object]:
    """Everything that happens in this job, up to the sending of this result."""
    events.append(event)
    return events


def happen_with_environment() -> object:
    return happen(os.environ.get(NAME))


def happen_with_pid() -> None:
    happen(os.getpid())


def return_it(value: Any) -> Any:
    return value


def fail(message: str) -> Any:
    happen(message)
    raise LookupError(message)


def import_and_get(name: str) -> object:
    return importlib.import_module(name).SEEN


class Wrapper:
    """A context manager that says what happens to it, and fails where it is told to."""

    def __init__(self, fails: str = "", tell: Path | None = None) -> None:
        self.fails = fails
        self.tell = tell

    def __enter__(self) -> None:
        happen("enter")
        if self.fails == "enter":
            raise BlockingIOError("enter")

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        happen("exit")
        if self.tell and kind:
            self.tell.write_text(kind.__name__)
        if self.fails == "exit":
            raise BlockingIOError("exit")


class OnlyEnter:
    def __enter__(self) -> None:
        happen("enter")


class OnlyExit:
    def __exit__(self, *_: object) -> None:
        happen("exit")


@contextmanager
def variable_set() -> Iterator[None]:
    os.environ[NAME] = "within"
    yield
    del os.environ[NAME]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that remembers what it saw when it was imported."""
    name = "imported_by_jobs"
    (tmp_path / f"{name}.py").write_text(
        f"import os\n"
        f"SEEN = os.environ.get({NAME!r})\n"
        f"def seen(*_): return SEEN\n"
        f"def append_seen(): import test_environment; test_environment.happen(SEEN)\n"
        f"class Seen:\n"
        f"    def __init__(self): self.seen = 'by the owner'\n"
        f"    def __setstate__(self, state): self.seen = SEEN\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def imported(module: str) -> ModuleType:
    """That module, imported by the owner."""
    return importlib.import_module(module)


# env


@pytest.mark.parametrize(
    "env",
    [
        {NAME: "value"},
        [(NAME, "value")],
        ((NAME, "value"),),
        [[NAME, "value"]],
        [(NAME, "earlier"), (NAME, "value")],
        [(NAME, None), (NAME, "value")],
    ],
)
def test_env_is_a_mapping_or_pairs_in_order(js: Jobserver, env: Any) -> None:
    assert js.submit(getenv, env=env).result() == "value"


def test_env_may_be_an_iterator(js: Jobserver) -> None:
    env: Iterable[tuple[str, str]] = ((NAME, value) for value in ("earlier", "value"))
    assert js.submit(getenv, env=env).result() == "value"


@pytest.mark.parametrize("value", ["", " ", "a=b", "Grüße", "\udcff", "two\nlines"])
def test_any_text_can_be_a_value(js: Jobserver, value: str) -> None:
    assert js.submit(getenv, env={NAME: value}).result() == value


def test_none_unsets(
    make_jobserver: Callable[..., Jobserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "inherited")
    js = make_jobserver()
    assert js.submit(getenv).result() == "inherited"
    assert js.submit(getenv, env={NAME: None}).result() is None
    assert js.submit(getenv, env=[(NAME, "value"), (NAME, None)]).result() is None


def test_unsetting_what_is_not_set_is_harmless(js: Jobserver) -> None:
    assert js.submit(getenv, env={NAME: None}).result() is None


def test_programs_run_by_a_job_see_its_environment(js: Jobserver) -> None:
    assert js.submit(getenv_of_a_program, env={NAME: "value"}).result() == "'value'"


def test_each_job_has_an_environment_of_its_own(js: Jobserver) -> None:
    first = js.submit(getenv, env={NAME: "first"})
    second = js.submit(getenv, env={NAME: "second"})
    third = js.submit(getenv)
    assert [first.result(), second.result(), third.result()] == ["first", "second", None]


def test_the_environment_of_the_owner_stays_as_it_is(js: Jobserver) -> None:
    before = dict(os.environ)
    running = js.submit(happen, args=("fn",), env={NAME: "value", "PATH": None})
    assert os.environ == before
    running.result()
    js.submit(fail, args=("in fn",), env={NAME: "value", "PATH": ""}).exception()
    assert os.environ == before
    assert getenv_of_a_program() == "None"


def test_an_import_within_a_job_sees_its_environment(js: Jobserver, module: str) -> None:
    assert js.submit(import_and_get, args=(module,), env={NAME: "value"}).result() == "value"


# Under fork the owner's import is the job's, since the job has the owner's memory.
no_fork = pytest.mark.parametrize("method", ["forkserver", "spawn"])


@no_fork
def test_env_is_applied_before_the_functions_module_is_imported(
    js: Jobserver, imported: ModuleType
) -> None:
    assert js.submit(imported.seen, env={NAME: "value"}).result() == "value"


@no_fork
def test_env_is_applied_before_the_arguments_are_loaded(
    js: Jobserver, imported: ModuleType
) -> None:
    argument = imported.Seen()
    future = js.submit(getattr, args=(argument, "seen"), env={NAME: "value"})
    assert (argument.seen, future.result()) == ("by the owner", "value")


@no_fork
def test_env_is_applied_before_the_module_of_preexec_fn_is_imported(
    js: Jobserver, imported: ModuleType
) -> None:
    future = js.submit(happen, args=("fn",), env={NAME: "value"}, preexec_fn=imported.append_seen)
    assert future.result() == ["value", "fn"]


# preexec_fn


def test_preexec_fn_runs_after_env_and_before_the_function(js: Jobserver) -> None:
    future = js.submit(
        happen, args=("fn",), env={NAME: "value"}, preexec_fn=happen_with_environment
    )
    assert future.result() == ["value", "fn"]


def test_preexec_fn_runs_in_the_process_of_the_job(js: Jobserver) -> None:
    future = js.submit(happen, args=("fn",), preexec_fn=happen_with_pid)
    assert future.result() == [future.pid, "fn"]
    assert future.pid != os.getpid()


def test_what_preexec_fn_raises_is_raised_instead_of_calling_the_function(
    js: Jobserver, tmp_path: Path
) -> None:
    future = js.submit((tmp_path / "called").touch, preexec_fn=partial(fail, "in preexec_fn"))
    with pytest.raises(LookupError, match="in preexec_fn"):
        future.result()
    assert not (tmp_path / "called").exists()


def test_an_exit_in_preexec_fn_is_the_jobs_death(js: Jobserver) -> None:
    future = js.submit(happen, args=("fn",), preexec_fn=partial(sys.exit, 7))
    with pytest.raises(SubmissionDied) as raised:
        future.result()
    assert raised.value.exitcode == 7


def test_the_function_runs_within_the_context_manager_of_preexec_fn(js: Jobserver) -> None:
    future = js.submit(happen, args=("fn",), preexec_fn=Wrapper)
    assert future.result() == ["enter", "fn", "exit"]


def test_a_generator_can_be_the_context_manager(js: Jobserver) -> None:
    assert js.submit(getenv, preexec_fn=variable_set).result() == "within"


def test_the_context_manager_is_told_of_the_functions_exception(
    js: Jobserver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    future = js.submit(fail, args=("in fn",), preexec_fn=partial(Wrapper, tell=told))
    with pytest.raises(LookupError, match="in fn"):
        future.result()
    assert told.read_text() == "LookupError"


def test_an_exception_that_the_context_manager_suppresses_leaves_none(js: Jobserver) -> None:
    future = js.submit(fail, args=("in fn",), preexec_fn=partial(suppress, LookupError))
    assert future.result() is None
    assert future.exception() is None


def test_an_exception_that_the_context_manager_does_not_suppress_is_raised(js: Jobserver) -> None:
    future = js.submit(fail, args=("in fn",), preexec_fn=partial(suppress, OSError))
    with pytest.raises(LookupError, match="in fn"):
        future.result()


def test_what_the_context_manager_raises_at_its_end_is_raised(js: Jobserver) -> None:
    future = js.submit(happen, args=("fn",), preexec_fn=partial(Wrapper, "exit"))
    with pytest.raises(BlockingIOError, match="exit"):
        future.result()


def test_what_the_context_manager_raises_at_its_start_is_raised(
    js: Jobserver, tmp_path: Path
) -> None:
    future = js.submit((tmp_path / "called").touch, preexec_fn=partial(Wrapper, "enter"))
    with pytest.raises(BlockingIOError, match="enter"):
        future.result()
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        0,
        "text",
        Wrapper,  # not an instance of it
        OnlyEnter(),
        OnlyExit(),
        SimpleNamespace(__enter__=print, __exit__=print),  # Python asks the type, as `with` does
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_no_context_manager_is_ignored(js: Jobserver, value: object) -> None:
    future = js.submit(happen, args=("fn",), preexec_fn=partial(return_it, value))
    assert future.result() == ["fn"]
