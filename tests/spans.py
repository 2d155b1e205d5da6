"""Which jobs ran when: each writes a line when it begins and ends, and this reads them.

For tests of how many run at once, whatever program started them.
"""

from __future__ import annotations

import time
from pathlib import Path

#: How long a recorded piece of work takes, in seconds: long enough to overlap with others.
WORK = 0.05

#: The same as `record`, for recipes: a shell command, with the log in $LOG.
RECORD = f"echo + $$(date +%s%N) >> $$LOG; sleep {WORK}; echo - $$(date +%s%N) >> $$LOG"


def record(log: str) -> None:
    """Works for a while, and says when."""
    begin = time.time_ns()
    while time.time_ns() - begin < WORK * 1e9:
        pass
    with open(log, "a") as file:
        file.write(f"+ {begin}\n- {time.time_ns()}\n")


def most_at_once(log: Path) -> tuple[int, int]:
    """The greatest number of pieces of work that ran at once, and how many there were."""
    events = sorted(
        (int(when), what == "+") for what, when in map(str.split, log.read_text().splitlines())
    )
    running = most = 0
    for _, begins in events:
        running += 1 if begins else -1
        most = max(most, running)
    assert running == 0
    return most, len(events) // 2
