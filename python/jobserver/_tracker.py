"""One resource tracker for a whole tree of jobs, whichever process starts it.

multiprocessing's resource tracker is a process. It reads from a pipe which blocks of shared memory
and which named semaphores exist, and at the end of the pipe it removes those that are left. A
process without a tracker starts one when it makes such an object, or only attaches to it. If a job
had a tracker of its own, the end of that job would therefore remove objects of its owner.

So the processes of a tree share one pipe, which is made before the first job starts. The tracker
itself costs an interpreter; the first process that needs it starts it. Only the tracker holds the
reading end, which is opened from the writing end through /proc. So every process can see whether
there is a tracker, and can start another on the same pipe if the tracker was killed.

All versions of CPython make a pipe for a tracker and start it by `util.spawnv_passfds`. This file
replaces that function, and puts the tree's pipe in the place of CPython's. Before a tracker starts
this costs nothing: no process must import multiprocessing's module, whose fork hook would cost each
job time. (That hook also closes CPython's pipe in each child of `os.fork`, therefore also in jobs:
the shared descriptor is a duplicate.)

Not here: how the pipe is sent to a process that was not forked (`_start/introduction.py`).
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

#: The folder through which descriptors are opened again. Systems without it have a tracker from the
#: beginning.
_OPEN = "/proc/self/fd"

#: Linux's default for the largest number of descriptors that a process may have.
_MANY = 1 << 20

#: The begin of the statement that runs a tracker.
_STARTS = "from multiprocessing.resource_tracker import main"


#: The pipe of this process's tree, at key 0. A dictionary, because `setdefault` decides between
#: threads.
_shared: dict[int, _native.TrackerPipe] = {}

_holders: WeakSet[Holder] = WeakSet()


class Holder:
    """While one exists, jobs of this process share its tracker."""

    def __init__(self) -> None:
        _holders.add(self)
        _pipe()

    def is_within_reach(self) -> bool:
        """Whether this process still has the pipe: a job may have closed it."""
        pipe = _shared.get(0)
        return pipe is not None and pipe.is_open()

    def release(self) -> None:
        """Called when there are no more jobs. The last holder closes the pipe if there is no
        tracker. Otherwise this process keeps the tracker, as if it had started it."""
        _holders.discard(self)
        if not _holders:
            _let_go()

    __del__ = release


def is_running() -> bool:
    """Whether there is a tracker.

    This does not take CPython's lock of it: a fork by another thread meanwhile would leave the lock
    locked in the child without end.
    """
    fd = _multiprocessings()
    return fd is not None and not _nobody_reads(fd)


def reached() -> tuple[int, int]:
    """The descriptor by which a new process reaches the tracker, and the inode, by which trackers'
    pipes are compared."""
    pipe = _pipe()
    return pipe.end, pipe.inode


def inherit(end: int) -> None:
    """In a new process that was not forked from its owner: shares the owner's tracker."""
    known = _shared.get(0)
    if known is None or not _leads_to(known, end):
        _shared[0] = _native.TrackerPipe(end, made=False)
    os.close(end)
    _take_over()


def _pipe() -> _native.TrackerPipe:
    """The tree's pipe. If there is none, makes it: a duplicate of the pipe of this process's
    tracker, or a new pipe without a reader if this process has no tracker."""
    _take_over()
    known = _shared.get(0)
    if known is not None:
        if known.is_open():
            return known
        if _job.is_this_process():
            raise _out_of_reach()
        _shared.pop(0, None)
    if _multiprocessings() is None and not os.path.exists(_OPEN):
        start()
    # Of several threads at once, the first decides for all.
    return _shared.setdefault(0, _native.TrackerPipe(_multiprocessings(), made=True))


def _out_of_reach() -> OSError:
    """The error in a job that has lost the pipe. A tracker of its own would, at its end, remove
    objects that other processes still use."""
    return OSError(
        errno.EBADF,
        "this job has closed the descriptor of multiprocessing's resource tracker, or opened "
        "another file in its place: it can neither start jobs nor use shared memory any more",
    )


def _multiprocessings() -> int | None:
    """The writing end that CPython itself uses in this process; None if there is none."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)  # another thread may be importing it
    if tracker is None or tracker._fd is None:
        return None
    if _leads_to(_shared.get(0), tracker._fd):
        return int(tracker._fd)
    # This program has closed it, and CPython would write to the file that has its number now.
    tracker._fd = tracker._pid = None
    return None


def _leads_to(pipe: _native.TrackerPipe | None, fd: int) -> bool:
    """Whether a descriptor is an end of this pipe, or of any pipe if `pipe` is None."""
    try:
        file = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISFIFO(file.st_mode) and (pipe is None or pipe.inode == file.st_ino)


def start() -> None:
    """Makes CPython start a tracker, with open files on descriptors 0, 1 and 2 meanwhile. Otherwise
    CPython's pipe could have these numbers, and a tracker closes 0 and 1 when it starts."""
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
    # Jobs have inherited the pipe that their owner made, and need it for jobs of their own.
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
    """From now on, `_spawn` starts the trackers of this process and of its forked children."""
    global _spawnv_passfds
    now = mp.util.spawnv_passfds
    # A function that a tool has put there since then may call `_spawn`.
    if now is not _spawn and (_spawnv_passfds is None or _is_shipped(now)):
        _spawnv_passfds, mp.util.spawnv_passfds = now, _spawn


def _is_shipped(spawnv_passfds: Any) -> bool:
    return mp.is_shipped(spawnv_passfds, mp.util.get_logger)


def programs_are_watched() -> bool:
    """Whether a tool has replaced multiprocessing's function that starts programs."""
    now = mp.util.spawnv_passfds
    return not _is_shipped(_spawnv_passfds if now is _spawn else now)


def _spawn(path: Any, args: Any, passfds: Any) -> int | None:
    """Replaces multiprocessing's `spawnv_passfds`; differs from it only for trackers. When CPython
    calls it for a tracker, CPython holds the lock of this process's tracker and has just made a
    pipe: it passes the reading end to the tracker, and keeps the writing end. This function puts
    the ends of the tree's pipe in their places. Returns the pid, or None if there is a tracker
    already."""
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
    """The other end of a pipe, if this process has exactly one descriptor of each end."""
    pipe = os.fstat(fd)
    for other in range(_MANY):
        if other != fd:
            with suppress(OSError):
                if os.path.samestat(os.fstat(other), pipe):
                    return other
    raise OSError("the resource tracker's pipe cannot be found")


@contextmanager
def _claim(end: int) -> Iterator[None]:
    """A lock, so that only one of several processes starts a tracker. The system releases it if its
    process is killed, and a child that is forked meanwhile does not hold it."""
    with suppress(OSError):  # the system may have none for pipes
        fcntl.lockf(end, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(end, fcntl.LOCK_UN)


@atexit.register
def _forget_tracker() -> None:
    """At the end of the program: prevents CPython from waiting for the tracker. The tracker ends
    only when all processes that have the pipe have ended, and children that the user has forked
    from this process may run on."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    if module is not None:
        module._resource_tracker._pid = None
