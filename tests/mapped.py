"""What the tests of map call. A module of its own, and a small one: jobs import what they run."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobserver import Jobserver


def double(x: int) -> int:
    return 2 * x


def power(base: int, exponent: int = 2, *, modulus: int | None = None) -> int:
    return pow(base, exponent, modulus)


def nothing(*_: Any) -> None:
    pass


def where(_: int) -> int:
    return os.getpid()


def divide(x: int, y: int) -> int:
    return x // y


def noted(folder: Path, x: int, what: str = "return") -> int:
    """Leaves a trace of each time that it was called, and does something."""
    with open(folder / str(x), "a") as file:
        file.write(f"{os.getpid()}\n")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        sys.exit(3)
    elif what == "_exit":
        os._exit(4)
    elif what == "segv":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "raise":
        raise LookupError(x)
    return x


def slow(folder: str, x: int) -> int:
    """Takes longer than a chunk should, and leaves a trace."""
    time.sleep(0.03)
    return noted(Path(folder), x)


def traces(folder: Path, x: int) -> list[str]:
    """The pids of the processes in which it was called with this number."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / str(x)).read_text().split()
    return []


def lock_or_number(x: int) -> Any:
    return threading.Lock() if x % 3 == 1 else x


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("what cannot be loaded",)


def unloadable_or_number(x: int) -> Any:
    return Unloadable() if x % 3 == 1 else x


class KillsWhenLoaded:
    """Kills the process in which it is unpickled."""

    def __reduce__(self) -> Any:
        return os.kill, (_Pid(), signal.SIGKILL)


class _Pid:
    """This process's pid, wherever it is loaded."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def variable(name: str) -> str | None:
    return os.environ.get(name)


value = "not prepared"


def prepare() -> Any:
    global value
    value = f"prepared in {os.getpid()}"


def prepared(_: int) -> bool:
    return value == f"prepared in {os.getpid()}"


def fail_to_prepare() -> None:
    raise LookupError("not to be prepared")


def die_preparing() -> None:
    os._exit(5)


@contextlib.contextmanager
def suppressing() -> Iterator[None]:
    with contextlib.suppress(SystemExit):
        yield


def map_in_job(js: Jobserver, count: int, chunksize: Any) -> int:
    return sum(js.map(double, ((n,) for n in range(count)), chunksize=chunksize))


def map_deeper(js: Jobserver, depth: int) -> int:
    if depth == 0:
        return 1
    return sum(js.map(map_deeper, [(js, depth - 1)] * 2, chunksize=1))


def meet(mine: Any, other: Any) -> bool:
    """Ends well when the other runs at the same time."""
    mine.release()
    return bool(other.acquire(timeout=60))


def map_meeting(js: Jobserver, one: Any, other: Any) -> list[bool]:
    return list(js.map(meet, [(one, other), (other, one)], chunksize=1))


def slow_after_first(x: int) -> int:
    if x:
        time.sleep(0.06)
    return os.getpid()


def pickled_size(x: Any) -> int:
    return len(pickle.dumps(x))


def given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What it was called with."""
    return args, kwargs
