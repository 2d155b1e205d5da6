"""One contender's process: sets up what the request says, then runs it whenever it is asked to.

    contender.py '{"measure": "submit_all", "pool": "Multiprocessing", ...}'

It says {"ready": true}, or {"cannot": why}; then answers each line of its standard input with
{"figure": seconds for one operation}, until there are no more lines. A process for each contender,
so that none finds the threads, the memory and the children of another; lines over a pipe, so that
one written in any language can take part (rust/core/benches/floor.rs does).
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from typing import Any, Callable, TextIO

import work  # noqa: F401 - as a program imports what its jobs run; the rest is not theirs

#: A run's length at most, in seconds, unless `exact`: who is slow does fewer operations in it.
RUN = 0.2
#: Memory that this process holds, and has written to.
ballast = b""


def main(
    count: int, owner: int, exact: bool = False, rehearse: bool = True, **request: Any
) -> None:
    global ballast

    import measures
    import pools

    answers = _answers()
    ballast = b"\1" * (owner << 20)
    with ExitStack() as ends:
        try:
            run = measures.set_up(ends=ends, **request)
            if rehearse:
                count = _rehearsed(run, count, exact)
        except (pools.Cannot, ImportError) as e:
            _say(answers, cannot=str(e))
            return
        _say(answers, ready=True)
        # Not by `sys.stdin`, whose lock would be held meanwhile: a pool's thread may fork, and the
        # child closes its standard input first of all.
        while os.read(0, 100):
            _say(answers, figure=run(count))


def _rehearsed(run: Callable[[int], float], count: int, exact: bool) -> int:
    """Runs some operations, so that all is warm. How many a run is to have."""
    few = min(count, 8)
    figure = run(few)
    return count if exact else max(few, min(count, int(RUN / max(figure, 1e-9))))


def _answers() -> TextIO:
    """Standard output, kept for the answers: what a library prints goes to standard error."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


def _say(answers: TextIO, **what: Any) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
