"""The surroundings of a process: what a new program has of the process that starts it.

Under spawn the helper of a tree starts programs only for owners whose surroundings are the helper's
own. So it makes no difference which of the two starts them. Not here: what is sent to a program
(`introduction.py`); what docs/limits.md says of shared workers under spawn.
"""

from __future__ import annotations

import os
from typing import Any, Tuple

from .. import _multiprocessing as mp
from .. import _native

Surroundings = Tuple[Any, ...]

#: In a process that the helper has started: those before its first job.
at_start: Surroundings | None = None


def now() -> Surroundings:
    """Those of this process."""
    return (
        mp.spawn.get_executable(),
        dict(getattr(os.environ, "_data", {})),
        _native.surroundings(),
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
    )


def remember() -> None:
    """Called before the first job."""
    global at_start
    at_start = now()
