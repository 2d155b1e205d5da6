"""The options of a Jobserver that hold for all its jobs, in all processes."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any, Callable, NamedTuple


class Options(NamedTuple):
    #: The start method, or "inline".
    method: str
    context: BaseContext
    #: Names the Jobserver; the same in all processes that have it.
    key: str
    max_tasks: int | None
    preload: tuple[str, ...]
    yields: bool
    orphans_stay: bool
    #: What each process calls before its first job.
    initializer: Callable[[], Any] | None
