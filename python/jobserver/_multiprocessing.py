"""The insides of multiprocessing that this package relies on, named in one place.

They are not documented, but CPython 3.8 to 3.15 have them and so do loky and others that
start processes; the tests run on every version that the machine has. Types are Any, since
typeshed leaves most of them out. What only new interpreters and fork servers need is imported
when they are first asked for.
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
    """Whether a function is CPython's own, from the file that this one is from too. coverage.py,
    viztracer and others replace some to see processes begin and end, and may copy their names."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == neighbour.__code__.co_filename


def __getattr__(name: str) -> Any:
    if name not in ("resource_tracker", "spawn"):
        raise AttributeError(name)
    module = globals()[name] = import_module(f"multiprocessing.{name}")
    return module
