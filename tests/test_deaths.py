"""Deaths: a job whose process ends without a result takes down its own Future, exactly.

Not here: exceptions, which are results of a kind (test_results), and the deaths of owners
(test_orphans) and of the fork server's helper (test_forkserver).
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, NoReturn, Tuple

import pytest
from conftest import DEADLINE, children, descriptors, settle

from jobserver import Future, Jobserver, SubmissionDied

#: Kept to the end of a job's process, so that its owner can see that end.
kept: list[object] = []


def say_and_hold(conn: Connection) -> Any:
    """Says that it runs, and goes on until it is told something, which it returns."""
    conn.send("running")
    return conn.recv()


def touch_null() -> None:
    import ctypes

    ctypes.string_at(0)


def write_then_die(path: str) -> NoReturn:
    with open(path, "w") as file:
        file.write("flushed")
        file.flush()
        file.write("lost")
        os._exit(5)


def exit_with_subclass() -> NoReturn:
    class Exit(SystemExit):
        pass

    raise Exit(6)


def become_another_program(code: int) -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-c", f"raise SystemExit({code})"])


def die_before_child(conn: Connection) -> None:
    """Leaves a child behind that has everything of the job's open."""
    if os.fork() == 0:
        conn.recv()
        os._exit(0)
    signal.raise_signal(signal.SIGKILL)


def result_then_death(reader: Connection, writer: Connection) -> str:
    """Returns at once, but the process lives on until it is told to die."""

    def die_when_told() -> None:
        reader.recv()
        writer.send("alive until now")
        os.kill(os.getpid(), signal.SIGKILL)

    kept.append(writer)
    threading.Thread(target=die_when_told).start()
    return "result"


def count_usr1(conn: Connection) -> int:
    """Counts SIGUSR1 until it is told to stop."""
    counted: list[int] = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: counted.append(signum))
    conn.send("running")
    conn.recv()
    return len(counted)


class Dies:
    """Kills whichever process pickles it."""

    def __reduce__(self) -> NoReturn:
        signal.raise_signal(signal.SIGKILL)
        raise AssertionError("unreachable")


class ExitsWhenLoaded:
    """Ends whichever process unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (8,)


def make(kind: type) -> Any:
    return kind()


def result_of_dying(js: Jobserver) -> Any:
    return js.submit(signal.raise_signal, args=(signal.SIGTERM,)).result()


def told(conn: Connection) -> Any:
    """What the other side says, in time; an EOFError if it is gone."""
    assert conn.poll(DEADLINE), "nothing was said"
    return conn.recv()


def death_of(future: Future[Any]) -> SubmissionDied:
    """The job's death; the test fails if it did not die."""
    with pytest.raises(SubmissionDied) as caught:
        future.result(DEADLINE)
    assert future.exception() is caught.value
    assert caught.value.pid == future.pid
    return caught.value


def facts(death: SubmissionDied) -> tuple[int | None, int | None, str]:
    prefix = f"job {death.pid} "
    assert str(death).startswith(prefix)
    told = re.sub(r"^of \S+ ", "", str(death)[len(prefix) :])
    return death.exitcode, death.signal, told.partition("; if no process has killed it")[0]


Pipes = Callable[[], Tuple[Connection, Connection]]

DEATHS: list[tuple[Callable[..., Any], tuple[Any, ...], int | None, int | None, str]] = [
    (signal.raise_signal, (signal.SIGKILL,), None, signal.SIGKILL, "was killed by SIGKILL"),
    (signal.raise_signal, (signal.SIGSEGV,), None, signal.SIGSEGV, "was killed by SIGSEGV"),
    (signal.raise_signal, (signal.SIGTERM,), None, signal.SIGTERM, "was killed by SIGTERM"),
    (signal.raise_signal, (40,), None, 40, "was killed by signal 40"),
    (os.abort, (), None, signal.SIGABRT, "was killed by SIGABRT"),
    (touch_null, (), None, signal.SIGSEGV, "was killed by SIGSEGV"),
    (os._exit, (3,), 3, None, "exited with code 3"),
    (os._exit, (0,), 0, None, "exited with code 0"),
    (sys.exit, (7,), 7, None, "exited with code 7"),
    (sys.exit, (-1,), 255, None, "exited with code 255"),
    (sys.exit, (), 0, None, "exited with code 0"),
    (sys.exit, ("a message",), 1, None, "exited with code 1"),
    (exit_with_subclass, (), 6, None, "exited with code 6"),
    (become_another_program, (9,), 9, None, "exited with code 9"),
    (become_another_program, (0,), 0, None, "exited with code 0"),
]


def name_of_death(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("fn, args, exitcode, signum, text", DEATHS, ids=name_of_death)
def test_a_death_is_reported_exactly(
    js: Jobserver,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    exitcode: int | None,
    signum: int | None,
    text: str,
) -> None:
    # pytest's fault handler would print a traceback for each fault.
    future = js.submit(fn, args=args, preexec_fn=faulthandler.disable)
    assert facts(death_of(future)) == (exitcode, signum, text)
    assert future.done()


def test_the_message_of_an_exit_is_printed(
    js: Jobserver, capfd: pytest.CaptureFixture[str]
) -> None:
    death_of(js(sys.exit, "why it exits"))
    assert "why it exits\n" in capfd.readouterr().err


def dump_core() -> None:
    import resource

    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    faulthandler.disable()


def test_a_death_that_dumps_core_is_the_same_death(
    js: Jobserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    future = js.submit(os.abort, preexec_fn=dump_core)
    assert facts(death_of(future)) == (None, signal.SIGABRT, "was killed by SIGABRT")


def test_a_death_takes_down_its_own_future_only(
    make_jobserver: Callable[..., Jobserver], pipes: Pipes
) -> None:
    js = make_jobserver(slots=3)
    (ours1, theirs1), (ours2, theirs2) = pipes(), pipes()
    before = js(say_and_hold, theirs1)
    victim = js(signal.raise_signal, signal.SIGKILL)
    after = js(say_and_hold, theirs2)
    assert facts(death_of(victim)) == (None, signal.SIGKILL, "was killed by SIGKILL")
    assert told(ours1) == told(ours2) == "running"
    assert not before.done() and not after.done()
    ours1.send("first")
    ours2.send("second")
    assert before.result(DEADLINE) == "first"
    assert after.result(DEADLINE) == "second"


def test_deaths_among_results_are_not_confused(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=4)
    results = [(js(abs, -n), js(os._exit, n)) for n in range(6)]
    for n, (lives, dies) in enumerate(results):
        assert lives.result(DEADLINE) == n
        assert death_of(dies).exitcode == n


def test_a_death_gives_its_slot_back(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=1)
    for signum in (signal.SIGKILL, signal.SIGTERM):
        future = js.submit(signal.raise_signal, args=(signum,), timeout=DEADLINE)
        assert death_of(future).signal == signum
    assert js.submit(abs, args=(-1,), timeout=DEADLINE).result(DEADLINE) == 1


def test_a_death_has_no_job_traceback(js: Jobserver) -> None:
    assert death_of(js(os._exit, 1)).__cause__ is None


def test_output_before_a_death_is_kept(js: Jobserver, tmp_path: Path) -> None:
    path = tmp_path / "output"
    assert death_of(js(write_then_die, str(path))).exitcode == 5
    assert path.read_text() == "flushed"


def test_a_death_while_the_result_is_pickled_is_a_death(js: Jobserver) -> None:
    assert death_of(js(make, Dies)).signal == signal.SIGKILL


@pytest.mark.parametrize("method", ["forkserver", "spawn"])  # fork unpickles nothing
def test_an_exit_while_the_work_is_unpickled_is_an_error_of_that(js: Jobserver) -> None:
    with pytest.raises(pickle.UnpicklingError, match="SystemExit: 8"):
        js(print, ExitsWhenLoaded()).result()


def test_an_exit_code_that_is_too_large_is_what_the_interpreter_makes_of_it(js: Jobserver) -> None:
    assert death_of(js(sys.exit, 10**30)).exitcode == 255


def look_for_licence(words: Any) -> NoReturn:
    sys.exit(words)


@pytest.mark.parametrize("words", ["no licence", 3, "no " * 100_000], ids=["few", "code", "many"])
def test_the_cause_of_an_exits_death_says_where_and_with_which_words(js: Any, words: Any) -> None:
    for death in [
        death_of(js(look_for_licence, words)),
        [*caught(js.map(look_for_licence, [(words,)]))][0],
    ]:
        cause = str(death.__cause__)
        assert "in look_for_licence" in cause
        assert f"SystemExit: {words}"[:300] in cause
        assert "_job.py" not in cause


def caught(results: Iterator[Any]) -> Iterator[Any]:
    """What each `next` returns or raises."""
    while True:
        try:
            yield next(results)
        except StopIteration:
            return
        except SubmissionDied as death:
            yield death


def exit_in_a_child() -> None:
    pid = os.fork()
    if pid == 0:
        sys.exit("words of a child")
    os.waitpid(pid, 0)


def test_what_a_jobs_child_says_is_no_cause_of_a_death(method: Any) -> None:
    with Jobserver(method, 1, max_tasks_per_child=None) as one:
        assert one(exit_in_a_child).exception() is None
        assert death_of(one(os._exit, 5)).__cause__ is None


def close_stderr_and_exit() -> NoReturn:
    sys.stderr.close()
    sys.exit("no licence")


def test_the_cause_is_told_though_stderr_takes_nothing(js: Jobserver) -> None:
    death = death_of(js(close_stderr_and_exit))
    assert death.exitcode == 1
    assert "SystemExit: no licence" in str(death.__cause__)


def exit_without_stderr(output: int) -> NoReturn:
    os.dup2(output, 1)
    vars(sys)["stderr"] = None  # as a program without a console has it
    sys.exit("nowhere to tell this")


@pytest.mark.parametrize("method", ["fork"])  # others do not inherit the descriptor
def test_the_words_of_an_exit_do_not_go_to_stdout(js: Jobserver, tmp_path: Path) -> None:
    with open(tmp_path / "output", "w") as output:
        assert death_of(js(exit_without_stderr, output.fileno())).exitcode == 1
    assert (tmp_path / "output").read_text() == ""


def exit_with_4() -> NoReturn:
    sys.exit(4)


def test_an_exit_in_preexec_fn_is_a_death(js: Jobserver) -> None:
    assert death_of(js.submit(abs, args=(-1,), preexec_fn=exit_with_4)).exitcode == 4


def test_a_death_is_told_though_a_child_of_the_job_lives_on(js: Jobserver, pipes: Pipes) -> None:
    ours, theirs = pipes()
    future = js(die_before_child, theirs)
    assert death_of(future).signal == signal.SIGKILL
    ours.send("end")


def test_a_death_after_the_result_changes_nothing(js: Jobserver, pipes: Pipes) -> None:
    ours, theirs = pipes()
    reader, writer = pipes()
    future = js(result_then_death, theirs, writer)
    writer.close()
    assert future.result(DEADLINE) == "result"
    ours.send("die")
    assert told(reader) == "alive until now"
    js.close()
    assert future.result() == "result"


def test_the_death_of_a_nested_job_travels_up_whole(js: Jobserver) -> None:
    future = js(result_of_dying, js)
    with pytest.raises(SubmissionDied) as caught:
        future.result(DEADLINE)
    death = caught.value
    assert facts(death) == (None, signal.SIGTERM, "was killed by SIGTERM")
    assert death.pid != future.pid
    assert "in result_of_dying" in str(death.__cause__)


def test_wait_sends_a_signal_first(js: Jobserver, pipes: Pipes) -> None:
    ours, theirs = pipes()
    future = js(say_and_hold, theirs)
    assert told(ours) == "running"
    assert future.wait(DEADLINE, signal=signal.SIGTERM)
    assert facts(death_of(future)) == (None, signal.SIGTERM, "was killed by SIGTERM")


def test_wait_can_kill_a_job_at_its_birth(js: Jobserver, pipes: Pipes) -> None:
    for _ in range(3):
        future = js(say_and_hold, pipes()[1])
        assert future.wait(DEADLINE, signal=signal.SIGKILL)
        assert death_of(future).signal == signal.SIGKILL


def test_a_signal_that_the_job_handles_does_not_end_it(js: Jobserver, pipes: Pipes) -> None:
    ours, theirs = pipes()
    future = js(count_usr1, theirs)
    assert told(ours) == "running"
    assert not future.wait(0, signal=signal.SIGUSR1)
    ours.send("stop")
    assert future.result(DEADLINE) == 1


def test_no_signal_is_sent_once_the_result_is_there(js: Jobserver, pipes: Pipes) -> None:
    ours, theirs = pipes()
    reader, writer = pipes()
    future = js(result_then_death, theirs, writer)
    writer.close()
    assert future.result(DEADLINE) == "result"
    assert future.wait(DEADLINE, signal=signal.SIGKILL)
    ours.send("die")
    assert told(reader) == "alive until now"


@pytest.mark.parametrize(
    "signum, error",
    [(0, ValueError), (-9, ValueError), (10_000, ValueError)]
    + [(True, TypeError), (9.0, TypeError), ("SIGKILL", TypeError)],
)
def test_what_is_no_signal_is_refused_and_sent_to_nobody(
    js: Jobserver, pipes: Pipes, signum: Any, error: type[Exception]
) -> None:
    ours, theirs = pipes()
    future = js(say_and_hold, theirs)
    with pytest.raises(error):
        future.wait(0, signal=signum)
    ours.send("unharmed")
    assert future.result(DEADLINE) == "unharmed"


@pytest.fixture
def ignored_sigchld() -> Iterator[None]:
    """The kernel reaps children at once, and tells nobody how they ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


def assert_unknown(death: SubmissionDied) -> None:
    assert (death.exitcode, death.signal) == (None, None)
    assert "unknown" in str(death)


def test_with_sigchld_ignored_results_arrive_and_deaths_are_told(
    ignored_sigchld: None, method: str, js: Jobserver
) -> None:
    assert [js(abs, -n).result(DEADLINE) for n in range(3)] == [0, 1, 2]
    death = death_of(js(signal.raise_signal, signal.SIGKILL))
    if method == "forkserver":  # whose helper still reaps its jobs itself
        assert facts(death) == (None, signal.SIGKILL, "was killed by SIGKILL")
    else:
        assert_unknown(death)
    js.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_death_that_somebody_else_reaped_is_told_as_unknown(js: Jobserver) -> None:
    future = js(os._exit, 3)
    assert os.waitpid(-1, 0)[0] == future.pid
    assert_unknown(death_of(future))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_result_survives_that_somebody_else_reaped_its_job(js: Jobserver) -> None:
    future = js(abs, -3)
    assert os.waitpid(-1, 0)[0] == future.pid
    assert future.result(DEADLINE) == 3


def test_a_program_that_reaps_every_child_still_hears_of_every_job(js: Jobserver) -> None:
    def reap(signum: int, frame: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    before = signal.signal(signal.SIGCHLD, reap)
    try:
        for n in range(5):
            assert js(abs, -n).result(DEADLINE) == n
            death = death_of(js(os._exit, 3))
            assert death.exitcode == 3 or death.exitcode is death.signal is None
        js.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


#: How many deaths of each of the four kinds are tried by each start method.
MANY = {"fork": 250, "forkserver": 100, "spawn": 10}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fn, number",
    [(signal.raise_signal, signal.SIGKILL), (signal.raise_signal, signal.SIGSEGV)]
    + [(signal.raise_signal, signal.SIGTERM), (os._exit, 3)],
)
def test_each_of_many_deaths_is_reported_exactly(
    js: Jobserver, method: str, fn: Callable[[int], Any], number: int
) -> None:
    expected = (3, None) if fn is os._exit else (None, number)
    there = children()  # a resource tracker, it may be
    js(abs, -1).result(DEADLINE)
    before = None
    for _ in range(MANY[method] // 2):
        pair = [js.submit(fn, args=(number,), preexec_fn=faulthandler.disable) for _ in "12"]
        deaths = [death_of(future) for future in pair]
        assert [(death.exitcode, death.signal) for death in deaths] == [expected] * 2
        settle(js)
        before = before or descriptors()
    assert descriptors() == before
    assert len(children() - there) <= 1, "only a helper may be left"
