"""A message's segments: pickles, and the large buffers beside them, in bytes or in a memory file.

memory file = header segment*        (a segment begins at a multiple of 64; one that is
                                      loaded as a view, of 4096)
header      = count u64, then for each segment its size u64 and its form u64
segment     = first the pickles, then one buffer each
"""

from __future__ import annotations

import itertools
import os
import struct
from typing import Iterator, NamedTuple, Sequence, Union

from .. import _native
from .._exceptions import advised

#: For smaller buffers, in bytes, a copy costs less than a view, and keeps no memory of the file.
_VERY_LARGE = 1024 * 1024
#: A segment that becomes a Python object and is smaller than this, in bytes, is read. Otherwise it
#: is copied from a view, which saves a pass over the memory and costs the import of ctypes (2.5
#: ms).
_HUGE = 16 * 1024 * 1024
_ALIGN = 64
_PAGE = 4096
_U64 = struct.Struct("=Q")
_SEGMENT = struct.Struct("=QQ")

#: The messages that a channel sends, and those that it receives.
Payload = Union[bytes, _native.MemoryFile]
Received = Union[Payload, _native.MemoryMap]

#: The type that a segment is loaded as.
_VIEW, _BYTES, _BYTEARRAY = range(3)
Loaded = Union[bytes, bytearray, memoryview]


def to_memory(segments: Sequence[memoryview]) -> _native.MemoryFile:
    memory = _native.MemoryFile()
    try:
        _fill(memory, segments)
    except OSError as e:
        raise advised(e, "cannot write a memory file") from None
    return memory


def _fill(memory: _native.MemoryFile, segments: Sequence[memoryview]) -> None:
    table = [_Segment(segment.nbytes, _form(segment)) for segment in segments]
    if table[0].size < _HUGE:
        table[0] = table[0]._replace(form=_BYTES)  # the pickles
    header = b"".join([_U64.pack(len(table)), *(_SEGMENT.pack(*entry) for entry in table)])
    _write(memory, memoryview(header), 0)
    for segment, offset in zip(segments, _offsets(table)):
        _write(memory, segment, offset)


class _Segment(NamedTuple):
    size: int
    form: int


def _form(segment: memoryview) -> int:
    if isinstance(segment.obj, bytes):
        return _BYTES
    very_large = segment.nbytes >= _VERY_LARGE and not isinstance(segment.obj, bytearray)
    return _VIEW if very_large else _BYTEARRAY


def _offsets(table: Sequence[_Segment]) -> Iterator[int]:
    """The offsets of these segments."""
    end = _U64.size + _SEGMENT.size * len(table)
    for size, form in table:
        align = _PAGE if form == _VIEW else _ALIGN
        start = -(-end // align) * align
        yield start
        end = start + size


def _write(memory: _native.MemoryFile, data: memoryview, offset: int) -> None:
    while data.nbytes:
        written = os.pwrite(memory.fileno(), data, offset)
        data, offset = data[written:], offset + written


class _File:
    """Reads a memory file."""

    def __init__(self, file: _native.MemoryFile) -> None:
        self._file = file

    def read(self, size: int, offset: int) -> bytearray:
        # Checked before memory is allocated: a job may send any header.
        if offset + size > os.fstat(self._file.fileno()).st_size:
            raise _too_short()
        data = bytearray(size)
        view = memoryview(data)
        while view.nbytes:
            read = os.preadv(self._file.fileno(), [view], offset)
            if not read:
                raise _too_short()
            view, offset = view[read:], offset + read
        return data

    def load(self, segment: _Segment, offset: int) -> Loaded:
        data = self.read(segment.size, offset)
        return bytes(data) if segment.form == _BYTES else data


class _Map:
    """Reads a mapped memory file."""

    def __init__(self, memory: _native.MemoryMap) -> None:
        self._memory = memory
        self._view: memoryview | None = None

    def read(self, size: int, offset: int) -> bytes:
        data = self._memory.read(size, offset)
        if len(data) != size:
            raise _too_short()
        return data

    def load(self, segment: _Segment, offset: int) -> Loaded:
        if segment.form != _VIEW and segment.size < _HUGE:
            data = self.read(segment.size, offset)
            return data if segment.form == _BYTES else bytearray(data)
        if self._view is None:
            self._view = _view(self._memory)
        view = self._view[offset : offset + segment.size]
        if view.nbytes != segment.size:
            raise _too_short()
        if segment.form == _VIEW:
            return view
        return bytes(view) if segment.form == _BYTES else bytearray(view)


def _view(memory: _native.MemoryMap) -> memoryview:
    """A writable view of the whole mapping, which keeps the mapping as long as anything refers to
    the view."""
    try:
        import ctypes  # imported late because it is rarely needed
    except ImportError:  # a Python that was built without it
        return memoryview(bytearray(memory.read(len(memory), 0)))
    array = (ctypes.c_char * len(memory)).from_address(memory.address)
    array.memory = memory  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def _too_short() -> EOFError:
    return EOFError("a memory file is shorter than its header says")


def segments_of(message: Received) -> list[Loaded]:
    """The pickles of a message, and then the buffers that belong to them."""
    if isinstance(message, bytes):
        return [message]
    source = _Map(message) if isinstance(message, _native.MemoryMap) else _File(message)
    (count,) = _U64.unpack(source.read(_U64.size, 0))
    entries = _SEGMENT.iter_unpack(source.read(_SEGMENT.size * count, _U64.size))
    table = list(itertools.starmap(_Segment, entries))
    return [source.load(segment, offset) for segment, offset in zip(table, _offsets(table))]
