"""The internals of multiprocessing that this package uses, in one place.

They are not documented, but CPython 3.8 to 3.15 have them, and loky and other packages that start
processes use them too. The tests run on every CPython version of the machine. The types are Any,
because typeshed lacks most of them. Modules that only new interpreters and fork servers need are
imported at their first use.
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.process
import multiprocessing.reduction
import multiprocessing.util
from importlib import import_module
from typing import TYPE_CHECKING, Any

context: Any = multiprocessing.context
process: Any = multiprocessing.process
reduction: Any = multiprocessing.reduction
util: Any = multiprocessing.util

if TYPE_CHECKING:
    resource_tracker: Any
    spawn: Any


def is_shipped(function: Any, neighbour: Any) -> bool:
    """Whether a function is CPython's own: from the same file as `neighbour`. coverage.py,
    viztracer and other tools replace some functions to see processes begin and end, and may copy
    the names."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == neighbour.__code__.co_filename


def is_for_forks_only(value: Any) -> bool:
    """Whether this is a lock of the fork context: it has no name by which another process could
    open it."""
    lock = getattr(value, "_semlock", None)
    return lock is not None and lock.name is None


def __getattr__(name: str) -> Any:
    if name not in ("resource_tracker", "spawn"):
        raise AttributeError(name)
    module = globals()[name] = import_module(f"multiprocessing.{name}")
    return module
