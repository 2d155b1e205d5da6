"""One resource tracker for a whole tree of jobs, whenever it starts and whoever needs it first.

multiprocessing's resource tracker is a process that reads from a pipe which blocks of shared
memory and which named semaphores there are, and that removes, at the end of that pipe, those
that are left. A process that has none starts one as soon as it makes such a thing, or only
attaches to it. So a job with a tracker of its own would, by its end, destroy what is its owner's.

Hence the processes of a tree share one pipe, made before the first of them is born. The tracker
itself, which costs an interpreter, is started by whoever needs it first. It alone holds the
reading end, which is opened from the writing one, through /proc: so every process can see whether
there is a tracker, and put another in the place of one that was killed, on the same pipe.

All versions of CPython start a tracker by `util.spawnv_passfds`, having made a pipe for it: that
is where ours takes the place of theirs. It costs nothing before that: no process need import
multiprocessing's module, whose fork hook a job would pay for. (That hook also closes the pipe of
CPython's in each process that `os.fork` makes, and so in ours: what is shared is a duplicate.)

Not here: how the pipe travels to a process that was not forked (`_start/launch.py`).
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import select
import stat
import sys
from contextlib import contextmanager, suppress
from typing import Any, Iterator
from weakref import WeakSet

from . import _job, _native
from . import _multiprocessing as mp

#: How descriptors are opened anew. Systems without it have a tracker from the beginning.
_OPEN = "/proc/self/fd"

#: More descriptors than Linux lets a process have, unless somebody has changed that.
_MANY = 1 << 20

#: What is run to start a tracker.
_STARTS = "from multiprocessing.resource_tracker import main"


#: The pipe of this process's tree, by 0. A dictionary, as a turn is taken by `setdefault`.
_shared: dict[int, _native.TrackerPipe] = {}

_holders: WeakSet[Holder] = WeakSet()


class Holder:
    """Sees to it that the jobs of this process will share its tracker."""

    def __init__(self) -> None:
        _holders.add(self)
        _pipe()

    def release(self) -> None:
        """When there are no more jobs. With the last holder goes the pipe, if there is no tracker;
        otherwise that is this process's for good, as if it had started it."""
        _holders.discard(self)
        if not _holders:
            _let_go()

    __del__ = release


def running() -> tuple[int, int]:
    """The descriptor by which a new process is to reach the tracker, which is started if need be,
    and the inode, which tells one tracker's pipe from another's.

    Once it runs, CPython's lock of it is left alone: a fork by another thread, while this one held
    it, would leave it locked in the child for ever.
    """
    fd = _multiprocessings()
    if fd is None or _nobody_reads(fd):
        _start()
    pipe = _pipe()
    return pipe.end, pipe.inode


def inherit(end: int) -> None:
    """In a new process that was not forked from its owner: shares the tracker of that one."""
    known = _shared.get(0)
    if known is None or not _leads_to(known, end):
        _shared[0] = _native.TrackerPipe(end, made=False)
    os.close(end)
    _take_over()


def _pipe() -> _native.TrackerPipe:
    """The pipe, which is made if there is none: a duplicate of that of the tracker which this
    process has, or else one that nobody reads yet."""
    _take_over()
    known = _shared.get(0)
    if known is not None:
        if known.is_open():
            return known
        if _job.is_this_process():
            raise _out_of_reach()
        _shared.pop(0, None)
    if _multiprocessings() is None and not os.path.exists(_OPEN):
        _start()
    # Of threads that come here at once, one decides for all.
    return _shared.setdefault(0, _native.TrackerPipe(_multiprocessings(), made=True))


def _out_of_reach() -> OSError:
    """In a job. A tracker of its own would, at its end, take away what others still use."""
    return OSError(
        errno.EBADF,
        "this job has closed the descriptor of multiprocessing's resource tracker, or opened "
        "another file in its place: it can neither start jobs nor use shared memory any more",
    )


def _multiprocessings() -> int | None:
    """The writing end that CPython itself uses in this process, if it does."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)  # another thread may be importing it
    if tracker is None or tracker._fd is None:
        return None
    if _leads_to(_shared.get(0), tracker._fd):
        return int(tracker._fd)
    # This program has closed it, and CPython would write to what has its number now.
    tracker._fd = tracker._pid = None
    return None


def _leads_to(pipe: _native.TrackerPipe | None, fd: int) -> bool:
    """Whether a descriptor is an end of this pipe; of any, if that is None."""
    try:
        file = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISFIFO(file.st_mode) and (pipe is None or pipe.inode == file.st_ino)


def _start() -> None:
    """Has CPython start a tracker, with something on descriptors 0, 1 and 2 meanwhile: what it
    opens would be there, and a tracker closes the first two when it starts."""
    filled = []
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            filled.append(fd)
            os.set_inheritable(fd, True)
        os.close(fd)
        mp.resource_tracker.ensure_running()
    finally:
        for fd in filled:
            os.close(fd)


def _let_go() -> None:
    pipe = _shared.get(0)
    # What an owner has made its jobs have inherited, and need for jobs of their own.
    if pipe is None or not pipe.is_own():
        return
    if pipe.is_open():
        running = _multiprocessings()
        if running is None and not _nobody_reads(pipe.end):  # a job has started it
            mp.resource_tracker._resource_tracker._fd = running = pipe.end
        if running == pipe.end:
            pipe.detach()
    pipe.close()
    _shared.pop(0, None)


def _nobody_reads(fd: int) -> bool:
    """Whether a pipe has no reader."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


_spawnv_passfds: Any = None


def _take_over() -> None:
    """From now on, trackers of this process and those forked from it are started by us."""
    global _spawnv_passfds
    now = mp.util.spawnv_passfds
    # What others have put there since may well call ours.
    if now is not _spawn and (_spawnv_passfds is None or _is_shipped(now)):
        _spawnv_passfds, mp.util.spawnv_passfds = now, _spawn


def _is_shipped(spawnv_passfds: Any) -> bool:
    return mp.is_shipped(spawnv_passfds, mp.util.get_logger)


def programs_are_watched() -> bool:
    """Whether somebody else has replaced multiprocessing's way of starting programs."""
    now = mp.util.spawnv_passfds
    return not _is_shipped(_spawnv_passfds if now is _spawn else now)


def _spawn(path: Any, args: Any, passfds: Any) -> int | None:
    """multiprocessing's function of that name, but for trackers. Called for one, it finds the
    lock of this process's tracker held, and a pipe just made, whose reading end is to be passed
    on and whose writing end will be used. Both become those of the tree's pipe. Returns the pid,
    or None if there is a tracker already."""
    pipe = _shared.get(0) if str(args[-1]).startswith(_STARTS) else None
    if pipe is not None and not pipe.is_open() and _job.is_this_process():
        raise _out_of_reach()
    if pipe is None or not pipe.is_open():
        pid: int = _spawnv_passfds(path, args, passfds)
        return pid
    reading = passfds[-1]
    writing = _other_end(reading)
    with _claim(pipe.end):
        if not _nobody_reads(pipe.end):
            os.dup2(pipe.end, writing, inheritable=False)
            return None
        if not os.path.exists(_OPEN):
            pid = _spawnv_passfds(path, args, passfds)
            _shared[0] = _native.TrackerPipe(writing, made=pipe.is_own())
            return pid
        os.dup2(pipe.end, writing, inheritable=False)
        reader = os.open(f"{_OPEN}/{pipe.end}", os.O_RDONLY)
        try:
            os.dup2(reader, reading, inheritable=False)
            pid = _spawnv_passfds(path, args, passfds)
            return pid
        finally:
            os.close(reader)


def _other_end(fd: int) -> int:
    """The other end of a pipe of which this process has each once."""
    pipe = os.fstat(fd)
    for other in range(_MANY):
        if other != fd:
            with suppress(OSError):
                if os.path.samestat(os.fstat(other), pipe):
                    return other
    raise OSError("the resource tracker's pipe cannot be found")


@contextmanager
def _claim(end: int) -> Iterator[None]:
    """Of several processes, one starts a tracker. By a lock that a killed process does not hold,
    nor one that was forked meanwhile."""
    with suppress(OSError):  # the system may have none for pipes
        fcntl.lockf(end, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(end, fcntl.LOCK_UN)


@atexit.register
def _leave() -> None:
    """At the end of the program. CPython would wait for the tracker's end; but that comes with the
    end of all who have the pipe, and the user's own forks of this process may go on."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    if module is not None:
        module._resource_tracker._pid = None
