"""Where in Python a job was when it crashed (SIGSEGV, SIGABRT): `faulthandler=` of a submission.

The standard library's faulthandler writes that into a memory file, and the owner reads it. Where
faulthandler is enabled in the job's process already (under fork, if it is in the owner, as in
pytest), the file takes the place of the one that it writes to: nothing tells what that was.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from typing import Any

from . import _multiprocessing as mp
from . import _native, _output, _wording
from ._around import Entered

#: The signals that faulthandler handles.
SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})

#: The functions of the package that call a job's function.
_FIRST_CALLS = (" in call_prepared", " in make")

#: More than faulthandler writes of one thread.
_MOST = 1 << 16


class Faults:
    """The owner's part."""

    def __init__(self) -> None:
        self._file: _native.MemoryFile | None = _native.MemoryFile()
        self._text = ""

    def recorder(self, restores: bool) -> Recorder:
        assert self._file is not None
        return Recorder(self._file, restores)

    def settle(self) -> None:
        """After the job: reads what there is, and closes the file."""
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError):  # this program has closed the file
                self._text = _of_the_job(_output.read(file, _MOST).decode(errors="replace"))
            self._file = None

    @property
    def text(self) -> str:
        self.settle()
        return self._text


class Recorder:
    """A limit (see `_around.py`): makes faulthandler write to a file while the job runs."""

    def __init__(self, file: _native.MemoryFile, restores: bool) -> None:
        self._file: _native.MemoryFile | None = file
        self._restores = restores

    def release(self) -> None:
        """In the owner, after the job: releases the file."""
        self._file = None

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._file is not None
        return _received, (mp.reduction.DupFd(self._file.fileno()), self._restores)

    def __call__(self, entered: Entered) -> None:
        global _in_use
        if self._file is None:
            return
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._file.fileno(), all_threads=False)
        _in_use = self._file
        if self._restores:
            entered.callback(_restore, was_enabled)


#: The file that faulthandler writes to, also in processes that are forked from a job. Kept here,
#: because faulthandler has only the number of the descriptor.
_in_use: _native.MemoryFile | None = None


def _restore(was_enabled: bool) -> None:
    global _in_use
    faulthandler.disable()
    _in_use = None
    if was_enabled:
        with contextlib.suppress(ValueError, OSError):  # there is no standard error
            faulthandler.enable(2)


def _received(passed: Any, restores: bool) -> Recorder:
    descriptor = passed.detach()
    try:
        return Recorder(_native.MemoryFile.received(descriptor), restores)
    finally:
        os.close(descriptor)


def _of_the_job(text: str) -> str:
    """The part about the job's own function: under fork, its owner's calls are below."""
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if not starts:
        return ""
    kept: list[str] = []
    for line in lines[starts[-1] :]:
        is_frame = line.startswith("  File ")
        if kept and kept[-1].startswith("  File ") and not is_frame:
            break  # the end of the thread's calls
        if is_frame and _wording.PACKAGE in line and line.endswith(_FIRST_CALLS):
            break
        kept.append(line)
    return "\n".join(kept) + "\n"
