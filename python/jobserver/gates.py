"""Ready-made gates: values for ``submit(sleep_fn=...)`` that delay jobs while the machine is short
of memory, overloaded or stalling.

A gate is called without arguments. It returns None, which lets the job start, or the number of
seconds after which to call it again. The submission holds no slot meanwhile. ::

    from jobserver import Jobserver, gates

    roomy = gates.memory_available(2 << 30)           # 2 GiB
    calm = gates.pressure("io", at_most=20.0)         # per cent
    with Jobserver() as js:
        js.submit(work, sleep_fn=gates.all_of(roomy, calm))

Choose `memory_available` if you know how much memory a job needs. Choose `pressure` if you do not:
it measures the time that tasks stall, whichever resource is short (Linux, if the kernel has it).
`load_average` is coarse and slow, but every Unix has it. `Gate` makes a gate of your own condition.

A gate reserves nothing: it sees the memory that jobs use now, and not the memory that a job which
has just started will use. A gate does not limit how many jobs run: slots do.

A gate has a patience because a shortage may never end: its cause may be another program, or the
process that waits. A closed gate therefore lets one job start each time its `patience` runs out,
so the program becomes slow but does not stop. Patience counts from the first refusal since the
gate last let a job start, across submissions. It therefore also runs out if every submission gives
up earlier (`Blocked`).

Several threads may use one gate. A gate may be forked and pickled; each process then has a copy,
which counts its own patience.
"""

from __future__ import annotations

import errno
import math
import os
import re
import sys
import threading
from functools import partial
from pathlib import PurePosixPath
from time import monotonic
from typing import Callable, Literal, NamedTuple

__all__ = ["Gate", "all_of", "load_average", "memory_available", "pressure"]


# One lock for all gates, held for a few instructions and never during a read. A gate with a lock
# could not be pickled. A lock that another thread held during a fork would stay locked in the job
# without end, so a child makes a new lock.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Gate:
    """A gate that lets jobs start while a condition holds, and one job each time its patience runs
    out.

    Args:
        is_open: the condition, a callable without arguments; true lets a job start. Every
            submission calls it, so it should be quick. An exception that it raises comes out of
            that `submit`. The gate can be pickled if `is_open` can.
        patience: after this many seconds from its first refusal the gate lets one job start, and
            counts anew; None means that the gate waits without limit.
        every: the seconds between two calls while the gate is closed, more than 0.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, negative, infinite or NaN.
    """

    def __init__(
        self,
        is_open: Callable[[], bool],
        *,
        patience: float | None = 60.0,
        every: float = 1.0,
    ) -> None:
        if not callable(is_open):
            raise TypeError(f"is_open must be callable, not {is_open!r}")
        self._is_open = is_open
        self._patience = math.inf if patience is None else _number("patience", patience)
        self._every = _number("every", every)
        if self._every == 0:
            raise ValueError("every must be more than 0 seconds, or waiting would spin")
        self._closed_since: float | None = None

    def __repr__(self) -> str:
        patience = "for ever" if self._patience == math.inf else f"{self._patience:g} s"
        return f"<Gate: {self._is_open!r}, patience {patience}, asked every {self._every:g} s>"

    def __call__(self) -> float | None:
        """Returns None to let the job start, or the seconds after which to call again."""
        is_open = self._is_open()
        with _lock:
            now = monotonic()
            if self._closed_since is None:
                self._closed_since = now
            left = self._closed_since + self._patience - now
            if is_open or left <= 0:
                self._closed_since = None
                return None
            return min(self._every, left)


def all_of(*gates: Callable[[], float | None]) -> Callable[[], float | None]:
    """A gate that lets a job start when all of `gates` do. Each may be any `sleep_fn`.

    They are called in order, up to the first that refuses. If the others were called too, a gate
    whose patience has just run out would waste the one job that it lets start. Therefore the
    patiences of gates that are closed at the same time add up.

    Raises:
        TypeError: one of them is not callable.
    """
    for gate in gates:
        if not callable(gate):
            raise TypeError(f"a gate must be callable, not {gate!r}")
    return partial(_first_refusal, gates)


def memory_available(at_least: float, *, patience: float | None = 60.0, every: float = 1.0) -> Gate:
    """A gate that is open while this process can get `at_least` of memory without swapping.

    This memory is the minimum of the memory available in the machine and the memory left under
    each limit of this process's cgroup and its ancestors (cgroup v1, or v2 with ``memory.high``,
    above which the kernel throttles). Page cache counts as available, because the kernel can
    reclaim it. The cgroup is the one that the process is in when it makes the gate; its limits are
    read at each call.

    Args:
        at_least: an int is a number of bytes; a float from 0.0 to 1.0 is a fraction of all the
            memory that the process could ever have (the machine's, or the lowest limit). A number
            of bytes above that is accepted, because limits can be raised; until then, the gate
            lets jobs start only when its patience runs out.
        patience, every: as for `Gate`.

    Raises:
        TypeError, ValueError: as for `Gate`; also for a float above 1.
        OSError: the system does not report it (no ``MemAvailable`` in ``/proc/meminfo``: this is
            not Linux, or /proc is not mounted).
    """
    most = 1.0 if isinstance(at_least, float) else sys.float_info.max
    _number("at_least (an int: bytes, a float: a fraction)", at_least, most=most)
    cgroups = _memory_cgroups()
    _memory(cgroups)  # raises now if it can never be read
    return Gate(partial(_has_memory, cgroups, at_least), patience=patience, every=every)


def load_average(
    at_most: float,
    *,
    minutes: Literal[1, 5, 15] = 1,
    patience: float | None = 60.0,
    every: float = 1.0,
) -> Gate:
    """A gate that is open while the load average is at most `at_most`.

    Args:
        at_most: a number of processes that run or wait for a CPU, in the whole machine (not per
            CPU), as `uptime` shows; compare it with ``os.cpu_count()``.
        minutes: the span of the average: 1, 5 or 15.
        patience, every: as for `Gate`.

    Raises:
        TypeError, ValueError: as for `Gate`; also for any other `minutes`.
        OSError: the system does not report it.
    """
    _number("at_most", at_most)
    _choice("minutes", minutes, (1, 5, 15))
    os.getloadavg()  # raises now if it can never be read
    which = (1, 5, 15).index(minutes)
    return Gate(partial(_load_is_low, which, at_most), patience=patience, every=every)


def pressure(
    resource: Literal["cpu", "memory", "io"],
    at_most: float,
    *,
    stalled: Literal["some", "full"] = "some",
    average: Literal["avg10", "avg60", "avg300"] = "avg10",
    patience: float | None = 60.0,
    every: float = 1.0,
) -> Gate:
    """A gate that is open while the machine's pressure-stall value is at most `at_most`.

    Args:
        resource: the resource that tasks stall for: "cpu", "memory" or "io".
        at_most: per cent of the time, 0 to 100.
        stalled: "some" counts the time in which at least one task stalls, "full" the time in which
            all tasks stall.
        average: the span of the average: "avg10", "avg60" or "avg300" (seconds).
        patience, every: as for `Gate`.

    Raises:
        TypeError, ValueError: as for `Gate`; also for any other choice.
        OSError: this kernel does not report it; `errno` is the kernel's error.
    """
    _choice("resource", resource, ("cpu", "memory", "io"))
    _number("at_most", at_most, most=100.0)
    _choice("stalled", stalled, ("some", "full"))
    _choice("average", average, ("avg10", "avg60", "avg300"))
    try:
        _pressure(resource, stalled, average)  # raises now if it can never be read
    except OSError as error:
        raise OSError(
            error.errno,
            f"this kernel does not report the pressure on {resource} ({stalled!r}): that needs "
            'Linux 4.20 ("full" of cpu: 5.13) with CONFIG_PSI, and psi=1 among the kernel\'s '
            "boot parameters if it is off by default",
            f"/proc/pressure/{resource}",
        ) from error
    condition = partial(_pressure_is_low, resource, stalled, average, at_most)
    return Gate(condition, patience=patience, every=every)


def _first_refusal(gates: tuple[Callable[[], float | None], ...]) -> float | None:
    for gate in gates:
        seconds = gate()
        if seconds is not None:
            return seconds
    return None


def _number(name: str, value: float, *, most: float = sys.float_info.max) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= value <= most:  # refuses NaN too
        upper = "finite" if most == sys.float_info.max else f"at most {most:g}"
        raise ValueError(f"{name} must be at least 0 and {upper}, not {value!r}")
    return float(value)


def _choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, type(choices[0])):
        raise TypeError(f"{name} must be one of {choices}, not {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, not {value!r}")


def _read(path: str) -> str:
    """The text of a file of /proc or /sys. This module opens files only here."""
    with open(path, "rb", buffering=0) as file:  # twice as fast as text for files so small
        return os.fsdecode(file.read())


def _read_if_there(path: str) -> str:
    try:
        return _read(path)
    except FileNotFoundError:
        return ""


# Conditions: each is the `is_open` of a gate. They are functions of the module so that they can be
# pickled.


def _has_memory(cgroups: list[_MemoryCgroup], at_least: float) -> bool:
    available, total = _memory(cgroups)
    return available >= (at_least * total if isinstance(at_least, float) else at_least)


def _load_is_low(which: int, at_most: float) -> bool:
    return os.getloadavg()[which] <= at_most


def _pressure_is_low(resource: str, stalled: str, average: str, at_most: float) -> bool:
    return _pressure(resource, stalled, average) <= at_most


# The values that the conditions read.


def _pressure(resource: str, stalled: str, average: str) -> float:
    """Per cent of the time, from a line ``some avg10=0.12 avg60=0.05 avg300=0.01 total=8``."""
    for line in _read(f"/proc/pressure/{resource}").splitlines():
        name, *fields = line.split()
        if name == stalled:
            return float(dict(field.split("=") for field in fields)[average])
    raise OSError(errno.EOPNOTSUPP, f"no line {stalled!r}")


def _memory(cgroups: list[_MemoryCgroup]) -> tuple[int, int]:
    """The bytes that this process can still get, and the bytes that it could ever have."""
    meminfo = _amounts(_read("/proc/meminfo"))
    try:
        available, installed = meminfo["MemAvailable:"] * 1024, meminfo["MemTotal:"] * 1024
    except KeyError as error:
        raise OSError(
            errno.EOPNOTSUPP, f"this kernel does not report {error.args[0]}", "/proc/meminfo"
        ) from None
    total = installed
    for cgroup in cgroups:
        limit = cgroup.limit()
        # A limit above the installed memory limits nothing, so its cgroup's usage, which costs more
        # to read, is not read. (v1 writes "no limit" so.)
        if limit is not None and limit < installed:
            available = min(available, max(0, limit - cgroup.usage()))
            total = min(total, limit)
    return available, total


def _amounts(text: str) -> dict[str, int]:
    """The first number of each line ``name number ...``, by name."""
    return {name: int(number) for name, number, *_ in map(str.split, text.splitlines())}


class _Files(NamedTuple):
    """The names in one version of the cgroup file system."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]  # fields of memory.stat that include the cgroups below


_V1 = _Files(
    limits=("memory.limit_in_bytes",),
    usage="memory.usage_in_bytes",
    reclaimable=("total_active_file", "total_inactive_file"),
)
_V2 = _Files(
    limits=("memory.max", "memory.high"),
    usage="memory.current",
    reclaimable=("active_file", "inactive_file", "slab_reclaimable"),
)


class _MemoryCgroup(NamedTuple):
    """One directory of a cgroup file system. It may lack any of the files: the root lacks them in
    v2, and so does a cgroup without the memory controller, or one that has been removed."""

    directory: str
    files: _Files

    def limit(self) -> int | None:
        """In bytes, or None if there is no limit."""
        texts = [_read_if_there(f"{self.directory}/{name}").strip() for name in self.files.limits]
        return min((int(text) for text in texts if text not in ("", "max")), default=None)

    def usage(self) -> int:
        """The bytes that the kernel cannot reclaim."""
        used = int(_read_if_there(f"{self.directory}/{self.files.usage}") or 0)
        stat = _amounts(_read_if_there(f"{self.directory}/memory.stat"))
        return used - sum(stat.get(field, 0) for field in self.files.reclaimable)


def _memory_cgroups() -> list[_MemoryCgroup]:
    """The cgroups whose memory limits apply to this process: its own cgroup and the ancestors. Both
    versions can be mounted at once, with the memory controller in either."""
    mounts = _cgroup_mounts()
    found = []
    for line in _read_if_there("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files = _V2
        elif "memory" in controllers.split(","):
            files = _V1
        else:
            continue
        directories = _with_ancestors(path, [m for m in mounts if m.files is files])
        found += [_MemoryCgroup(directory, files) for directory in directories]
    return found


class _Mount(NamedTuple):
    """A mount that shows, at `point`, the cgroups from `root` downwards."""

    root: str
    point: str
    files: _Files


def _cgroup_mounts() -> list[_Mount]:
    """The mounts of cgroup file systems that can have the memory controller. The lines are those
    of proc_pid_mountinfo(5): ``id parent device root point options ... - type source options``."""
    mounts = []
    for line in _read_if_there("/proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split(" ", 2)
        root, point = map(_unescape, mount.split(" ")[3:5])
        if kind == "cgroup2":
            mounts.append(_Mount(root, point, _V2))
        elif kind == "cgroup" and "memory" in options.split(","):
            mounts.append(_Mount(root, point, _V1))
    return mounts


def _unescape(field: str) -> str:
    """The kernel writes blanks and backslashes in a path as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _with_ancestors(path: str, mounts: list[_Mount]) -> list[str]:
    """The directories of a cgroup and its ancestors, as far up as the mounts show them.

    A container may see its cgroup's path as the host does while only a part of the tree is
    mounted, or see a path outside of its own namespace (``/../other``). If no mount shows the
    path, the top directory that the container sees stands for it.
    """
    for mount in mounts:
        try:
            inner = PurePosixPath(path).relative_to(mount.root)
        except ValueError:
            continue
        if ".." not in inner.parts:
            return [str(PurePosixPath(mount.point) / part) for part in (inner, *inner.parents)]
    return [mount.point for mount in mounts[:1]]
