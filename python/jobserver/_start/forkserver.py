"""Start method forkserver: the job is forked from a small helper process.

The helper has the user's main module loaded and is otherwise empty, so that a fork of it
costs the same however large the owner is, and is safe though the owner has threads. It is
started by the first submission and serves the whole tree of jobs below.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .. import _multiprocessing as mp
from .. import _native, _pools
from . import launch
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future


class ForkServer(Starter):
    def __init__(self, helper: int | None) -> None:
        self._count = 0
        self._helper = _native.ForkServer(helper)

    def renewed(self) -> ForkServer:
        # After a fork it is the parent's child: this process may use it, but not end it.
        return ForkServer(self._helper.fileno() if self._helper.running else None)

    def descriptor(self, home: str) -> int:
        self._start_helper(home)
        return self._helper.fileno()

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> launch.Launch:
        self._count += 1
        return launch.dump("forkserver", f"Job-{self._count}", work, jobs.pool.home)

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: launch.Launch,
    ) -> None:
        try:
            self._start_helper(jobs.pool.home)
            try:
                jobs.request(future, slot, self._helper, *prepared)
            except _native.ForkServerGone:
                # Somebody killed it, which costs its jobs nothing. A new one takes its place.
                self._start_helper(jobs.pool.home)
                jobs.request(future, slot, self._helper, *prepared)
        finally:
            prepared[1].clear()
            del prepared  # a traceback that is kept must keep no descriptor

    def _start_helper(self, home: str) -> None:
        if not self._helper.running:
            with launch.uninterrupted() as interruptible:
                self._helper.start(_helpers_command(home, interruptible))

    def stop(self) -> None:
        self._helper.stop()


def _helpers_command(home: str, interruptible: bool) -> list[str]:
    data = mp.spawn.get_preparation_data("forkserver")
    wanted = {"sys_path", "sys_argv", "dir", "init_main_from_path"}
    data = {key: value for key, value in data.items() if key in wanted}
    call = f"main({home!r}, {data!r}, {interruptible})"
    return launch.command(f"from jobserver._start.forkserver import main; {call}")


def main(home: str, data: dict[str, Any], interruptible: bool) -> NoReturn:
    """In the helper: its request socket is its standard input. Ctrl-C at a terminal reaches it
    too, and is not meant for it: SIGINT stays blocked."""
    server = _native.Server(0)
    _native.nullify_stdin()
    # Were this ignored, as it may be in the owner, nobody could say how a job ended.
    child_ended = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        _pools.opened(home)  # it goes with the owner, who may be gone, or will tell of it
    _load_main(data)
    gc.collect()
    gc.freeze()
    channel = server.serve()
    if channel is None:
        os._exit(0)
    signal.signal(signal.SIGCHLD, child_ended)
    launch.run(channel, interruptible)


def _load_main(data: dict[str, Any]) -> None:
    """Loads the user's main module; what goes wrong here will go wrong again in the job,
    where it can be told."""
    sys.path[:] = data["sys_path"]
    sys.argv = data["sys_argv"]
    process: Any = mp.process.current_process()
    process._inheriting = True
    with contextlib.suppress(Exception, SystemExit):
        mp.spawn.import_main_path(data["init_main_from_path"])
    del process._inheriting
