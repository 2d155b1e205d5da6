"""How a job's process is started: a file for each start method, all behind `Starter`.

| method     | the job's process                            | its work                  |
|------------|----------------------------------------------|---------------------------|
| fork       | a copy of the owner                          | in memory, not pickled    |
| forkserver | a copy of a small helper, which serves the   | a message, pickled        |
|            | whole tree of jobs                           |                           |
| spawn      | a new interpreter; if it stays, a helper     | a message, pickled        |
|            | starts it, which serves the whole tree       |                           |
| inline     | the owner itself: for debuggers and tests    | in memory, not pickled    |
"""

from __future__ import annotations

from .. import _native
from .._options import Options
from ._starter import Helper, Starter, joined_helper

__all__ = ["Helper", "Starter", "starter", "joined_helper"]


def starter(options: Options, pool: _native.Pool, helper: Helper | None) -> Starter:
    """The starter for jobs in this pool. `helper` is the fork server if another process has started
    it."""
    # Each is imported at its first use: a program rarely uses more than one.
    if options.method == "inline":
        from .inline import Inline

        return Inline(options)
    if options.method == "fork":
        from .fork import Fork, ForkedWorkers

        return Fork(options) if options.max_tasks == 1 else ForkedWorkers(options)
    if options.method == "forkserver":
        from .forkserver import ForkServer

        return ForkServer(options, pool.slots, pool.home, helper)
    from .program import is_command

    if options.max_tasks != 1 and is_command():
        from .spawnserver import SpawnServer

        return SpawnServer(options, pool.slots, pool.home, helper)
    from .spawn import Spawn

    return Spawn(options, pool.home)
