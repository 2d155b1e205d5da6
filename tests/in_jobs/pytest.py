"""What `import pytest` gives to the jobs of the tests: decorators that change nothing.

Not for the tests themselves, which have the whole of it. A job that is not forked from the tests
imports the module that its function is in, and with it what that module imports. pytest takes
twice as long to import as our package does, for nothing: a job calls the function and runs no
test. conftest puts this folder where jobs look first. A job that does use more gets pytest itself.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def _unchanged(*args: Any, **kwargs: Any) -> Any:
    """A decorator, and as well what is called for one."""
    return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else _unchanged


class _Marks:
    def __getattr__(self, name: str) -> Any:
        return _unchanged


mark = _Marks()
fixture = param = _unchanged
importorskip = importlib.import_module  # where that fails, no job is submitted


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["pytest"]
    return getattr(importlib.import_module("pytest"), name)
