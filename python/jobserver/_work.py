"""One submission's work: what a job is to run, and around it.

In the order in which a job uses it: the environment first, so that what the function's
module reads when it is imported is already right; then `preexec_fn`; then the function.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

from ._arguments import Changes


class Work:
    """Everything about one submission that concerns its job."""

    __slots__ = ("args", "env", "fn", "kwargs", "preexec_fn", "time_limit")

    def __init__(
        self,
        env: Changes,
        preexec_fn: Callable[[], Any] | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        time_limit: float | None,
    ) -> None:
        self.env = env
        self.preexec_fn = preexec_fn
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.time_limit = time_limit
