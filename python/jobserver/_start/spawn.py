"""Start method spawn: the job is a new interpreter. It costs the most and shares no memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from .. import _job, _native
from . import loading
from ._starter import HiringStarter
from .introduction import Introductions
from .launch import Launch, dump
from .program import program

if TYPE_CHECKING:
    from .._options import Options
    from ._starter import First


class Spawn(HiringStarter):
    def __init__(self, options: Options, home: str) -> None:
        """For a pool with this home."""
        super().__init__(options)
        self._home = home
        self._introductions = Introductions("spawn")
        self._count = 0

    def renewed(self, is_job: bool) -> Spawn:
        return Spawn(self._options, self._home)

    def pack(self, work: _native.Work) -> Launch:
        self._count += 1
        return dump(f"Job-{self._count}", work)

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        if first is not None:
            state = owner.admit(first[1])
            if state:
                return state
        self.share_tracker()
        introduction, descriptors, _ = self._introductions.to_job(self._home, self._options, owner)
        try:
            return owner.hire_program(program(__name__), introduction, descriptors, first)
        finally:
            descriptors.clear()


def main(interruptible: bool) -> NoReturn:
    """In the new interpreter, whose channel is its standard input."""
    channel = _native.Channel(0)
    _native.fill_standard()
    _job.become_program()
    loading.run(channel, interruptible)
    sys.exit(0)
