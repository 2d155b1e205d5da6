"""The main module, which a job that is not forked imports: which of its names a job can find, and
the errors of the import.

A job imports the module by its name, or runs its file, as `__mp_main__` (multiprocessing's rules,
in `multiprocessing.spawn`). It cannot do so if the module has neither: in a notebook, at a prompt,
under `-c`, on standard input, in a zip file. Nor can it if the module starts jobs outside a main
guard: the import would start them again. A job also has no names that are defined below the main
guard, or that the module's source does not define at all. Functions and classes with such names are
pickled by value, by cloudpickle, as joblib and Dask do.

Not here: what is below a main guard (`_guard.py`).
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import types
from typing import Any, Iterator, NoReturn

from . import _guard, _wording

#: A pickle that refers to the main module by name contains this.
MARK = b"__main__"

#: What to do where cloudpickle is not installed.
_INSTALL = "install cloudpickle (`pip install cloudpickle`), by which it is sent by value"
_REMEDY = f"put it into a module that jobs can import, or {_INSTALL}"


def out_of_reach(stream: bytes | memoryview, copied: bool = False) -> str | None:
    """Says which name of the main module in a pickle a job cannot find there, and why. None if a
    job can find all names. `copied`: the job's process is a copy of this one."""
    pickled = bytes(stream)
    if MARK not in pickled:
        return None
    main = sys.modules.get("__main__")
    anywhere = not (_is_there() if copied else can_be_imported())
    undefined = frozenset() if anywhere else _undefined_in_jobs(main)
    # Usually none of these names is there. To look for bytes takes a thousandth of the time that it
    # takes to read the pickle of a large chunk of `map`.
    hidden = {name for name in undefined if _may_have(pickled, name.encode())}
    if not (anywhere or hidden):
        return None
    for name in _names_in_main(stream):
        if anywhere:
            return f"{name} is defined in a main module that jobs cannot import{_why_not()}"
        if name.partition(".")[0] in hidden:
            return f"{name} is not defined where a job imports the main module"
    return None


def _why_not() -> str:
    place = _unguarded()
    return "" if place is None else f" (it starts jobs at {place}, which is not below a main guard)"


def remedy() -> str:
    """What to do about a name that is out of reach, where cloudpickle is not installed."""
    if _unguarded() is None:
        return _REMEDY
    return f"{_INSTALL}, or start jobs only when the module runs as the program:{_guard.TEXT}"


def _may_have(pickled: bytes, name: bytes) -> bool:
    """Whether a pickle may have a string that is this name, or begins with it and a dot. False only
    if it has none."""
    if len(name) > 200:
        return True
    # A string has its length before it: see SHORT_BINUNICODE and BINUNICODE of `pickletools`.
    whole = b"\x8c" + bytes([len(name)]) + name
    dotted = b"(?s)(?:\x8c.|X.{4})" + re.escape(name) + rb"\."
    return whole in pickled or re.search(dotted, pickled) is not None


def _names_in_main(stream: bytes | memoryview) -> Iterator[str]:
    """The names in the main module that a pickle, or several in a row, refers to."""
    import pickletools

    file = io.BytesIO(stream)
    while file.tell() < len(stream):
        pushed: list[Any] = []
        memo: list[Any] = []
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "MEMOIZE":
                memo.append(pushed[-1])
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                pushed.append(memo[int(argument or 0)])
            elif opcode.name == "STACK_GLOBAL":
                module, name = pushed[-2:]
                if module == "__main__":
                    yield name
                pushed.append(None)
            else:
                pushed.append(argument if isinstance(argument, str) else None)


#: The main module, and its file, as an executor has found them.
_with_file: tuple[Any, Any] = (None, None)


def remember_file() -> None:
    """Called before the program ends, if jobs may be started after that: CPython takes `__file__`
    away from the main module when the script has ended, and then no job would import it."""
    global _with_file
    main = sys.modules.get("__main__")
    if hasattr(main, "__file__"):
        _with_file = main, main.__file__  # type: ignore[union-attr]


def put_file_back() -> None:
    main, file = _with_file
    if main is not None and sys.modules.get("__main__") is main:
        vars(main).setdefault("__file__", file)


#: The last main module, and whether it has a name or a file by which jobs could import it.
_named: tuple[Any, bool] = (None, False)


def _is_there() -> bool:
    """Whether the main module has a name or a file by which jobs could import it."""
    global _named
    main = sys.modules.get("__main__")
    if _named[0] is not main or main is None:
        _named = main, main is not None and _has_a_way_to(main)
    return _named[1]


#: The last main module, and where in it the program has started its first job, if that was while
#: the module was executed. Others do not count: an import of the module starts the first one again.
_begun: tuple[Any, _guard.Place | None] = (None, None)

#: `_begun`, and whether jobs get to that place when they import the module.
_reached: tuple[Any, bool] = (None, False)


def remember_start() -> None:
    """Called at each submission, in the thread that submits: later, and in a process that this one
    forks, the main module may not be executed any more."""
    global _begun
    main = sys.modules.get("__main__")
    if _begun[0] is not main:
        _begun = main, _guard.place(main)


def _unguarded() -> _guard.Place | None:
    """Where the main module starts jobs, if an import would do so too."""
    global _reached
    remember_start()
    begun = _begun
    main, place = begun
    if place is None:
        return None
    if _reached[0] is not begun:
        _reached = begun, not is_frozen() and _guard.is_reached(main, place)
    return place if _reached[1] else None


#: The last main module, and whether jobs can import it. (Each submission of one of its functions
#: asks: this takes 100 ns, and what it remembers 400.)
_known: tuple[Any, bool] = (None, False)


def can_be_imported() -> bool:
    """Whether jobs can import the main module."""
    global _known
    main = sys.modules.get("__main__")
    if _known[0] is not main or main is None:
        _known = main, _is_there() and _unguarded() is None
    return _known[1]


def count() -> int:
    """How many names the main module has; 0 if nothing in it is sent by name to copies of this
    process."""
    return len(vars(sys.modules["__main__"])) if _is_there() else 0


def defined() -> frozenset[str]:
    """The names of the functions and classes in the main module."""
    names = list(getattr(sys.modules.get("__main__"), "__dict__", {}).items())
    return frozenset(name for name, it in names if isinstance(it, (types.FunctionType, type)))


def is_frozen() -> bool:
    """Whether this program is its own interpreter (PyInstaller, cx_Freeze; or Nuitka, which says so
    in each module that it has compiled)."""
    return getattr(sys, "frozen", False) or hasattr(sys.modules.get("__main__"), "__compiled__")


#: The standard input, and what a shell passes as `<(...)`: they can be read only once.
_READ_ONCE = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def _has_a_way_to(main: Any) -> bool:
    if is_frozen():
        return True  # a job runs this program, which begins as this process did
    name: str | None = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return not (name == "__main__" or name.endswith(".__main__"))
    file: str | None = getattr(main, "__file__", None)
    return file is not None and os.path.isfile(file) and not file.startswith(_READ_ONCE)


#: The last main module, the number of its names, and those names that jobs do not find.
_found: tuple[Any, int, frozenset[str]] = (None, 0, frozenset())


def _undefined_in_jobs(main: Any) -> frozenset[str]:
    """The functions and classes of the main module that its source does not define, or only below
    the main guard."""
    global _found
    if _found[0] is not main or _found[1] != len(vars(main)):
        _found = main, len(vars(main)), _look_for_undefined(main)
    return _found[2]


def _look_for_undefined(main: Any) -> frozenset[str]:
    import ast

    tree = _guard.parsed(main)
    if tree is None:
        return frozenset()
    below: set[str] = set()
    names: set[str] = set()
    used: set[str] = set()
    for statement in tree.body:
        if _guard.is_guard(statement):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            below.update(node.name for node in ast.walk(statement) if isinstance(node, kinds))
        else:
            _names(statement, names, used)
    if used.isdisjoint(_DEFINE_BY_CALLS):
        # What has been typed at a prompt, for example, or is made by a call below the guard.
        below.update(name for name, it in list(vars(main).items()) if _is_defined_there(name, it))
    return frozenset(below - names)


#: What can define names that the source does not show.
_DEFINE_BY_CALLS = frozenset({"exec", "eval", "globals", "locals", "setattr", "vars"})


def _names(statement: Any, bound: set[str], used: set[str]) -> None:
    """Collects the names that a statement binds in its module, and those that it uses anywhere."""
    import ast

    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    own = [statement]
    while own:
        node = own.pop()
        if isinstance(node, (*scopes, ast.alias)):
            bound.add(getattr(node, "asname", None) or node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        if not isinstance(node, (*scopes, ast.Lambda)):
            own.extend(ast.iter_child_nodes(node))
    for node in ast.walk(statement):
        if isinstance(node, ast.Global):
            bound.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)


def _is_defined_there(name: str, it: Any) -> bool:
    kinds = (types.FunctionType, type)
    return isinstance(it, kinds) and it.__module__ == "__main__" and it.__qualname__ == name


class ends_told:
    """While a job imports the main module, `os._exit` raises an exception, which the job can
    report. A process that the import forks ends here, and does not go on in its parent's place."""

    def __enter__(self) -> None:
        self._exit = os._exit
        self._importing = True
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._ours = self._tell_exit
        os._exit = self._ours

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if os.getpid() != self._pid:
            self._exit(_exit_code(error))
        self._importing = False
        if os._exit is self._ours:
            os._exit = self._exit
        # otherwise the main module has replaced it by a function that may call `_tell_exit`

    def _tell_exit(self, status: int) -> NoReturn:
        here = (os.getpid(), threading.get_ident()) == (self._pid, self._thread)
        if self._importing and here:
            raise SystemExit(status)
        self._exit(status)


def end_if_forked(pid: int, error: BaseException) -> None:
    """Ends a process that an import has forked from this one, if the error is about to leave it.
    Otherwise it would go on in its parent's place, as a job or as a fork server."""
    if os.getpid() != pid:
        os._exit(_exit_code(error))


def _exit_code(error: BaseException | None) -> int:
    """The exit code of a program that this error ends; reports the error as the interpreter
    does."""
    if error is None:
        return 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    sys.excepthook(type(error), error, error.__traceback__)
    return 1


def not_imported(error: BaseException) -> str | None:
    """The message for an error in the import of the main module, if a main guard would prevent that
    error; otherwise None."""
    from . import _multiprocessing as mp

    check = getattr(mp.spawn._check_not_importing_main, "__code__", None)
    steps = [*_wording.steps(error)]
    place = _place(steps)
    what = "the modules that it needs" if place is None else "the main module first"
    if steps and steps[-1].tb_frame.f_code is check:
        place = place or _last_module(steps)
        does = f"{place} starts a job, and so each job would start another"
    elif isinstance(error, SystemExit) and place is not None:
        does = f"{place} ends the process, with {error.code!r}"
    else:
        return None
    return (
        f"a job imports {what}, and {does}. Let the module do this only when it runs as the "
        f"program:{_guard.TEXT}"
    )


def advice(error: BaseException) -> str:
    """Advice for a job that cannot load its function or arguments; empty if there is none."""
    if isinstance(error, AttributeError) and "__main__" in _wording.converted(str, error):
        return ": a job imports the main module, which does not define this name there; " + _REMEDY
    if isinstance(error, ModuleNotFoundError):
        return ": a job searches for modules in the sys.path that its owner had at the submission"
    return ""


def _place(steps: list[Any]) -> str | None:
    """The file and line of the main module at which an error came up."""
    for step in steps:
        if _is_module(step) and step.tb_frame.f_globals.get("__name__") == "__mp_main__":
            return _told(step)
    return None


def _last_module(steps: list[Any]) -> str:
    """The file and line of the last of the user's modules that was being imported."""
    for step in reversed(steps):
        if _is_module(step) and not _told(step).startswith(_wording.PACKAGE):
            return _told(step)
    return "one of them"


def _is_module(step: Any) -> bool:
    name: str = step.tb_frame.f_code.co_name
    return name == "<module>"


def _told(step: Any) -> str:
    return f"{step.tb_frame.f_code.co_filename}, line {step.tb_lineno},"
