"""What a job's function runs within: the limits of its submission, and its `preexec_fn`."""

from __future__ import annotations

import contextlib
from typing import Any, Callable

_NOTHING = contextlib.nullcontext()


class Entered(contextlib.ExitStack):
    """The context manager of the limits, and of the user's `preexec_fn` if it returned one."""

    #: Whether something is not undone: the `preexec_fn` returned no context manager, or a limit
    #: could not be undone.
    leaves_changes = False


#: Sets a limit in this process, and registers how to undo that.
Limit = Callable[[Entered], None]


class Around:
    """A `preexec_fn` that sets limits, and then calls the user's `preexec_fn`."""

    def __init__(self, limits: tuple[Limit, ...], preexec_fn: Callable[[], Any] | None) -> None:
        self._limits = limits
        self._preexec_fn = preexec_fn

    def within(self, limits: tuple[Limit, ...]) -> Around:
        """The same within these limits."""
        return Around((*limits, *self._limits), self._preexec_fn)

    def __call__(self) -> Any:
        with contextlib.ExitStack() as until_entered:
            entered = until_entered.enter_context(Entered())
            for limit in self._limits:
                limit(entered)
            around = self._preexec_fn() if self._preexec_fn is not None else _NOTHING
            if isinstance(around, contextlib.AbstractContextManager):
                entered.enter_context(around)
            else:
                entered.leaves_changes = True
            until_entered.pop_all()
        return entered


def around(limits: tuple[Limit, ...], preexec_fn: Callable[[], Any] | None) -> Around:
    """This `preexec_fn`, which may have limits, within these limits."""
    if isinstance(preexec_fn, Around):
        return preexec_fn.within(limits)
    return Around(limits, preexec_fn)
