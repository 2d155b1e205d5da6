"""Functions and classes by value, by cloudpickle, if it is installed or joblib has brought it.

A class that is sent by value is made anew in the job. If an instance came back with the class by
value, its owner would get an instance of a third class; and methods that refer to a Jobserver or an
open file cannot come back at all. So a class gets a key when it is first sent. A job has the keys
of the classes that came with its work, and sends these classes back as keys. The owner looks its
own class up.

A class that comes with a job's work brings its newest methods, also to a process that has the class
already. One that comes back changes nothing in a process that has it.

Not here: which functions and classes are sent by value (`_main.py`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickle
import sys
import types
from typing import Any, Callable, Iterator, Mapping
from weakref import WeakKeyDictionary, WeakValueDictionary

#: What is pickled: the work of a job, a job's outcome, or neither.
WORK, OUTCOME, OTHER = range(3)

#: The classes of this process that have keys.
_classes: WeakValueDictionary[bytes, type] = WeakValueDictionary()
_keys: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()

#: The classes that were sent last, the oldest first. They stay if the program drops them, as a
#: notebook does when a cell defines a class again: a job may still send one back.
_sent: dict[bytes, type] = {}
_MOST_SENT = 256

#: In a job: the keys of the classes that came with its work.
came_with_work: set[bytes] = set()

#: The keys of classes that are being made.
_unfinished: set[bytes] = set()

#: The last class of picklers, and the reducers that it has.
_last: tuple[Mapping[type, Any], Any] | None = None


def is_possible() -> bool:
    """Whether there is a cloudpickle."""
    return _cloudpickle() is not None


def _cloudpickle() -> Any:
    """cloudpickle; or, if it is not installed, joblib's copy in a program that uses joblib."""
    for name in ("cloudpickle", _COPY):
        if name == _COPY and "joblib" not in sys.modules:
            break
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


#: The name of joblib's copy.
_COPY = "joblib.externals.cloudpickle"


def in_use() -> str | None:
    """The name of the cloudpickle that this process has imported or used. Its jobs import it
    too."""
    if sys.modules.get("cloudpickle") is not None:
        return "cloudpickle"
    return None if _last is None else _COPY


def picklers(reducers: dict[type, Callable[[Any], Any]]) -> Any:
    """The class of cloudpickle's picklers that have these reducers. Its instances must be told
    their `purpose`."""
    global _last
    known = _last
    if known is None or known[0] != reducers:
        known = _last = reducers, _class_of_picklers(reducers)
    return known[1]


def _class_of_picklers(reducers: dict[type, Callable[[Any], Any]]) -> Any:
    base: Any = _cloudpickle().Pickler

    def reducer_override(self: Any, it: Any) -> Any:
        reduced = base.reducer_override(self, it)
        # A class by value has a state, and a function that sets it; all else is as it is.
        if type(reduced) is tuple and len(reduced) == 6 and isinstance(it, type):
            return _reduced(it, reduced, self.purpose)
        return reduced

    # The table is set on the class, because pickle's C code reads it there when a pickler is made.
    table = base.dispatch_table.new_child(reducers)
    return type("Pickler", (base,), {"dispatch_table": table, "reducer_override": reducer_override})


def _reduced(kind: type, reduced: tuple[Any, ...], purpose: int) -> tuple[Any, ...]:
    make, args, state, _, _, set_state = reduced
    key = _keys.get(kind)
    if key is None:
        key = os.urandom(16)
        _remember(kind, key)
    if purpose == OUTCOME and key in came_with_work:
        return _owners_own, (key, kind.__qualname__)
    if purpose == WORK:
        _keep(kind, key)
        return _from_owner, (key, make, *args), state, None, None, set_state
    return _class, (key, make, *args), (set_state, state), None, None, _set_if_new


def _keep(kind: type, key: bytes) -> None:
    _sent.pop(key, None)
    _sent[key] = kind
    for oldest in list(_sent)[:-_MOST_SENT]:
        _sent.pop(oldest, None)


def _remember(kind: type, key: bytes) -> None:
    _keys[kind] = key
    _classes[key] = kind


def _from_owner(key: bytes, make: Callable[..., type], *args: Any) -> type:
    """In a job: a class that comes with its work."""
    came_with_work.add(key)
    known = _classes.get(key)
    if known is None:
        known = make(*args)
        _remember(known, key)
    return known


def _class(key: bytes, make: Callable[..., type], *args: Any) -> type:
    """A class that comes otherwise, with a job's outcome for example."""
    known = _classes.get(key)
    if known is None:
        _unfinished.add(key)
        known = make(*args)
        _remember(known, key)
    return known


def _set_if_new(kind: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    key = _keys[kind]
    if key in _unfinished:
        set_state, its_own = state
        set_state(kind, its_own)
        _unfinished.discard(key)


def _owners_own(key: bytes, name: str) -> type:
    """In the owner: its own class, which it has sent."""
    known = _classes.get(key)
    if known is None:
        raise pickle.UnpicklingError(
            f"the class {name}, which was sent with the job's work, is gone: keep a reference to it"
        )
    return known


def culprit(objects: Any, fails: Callable[[Any], bool]) -> str:
    """Which global or variable of a function keeps these objects from being pickled, in words;
    empty if none does, or if the fault is not of functions. `fails` tries one object."""
    seen: set[int] = set()
    todo = [*_code_in(objects)]
    while todo:
        fn = todo.pop()
        if id(fn) in seen:
            continue
        seen.add(id(fn))
        for kind, name, value in _uses(fn):
            if id(value) in seen or not fails(value):
                continue
            inner = [*_code_in(value)]
            if not inner:
                return f" ({kind} {name!r}, which {fn.__qualname__} uses, is sent with it)"
            todo.extend(inner)
    return ""


def _code_in(it: Any) -> Iterator[types.FunctionType]:
    """The functions that an object is, or has in it."""
    if isinstance(it, types.FunctionType):
        yield it
    elif isinstance(it, types.MethodType):
        yield from _code_in(it.__func__)
        yield from _code_in(type(it.__self__))
    elif isinstance(it, functools.partial):
        yield from _code_in((it.func, *it.args))
    elif isinstance(it, (tuple, list)):
        for each in it:
            yield from _code_in(each)
    elif isinstance(it, type) and it.__module__ == "__main__":
        yield from (each for each in vars(it).values() if isinstance(each, types.FunctionType))


def _uses(fn: types.FunctionType) -> Iterator[tuple[str, str, Any]]:
    """What a function uses and is sent with it: its globals, and the variables around it."""
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
        with contextlib.suppress(ValueError):  # it is not set yet
            yield "the variable", name, cell.cell_contents
    todo = [fn.__code__]
    while todo:
        code = todo.pop()
        todo.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
        for name in code.co_names:
            if name in fn.__globals__:
                yield "the global", name, fn.__globals__[name]
