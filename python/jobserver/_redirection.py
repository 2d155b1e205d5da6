"""In a job: descriptors 1 and 2 lead to files while the job runs, for `output=` of a submission.

So the files get what Python prints, what C code writes, and what the programs that the job starts
write. The files are not pipes: a job never waits until somebody reads. `sys.stdout` and
`sys.stderr` are replaced too, by streams that keep nothing back. So all that a job has printed is
in the file when it crashes, and the order of the two streams is kept.

Not here: who reads the files (`_output.py`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, Sequence

from . import _multiprocessing as mp
from . import _native
from ._around import Around, Entered, around
from ._exceptions import advised

#: The descriptors of the standard streams, and their names in `sys`.
STREAMS = ((1, "stdout"), (2, "stderr"))

#: In a job whose output is redirected: how often. Only jobs with "inline" can be within others.
_depth = 0


class Redirection:
    """A limit (see `_around.py`): redirects the output of this process while its job runs."""

    def __init__(
        self, files: Sequence[_native.MemoryFile], restores: bool, exit_ends: bool = True
    ) -> None:
        """`files` are that of both streams, or one for each. `restores`: the process may stay, so
        the streams must be restored after the job; unless SystemExit `exit_ends` the process."""
        self._files = files
        self._restores = restores
        self._exit_ends = exit_ends

    def release(self) -> None:
        """In the owner, after the job: releases the files."""
        self._files = ()

    def __reduce__(self) -> tuple[Any, ...]:
        passed = [mp.reduction.DupFd(file.fileno()) for file in self._files]
        return _received, (passed, self._restores)

    def __call__(self, entered: Entered) -> None:
        global _depth
        _native.flush()  # what was printed before is not the job's
        before = [getattr(sys, name, None) for _, name in STREAMS]
        saved = _Saved(before) if self._restores else None
        entered.push(lambda kind, *_: self._end(entered, before, saved, kind))
        _depth += 1
        for descriptor, name in STREAMS:
            os.dup2(self._files[(descriptor - 1) % len(self._files)].fileno(), descriptor)
            ours = _stream(descriptor)
            if saved is not None:
                saved.ours.append(ours)
            setattr(sys, name, ours)

    def _end(
        self, entered: Entered, before: list[Any], saved: _Saved | None, kind: type | None
    ) -> None:
        """After the job. If its process ends anyway, the streams stay, because CPython may print
        more: the text of `sys.exit`, or what is registered with `atexit` writes."""
        global _depth
        _native.flush()
        for stream in before:  # objects that kept them may have printed to them
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
        exits = kind is not None and issubclass(kind, SystemExit)
        if saved is None or (exits and self._exit_ends):
            return
        _depth -= 1
        if not saved.restore():
            entered.leaves_changes = True


class _Saved:
    """The standard streams of this process, to be restored."""

    def __init__(self, streams: list[Any]) -> None:
        self._streams = streams
        #: The streams that take their places.
        self.ours: list[Any] = []
        self._copies: list[tuple[int, os.stat_result]] = []
        try:
            for descriptor, _ in STREAMS:
                copy = os.dup(descriptor)
                self._copies.append((copy, os.fstat(copy)))
        except OSError as e:
            self._close()
            raise advised(e, "cannot redirect the job's output") from None

    def restore(self) -> bool:
        """Returns false if the job has closed the saved descriptors."""
        for (_, name), stream, ours in zip(STREAMS, self._streams, self.ours):
            if getattr(sys, name, None) in (ours, None):
                setattr(sys, name, stream)
        if not all(map(_is_intact, self._copies)):
            return False
        for (descriptor, _), (copy, _) in zip(STREAMS, self._copies):
            os.dup2(copy, descriptor)
        self._close()
        return True

    def _close(self) -> None:
        while self._copies:
            os.close(self._copies.pop()[0])


def _is_intact(copy: tuple[int, os.stat_result]) -> bool:
    descriptor, before = copy
    try:
        now = os.fstat(descriptor)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)


class _Unbuffered(io.FileIO):
    """A file that says what to do when it cannot grow."""

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except OSError as e:
            if e.errno not in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
                raise
            raise advised(e, "cannot keep the job's output, which is in memory") from None


def _stream(descriptor: int) -> io.TextIOWrapper:
    """A text stream on a descriptor, as CPython makes with its option -u."""
    file: Any = _Unbuffered(descriptor, "w", closefd=False)
    return io.TextIOWrapper(file, "utf-8", "backslashreplace", write_through=True)


def _received(passed: Sequence[Any], restores: bool) -> Redirection:
    """In a job: the redirection that was pickled."""
    files = []
    for each in passed:
        descriptor = each.detach()
        try:
            files.append(_native.MemoryFile.received(descriptor))
        finally:
            os.close(descriptor)
    return Redirection(files, restores)


def passed_on(work: _native.Work) -> _native.Work:
    """For a job that is not started by this process itself, but by a helper: the same work, whose
    output goes where that of this job goes."""
    if not _depth:
        return work
    files = [_native.MemoryFile.received(descriptor) for descriptor, _ in STREAMS]
    preexec_fn: Around = around((Redirection(files, restores=True),), work.preexec_fn)
    return _native.Work(
        work.env, work.time_limit, preexec_fn, work.function, work.args, work.kwargs, work.progress
    )
