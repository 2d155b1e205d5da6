"""The options of a Jobserver that hold for all its jobs, in all processes."""

from __future__ import annotations

import os
from multiprocessing.context import BaseContext
from typing import Any, Callable, NamedTuple

from . import _arguments


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


def checked(
    context: Any,
    waiting: Any,
    orphans: Any,
    max_tasks_per_child: Any,
    preload: Any,
    initializer: Any,
    initargs: Any,
) -> Options:
    """The options that these arguments of a new Jobserver mean."""
    _arguments.in_main_interpreter()
    method, chosen = _arguments.context(context)
    return Options(
        method,
        chosen,
        os.urandom(16).hex(),
        yields=_arguments.choice(waiting, "waiting", ("hold", "yield")) == "yield",
        orphans_stay=_arguments.choice(orphans, "orphans", ("end", "keep")) == "keep",
        max_tasks=_arguments.tasks(max_tasks_per_child),
        preload=_arguments.modules(preload),
        initializer=_arguments.initializer(initializer, initargs),
    )
