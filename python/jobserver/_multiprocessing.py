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


def __getattr__(name: str) -> Any:
    if name not in ("resource_tracker", "spawn"):
        raise AttributeError(name)
    module = globals()[name] = import_module(f"multiprocessing.{name}")
    return module
