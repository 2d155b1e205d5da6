"""What a job's function runs within: the limits of its submission, and its `preexec_fn`."""

from __future__ import annotations

import contextlib
from typing import Any, Callable

#: Sets a limit in this process, and registers how to undo that.
Limit = Callable[[contextlib.ExitStack], None]


class Around:
    """A `preexec_fn` that sets limits, and then calls the user's `preexec_fn`. It returns a context
    manager, unless the user's returns none: then the process cannot stay for other jobs, and the
    limits need no end."""

    def __init__(self, limits: tuple[Limit, ...], preexec_fn: Callable[[], Any] | None) -> None:
        self._limits = limits
        self._preexec_fn = preexec_fn

    def __call__(self) -> Any:
        with contextlib.ExitStack() as entered:
            for limit in self._limits:
                limit(entered)
            if self._preexec_fn is not None:
                around = self._preexec_fn()
                if not isinstance(around, contextlib.AbstractContextManager):
                    entered.pop_all()
                    return None
                entered.enter_context(around)
            return entered.pop_all()
