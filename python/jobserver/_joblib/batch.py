"""A batch of joblib's as the work of a job, and how its arrays are sent.

joblib writes each large array once into a temporary file, which all batches of a Parallel map. Here
a large buffer is written once into a memory file (:func:`jobserver.share`) and each batch gets its
descriptor. Nothing is left behind when a process is killed. All that pickle sends beside the
stream counts: arrays in data frames, in sparse matrices, or deep in other objects.

An array that the program has itself mapped from a file (`numpy.memmap`) is sent as the name of the
file. So jobs can write to one that is opened for writing, as joblib's users expect.
"""

from __future__ import annotations

import pickle
import sys
import time
import weakref
from typing import Any, Callable, Iterator, NamedTuple, Union

from .._shared import Shared, share
from .._wire import by_value, pickling

#: Smaller buffers, in bytes, are sent with each batch: they would not be mapped.
_LEAST = 1024 * 1024

#: How many buffers a Parallel shares at once. Each costs a descriptor, here and in each batch.
_MOST = 64

#: A large buffer on its way.
_Passed = Union["pickle.PickleBuffer", "Shared[memoryview]"]


class _Known(NamedTuple):
    owner: weakref.ref[Any]
    shared: Shared[memoryview]


class Buffers:
    """The large buffers that one Parallel has sent, by their places in memory. It does not keep the
    arrays. If an array changes between two batches, the second may have the old values, as with
    joblib's files."""

    def __init__(self, least: int | None, is_read_only: bool) -> None:
        """Buffers of at least so many bytes are shared; None shares nothing."""
        self._least = None if least is None else max(least, _LEAST)
        self.is_read_only = is_read_only
        self._known: dict[tuple[int, int], _Known] = {}

    def passed(self, buffer: pickle.PickleBuffer) -> _Passed:
        """The buffer as it is sent to a job."""
        raw = buffer.raw()
        if self._least is None or raw.nbytes < self._least:
            return buffer
        place, owner = _place(raw)
        if owner is None:
            return buffer
        known = self._known.get(place)
        if known is not None and known.owner() is owner:
            return known.shared
        for other, (ref, _) in [*self._known.items()]:
            if ref() is None:
                self._known.pop(other, None)
        if len(self._known) >= _MOST:
            return buffer
        shared = share(pickle.PickleBuffer(raw))
        self._known[place] = _Known(weakref.ref(owner), shared)  # type: ignore[arg-type]
        return shared  # type: ignore[return-value]


def _place(raw: memoryview) -> tuple[tuple[int, int], Any]:
    """Where a buffer is, and the array that owns its memory. None for the owner if it is no
    array's: then nothing says when the place may have another content."""
    numpy: Any = sys.modules.get("numpy")
    owner = raw.obj
    if numpy is None or not isinstance(owner, numpy.ndarray):
        return (0, 0), None
    address: int = owner.__array_interface__["data"][0]
    while isinstance(owner.base, numpy.ndarray):
        owner = owner.base
    return (address, raw.nbytes), owner


class Batch:
    """A batch, for a job to call. The job loads it as `_Loaded`."""

    def __init__(self, calls: Callable[[], list[Any]], buffers: Buffers) -> None:
        self._calls, self._buffers = calls, buffers

    def __call__(self) -> list[Any]:
        return self._calls()  # in a job that needs no pickle

    def __reduce__(self) -> tuple[Any, ...]:
        stream, large = pickling.dump_apart(self._calls, by_value.WORK, _reducers())
        passed = [self._buffers.passed(buffer) for buffer in large]
        return _loaded, (pickle.PickleBuffer(stream), passed, self._buffers.is_read_only)


def _loaded(stream: Any, passed: list[Any], is_read_only: bool) -> _Loaded:
    """In the job: the batch. A shared array is read-only, because jobs that the process runs later
    would see what this one writes."""
    buffers = [_view(each, is_read_only) if isinstance(each, Shared) else each for each in passed]
    return _Loaded(pickle.loads(stream, buffers=buffers))


class _Loaded:
    """In the job: a batch. It pickles its results itself: see `Results`."""

    def __init__(self, calls: Callable[[], list[Any]]) -> None:
        self._calls = calls

    def __call__(self) -> Results:
        begun = time.monotonic()
        outcome = pickling.dump_apart(self._calls(), by_value.OUTCOME, {})
        return Results(*outcome, time.monotonic() - begun)


class Results:
    """The results of a batch, as its owner gets them. They are loaded only when joblib takes them.
    If the owner is a job, the thread of its executor receives them while the job has no slot, and
    models of scikit-learn take long to load.

    `seconds` is how long the calls took."""

    def __init__(self, stream: Any, buffers: list[Any], seconds: float) -> None:
        self._stream, self._buffers = stream, buffers
        self.seconds = seconds

    def __iter__(self) -> Iterator[Any]:
        results: list[Any] = pickle.loads(self._stream, buffers=self._buffers)
        return iter(results)

    def __reduce__(self) -> tuple[Any, ...]:
        return Results, (pickle.PickleBuffer(self._stream), self._buffers, self.seconds)


def _view(shared: Shared[Any], is_read_only: bool) -> memoryview:
    view = memoryview(shared.value)
    return view.toreadonly() if is_read_only else view


def _reducers() -> pickling.Reducers:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return {}
    return {numpy.ndarray: _reduced, numpy.memmap: _reduced}


def _reduced(array: Any) -> Any:
    """The reduction of an array: by the name of its file, if it is mapped from one."""
    mapped = _mapped(array)
    if mapped is None or array.dtype.hasobject or not array.size:
        return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    first, end = _bounds(array)
    offset = mapped.offset + first - _bounds(mapped)[0]
    start = array.__array_interface__["data"][0] - first
    mode = "r+" if mapped.mode == "w+" else mapped.mode
    where = str(mapped.filename), mode, offset, end - first
    return _mapped_again, (*where, start, array.shape, array.strides, array.dtype)


def _mapped(array: Any) -> Any:
    """The mapping that has the memory of this array; None if it is not mapped from a file with a
    name."""
    numpy: Any = sys.modules["numpy"]
    found = None
    while isinstance(array, numpy.ndarray):
        found = array if isinstance(array, numpy.memmap) else found
        array = array.base
    return found if found is not None and found.filename is not None else None


def _bounds(array: Any) -> tuple[int, int]:
    """The first byte of an array in memory, and the one after its last."""
    first = end = array.__array_interface__["data"][0]
    for size, stride in zip(array.shape, array.strides):
        if stride < 0:
            first += (size - 1) * stride
        else:
            end += (size - 1) * stride
    return first, end + array.itemsize


def _mapped_again(
    name: str, mode: str, offset: int, size: int, start: int, shape: Any, strides: Any, dtype: Any
) -> Any:
    """In the job: the array that was mapped from a file."""
    import numpy

    memory = numpy.memmap(name, "u1", mode, offset, size)  # type: ignore[call-overload]
    return numpy.ndarray(shape, dtype, memory, start, strides)
