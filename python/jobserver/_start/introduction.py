"""The introduction: the message that a process without its owner's memory gets once.

It consists of three parts. The *preparation* is the data that multiprocessing passes to a new child
(search path, folder, main module, key), and the pool. The *terms* are the owner's identity and the
number of jobs. The third part is the initializer, if there is one. A fork server is prepared
itself, before there are any jobs; a process that it forks does nothing if its preparation is the
same. Not here: how a process uses it
(`loading.py`).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple, Optional, Tuple

from .. import _main, _native, _tracker
from .. import _multiprocessing as mp
from .._exceptions import advised
from .._options import Options
from .._wire import pickling
from .._wire.segments import Payload
from .launch import NO_DESCRIPTORS
from .program import interpreter


class _Tracked:
    """The descriptor of multiprocessing's resource tracker, in an introduction."""

    def __init__(self, descriptor: Any, inode: int) -> None:
        self.descriptor = descriptor
        self.inode = inode  # by which trackers are compared

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


#: The owner's pid and its name in multiprocessing; how many jobs the process may run; the modules
#: that a fork server imports; whether jobs report that they give their slots to the pool; how many
#: jobs are above them; whether an initializer follows.
Terms = Tuple[Tuple[int, str], Optional[int], Tuple[str, ...], bool, int, bool]


class Introductions:
    """The messages that introduce this process to new ones."""

    def __init__(self, method: str, helpers: Preparation | None = None) -> None:
        self._method = method
        #: The preparation of jobs that are prepared as the fork server is, if it is known.
        self._helpers = helpers
        #: The last introduction without a preparation, for a process that is prepared already.
        self._short: tuple[Terms, Payload] | None = None

    def to_helper(
        self, home: str, preload: tuple[str, ...]
    ) -> tuple[Preparation, tuple[Payload, _native.Descriptors]]:
        """The introduction of a fork server for the pool with this home, and the preparation in it,
        which `was_sent` takes."""
        self._helpers = None
        preparation = prepared(self._method, home)
        return preparation, pickling.dump_launch(preparation, terms(None, preload))

    def was_sent(self, preparation: Preparation) -> None:
        """Records the fork server's preparation. It is recorded only after the fork server has
        started, because another thread may have started one first, with another preparation."""
        self._helpers = preparation

    def to_job(
        self, home: str, options: Options, owner: _native.Owner, *, is_new: bool = False
    ) -> tuple[Payload, _native.Descriptors, bool]:
        """The introduction of a process that runs jobs of this owner, of the pool with this home;
        and whether it prepares the process as the helper's processes are prepared. They need no
        preparation, unless the process `is_new` and was not forked."""
        preparation = prepared(self._method, home)
        first = () if options.initializer is None else (options.initializer,)
        said = terms(
            options.max_tasks,
            tells=owner.hears_of_yields,
            depth=owner.depth + 1,
            initializes=bool(first),
        )
        alike = preparation == self._helpers
        if is_new or not alike:
            return (*_dumped(preparation, said, *first), alike)
        if self._short is None or self._short[0] != said:
            message, descriptors = _dumped(None, said, *first)
            if len(descriptors):
                return message, descriptors, True
            self._short = said, message
        return self._short[1], NO_DESCRIPTORS, True


def _dumped(*parts: Any) -> tuple[Payload, _native.Descriptors]:
    return pickling.dump_launch(*parts, what="the initializer or one of its initargs")


def terms(
    tasks: int | None,
    preload: tuple[str, ...] = (),
    tells: bool = False,
    depth: int = 0,
    initializes: bool = False,
) -> Terms:
    owner = os.getpid(), mp.process.current_process().name
    return owner, tasks, preload, tells, depth, initializes


def prepared(method: str, home: str) -> Preparation:
    is_tracked = _tracker.is_running()
    if not is_tracked and not _main.is_frozen():
        interpreter()  # raises; the start of the resource tracker would fail without a reason
    _main.put_file_back()
    try:
        data = mp.spawn.get_preparation_data("")
    except FileNotFoundError as e:
        raise FileNotFoundError(e.errno, _folder_gone()) from None
    del data["name"]  # each job has its own name
    if not _main.can_be_imported():
        data.pop("init_main_from_path", None)  # that of a program on standard input, for example
        data.pop("init_main_from_name", None)
    data["start_method"] = method
    data["sys_argv"] = list(data["sys_argv"])  # the only part that is not a copy
    try:
        if not is_tracked:
            _tracker.start()
        tracker = _Tracked(*_tracker.reached())
    except OSError as e:
        raise advised(e, "cannot start multiprocessing's resource tracker") from None
    return Preparation(method, home, data, tracker)


def _folder_gone() -> str:
    name = "this process's current folder"
    with contextlib.suppress(OSError):
        name += ", " + os.readlink("/proc/self/cwd").replace(" (deleted)", "")
    return f'{name}, was removed, and jobs start in it: call os.chdir first, or use context="fork"'
