"""Jobs that run until the test lets them go, and the slots that they leave.

A module of its own, and not part of conftest, because jobs import what they run.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from jobserver import Jobserver


class Hold:
    """Keeps jobs running until the test lets them go, or ends."""

    def __init__(self) -> None:
        self.end, self._our_end = multiprocessing.Pipe(duplex=False)

    def let_go(self, jobs: int = 1) -> None:
        os.write(self._our_end.fileno(), b"x" * jobs)

    def close(self) -> None:
        self.let_go(2000)
        self.end.close()
        self._our_end.close()


def held(end: Any) -> int:
    """A job that runs until it is let go."""
    os.read(end.fileno(), 1)
    return os.getpid()


def free(js: Jobserver) -> Any:
    """How many slots are free, also of a Jobserver that starts no more jobs."""
    return js._owner.here().pool.free()
