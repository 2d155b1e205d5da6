"""Start method spawn: the job is a new interpreter. It costs the most and shares nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from .. import _job, _native
from . import launch
from ._starter import HiringStarter
from .program import program

if TYPE_CHECKING:
    from ._starter import First


class Spawn(HiringStarter):
    def __init__(self, tasks: int | None) -> None:
        super().__init__(tasks)
        self._introductions = launch.Introductions("spawn")
        self._count = 0

    def renewed(self) -> Spawn:
        return Spawn(self._tasks)

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> launch.Launch:
        self._count += 1
        return launch.dump(f"Job-{self._count}", work)

    def hire(self, jobs: _native.Jobs, first: First | None = None) -> None:
        self.share_tracker()
        introduction, descriptors = self._introductions.to_job(
            jobs.pool.home, self._tasks, jobs.hears
        )
        try:
            jobs.hire_spawn(program(__name__), introduction, descriptors, first)
        finally:
            descriptors.clear()


def main(interruptible: bool) -> NoReturn:
    """In the new interpreter: its channel is its standard input."""
    channel = _native.Channel(0)
    _native.fill_standard()
    _job.become_program()
    launch.run(channel, interruptible)
    sys.exit(0)
