"""`output`: what becomes of what a job writes to its standard output and standard error.

Not here: the option as one of a handle's defaults in general (`test_options.py`).
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import descriptors, each_method, settle

from jobserver import Jobserver, SubmissionDied, TimeLimitExceeded

tasks_each = pytest.mark.parametrize("tasks", [1, None])


def talks(word: str) -> str:
    """Writes in each way."""
    print("printed", word)
    print("complained", word, file=sys.stderr)
    os.write(1, b"written by C\n")
    subprocess.run(["echo", "by a program"], check=True)
    print("no end", end="")
    return word


ALL = "printed {0}\ncomplained {0}\nwritten by C\nby a program\nno end"
OUT = "printed {0}\nwritten by C\nby a program\nno end"
ERR = "complained {0}\n"


def runs(program: str) -> None:
    subprocess.run(["sh", "-c", program], check=True)


def streams() -> tuple[Any, ...]:
    """What the standard streams of this process are, and its pid."""
    files = [os.fstat(descriptor) for descriptor in (1, 2)]
    kinds = [type(stream).__name__ for stream in (sys.stdout, sys.stderr)]
    return *((file.st_dev, file.st_ino) for file in files), *kinds, os.getpid()


def number_of_descriptors() -> int:
    return len(descriptors())


def raises() -> None:
    print("before the error", end="")
    raise KeyError("wrong")


def exits() -> None:
    print("before the exit", end="")
    sys.exit("the text of the exit")


def exits_at_once() -> None:
    print("before the end", end="")
    os._exit(3)


def deletes_streams() -> None:
    print("before")
    del sys.stdout, sys.stderr


def is_killed(lines: int = 1) -> None:
    for line in range(lines):
        print("line", line)
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed_at(number: int) -> int:
    if number == 3:
        print("it was the", number)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def spins() -> None:
    print("spins")
    while True:
        pass


def talks_and_waits(connection: Any) -> None:
    print("first")
    print("not whole", end="")
    connection.send("told")
    connection.recv()
    print(" line")


def talks_and_empties(connection: Any) -> None:
    print("printed before")
    connection.send("told")
    connection.recv()
    runs("echo after > /dev/stdout")


def talks_below(js: Jobserver, word: str, **options: Any) -> Any:
    future = js.submit(talks, args=(word,), **options)
    future.result()
    return future.output() if options.get("output") == "capture" else None


def leaves_a_program(end: Any) -> None:
    """Starts a program that writes what it reads, and outlives the job's function."""
    program = 'while read -r line && test "$line" != end; do echo "$line"; done'
    subprocess.Popen(["sh", "-c", program], stdin=end.fileno())
    print("started")


def closes_descriptors() -> None:
    os.closerange(3, 200)
    print("closed")


@contextlib.contextmanager
def prints_around() -> Iterator[None]:
    print("entered")
    yield
    print("left")


def prints(word: object, end: str = "\n") -> None:
    print(word, end=end)


def writes_much(size: int) -> None:
    os.write(1, b"x" * size)
    print("the end")


def writes_beyond_a_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    print("x" * 2000)


def writes_odd_bytes() -> None:
    os.write(1, b"\xff\xe2\x82")
    print("\udcff and \N{EURO SIGN}")


class Refuses(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no room")


@contextlib.contextmanager
def redirected() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


@tasks_each
def test_captured_output_is_all_that_the_job_has_written(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    with redirected() as (out, err):
        futures = [js.submit(talks, args=(n,), output="capture") for n in "abc"]
        assert [future.result() for future in futures] == ["a", "b", "c"]
    assert [future.output() for future in futures] == [ALL.format(n) for n in "abc"]
    assert out.getvalue() == err.getvalue() == ""


@tasks_each
def test_forwarded_output_is_in_the_owners_streams_when_the_result_is_there(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    for word in "ab":
        with redirected() as (out, err):
            assert js.submit(talks, args=(word,), output="forward").result() == word
            assert out.getvalue() == OUT.format(word)
            assert err.getvalue() == ERR.format(word)


@tasks_each
def test_the_streams_of_a_process_that_stays_are_restored(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    before, count = js(streams).result(), js(number_of_descriptors).result()
    for output in ("capture", "forward"):
        with redirected():
            js.submit(talks, args=("a",), output=output).result()
            assert isinstance(js.submit(raises, output=output).exception(), KeyError)
            assert js.submit(deletes_streams, output=output).result() is None
        after = js(streams).result()
        assert after[:-1] == before[:-1]
        assert (after[-1] == before[-1]) == (tasks is None)
    assert js(number_of_descriptors).result() == count


def test_output_is_there_while_the_job_runs(js: Jobserver, pipes: Any) -> None:
    ours, theirs = pipes()
    future = js.submit(talks_and_waits, args=(theirs,), output="capture")
    assert ours.recv() == "told"
    assert future.output() == "first\nnot whole"
    ours.send("go on")
    future.result()
    assert future.output() == "first\nnot whole line\n"


def test_whole_lines_are_forwarded_while_a_job_runs(js: Jobserver, pipes: Any) -> None:
    ours, theirs = pipes()
    with redirected() as (out, _):
        future = js.submit(talks_and_waits, args=(theirs,), output="forward")
        assert ours.recv() == "told"
        assert not future.done()
        assert out.getvalue() == "first\n"
        ours.send("go on")
        future.result()
        assert out.getvalue() == "first\nnot whole line\n"


def test_a_call_that_waits_forwards_meanwhile(js: Jobserver, pipes: Any) -> None:
    ours, theirs = pipes()

    class Answers(io.StringIO):
        """Lets the job go on as soon as its first line has come."""

        def write(self, text: str) -> int:
            if "first" in text:
                ours.send("go on")
            return super().write(text)

    out = Answers()
    with contextlib.redirect_stdout(out):
        js.submit(talks_and_waits, args=(theirs,), output="forward").result(timeout=60)
    assert out.getvalue() == "first\nnot whole line\n"


@pytest.mark.parametrize(
    "fn, told, written",
    [
        (exits, "exited with code 1", "before the exitthe text of the exit\n"),
        (exits_at_once, "exited with code 3", "before the end"),
        (is_killed, "was killed by SIGKILL", "line 0\n"),
    ],
)
@tasks_each
def test_a_death_tells_the_last_lines(
    make_jobserver: Callable[..., Jobserver],
    tasks: int | None,
    fn: Callable[[], None],
    told: str,
    written: str,
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    future = js.submit(fn, output="capture")
    with pytest.raises(SubmissionDied, match=told) as caught:
        future.result()
    assert str(caught.value).endswith(f"; the end of its output:\n    {written.rstrip()}")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert future.output() == written
    with redirected() as (out, err):
        assert isinstance(js.submit(fn, output="forward").exception(), SubmissionDied)
    assert sorted(out.getvalue() + err.getvalue()) == sorted(written)


def test_a_program_that_opens_the_file_anew_overwrites_nothing(js: Jobserver) -> None:
    program = "echo first; echo second >> /dev/stdout; echo third"
    future = js.submit(runs, args=(program,), output="capture")
    future.result()
    assert future.output() == "first\nsecond\nthird\n"


def test_a_program_that_empties_the_file_stops_no_forwarding(js: Jobserver, pipes: Any) -> None:
    ours, theirs = pipes()
    with redirected() as (out, _):
        future = js.submit(talks_and_empties, args=(theirs,), output="forward")
        assert ours.recv() == "told"
        assert not future.done()
        ours.send("go on")
        future.result()
    assert out.getvalue() == "printed before\nafter\n"


def test_a_death_tells_few_lines_of_many(js: Jobserver) -> None:
    future = js.submit(is_killed, args=(5000,), output="capture")
    told = str(future.exception()).splitlines()
    assert told[1:] == [f"    line {n}" for n in range(4990, 5000)]


def test_a_time_limit_tells_them_too(js: Jobserver) -> None:
    future = js.submit(spins, output="capture", time_limit=0.5)
    with pytest.raises(TimeLimitExceeded, match="the end of its output:\n    spins") as caught:
        future.result()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_death_in_a_map_tells_what_its_chunk_has_written(js: Jobserver) -> None:
    results = js.map(is_killed_at, [(n,) for n in range(6)], chunksize=2, output="capture")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SubmissionDied, match="the end of its output:\n    it was the 3"):
        next(results)
    assert list(results) == [4, 5]


@tasks_each
def test_the_output_of_a_map_is_forwarded(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    with redirected() as (out, _):
        results = js.map(prints, [(n,) for n in range(20)], chunksize=3, output="forward")
        for number, _ in enumerate(results):
            assert f"{number}\n" in out.getvalue().splitlines(keepends=True)
    assert sorted(map(int, out.getvalue().split())) == [*range(20)]


def test_as_completed_and_callbacks_come_after_the_output(js: Jobserver) -> None:
    seen = []
    with redirected() as (out, _):

        def looks(word: str) -> None:
            seen.append(word in out.getvalue())

        futures = {js.submit(prints, args=(n, ""), output="forward"): n for n in "ab"}
        for future, word in futures.items():
            future.when_done(looks, word)
        for future in js.as_completed(futures):
            assert futures[future] in out.getvalue()
    assert seen == [True, True]


def test_close_forwards_what_nobody_has_asked_for(make_jobserver: Callable[..., Any]) -> None:
    with redirected() as (out, _):
        with make_jobserver() as js:
            for word in "ab":
                js.submit(prints, args=(word,), output="forward")
        assert sorted(out.getvalue().split()) == ["a", "b"]


@tasks_each
def test_a_job_of_a_job_writes_where_its_owner_writes(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    future = js.submit(talks_below, args=(js, "a"), output="capture")
    future.result()
    assert future.output() == ALL.format("a")
    future = js.submit(talks_below, args=(js, "a"), kwargs={"output": "forward"}, output="capture")
    future.result()
    assert sorted(future.output()) == sorted(ALL.format("a"))
    future = js.submit(talks_below, args=(js, "a"), kwargs={"output": "capture"}, output="capture")
    assert future.result() == ALL.format("a")
    assert future.output() == ""


def test_a_handle_has_it_as_a_default_and_a_submission_can_say_otherwise(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(output="capture")
    future = js(prints, "a")
    future.result()
    assert future.output() == "a\n"
    ours = js.with_options(output="forward")
    with redirected() as (out, _):
        ours(prints, "b").result()
        assert out.getvalue() == "b\n"
    assert js(streams).result() != js.submit(streams, output="inherit").result()
    with pytest.raises(RuntimeError, match='submit the job with output="capture"'):
        js.submit(int, output="inherit").output()


def test_the_output_of_a_preexec_fn_is_the_jobs(js: Jobserver) -> None:
    future = js.submit(prints, args=("fn",), output="capture", preexec_fn=prints_around)
    future.result()
    assert future.output() == "entered\nfn\nleft\n"


def test_a_program_that_the_job_leaves_behind_does_no_harm(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver(1, max_tasks_per_child=None)
    end, our_end = multiprocessing.Pipe(duplex=False)
    with end, our_end:
        future = js.submit(leaves_a_program, args=(end,), output="capture")
        future.result()
        assert future.output() == "started\n"
        os.write(our_end.fileno(), b"late\n")
        assert js.submit(talks, args=("a",), output="capture").result() == "a"
        assert future.output() == "started\n"
        os.write(our_end.fileno(), b"end\n")
        settle(js)


@tasks_each
def test_a_job_that_closes_descriptors_keeps_its_output(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(1, max_tasks_per_child=tasks)
    before = js(streams).result()
    future = js.submit(closes_descriptors, output="capture")
    future.exception()  # its channel is closed too, so it may not have a result
    assert future.output() == "closed\n"
    assert js(streams).result()[:-1] == before[:-1]


def test_large_output_is_kept_whole(js: Jobserver) -> None:
    size = 5 << 20
    future = js.submit(writes_much, args=(size,), output="capture")
    future.result()
    assert future.output() == "x" * size + "the end\n"
    with redirected() as (out, _):
        js.submit(writes_much, args=(size,), output="forward").result()
    assert out.getvalue() == "x" * size + "the end\n"


def test_output_need_not_be_utf_8(js: Jobserver) -> None:
    future = js.submit(writes_odd_bytes, output="capture")
    future.result()
    assert future.output() == "\ufffd\ufffd\\udcff and \N{EURO SIGN}\n"


def test_a_limit_of_file_sizes_is_told_to_the_job(js: Jobserver) -> None:
    future = js.submit(writes_beyond_a_limit, output="capture")
    with pytest.raises(OSError, match="cannot keep the job's output, which is in memory"):
        future.result()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_many_futures_use_no_descriptors_up(js: Jobserver) -> None:
    js(int).result()
    settle(js)
    before = number_of_descriptors()
    futures = [js.submit(prints, args=(n,), output="capture") for n in range(30)]
    for future in futures:
        future.wait()
    settle(js)
    assert number_of_descriptors() <= before
    assert [future.output() for future in futures] == [f"{n}\n" for n in range(30)]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_an_owner_that_closes_the_files_gets_all_results(js: Jobserver, pipes: Any) -> None:
    told: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda each: told.append(each.exc_type)
    try:
        for output in ("capture", "forward"):
            ours, theirs = pipes()
            known = descriptors()
            with redirected():
                future = js.submit(talks_and_waits, args=(theirs,), output=output)
                assert ours.recv() == "told"
                for descriptor, file in descriptors().items():
                    if descriptor not in known and "jobserver" in file:
                        os.close(descriptor)
                ours.send("go on")
                assert future.result() is None
            if output == "capture":
                with pytest.raises(OSError):
                    future.output()
    finally:
        sys.unraisablehook = before
    assert told == [OSError] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_owner_whose_stdout_fails_gets_all_results(js: Jobserver) -> None:
    told: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with contextlib.redirect_stdout(Refuses()):
            assert js.submit(talks, args=("a",), output="forward").result() == "a"
        with contextlib.redirect_stdout(None):
            assert js.submit(talks, args=("a",), output="forward").result() == "a"
    finally:
        sys.unraisablehook = before
    assert [str(each.exc_value) for each in told] == ["no room"]
    with redirected() as (out, _):
        js.submit(prints, args=("b",), output="forward").result()
    assert out.getvalue() == "b\n"


def test_ctrl_c_within_a_forwarded_text_loses_and_repeats_nothing(js: Jobserver) -> None:
    class Interrupts(io.StringIO):
        """Raises after its first text, as a signal handler may."""

        has_raised = False

        def write(self, text: str) -> int:
            written = super().write(text)
            if not self.has_raised:
                self.has_raised = True
                signal.raise_signal(signal.SIGINT)
            return written

    out = Interrupts()
    size = 300_000  # several steps
    with contextlib.redirect_stdout(out):
        with pytest.raises(KeyboardInterrupt):
            js.submit(writes_much, args=(size,), output="forward").result()
        interrupted = len(out.getvalue())
        js.submit(prints, args=("next",), output="forward").result()
        js.reclaim_resources()
    assert 0 < interrupted < size
    assert sorted(out.getvalue()) == sorted("x" * size + "the end\n" + "next\n")


def test_threads_that_wait_forward_each_output_once(js: Jobserver) -> None:
    with redirected() as (out, _):

        def uses(name: int) -> None:
            for n in range(5):
                word = f"{name}.{n}"
                js.submit(prints, args=(word,), output="forward").result()
                assert word in out.getvalue().split()

        threads = [threading.Thread(target=uses, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    expected = [f"{name}.{n}" for name in range(4) for n in range(5)]
    assert sorted(out.getvalue().split()) == expected


@pytest.mark.parametrize("output, error", [("away", ValueError), (1, TypeError)])
@pytest.mark.parametrize("method", ["fork"])
def test_another_value_is_refused_at_once(js: Any, output: Any, error: type[Exception]) -> None:
    for refused in (js.submit, js.map, js.with_options):
        with pytest.raises(error, match="output must be"):
            refused(*() if refused == js.with_options else (int,), output=output)
    with pytest.raises(error, match="output must be"):
        Jobserver("fork", 1, output=output)


@pytest.mark.parametrize("method", ["fork"])
def test_a_job_that_is_not_captured_has_no_output_and_says_what_to_do(js: Jobserver) -> None:
    with redirected():
        for future in (js(int), js.submit(int, output="forward")):
            with pytest.raises(RuntimeError, match='submit the job with output="capture"'):
                future.output()


@pytest.mark.parametrize("method", ["fork"])
def test_a_lack_of_descriptors_is_told(js: Jobserver) -> None:
    js(int).result()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, limits[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(OSError, match="memory file.*descriptors|ulimit -n"):
            js.submit(int, output="capture")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)
    assert js.submit(int, output="capture").result() == 0


@pytest.mark.parametrize("method", ["inline"])
def test_a_job_in_the_callers_process_is_captured_and_not_forwarded(js: Jobserver) -> None:
    before = streams()
    with redirected() as (out, err):
        future = js.submit(talks, args=("a",), output="capture")
        assert future.output() == ALL.format("a")
        died = js.submit(exits, output="capture").exception()
        assert "the end of its output:\n    before the exit" in str(died)
        assert out.getvalue() == ""
        js.submit(prints, args=("a",), output="forward")
        assert out.getvalue() == "a\n"
    assert streams() == before


@each_method
def test_without_the_option_jobs_write_where_they_did(js: Jobserver) -> None:
    assert js(streams).result()[:2] == streams()[:2]


def test_the_output_of_a_job_that_runs_at_the_end_of_the_program_is_forwarded(
    method: str, tmp_path: Any
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom jobserver import Jobserver\n"
        "if __name__ == '__main__':\n"
        "    js = Jobserver(sys.argv[1], 1)\n"
        "    future = js.submit(print, args=('from the job',), output='forward')\n"
    )
    command = [sys.executable, str(program), method]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "from the job\n"
