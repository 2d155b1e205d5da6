"""Large results and arguments: what arrives is what was sent, writable where that was, mapped
and not copied where the system can do that; and its memory goes when it goes.

Not here: limits of memory and files (test_system_limits), and
what a memory file must be for it to be mapped (the core's own tests).
"""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, descriptors, settle
from sizes import LARGE, pattern, zeros_and_keep

from jobserver import Jobserver, SubmissionDied
from jobserver._native import INLINE
from jobserver._wire import pickling, segments

numpy = pytest.importorskip("numpy")

MIB = 1024 * 1024
PORTABLE = os.environ.get("JOBSERVER_PORTABLE") == "1"
mapped_only = pytest.mark.skipif(PORTABLE, reason="the portable path copies")

#: Where what travels changes its way: into a memory file, beside the pickle, mapped.
BORDERS = [
    size + more for size in (pickling._LARGE, INLINE, segments._VERY_LARGE) for more in (-1, 0, 1)
]

#: Kept to the end of a job's process, so that its owner can see that end.
kept: list[object] = []


@pytest.fixture
def js(make_jobserver: Any) -> Jobserver:
    """With NumPy in the fork server, whose jobs would each load it."""
    made: Jobserver = make_jobserver(preload=["numpy"])
    return made


def memory_maps() -> list[range]:
    """Where memory files are mapped in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    of_ours = [line.split()[0].split("-") for line in lines if "memfd:jobserver" in line]
    return [range(int(start, 16), int(end, 16)) for start, end in of_ours]


def is_mapped(array: Any) -> bool:
    return any(array.__array_interface__["data"][0] in where for where in memory_maps())


@pytest.fixture(autouse=True)
def no_memory_is_left() -> Iterator[None]:
    """After every test: no memory file is mapped."""
    yield
    gc.collect()  # what a failed test's traceback kept is no concern of ours
    assert memory_maps() == []


def identity(value: Any) -> Any:
    return value


def ones(size: int) -> Any:
    return numpy.ones(size, dtype="u1")


def made(what: str) -> Any:
    """Two to three MiB of each kind of array."""
    matrix = numpy.arange(300_000, dtype="f8").reshape(500, 600)
    if what == "read-only":
        matrix.flags.writeable = False
    return {
        "in C's order": matrix,
        "in Fortran's order": numpy.asfortranarray(matrix),
        "transposed": matrix.T,
        "with gaps": matrix[:, ::2],
        "backwards": matrix[::-1],
        "of records": numpy.zeros(100_000, dtype=[("name", "U4"), ("size", "i8")]),
        "of dates": numpy.arange(300_000).astype("M8[s]"),
        "of objects": numpy.array([{"a": 1}, None, "text"] * 50_000, dtype=object),
        "read-only": matrix,
    }[what]


KINDS = [
    "in C's order",
    "in Fortran's order",
    "transposed",
    "with gaps",
    "backwards",
    "of records",
    "of dates",
    "of objects",
    "read-only",
]


# Loops and not parameters: that a process loads NumPy takes longer than all of a test.


def test_an_array_arrives_as_it_was(js: Jobserver) -> None:
    for kind in KINDS:
        expected = made(kind)
        for array in (js(made, kind).result(DEADLINE), js(identity, expected).result(DEADLINE)):
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape), kind
            assert numpy.array_equal(array, expected), kind
            assert array.flags.writeable is expected.flags.writeable, kind
            if array.flags.writeable:
                array[...] = array[::-1].copy()
                assert numpy.array_equal(array, expected[::-1]), kind


def test_what_arrives_is_the_same_on_either_side_of_each_border(js: Jobserver) -> None:
    for size in BORDERS:
        value = os.urandom(size)
        array = numpy.frombuffer(bytearray(value), dtype="u1")
        for sent in (value, bytearray(value), array):
            back = js(identity, sent).result(DEADLINE)
            assert type(back) is type(sent)
            assert bytes(back) == value, size
        together, [inside], named = js(
            identity, (value, [bytearray(value)], {"array": array})
        ).result()
        assert (type(together), type(inside)) == (bytes, bytearray)
        assert (together, inside, bytes(named["array"])) == (value, value, value)
        named["array"][:] = 0


@mapped_only
def test_a_large_array_is_mapped_and_holds_no_descriptor(js: Jobserver) -> None:
    js(int).result(DEADLINE)
    settle(js)
    before = descriptors()
    future = js(ones, 3 * MIB)
    assert future.wait(DEADLINE)
    settle(js)
    assert descriptors() == before, "not even before it is read"
    array = future.result()
    assert is_mapped(array)
    assert descriptors() == before


def maps_in_job(argument: Any) -> tuple[int, bool, bool]:
    """How much is mapped; and, of an array, whether that is, and whether it can be written."""
    if not isinstance(argument, bytes):
        argument[:] = 2
    total = sum(map(len, memory_maps()))
    array = not isinstance(argument, bytes)
    return total, array and is_mapped(argument), array and bool((argument == 2).all())


@mapped_only
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_large_argument_is_mapped_and_is_the_jobs_own(js: Jobserver) -> None:
    array = ones(3 * MIB)
    total, mapped, written = js(maps_in_job, array).result(DEADLINE)
    assert (mapped, written) == (True, True)
    assert 3 * MIB <= total < 3 * MIB + 64 * 1024
    assert (array == 1).all(), "the job wrote to memory of its own"


@mapped_only
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_large_bytes_are_not_kept_twice_by_their_job(js: Jobserver) -> None:
    assert js(maps_in_job, bytes(3 * MIB)).result(DEADLINE) == (0, False, False)


@mapped_only
def test_the_memory_of_an_array_goes_with_the_last_that_refers_to_it(js: Jobserver) -> None:
    array = js(ones, 3 * MIB).result(DEADLINE)
    assert is_mapped(array)
    part = array[MIB : 2 * MIB]
    del array
    gc.disable()  # it must go at once, and not some time
    try:
        part[:] = 5
        assert is_mapped(part)
        assert (part == 5).all()
        del part
        assert memory_maps() == []
    finally:
        gc.enable()


@mapped_only
def test_small_parts_of_a_large_result_do_not_keep_its_memory(js: Jobserver) -> None:
    large, small = js(large_and_small).result(DEADLINE)
    assert is_mapped(large)
    del large
    assert memory_maps() == []
    assert (small == 1).all()


def large_and_small() -> tuple[Any, Any]:
    return ones(3 * MIB), ones(100_000)


@mapped_only
@pytest.mark.parametrize("count", [300_000, 3_000_000])
def test_a_large_pickle_does_not_stay_mapped(js: Jobserver, count: int) -> None:
    numbers = [float(n) for n in range(count)]
    assert js(identity, numbers).result(DEADLINE) == numbers
    assert memory_maps() == []


def overlapping() -> dict[str, Any]:
    array = numpy.arange(3 * MIB, dtype="u1")
    return {"array": array, "again": array, "part": array[: 2 * MIB], "deep": [{"in": array}]}


def test_arrays_that_share_memory_arrive_as_pickle_has_it(js: Jobserver) -> None:
    """One object stays one; a view becomes an array of its own."""
    result = js(overlapping).result(DEADLINE)
    assert result["array"] is result["again"] is result["deep"][0]["in"]
    assert numpy.array_equal(result["part"], result["array"][: 2 * MIB])
    result["part"][:] = 0
    assert numpy.array_equal(result["array"], overlapping()["array"])


def identities(first: Any, second: Any, *, third: Any = None) -> tuple[bool, bool, Any]:
    return first is second, first is third, type(first)


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_what_is_passed_twice_is_one_object_in_the_job(js: Jobserver, make: Any) -> None:
    value = make(3 * MIB)
    assert js(identities, value, value).result(DEADLINE) == (True, False, make)
    assert js(identities, value, 1, third=value).result(DEADLINE) == (False, True, make)
    assert js(identities, value, make(3 * MIB)).result(DEADLINE) == (False, False, make)


def write_and_look(buffer: bytearray, holder: dict[str, bytearray]) -> tuple[int, int]:
    buffer[0] = 7
    return holder["buffer"][0], len(buffer)


def test_an_argument_that_another_refers_to_stays_one_object(js: Jobserver) -> None:
    buffer = bytearray(3 * MIB)
    result = js(write_and_look, buffer, {"buffer": buffer}).result(DEADLINE)
    assert result == (7, len(buffer))


def test_the_same_argument_can_be_sent_again(js: Jobserver) -> None:
    array = ones(3 * MIB)
    for value in (1, 2, 3):
        array[:] = value
        assert (js(identity, array).result(DEADLINE) == value).all()


def ones_and_keep(size: int, writer: Connection) -> Any:
    kept.append(writer)
    return ones(size)


def test_jobs_with_large_results_end_though_their_owner_reads_none(js: Jobserver) -> None:
    readers, futures = [], []
    for n in range(6):
        reader, writer = js.context.Pipe(False)
        futures.append(js(ones_and_keep, (n + 1) * MIB, writer))
        writer.close()
        readers.append(reader)
    for reader in readers:
        with reader:
            assert reader.poll(DEADLINE)
            with pytest.raises(EOFError):
                reader.recv()
    for n, future in reversed(list(enumerate(futures))):
        array = future.result(DEADLINE)
        assert (len(array), int(array.sum())) == ((n + 1) * MIB, (n + 1) * MIB)


def test_a_result_outlives_its_job_future_and_jobserver(js: Jobserver) -> None:
    future = js(ones, 3 * MIB)
    js.close()
    array = future.result()
    del future
    array += 1
    assert (array == 2).all()


def die_while_writing() -> Any:
    pwrite = os.pwrite

    def killed(fd: int, data: Any, offset: int) -> int:
        if offset > 0:
            pwrite(fd, data[:MIB], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return pwrite(fd, data, offset)

    os.pwrite = killed
    return ones(3 * MIB)


def test_a_job_killed_amid_its_result_leaves_nothing(js: Jobserver) -> None:
    with pytest.raises(SubmissionDied, match="SIGKILL|signal 9"):
        js(die_while_writing).result(DEADLINE)


def lie(count: int, sizes: list[int]) -> Any:
    """Sends a memory file that says something else of itself than it is."""

    number, segment, view = segments._U64, segments._SEGMENT, segments._VIEW

    def fill(memory: Any, segments: Any) -> None:
        entries = [segment.pack(size, view) for size in sizes]
        header = b"".join([number.pack(count), *entries])
        os.pwrite(memory.fileno(), header + bytes(100), 0)

    segments._fill = fill
    return ones(3 * MIB)


LIES: list[tuple[int, list[int]]] = [
    (0, []),
    (1 << 60, []),
    (1000, [1]),
    (1, [1 << 40]),
    (2, [10, 3 * MIB]),
    (2, [1 << 63, 1 << 63]),
    (2, [(1 << 64) - 1, 10]),
]


def test_a_memory_file_that_lies_is_an_error_and_harms_nobody(js: Jobserver) -> None:
    for count, sizes in LIES:
        error = js(lie, count, sizes).exception(DEADLINE)
        assert isinstance(error, pickle.UnpicklingError), (count, sizes)
        assert "cannot be unpickled here" in str(error)
    assert js(len, "four").result(DEADLINE) == 4


def cut(value: Any) -> Any:
    """Sends a memory file that lacks its last bytes."""
    fill: Any = segments._fill

    def fill_and_cut(memory: Any, segments: Any) -> None:
        fill(memory, segments)
        os.ftruncate(memory.fileno(), os.fstat(memory.fileno()).st_size - 10)

    segments._fill = fill_and_cut
    return value


def test_a_memory_file_that_was_cut_is_an_error(js: Jobserver) -> None:
    for size in (MIB, 2 * segments._HUGE):
        for value in (bytes(size), bytearray(size), ones(size), "x" * size):
            error = js(cut, value).exception(DEADLINE)
            assert isinstance(error, pickle.UnpicklingError), (size, type(value))
            assert "shorter than its header says" in str(error)


def test_arrays_arrive_also_where_python_has_no_ctypes(
    js: Jobserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = js(large_and_small)
    assert future.wait(DEADLINE)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    large, small = future.result()
    assert not is_mapped(large)
    large[:] = 2
    assert ((large == 2).all(), (small == 1).all()) == (True, True)


@mapped_only
def test_private_memory_counts_only_where_it_was_written(js: Jobserver) -> None:
    """That is: nothing has been copied."""
    array = js(ones, 8 * MIB).result(DEADLINE)
    assert int(array.sum()) == 8 * MIB
    assert private_dirty() == 0
    array[: 4096 * 10] = 2
    assert 0 < private_dirty() <= 11 * 4096


def private_dirty() -> int:
    """How many bytes of the mapped memory files are copies of this process's own."""
    smaps = Path("/proc/self/smaps").read_text()
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)
    ours = [area for area in areas if "memfd:jobserver" in area]
    return sum(int(kib) * 1024 for area in ours for kib in re.findall(r"Anonymous: +(\d+)", area))


def message_size(value: object) -> int:
    """How many bytes a result takes on its way."""
    return len(pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL))


def filling(message: int) -> int:
    """How many bytes must be returned to make a message of this size."""
    size = next(size for size in range(message, 0, -1) if message_size(bytes(size)) == message)
    assert 0 < message - size < 64
    return size


#: On both sides of where results stop travelling in the channel, and far from it.
SIZES = [0, filling(INLINE - 1), filling(INLINE), filling(INLINE + 1), LARGE]


def test_results_of_every_size_arrive_whole(js: Jobserver) -> None:
    futures = [js(pattern, size, size) for size in SIZES]
    assert [f.result(DEADLINE) for f in futures] == [pattern(size, size) for size in SIZES]


@pytest.mark.fresh
@pytest.mark.parametrize("size", SIZES)
def test_a_job_ends_though_its_owner_does_not_look(js: Jobserver, size: int) -> None:
    reader, writer = js.context.Pipe(duplex=False)
    with reader, writer:
        future = js(zeros_and_keep, size, writer)
        writer.close()
        assert reader.poll(DEADLINE), "the job waits for its owner"
        with pytest.raises(EOFError):
            reader.recv_bytes()
    assert future.result(DEADLINE) == bytes(size)


def test_many_large_results_at_once_do_not_mix(make_jobserver: Callable[..., Jobserver]) -> None:
    js = make_jobserver(slots=4)
    futures = [js(pattern, seed, 256 * 1024) for seed in range(8)]
    expected = [pattern(seed, 256 * 1024) for seed in range(8)]
    assert [f.result(DEADLINE) for f in futures] == expected


def memory_files() -> list[str]:
    """The descriptors of results that travelled beside the channel."""
    return [what for what in descriptors().values() if "jobserver" in what and "-pool-" not in what]


def mapped_files() -> list[str]:
    """Where such results are mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if "memfd:jobserver" in line]


def test_a_large_result_that_was_read_holds_no_descriptor(js: Jobserver) -> None:
    futures = [js(pattern, seed, LARGE) for seed in (1, 2)]
    assert [f.result(DEADLINE) for f in futures] == [pattern(1, LARGE), pattern(2, LARGE)]
    assert memory_files() == []


def test_a_large_result_that_nobody_reads_goes_with_its_future(js: Jobserver) -> None:
    future = js(pattern, 1, LARGE)
    assert future.wait(DEADLINE)
    assert len(memory_files() + mapped_files()) == 1, "the test looks for the wrong thing"
    del future
    gc.collect()
    assert memory_files() + mapped_files() == []


def test_closing_reads_the_large_results_that_are_left(js: Jobserver) -> None:
    future = js(pattern, 1, LARGE)
    js.close()
    assert memory_files() == []
    assert future.result() == pattern(1, LARGE)


def arrays(numpy: Any) -> dict[str, Any]:
    """One array of each kind that pickles in a way of its own."""
    matrix = numpy.arange(100_000, dtype="f8").reshape(250, 400)
    return {
        "large": matrix,
        "small": numpy.arange(3),
        "empty": numpy.zeros((0, 5)),
        "in Fortran's order": numpy.asfortranarray(matrix),
        "a view with gaps": matrix[::2, ::3],
        "of objects": numpy.array([{"a": 1}, None, "text"], dtype=object),
        "of records": numpy.zeros(5000, dtype=[("name", "U8"), ("size", "i8")]),
    }


def make_arrays() -> dict[str, Any]:
    return arrays(pytest.importorskip("numpy"))


def fill(array: Any, value: float) -> Any:
    """Writes to an argument, and returns it twice over."""
    array[...] = value
    return array, array


def test_arrays_arrive_whole_and_writable(js: Jobserver) -> None:
    numpy = pytest.importorskip("numpy")
    expected = arrays(numpy)
    result = js(make_arrays).result(DEADLINE)
    assert list(result) == list(expected)
    for name, array in result.items():
        assert array.dtype == expected[name].dtype
        assert array.shape == expected[name].shape
        assert (array == expected[name]).all(), name
        array[...] = array  # raises where it is read-only


def test_an_array_argument_is_the_jobs_own(js: Jobserver) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(100_000)
    first, second = js(fill, array, 7).result(DEADLINE)
    assert first is second, "one object must arrive as one"
    assert (first == 7).all()
    assert (array == 1).all()


def test_a_lambda_travels_with_large_arrays(js: Jobserver) -> None:
    pytest.importorskip("cloudpickle")
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    result = js(lambda: array * 2).result(DEADLINE)
    assert (result == array * 2).all()


def test_large_work_travels(js: Jobserver) -> None:
    work = b"w" * (4 * 1024 * 1024)
    assert js(len, work).result(DEADLINE) == len(work)
