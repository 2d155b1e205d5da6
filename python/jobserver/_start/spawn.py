"""Start method spawn: the job is a new interpreter. It costs the most and shares nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from .. import _job, _native
from . import launch
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future


class Spawn(Starter):
    def __init__(self) -> None:
        self._count = 0

    def renewed(self) -> Spawn:
        return Spawn()

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> launch.Launch:
        self._count += 1
        return launch.dump("spawn", f"Job-{self._count}", work, jobs.pool.home)

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: launch.Launch,
    ) -> None:
        try:
            with launch.uninterrupted() as interruptible:
                jobs.spawn(future, slot, _command(interruptible), *prepared)
        finally:
            prepared[1].clear()
            del prepared  # a traceback that is kept must keep no descriptor


def _command(interruptible: bool) -> list[str]:
    return launch.command(f"from jobserver._start.spawn import main; main({interruptible})")


def main(interruptible: bool) -> NoReturn:
    """In the new interpreter: its channel is its standard input."""
    channel = _native.Channel(0)
    _native.nullify_stdin()
    _job.runs_atexit = True
    launch.run(channel, interruptible)
