"""How a job's process is born: one file a start method, all behind `Starter`.

| method     | the job is                                   | its work arrives          |
|------------|----------------------------------------------|---------------------------|
| fork       | a copy of the owner                          | as it is, in memory       |
| forkserver | a copy of a small helper, which the owner of | as a message, pickled     |
|            | the whole tree started                       |                           |
| spawn      | a new interpreter                            | as a message, pickled     |
"""

from __future__ import annotations

from .. import _native
from ._starter import Starter

__all__ = ["Starter", "starter"]


def starter(
    method: str,
    pool: _native.Pool,
    max_tasks: int | None,
    preload: tuple[str, ...],
    helper: int | None,
) -> Starter:
    """The starter for a start method, for jobs in this pool, with at most `max_tasks` jobs a
    worker. For a fork server: the modules that it imports, and the `descriptor` of another process
    if that has started it."""
    # Each is imported at its first use: a program rarely uses more than one.
    if method == "fork":
        from .fork import Fork, ForkedWorkers

        return Fork() if max_tasks == 1 else ForkedWorkers(max_tasks)
    if method == "forkserver":
        from .forkserver import ForkServer

        return ForkServer(max_tasks, preload, pool.slots, pool.home, helper)
    from .spawn import Spawn

    return Spawn(max_tasks, pool.home)
