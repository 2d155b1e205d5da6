"""The introduction: what a process that does not share its owner's memory is told once.

It is the *preparation*, which is what multiprocessing passes to a new child (search path, folder,
main module, key) and the pool; and the *terms*: who the owner is, and how many jobs to expect. A
fork server is prepared itself, before there are any jobs; so a process for which that is the same
has nothing to do. Not here: what a process makes of it (`loading.py`).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple, Optional, Tuple

from .. import _main, _native, _tracker
from .. import _multiprocessing as mp
from .._exceptions import advised
from .._wire import pickling
from .._wire.segments import Payload
from .launch import NO_DESCRIPTORS
from .program import interpreter


class _Tracked:
    """The descriptor of multiprocessing's resource tracker, on its way to a job."""

    def __init__(self, descriptor: Any, inode: int) -> None:
        self.descriptor = descriptor
        self.inode = inode  # tells one tracker from another

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tracked) and self.inode == other.inode

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self.descriptor)
        return _Tracked, (pickling.Passed(index), self.inode)


class Preparation(NamedTuple):
    method: str
    home: str
    data: dict[str, Any]
    tracker: _Tracked


#: The owner's pid and its name to multiprocessing; how many jobs a process may have; what a fork
#: server is to import; whether jobs are to tell when they give their slots away.
Terms = Tuple[Tuple[int, str], Optional[int], Tuple[str, ...], bool]


class Introductions:
    """The messages that introduce this process to new ones."""

    def __init__(self, method: str) -> None:
        self._method = method
        #: What the fork server was prepared for, if this process knows.
        self._helpers: Preparation | None = None
        #: The last to a process that is prepared already.
        self._short: tuple[Terms, Payload] | None = None

    def to_helper(
        self, home: str, preload: tuple[str, ...]
    ) -> tuple[Preparation, tuple[Payload, _native.Descriptors]]:
        """To a fork server for the pool with this home; and what to say if it `was_sent`."""
        self._helpers = None
        preparation = _preparation(self._method, home)
        return preparation, pickling.dump_launch(preparation, terms(None, preload))

    def was_sent(self, preparation: Preparation) -> None:
        """Not sooner: another thread may have been quicker, with one of its own."""
        self._helpers = preparation

    def to_job(
        self, home: str, tasks: int | None, tells: bool
    ) -> tuple[Payload, _native.Descriptors]:
        """To a process that is to run jobs of that pool, `tasks` at most."""
        preparation, said = _preparation(self._method, home), terms(tasks, tells=tells)
        if preparation != self._helpers:
            return pickling.dump_launch(preparation, said)
        if self._short is None or self._short[0] != said:
            self._short = said, pickling.dump_launch(None, said)[0]
        return self._short[1], NO_DESCRIPTORS


def terms(tasks: int | None, preload: tuple[str, ...] = (), tells: bool = False) -> Terms:
    return (os.getpid(), mp.process.current_process().name), tasks, preload, tells


def _preparation(method: str, home: str) -> Preparation:
    if not _main.is_frozen():
        interpreter()  # or the resource tracker could not be started, and would not say why
    try:
        data = mp.spawn.get_preparation_data("")
    except FileNotFoundError as e:
        raise FileNotFoundError(e.errno, _folder_gone()) from None
    del data["name"]  # which is each job's own
    data["start_method"] = method
    data["sys_argv"] = list(data["sys_argv"])  # which, alone of all this, is not a copy
    try:
        tracker = _Tracked(*_tracker.running())
    except OSError as e:
        raise advised(e, "cannot start multiprocessing's resource tracker") from None
    return Preparation(method, home, data, tracker)


def _folder_gone() -> str:
    name = "this process's current folder"
    with contextlib.suppress(OSError):
        name += ", " + os.readlink("/proc/self/cwd").replace(" (deleted)", "")
    return f'{name}, is gone, and jobs begin there: call os.chdir first, or use context="fork"'
