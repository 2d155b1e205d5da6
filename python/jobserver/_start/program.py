"""How a new program is started: an interpreter like this one, or this same program if it is frozen.

Usually the core starts it, by posix_spawn. multiprocessing starts it in two cases. A frozen program
(PyInstaller, cx_Freeze, Nuitka) calls `multiprocessing.freeze_support()`, which knows only
multiprocessing's command line. And a tool such as viztracer, to see new programs, replaces
multiprocessing's function that starts programs, or their command line.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import pickle
import signal
import sys
from typing import Any, Callable, List, Union

from .. import _main, _tracker
from .. import _multiprocessing as mp

#: A command; or a function that takes the descriptor of the new program's standard input, starts
#: the program, and returns its pid.
Program = Union[List[str], Callable[[int], int]]


def program(module: str, is_helper: bool = False) -> Program:
    """A new program that calls this module's `main`. Programs start with SIGINT blocked: Ctrl-C
    must not interrupt them before they can suppress its traceback. The argument of `main` says
    whether to unblock SIGINT later: only if it is not blocked in this process. `is_helper` marks a
    program that runs no jobs."""
    interruptible = signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    statement = f"from {module} import main; main({interruptible})"
    if _main.is_frozen() or (not is_helper and _is_watched()):
        return functools.partial(_start_child, _Entry(module, interruptible))
    if _tracker.programs_are_watched():
        return functools.partial(_start_by_others, statement)
    return _command(statement)


def is_command() -> bool:
    """Whether a program for jobs is a command, which any process can start."""
    return not (_main.is_frozen() or _is_watched() or _tracker.programs_are_watched())


def _is_watched() -> bool:
    """Whether a tool has replaced multiprocessing's command line."""
    return not mp.is_shipped(mp.spawn.get_command_line, mp.spawn.get_executable)


#: In a program that embeds Python, sys.executable may be that program, or empty.
_NO_INTERPRETER = (
    "the interpreter for jobs, {!r} (sys.executable), does not exist: call "
    'multiprocessing.set_executable with the path of one, or use context="fork"'
)


def interpreter() -> str:
    """The path of the interpreter that runs new programs. Raises FileNotFoundError if it is not
    there."""
    executable = os.fsdecode(mp.spawn.get_executable() or "")
    folders = [""] if os.sep in executable else os.get_exec_path()
    if not any(os.path.isfile(os.path.join(folder, executable)) for folder in folders):
        raise FileNotFoundError(errno.ENOENT, _NO_INTERPRETER.format(executable or None))
    return executable


def _command(statement: str) -> list[str]:
    """The command of an interpreter like this one, which can import this package and runs
    `statement`."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    text = f"import sys; sys.path.insert(0, {folder!r}); {statement}"
    return [interpreter(), *mp.util._args_from_interpreter_flags(), "-c", text]


def _start_by_others(statement: str, end: int) -> int:
    command = _command(f"import os; os.dup2({end}, 0); os.close({end}); {statement}")
    return _spawn(command, [end])


def _start_child(entry: _Entry, end: int) -> int:
    """Starts a program by multiprocessing's command line, and sends it the first data of its
    children: an empty preparation, and `entry` in the place of a process object."""
    entry.end = end
    reader, writer = os.pipe()
    try:
        os.write(writer, pickle.dumps({}) + pickle.dumps(entry))  # there is room for so little
        names = {"tracker_fd": None, "pipe_handle": reader}
        if _main.is_frozen():
            values = [f"{name}={value}" for name, value in names.items()]
            command = [sys.executable, "--multiprocessing-fork", *values]
        else:
            command = mp.spawn.get_command_line(**names)
        return _spawn(command, [reader, end])
    finally:
        os.close(reader)
        os.close(writer)


def _spawn(command: list[Any], descriptors: list[int]) -> int:
    pid: int = mp.util.spawnv_passfds(os.fsencode(command[0]), command, descriptors)
    return pid


class _Entry:
    """The object that multiprocessing treats as the process object of its child."""

    #: The descriptor that becomes the standard input.
    end: int

    # Tools that replace `run` read these too.
    _target, _args, _kwargs = None, (), {}  # type: ignore[var-annotated]

    def __init__(self, module: str, interruptible: bool) -> None:
        self._module = module
        self._interruptible = interruptible

    def _bootstrap(self, parent_sentinel: int) -> None:
        os.close(parent_sentinel)
        os.dup2(self.end, 0)
        os.close(self.end)
        self.run()

    def run(self) -> None:
        importlib.import_module(self._module).main(self._interruptible)
