"""What jobs have written, for the owner: `output=` of a submission.

A job writes into memory files (see `_redirection.py`). Its owner reads them: at once with
"forward", to write on to its own `sys.stdout` and `sys.stderr`, and on request with "capture". A
file is closed when its job has ended, so that Futures which are kept do not use up descriptors.
"""

from __future__ import annotations

import codecs
import collections
import fcntl
import itertools
import os
import sys
import threading
from typing import Any, Sequence
from weakref import WeakValueDictionary

from . import _native
from ._native import getpid
from ._signals import raised_by_handler

#: More output than this, in bytes, stays in its file, and is not copied.
_SMALL = 1 << 20

#: How much is read at a time.
_STEP = 1 << 16

#: How much of the output stands in the message of a death.
_LAST_LINES, _LAST_CHARACTERS = 10, 2000

#: How often output is forwarded while a call waits for jobs, in seconds. Nothing tells that a job
#: has written to a file.
INTERVAL = 0.1


def _new_file() -> _native.MemoryFile:
    """A file to whose end all write, also a program that has opened it anew."""
    made = _native.MemoryFile()
    flags = fcntl.fcntl(made.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(made.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)
    return made


def read(file: _native.MemoryFile, most: int, start: int = 0) -> bytes:
    """Up to so many bytes of a file."""
    parts = []
    while most > 0:
        part = os.pread(file.fileno(), most, start)
        if not part:
            break
        parts.append(part)
        most -= len(part)
        start += len(part)
    return b"".join(parts)


def size_of(file: _native.MemoryFile) -> int:
    return os.fstat(file.fileno()).st_size


class Captured:
    """The output of a job, both streams together, in the order written."""

    def __init__(self) -> None:
        self._file: _native.MemoryFile | None = _new_file()
        #: After the job: its output, if it is small; otherwise how long it is.
        self._bytes = b""
        self._size: int | None = None
        #: Why the output cannot be read: this program has closed the file.
        self._lost: OSError | None = None

    @property
    def files(self) -> Sequence[_native.MemoryFile]:
        assert self._file is not None
        return [self._file]

    def text(self) -> str:
        file, size = self._file, self._size
        if self._lost is not None:
            raise self._lost
        if file is None:
            return self._bytes.decode(errors="replace")
        written = read(file, size_of(file) if size is None else size)
        return codecs.utf_8_decode(written, "replace", size is not None)[0]

    def last_lines(self) -> str:
        """The last lines, indented, for a message; empty if there are none."""
        file, most = self._file, 4 * _LAST_CHARACTERS
        if file is None:
            end = self._bytes[-most:]
        else:
            try:
                end = read(file, most, max(0, size_of(file) - most))
            except OSError:  # this program has closed the file
                return ""
        lines = end.decode(errors="replace").rstrip()[-_LAST_CHARACTERS:].splitlines()
        return "".join(f"\n    {line}" for line in lines[-_LAST_LINES:])

    def settle(self) -> None:
        """After the job: what programs that it has left behind write is not its output."""
        file = self._file
        if file is None or self._size is not None:
            return
        try:
            size = size_of(file)
            if size > _SMALL:
                self._size = size
                return
            self._bytes = read(file, size)
        except OSError as e:
            self._lost = e.with_traceback(None)
        self._file = None


class _Stream:
    """One stream of a job, on its way to a stream of this process."""

    def __init__(self, name: str) -> None:
        self.file: _native.MemoryFile | None = _new_file()
        self._name = name
        #: How much has been read; and the text that has been read and not been written.
        self._at = 0
        self._text: collections.deque[str] = collections.deque()
        self._is_broken = False

    def forward(self, ended: bool) -> None:
        """Writes on what has come: whole lines; and the rest, if the job has `ended`."""
        self._write()
        while self.file is not None:
            try:
                if size_of(self.file) < self._at:
                    self._at = 0  # a shell has opened /dev/stdout anew, which empties the file
                data = os.pread(self.file.fileno(), _STEP, self._at)
            except OSError as e:  # this program has closed the file
                _native.tell_unraisable(e, self._name)
                self.file = None
                return
            is_last = len(data) < _STEP
            if is_last and not ended:
                data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
            text, read = codecs.utf_8_decode(data, "replace", is_last)
            if text:
                # One C call stores both, so that Ctrl-C neither loses nor repeats a text.
                vars(self).update(_at=self._at + read, _text=collections.deque((text,)))
                self._write()
            if is_last:
                if ended:
                    self.file = None
                return

    def _write(self) -> None:
        stream: Any = getattr(sys, self._name, None)
        if stream is None or self._is_broken:
            self._text.clear()
        if not self._text:
            return
        try:
            # One C call takes and writes it; no signal handler runs between the two steps.
            collections.deque(map(stream.write, itertools.starmap(self._text.popleft, ((),))), 0)
        except Exception as e:
            if raised_by_handler(e):
                raise
            self._is_broken = True
            _native.tell_unraisable(e, stream)


class Forwarded:
    """The output of a job, each stream on its way to the same stream of this process."""

    def __init__(self, among: Forwarding) -> None:
        self._streams = _Stream("stdout"), _Stream("stderr")
        self._pid = getpid()
        self._among = among
        #: Reentrant, because `sys.stdout` may be an object that uses this package.
        self._turn = threading.RLock()
        among.add(self)

    @property
    def files(self) -> Sequence[_native.MemoryFile]:
        return [stream.file for stream in self._streams if stream.file is not None]

    def forward(self, ended: bool = False) -> None:
        if self._pid != getpid():
            return  # the parent forwards it
        with self._turn:
            for stream in self._streams:
                stream.forward(ended)

    def settle(self) -> None:
        self.forward(ended=True)
        self._among.remove(self)


class Forwarding:
    """The jobs of an owner whose output is forwarded and that have not ended."""

    def __init__(self) -> None:
        self._all: WeakValueDictionary[int, Forwarded] = WeakValueDictionary()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, output: Forwarded) -> None:
        self._all[id(output)] = output

    def remove(self, output: Forwarded) -> None:
        self._all.pop(id(output), None)

    def _now(self) -> list[Forwarded]:
        # A copy, because another thread may submit meanwhile.
        return [each for each in (ref() for ref in self._all.valuerefs()) if each is not None]

    def forward(self, wait: float | None) -> float | None:
        """Forwards what has come. Returns how long a wait of so many seconds may be at once."""
        for output in self._now():
            output.forward()
        if not self or (wait is not None and wait <= INTERVAL):
            return wait
        return INTERVAL

    def settle(self) -> None:
        """After all jobs have ended."""
        for output in self._now():
            output.settle()
