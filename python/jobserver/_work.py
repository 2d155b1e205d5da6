"""One submission's work: what a job is to run, and around it.

In the order in which a job uses it: the environment first, so that what the function's
module reads when it is imported is already right; then `preexec_fn`; then the function.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple

from ._arguments import Changes


class Work(NamedTuple):
    """Everything about one submission that concerns its job."""

    env: Changes
    preexec_fn: Callable[[], Any] | None
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
