"""The backend for joblib: `jobserver.joblib`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until
from spans import Recorded, record

joblib = pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

import jobserver.joblib  # noqa: E402
from jobserver import Jobserver, SubmissionDied  # noqa: E402

jobserver.joblib.register()

#: Without it, a first process might do all the work before a second has imported joblib.
PRELOAD = ["jobserver.joblib"]

#: joblib 1.3 has no more.
RETURN_AS = ["list", "generator"]
if not joblib.__version__.startswith("1.3."):
    RETURN_AS.append("generator_unordered")


@pytest.fixture
def method() -> str:
    """The only one in use: the backend has a thread."""
    return "forkserver"


@pytest.fixture
def pool(made: Callable[..., Jobserver]) -> Callable[..., Any]:
    """A `parallel_config` over a Jobserver with so many slots, all free at the test's end."""

    def make(slots: int = 2, n_jobs: int | None = None, **options: Any) -> Any:
        js = made(slots, max_tasks_per_child=None, preload=PRELOAD)
        return parallel_config("jobserver", jobserver=js, n_jobs=n_jobs or slots, **options)

    return make


def square(x: int) -> int:
    return x * x


def where() -> int:
    return os.getpid()


def end_at(path: str) -> None:
    """Waits until there is such a file."""
    wait_until(Path(path).exists)


def sleep_for_ever(pids: str) -> None:
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(DEADLINE)


def written(path: Path) -> set[int]:
    return {int(pid) for pid in path.read_text().split()} if path.exists() else set()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; it may not be reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# Calls, and their results.


@pytest.mark.parametrize("return_as", RETURN_AS)
def test_results_come_as_joblib_returns_them(pool: Any, return_as: str) -> None:
    with pool():
        came = Parallel(return_as=return_as)(delayed(square)(x) for x in range(100))
    assert isinstance(came, list) == (return_as == "list")
    results = list(came)
    assert (sorted(results) if "unordered" in return_as else results) == [x * x for x in range(100)]


def test_lambdas_and_closures_can_be_called(pool: Any) -> None:
    y = 3
    with pool():
        assert Parallel()(delayed(lambda x: x + y)(x) for x in range(3)) == [3, 4, 5]


def test_short_calls_are_batched_and_processes_stay(pool: Any) -> None:
    with pool():
        parallel = Parallel()
        first = set(parallel(delayed(where)() for _ in range(500)))
        assert 1 < parallel.n_dispatched_batches < 250
        assert set(parallel(delayed(where)() for _ in range(500))) == first
    assert len(first) == 2


def test_a_parallel_uses_no_more_slots_than_its_n_jobs(pool: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pool(3):
        Parallel(n_jobs=2)(delayed(record)(str(log)) for _ in range(8))
    assert Recorded.in_log(log).most <= 2


def test_parallel_is_a_context_manager(pool: Any) -> None:
    with pool(), Parallel() as parallel:
        for _ in range(3):
            assert parallel(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_a_backend_serves_a_parallel_within_the_loop_over_another(pool: Any) -> None:
    with pool():
        outer = Parallel(return_as="generator", pre_dispatch=2)(
            delayed(square)(x) for x in range(20)
        )
        came = [Parallel()(delayed(square)(y) for y in range(x % 5)) for x in outer]
    assert [len(each) for each in came] == [x * x % 5 for x in range(20)]


def test_threads_share_the_slots(made: Any, tmp_path: Path) -> None:
    js, log = made(2, max_tasks_per_child=None, preload=PRELOAD), tmp_path / "log"

    def work() -> None:
        with parallel_config("jobserver", jobserver=js, n_jobs=2):
            Parallel()(delayed(record)(str(log)) for _ in range(4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    recorded = Recorded.in_log(log)
    assert recorded.count == 12
    assert recorded.most <= 2


def test_what_requires_shared_memory_runs_in_threads(pool: Any) -> None:
    came: list[int] = []
    with pool():
        Parallel(n_jobs=2, require="sharedmem")(delayed(came.append)(x) for x in range(4))
    assert sorted(came) == [0, 1, 2, 3]


# Nested.


def tree(log: str, depth: int, return_as: str = "list") -> int:
    """A job that computes, before and after it has had jobs below do the same."""
    record(log)
    below = 0
    if depth:
        parallel = Parallel(n_jobs=2, return_as=return_as)
        below = sum(parallel(delayed(tree)(log, depth - 1, return_as) for _ in range(2)))
    current = jobserver.current()
    assert current is not None and current.slot is not None
    record(log)
    return below + 1


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_all_depths_keep_to_the_slots(
    pool: Any, tmp_path: Path, slots: int, return_as: str
) -> None:
    log = tmp_path / "log"
    with pool(slots):
        assert Parallel()(delayed(tree)(str(log), 2, return_as) for _ in range(3)) == [7] * 3
    recorded = Recorded.in_log(log)
    assert recorded.count == 3 * 7 * 2
    assert 1 < recorded.most <= slots


def makes_tasks(log: str) -> None:
    def tasks() -> Iterator[Any]:
        for _ in range(4):  # of which joblib reads two at a time
            record(log)
            yield delayed(record)(log)

    Parallel(n_jobs=2)(tasks())


def test_a_job_that_makes_its_tasks_has_a_slot(pool: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pool(2):
        Parallel()(delayed(makes_tasks)(str(log)) for _ in range(2))
    recorded = Recorded.in_log(log)
    assert recorded.count == 16
    assert recorded.most <= 2


def loaded(log: str) -> int:
    record(log)
    return 1


class SlowToLoad:
    def __init__(self, log: str) -> None:
        self.log = log
        record(log)

    def __reduce__(self) -> Any:
        return loaded, (self.log,)


def sum_of_slow(log: str) -> int:
    return sum(Parallel(n_jobs=2)(delayed(SlowToLoad)(log) for _ in range(4)))


def test_a_job_that_loads_results_has_a_slot(pool: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pool(2):
        assert Parallel()(delayed(sum_of_slow)(str(log)) for _ in range(3)) == [4] * 3
    recorded = Recorded.in_log(log)
    assert recorded.count == 24
    assert recorded.most <= 2


def test_one_slot_means_one_after_the_other(pool: Any) -> None:
    with pool(1, n_jobs=4):
        assert Parallel()(delayed(where)() for _ in range(3)) == [os.getpid()] * 3


def meet(folder: str, depth: int, me: int) -> int:
    """A job of which two at the bottom of a tree must run at once."""
    if depth:
        return sum(Parallel(n_jobs=2)(delayed(meet)(folder, depth - 1, x) for x in range(2)))
    Path(folder, str(me)).touch()
    end_at(f"{folder}/{1 - me}")
    return 1


def waits_for_two_below(folder: str, depth: int) -> int:
    if not depth:
        return meet(folder, 1, 0)
    # The first job has this job's slot, and ends soon. Then that slot must not lie idle.
    below = [delayed(square)(0), delayed(waits_for_two_below)(folder, depth - 1)]
    return int(sum(Parallel(n_jobs=2)(below)))


def test_jobs_that_wait_at_any_depth_take_no_slot(pool: Any, tmp_path: Path) -> None:
    with pool(2):
        assert Parallel()([delayed(waits_for_two_below)(str(tmp_path), 2)]) == [2]


def by_name(x: int) -> tuple[int, int]:
    """Something that a Parallel has computed, and the number of slots."""
    slots = jobserver.joblib.JobserverBackend().effective_n_jobs(-1)
    parallel = Parallel(n_jobs=2, backend="jobserver")
    return sum(parallel(delayed(square)(y) for y in range(x))), slots


def started_by() -> int:
    return os.getppid()


def all_started_by() -> set[int]:
    return {os.getppid(), *Parallel(n_jobs=2, backend="jobserver")([delayed(started_by)()] * 2)}


def test_a_job_that_names_the_backend_has_the_same_slots_and_fork_server(pool: Any) -> None:
    with pool(3):
        assert Parallel()(delayed(by_name)(x) for x in range(3)) == [(0, 3), (0, 3), (1, 3)]
        assert [len(each) for each in Parallel()([delayed(all_started_by)()] * 2)] == [1, 1]


def registers(x: int) -> tuple[int, int]:
    jobserver.joblib.register()
    return by_name(x)


def test_a_job_of_a_jobserver_has_the_same_slots(made: Any) -> None:
    js = made(3)
    assert js(registers, 3).result(DEADLINE) == (5, 3)


def with_others(backend: str, x: int) -> list[int]:
    with parallel_config(backend, n_jobs=2):
        came: list[int] = Parallel()(delayed(square)(y) for y in range(x))
    return came


@pytest.mark.parametrize("inner", ["threading", "loky", "multiprocessing"])
def test_jobs_may_use_another_backend(pool: Any, inner: str) -> None:
    with pool():
        came = Parallel()(delayed(with_others)(inner, x) for x in range(3))
    assert came == [[], [0], [0, 1]]


def test_a_daemon_and_a_worker_of_another_backend_may_use_ours() -> None:
    program = """
        import joblib, test_joblib
        from joblib import Parallel, delayed
        for outer in "threading", "loky", "multiprocessing":
            with joblib.parallel_config(outer, n_jobs=2):
                print(Parallel()(delayed(test_joblib.registers)(x) for x in (3, 4)))
    """
    came = run(program).stdout.splitlines()
    assert [[pair[0] for pair in eval(line)] for line in came] == [[5, 14]] * 3


# Limits, errors and ends.


def test_a_timeout_kills_the_jobs(pool: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pool():
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.5)(delayed(sleep_for_ever)(str(pids)) for _ in range(4))
        assert all(is_gone(pid) for pid in written(pids))
        assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def fail_beside(pids: str, me: int) -> None:
    if me:
        sleep_for_ever(pids)
    wait_until(Path(pids).exists)
    raise LookupError("as it should")


def nested_failure(pids: str) -> None:
    Parallel(n_jobs=2)(delayed(fail_beside)(pids, me) for me in range(2))


def test_an_error_ends_the_jobs_of_its_parallel(pool: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pool(3):
        with pytest.raises(LookupError, match="as it should"):
            nested_failure(str(pids))
        assert [is_gone(pid) for pid in written(pids)] == [True]
        assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_an_error_far_below_ends_all_jobs(pool: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pool(3):
        with pytest.raises(LookupError, match="as it should"):
            Parallel()([delayed(nested_failure)(str(pids)), delayed(sleep_for_ever)(str(pids))])
        assert all(is_gone(pid) for pid in written(pids))


def test_an_error_leaves_the_jobs_of_other_parallels_alone(pool: Any, tmp_path: Path) -> None:
    end, pids = tmp_path / "end", tmp_path / "pids"
    with pool(3):
        others = Parallel(n_jobs=2, return_as="generator")([delayed(end_at)(str(end))] * 1)
        with pytest.raises(LookupError):
            nested_failure(str(pids))
        end.touch()
        assert list(others) == [None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_death_of_a_job_is_told(pool: Any) -> None:
    with pool():
        with pytest.raises(SubmissionDied, match="SIGKILL") as caught:
            Parallel()(delayed(die)() for _ in range(2))
        assert isinstance(caught.value, BrokenProcessPool)
        assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_a_dropped_generator_ends_its_jobs(pool: Any, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pool():
        came = Parallel(return_as="generator")([delayed(sleep_for_ever)(str(pids))] * 4)
        wait_until(lambda: written(pids))
        with pytest.warns(UserWarning, match="cancelled"):
            del came
        assert all(is_gone(pid) for pid in written(pids))


def unreadable() -> Iterator[Any]:
    yield delayed(square)(1)
    raise LookupError("no more")


def test_an_error_of_the_input_ends_the_parallel(pool: Any) -> None:
    with pool(), pytest.raises(LookupError, match="no more"):
        Parallel(pre_dispatch=1)(unreadable())


class Unpicklable:
    def __reduce__(self) -> Any:
        raise LookupError("not to be sent")


def test_arguments_that_cannot_be_sent_are_told(pool: Any) -> None:
    with pool(), pytest.raises(Exception, match="not to be sent"):
        Parallel()(delayed(id)(Unpicklable()) for _ in range(3))


# What jobs find.


def limits() -> dict[str, str | None]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: os.environ.get(name) for name in names}


def nested_limits() -> Any:
    return Parallel(n_jobs=2)(delayed(limits)() for _ in range(2)) + [limits()]


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in limits():
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_numeric_libraries_use_so_many_threads_at_all_depths(no_limits: Any, pool: Any) -> None:
    with pool(inner_max_num_threads=3):
        [came] = Parallel()([delayed(nested_limits)()])
    assert [set(each.values()) for each in came] == [{"3"}] * 3


def test_without_a_number_the_threads_of_all_jobs_are_as_many_as_cpus(no_limits: Any) -> None:
    program = """
        import joblib, test_joblib
        with joblib.parallel_config("jobserver", n_jobs=2):
            [came] = joblib.Parallel()([joblib.delayed(test_joblib.nested_limits)()])
        print({value for each in came for value in each.values()})
    """
    each = max(joblib.cpu_count() // 2, 1)
    assert run(program).stdout == f"{ {str(each)} }\n"
    no_limits.setenv("MKL_NUM_THREADS", "7")
    assert eval(run(program).stdout) == {str(each), "7"}


def of_array(array: Any) -> tuple[bool, bool, float]:
    """Whether an array can be written to and is in a mapping of a memory file, and its sum."""
    address = array.__array_interface__["data"][0]
    return array.flags.writeable, is_in_memory_file(address), float(array.sum())


def is_in_memory_file(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(each, 16) for each in line.split()[0].split("-"))
        if first <= address < last:
            return "memfd:" in line
    return False


def test_large_arrays_arrive_mapped_and_read_only(pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    large, small = numpy.ones((600, 300)), numpy.ones(300)
    with pool():
        came = Parallel()(delayed(of_array)(each) for each in (large, small, large.T, large))
        copied = Parallel(mmap_mode="c")(delayed(of_array)(each) for each in (large, large))
    mapped = (False, True, 180_000.0)
    assert came == [mapped, (True, False, 300.0), mapped, mapped]
    assert copied == [(True, True, 180_000.0)] * 2


def memory_file(array: Any) -> int:
    """The file that an array is mapped from."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        first, last = (int(each, 16) for each in fields[0].split("-"))
        if first <= address < last:
            return int(fields[4])
    raise AssertionError("it is not mapped")


def test_all_batches_map_one_copy_of_an_array(pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(200_000)
    with pool():
        files = Parallel(batch_size=1)(delayed(memory_file)(array) for _ in range(8))
        arrays = (numpy.full(200_000, x) for x in range(40))  # in each other's places
        sums = Parallel(batch_size=1, pre_dispatch=1)(delayed(numpy.sum)(each) for each in arrays)
    assert len(set(files)) == 1
    assert sums == [200_000 * x for x in range(40)]


def fill(array: Any, x: int) -> None:
    array[x] = x


def test_jobs_write_to_a_file_that_the_program_has_mapped(pool: Any, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    shared = numpy.memmap(tmp_path / "array", float, "w+", shape=(6, 50))
    with pool():
        Parallel()(delayed(fill)(shared[1:, ::-2], x) for x in range(5))
    expected = numpy.zeros((6, 50))
    for x in range(5):
        fill(expected[1:, ::-2], x)
    assert (shared == expected).all()


# Programs.


def environment() -> dict[str, str]:
    """Where programs find this module, and the joblib that it has."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run(program: str, *, code: int = 0, **options: Any) -> Any:
    """Runs a program, in which the backend is registered."""
    lines = ["import jobserver.joblib", "jobserver.joblib.register()"]
    indent = len(program) - len(program.lstrip("\n "))
    lines += [line[indent - 1 :] for line in program.splitlines()[1:]]
    came = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        **options,
    )
    assert (came.returncode, came.stderr) == (code, ""), came.stderr
    return came


def test_importing_the_package_does_not_import_joblib() -> None:
    program = "import sys, jobserver; print('joblib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


WITHOUT_A_GUARD = """
        import joblib
        def double(x):
            return 2 * x
        def nested(x):
            return joblib.Parallel(n_jobs=2)(joblib.delayed(double)(y) for y in range(x))
        with joblib.parallel_config("jobserver", n_jobs=2):
            print(joblib.Parallel()(joblib.delayed(nested)(x) for x in range(3)))
"""


def test_a_program_without_a_file_may_define_what_it_calls() -> None:
    assert run(WITHOUT_A_GUARD).stdout == "[[], [0], [0, 2]]\n"


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_script_without_a_main_guard_works_as_with_loky(tmp_path: Path, method: str) -> None:
    first = f"""
        import multiprocessing
        multiprocessing.set_start_method({method!r})
    """
    (tmp_path / "script.py").write_text(
        "import jobserver.joblib\njobserver.joblib.register()\n"
        + textwrap.dedent(first + WITHOUT_A_GUARD)
    )
    came = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
    )
    assert (came.returncode, came.stdout, came.stderr) == (0, "[[], [0], [0, 2]]\n", "")


def test_each_n_jobs_of_a_program_holds_exactly(tmp_path: Path) -> None:
    program = """
        import sys, joblib, test_joblib
        for n_jobs in (2, 3, 2):
            log = f"{sys.argv[1]}/{n_jobs}"
            with joblib.parallel_config("jobserver", n_jobs=n_jobs):
                trees = [joblib.delayed(test_joblib.tree)(log, 1) for _ in range(4)]
                joblib.Parallel(n_jobs=5)(trees)
        print("done")
    """.replace("sys.argv[1]", repr(str(tmp_path)))
    assert run(program).stdout == "done\n"
    recorded = {slots: Recorded.in_log(tmp_path / str(slots)).most for slots in (2, 3)}
    assert recorded[2] <= 2 < recorded[3] <= 3


def test_a_program_that_ends_before_its_generator_leaves_nothing(tmp_path: Path) -> None:
    program = """
        import joblib, test_joblib
        tasks = (joblib.delayed(test_joblib.record)("/dev/null") for _ in range(1000))
        came = joblib.Parallel(n_jobs=2, backend="jobserver", return_as="generator")(tasks)
        next(came)
        import warnings
        warnings.simplefilter("ignore")  # joblib warns of what is lost
    """
    run(program)


def test_ctrl_c_leaves_no_job(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"""
import joblib, test_joblib
with joblib.parallel_config("jobserver", n_jobs=2):
    joblib.Parallel()([joblib.delayed(test_joblib.tree_of_sleepers)({str(pids)!r})] * 3)
"""
    head = "import jobserver.joblib\njobserver.joblib.register()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + program],
        stderr=subprocess.PIPE,
        env=environment(),
    )
    wait_until(lambda: len(written(pids)) == 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
    assert all(is_gone(pid) for pid in written(pids))


def tree_of_sleepers(pids: str) -> None:
    Parallel(n_jobs=2)(delayed(sleep_for_ever)(pids) for _ in range(2))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="jobserver must be a Jobserver, not int"):
        jobserver.joblib.JobserverBackend(jobserver=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0, backend="jobserver")([delayed(square)(1)])


with contextlib.suppress(ImportError):
    import numpy  # noqa: F401 - before the first test counts descriptors
