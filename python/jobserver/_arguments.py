"""Checks of the arguments that users pass. Wrong arguments are refused here, before any job starts.

TypeError reports a wrong type, ValueError a wrong value.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import operator
import os
import signal
import sys
import threading
import time
from multiprocessing.context import BaseContext
from typing import Any, Callable, Iterable, List, Literal, Mapping, NoReturn, Optional, Tuple, Union

from . import _main, _native
from ._signals import raised_by_handler
from ._wording import converted

Environment = Union[Mapping[str, Optional[str]], Iterable[Tuple[str, Optional[str]]]]
Changes = List[Tuple[str, Optional[str]]]

#: The names of the start methods, and "inline", for type annotations of programs that pass one on.
StartMethod = Literal["fork", "forkserver", "spawn", "inline"]


#: In seconds.
SHORTEST_DELAY = 0.01

#: Names of other pools, and this package's name for the same thing.
_OTHERS_NAMES = {
    "max_workers": "slots",
    "n_jobs": "slots",
    "processes": "slots",
    "mp_context": "context",
    "maxtasksperchild": "max_tasks_per_child",
    "add_done_callback": "when_done",
    "cancel": "kill",
    "shutdown": "close",
    "apply_async": "js(fn, ...)",
}


def our_name(name: str) -> str:
    """The end of a message about a name of other pools: this package's name, if there is one."""
    known = _OTHERS_NAMES.get(name)
    return f"; here that is {known}" if known else ""


class Foreign:
    """Stands for a method of other pools: an access raises AttributeError with this package's name.
    (A `__getattr__` would serve all names, but make each access to an attribute slower.)"""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"a {owner.__name__} has no {self._name!r}{our_name(self._name)}")


def misplaced(fn: Any, values: tuple[Any, ...]) -> TypeError:
    """The error that says how to pass a function's arguments."""
    said = ", ".join(map(_said, values))
    each = f"{said}," if len(values) == 1 else said
    name = getattr(fn, "__name__", "fn")
    return TypeError(
        f"submit takes the function's arguments as args=({each}): write js.submit({name}, "
        f"args=({each})), or js({name}, {said})"
    )


def unknown(call: str, names: Iterable[str]) -> TypeError:
    """The error that says that a call has no such arguments."""
    name = next(iter(names))
    return TypeError(f"{call} has no argument {name!r}{our_name(name)}")


def _said(value: Any) -> str:
    """The repr of any value, for a message. Python itself refuses to convert an int of 5,000
    digits."""
    return converted(repr, value)


def whole_number(value: Any, name: str) -> int:
    """An int, or an object with `__index__`; not a bool, which is more likely a mistake."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return operator.index(value)


def in_main_interpreter() -> None:
    """Refuses sub-interpreters: CPython lets them start no processes, and aborts a forked one."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread can find out
    try:
        signal.set_wakeup_fd(-2)  # no descriptor, and not -1, which means none
    except ValueError:
        raise RuntimeError(
            "this is a sub-interpreter, from which no process can be started: make the Jobserver "
            "in the main interpreter"
        ) from None
    except OSError:
        pass  # the main interpreter refuses the descriptor, and nothing has changed


def in_users_program() -> None:
    """Refuses a frozen program that multiprocessing has started as one of its helpers, but that
    runs as if its user had started it: it would start more such programs without end."""
    if not _main.is_frozen():
        return
    arguments = sys.argv[1:]  # in a job they are the owner's
    statements = [after for before, after in zip(arguments, arguments[1:]) if before == "-c"]
    helpers = [each for each in statements if each.startswith("from multiprocessing")]
    if helpers or arguments[:1] == ["--multiprocessing-fork"]:
        raise RuntimeError(
            "this frozen program cannot be started for jobs: it must call "
            'multiprocessing.freeze_support() first thing below `if __name__ == "__main__":`'
        )


def slots(value: Any) -> int:
    """The number of slots: None means the number of CPUs that this process may use."""
    if value is None:
        return _native.usable_cpus()
    number = whole_number(value, "slots")
    if not 1 <= number <= _native.MAX_SLOTS:
        most = _native.MAX_SLOTS
        raise ValueError(f"slots must be between 1 and {most}, not {_said(number)}")
    return number


def tasks(value: Any) -> int | None:
    """How many jobs one process may run; None means no limit."""
    if value is None:
        return None
    number = whole_number(value, "max_tasks_per_child")
    if number < 1:
        raise ValueError(f"max_tasks_per_child must be None or at least 1, not {_said(number)}")
    return number


def modules(value: Any) -> tuple[str, ...]:
    """Checks that modules with these names can be found. Does not import them."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        said = _said(value)
        raise TypeError(f"preload must be the names of modules, not {said}: write [{said}]")
    from importlib.util import find_spec  # imported late because it is rarely needed

    names = tuple(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"preload takes the names of modules, not {_said(name)}")
        top = name.partition(".")[0]
        if not top or (top not in sys.modules and find_spec(top) is None):
            raise ModuleNotFoundError(f"preload: there is no module {name!r}", name=name)
    return names


def context(value: Any) -> tuple[str, BaseContext]:
    """A start method, or "inline", and its multiprocessing context: None means multiprocessing's
    default."""
    chosen = os.environ.get("JOBSERVER_CONTEXT")
    if chosen:
        _context(value)  # which refuses a wrong one
        try:
            return _context(chosen)
        except ValueError as e:
            raise ValueError(
                f"{e}, which the environment variable JOBSERVER_CONTEXT says"
            ) from None
    return _context(value)


def _context(value: Any) -> tuple[str, BaseContext]:
    if isinstance(value, BaseContext):
        return value.get_start_method(), value
    if value is None:
        value = default_method()
    if not isinstance(value, str):
        raise TypeError(
            "context must be None, the name of a start method or a multiprocessing context, "
            f"not {_said(value)}"
            + (f"; did you mean slots={_said(value)}?" if isinstance(value, int) else "")
        )
    known = [*multiprocessing.get_all_start_methods(), "inline"]
    if value not in known:
        raise ValueError(f"context must be one of {', '.join(known)}, not {_said(value)}")
    return value, context_of(value)


def context_of(method: str) -> BaseContext:
    """The multiprocessing context of a start method; of "inline", the default context."""
    return multiprocessing.get_context(default_method() if method == "inline" else method)


def default_method() -> str:
    """Multiprocessing's default start method."""
    # This call does not fix multiprocessing's default for the rest of the program.
    chosen = multiprocessing.get_start_method(allow_none=True)
    known = multiprocessing.get_all_start_methods()
    if chosen is None:
        return known[0]
    # (The workers of loky, and so of joblib, have a default of their own, which is like "spawn".)
    return chosen if chosen in known else "spawn"


def choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if value not in choices:
        known = " or ".join(repr(one) for one in choices)
        raise ValueError(f"{name} must be {known}, not {_said(value)}")
    return value


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {_said(value)}")
    return value


def consume(value: Any, slots: int) -> int:
    """How many of a pool's slots a job takes."""
    number = whole_number(value, "consume")
    if not 0 <= number <= slots:
        raise ValueError(
            f"consume must be between 0 and {slots}, the number of slots, not {_said(number)}"
        )
    return number


def memory_limit(value: Any) -> int:
    """How much memory a job may allocate, in bytes."""
    from . import _memory  # imported late because it is rarely needed

    number = _at_least_one(value, "memory_limit")
    if not _memory.is_supported():
        raise NotImplementedError("memory_limit needs Linux, and /proc")
    return number


def output(value: Any) -> Literal["inherit", "capture", "forward"]:
    """Where the output of a job goes."""
    known: Any = choice(value, "output", ("inherit", "capture", "forward"))
    return known  # type: ignore[no-any-return]


def threads(value: Any) -> int | Literal["slots"]:
    """How many threads numeric libraries may use in a job."""
    if isinstance(value, str):
        if value == "slots":
            return "slots"
        raise ValueError(f'threads must be None, "slots" or an int, not {_said(value)}')
    return _at_least_one(value, "threads")


def _seconds(value: Any, name: str, what: str = "None or a number") -> float:
    try:
        number = float(value) if not isinstance(value, (bool, str, bytes)) else None
    except OverflowError:
        raise ValueError(f"{name} is too large") from None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name} must be {what} of seconds, not {_said(value)}")
    if math.isnan(number):
        raise ValueError(f"{name} must not be NaN")
    return number


def deadline(timeout: Any) -> float | None:
    """The time of the monotonic clock `timeout` seconds from now; None means no deadline.

    A negative timeout counts as 0, so a caller can pass on the time that it has left.
    """
    if timeout is None:
        return None
    return time.monotonic() + max(0.0, _seconds(timeout, "timeout"))


def seconds(value: Any, name: str) -> float:
    number = _seconds(value, name, "a number")
    if number < 0:
        raise ValueError(f"{name} must not be negative, not {_said(value)}")
    return number


def time_limit(value: Any) -> float:
    seconds = _seconds(value, "time_limit")
    if not seconds > 0:
        raise ValueError(f"time_limit must be greater than 0, not {_said(value)}")
    return seconds


def function(value: Any, name: str = "fn") -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def initializer(function_or_none: Any, initargs: Any) -> Callable[[], Any] | None:
    """What each process calls before its first job."""
    if function_or_none is None:
        if initargs != ():
            raise TypeError("initargs are the arguments of an initializer, and there is none")
        return None
    if isinstance(initargs, (str, bytes)) or not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be a sequence of arguments, not {_said(initargs)}")
    return functools.partial(function(function_or_none, "initializer"), *initargs)


class Unreadable:
    """Stands for the arguments of a call of `map` if reading them raised this error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def unreadable(error: BaseException) -> Unreadable:
    if not isinstance(error, Exception) or raised_by_handler(error):
        raise error
    return Unreadable(error)


def positional(value: Any) -> tuple[Any, ...]:
    if type(value) is Unreadable:
        raise value.error
    try:
        if not isinstance(value, (str, bytes)):
            return tuple(value)
    except TypeError:
        pass
    said = _said(value)
    raise TypeError(
        f"args must be a sequence of arguments, not {said}: write args=({said},), or zip(xs) for "
        "many calls"
    )


def keywords(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"kwargs must be a mapping, not {type(value).__name__}")
    if not all(isinstance(key, str) for key in value):
        raise TypeError("the keys of kwargs must be str")
    return dict(value)


def many(value: Any, name: str) -> Iterable[Any]:
    """The arguments of many calls."""
    if type(value) is list:
        return value
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        what = "argument tuples" if name == "argses" else "keyword mappings"
        raise TypeError(f"{name} must be an iterable of {what}, not {type(value).__name__}")
    return value


def chunksize(value: Any) -> int | None:
    """The number of calls in a chunk: None for "auto"."""
    if isinstance(value, str):
        if value == "auto":
            return None
        raise ValueError(f'chunksize must be "auto" or an int, not {_said(value)}')
    return _at_least_one(value, "chunksize")


def buffersize(value: Any, default: int) -> int:
    """How many chunks may be started, or have results, while the caller has not taken all
    results."""
    return default if value is None else _at_least_one(value, "buffersize")


def _at_least_one(value: Any, name: str) -> int:
    number = whole_number(value, name)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {_said(number)}")
    if number > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, not {_said(number)}")
    return number


def environment(value: Environment) -> Changes:
    """Changes to the environment, in order: pairs of a name and a value; None removes the
    variable."""
    pairs = value.items() if isinstance(value, Mapping) else value
    if not isinstance(pairs, Iterable):
        raise TypeError(f"env must be a mapping or pairs of name and value, not {_said(value)}")
    try:
        return [_variable(pair) for pair in pairs]
    except UnicodeEncodeError as e:
        raise ValueError(f"env cannot be encoded for the system: {e}") from None


def _variable(pair: Any) -> tuple[str, str | None]:
    if isinstance(pair, (str, bytes)) or not hasattr(type(pair), "__len__") or len(pair) != 2:
        raise TypeError(f"each change in env must be a pair of name and value, not {_said(pair)}")
    name, value = pair
    if not isinstance(name, str) or not (value is None or isinstance(value, str)):
        said = f"{_said(name)}: {_said(value)}"
        raise TypeError(f"env takes str names with str or None values, not {said}")
    if not name or "=" in name or b"\0" in os.fsencode(name):
        raise ValueError(f"{name!r} cannot be the name of an environment variable")
    if value is not None and b"\0" in os.fsencode(value):
        raise ValueError(f"the value of the environment variable {name} holds a NUL")
    return name, value


def delay(value: Any) -> float | None:
    """Checks what a ``sleep_fn`` returned: None lets the job start; a number >= 0 is the seconds
    until the next call. The result is at least `SHORTEST_DELAY`, so that a gate that returns 0
    keeps no CPU busy."""
    if value is None:
        return None
    if isinstance(value, float) and value >= 0:
        return max(value, SHORTEST_DELAY)
    try:
        seconds = _seconds(value, "the delay")
    except (TypeError, ValueError):
        seconds = -1.0
    if seconds >= 0:
        return max(seconds, SHORTEST_DELAY)
    raise ValueError(f"sleep_fn must return None or seconds >= 0, not {_said(value)}")


def signal_number(value: Any) -> int | None:
    """A signal's number. 0 sends no signal and is refused, because it is more likely a mistake."""
    if value is None:
        return None
    number = whole_number(value, "signal")
    if number not in signal.valid_signals():
        raise ValueError(f"there is no signal {_said(number)}")
    return number
