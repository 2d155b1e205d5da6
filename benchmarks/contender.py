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
from typing import Any, TextIO

#: A round's length at most, in seconds: who is slow does fewer operations in it.
ROUND = 0.3
#: Memory that this process holds, and has written to.
ballast = b""


def main(count: int, owner: int, **request: Any) -> None:
    global ballast

    import measures
    import pools

    answers = _answers()
    ballast = b"\1" * (owner << 20)
    with ExitStack() as ends:
        try:
            run = measures.set_up(ends=ends, **request)
            rehearsed = min(count, 8)
            figure = run(rehearsed)
        except (pools.Cannot, ImportError) as e:
            _say(answers, cannot=str(e))
            return
        if request["measure"] != "idle_worker":
            count = max(rehearsed, min(count, int(ROUND / max(figure, 1e-9))))
        run(count)
        _say(answers, ready=True)
        for _ in sys.stdin:
            _say(answers, figure=run(count))


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
