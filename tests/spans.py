"""Which jobs ran when: each writes a line when it begins and ends, and this reads them.

For tests and benchmarks of how many run at once, whatever program started them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterable, Tuple

#: How long a recorded piece of work takes, in seconds: long enough to overlap with others.
WORK = 0.05

#: When a piece of work began and ended.
Span = Tuple[float, float]


def command(seconds: float = WORK) -> str:
    """The same as `record`, for a shell, with the log in $LOG."""
    return f"echo + $(date +%s%N) >> $LOG; sleep {seconds}; echo - $(date +%s%N) >> $LOG"


def record(log: str) -> None:
    """Works for a while, and says when."""
    begin = time.time_ns()
    while time.time_ns() - begin < WORK * 1e9:
        pass
    with open(log, "a") as file:
        file.write(f"+ {begin}\n- {time.time_ns()}\n")


class Recorded:
    """What ran when. Times have one unit; whoever began at another's end began after it."""

    def __init__(self, changes: Iterable[tuple[float, int]]) -> None:
        self.changes = sorted(changes)
        running = 0
        #: How many ran from each change on.
        self.running = [running := running + change for _, change in self.changes]
        assert running == 0

    @staticmethod
    def in_log(log: Path) -> Recorded:
        lines = map(str.split, log.read_text().splitlines())
        return Recorded((int(when), 1 if what == "+" else -1) for what, when in lines)

    @staticmethod
    def of(spans: Iterable[Span]) -> Recorded:
        return Recorded(change for begun, ended in spans for change in ((begun, 1), (ended, -1)))

    @property
    def count(self) -> int:
        return len(self.changes) // 2

    @property
    def most(self) -> int:
        """How many ran at once, at most."""
        return max(self.running, default=0)

    def in_use(self, slots: int) -> float:
        """The share of slot-time in use while there was more to begin: from the first beginning
        to the last."""
        begun = [when for when, change in self.changes if change == 1]
        until = [min(when, begun[-1]) for when, _ in self.changes]
        used = sum(
            running * (after - before)
            for running, before, after in zip(self.running, until, until[1:])
        )
        return used / (begun[-1] - begun[0]) / slots

    def longest_pause(self) -> float:
        """The longest time between the first beginning and the last in which none ran."""
        whens = [when for when, _ in self.changes]
        pauses = zip(self.running, whens, whens[1:])
        return max((after - before for running, before, after in pauses if not running), default=0)
