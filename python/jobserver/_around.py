"""What a job's function runs within: the limits of its submission, and its `preexec_fn`."""

from __future__ import annotations

import contextlib
from typing import Any, Callable

_NOTHING = contextlib.nullcontext()

#: Sets a limit in this process, and registers how to undo that.
Limit = Callable[[contextlib.ExitStack], None]


class Entered(contextlib.ExitStack):
    """The context manager of the limits, and of the user's `preexec_fn` if it returned one."""

    #: Whether the `preexec_fn` returned none, so that its changes to the process are not undone.
    leaves_changes = False


class Around:
    """A `preexec_fn` that sets limits, and then calls the user's `preexec_fn`."""

    def __init__(self, limits: tuple[Limit, ...], preexec_fn: Callable[[], Any] | None) -> None:
        self._limits = limits
        self._preexec_fn = preexec_fn

    def __call__(self) -> Any:
        with Entered() as entered:
            for limit in self._limits:
                limit(entered)
            around = self._preexec_fn() if self._preexec_fn is not None else _NOTHING
            leaves_changes = not isinstance(around, contextlib.AbstractContextManager)
            if not leaves_changes:
                entered.enter_context(around)
            made = entered.pop_all()
            made.leaves_changes = leaves_changes
            return made
