"""How a job's process is started: a file for each start method, all behind `Starter`.

| method     | the job's process                            | its work                  |
|------------|----------------------------------------------|---------------------------|
| fork       | a copy of the owner                          | in memory, not pickled    |
| forkserver | a copy of a small helper, which serves the   | a message, pickled        |
|            | whole tree of jobs                           |                           |
| spawn      | a new interpreter; if it stays, a helper     | a message, pickled        |
|            | starts it, which serves the whole tree       |                           |
"""

from __future__ import annotations

from .. import _native
from ._starter import Helper, Starter, joined_helper

__all__ = ["Helper", "Starter", "starter", "joined_helper"]


def starter(
    method: str,
    pool: _native.Pool,
    max_tasks: int | None,
    preload: tuple[str, ...],
    helper: Helper | None,
) -> Starter:
    """The starter for a start method, for jobs in this pool, with at most `max_tasks` jobs a
    worker. For a fork server: the modules that it imports, and the `helper` of another process if
    that has started it."""
    # Each is imported at its first use: a program rarely uses more than one.
    if method == "fork":
        from .fork import Fork, ForkedWorkers

        return Fork() if max_tasks == 1 else ForkedWorkers(max_tasks)
    if method == "forkserver":
        from .forkserver import ForkServer

        return ForkServer(max_tasks, preload, pool.slots, pool.home, helper)
    from .program import is_command

    if max_tasks != 1 and is_command():
        from .spawnserver import SpawnServer

        return SpawnServer(max_tasks, preload, pool.slots, pool.home, helper)
    from .spawn import Spawn

    return Spawn(max_tasks, pool.home)
