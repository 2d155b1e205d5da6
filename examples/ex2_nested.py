"""Jobs submit jobs: all of them, however deep, share one set of slots.

Each level of this recursion is a job that asks for one more level below it. A job keeps its slot
while it waits for the level below, and timeout=0 means "now or not at all"; so the recursion ends
when every slot is held by one of its levels: its depth *equals* the number of slots.

Run:  python examples/ex2_nested.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import os
import sys
from typing import Any

from jobserver import Blocked, Jobserver


def descend(js: Jobserver) -> list[int]:
    """The pids of this job and of every job below it."""
    try:
        deeper = js.submit(descend, args=(js,), timeout=0)
    except Blocked:
        return [os.getpid()]
    return [os.getpid()] + deeper.result()


def main(context: Any = None) -> None:
    for slots in (1, 2, 3):
        with Jobserver(context=context, slots=slots) as js:
            # The Jobserver itself travels as an argument, under every start method. This process
            # holds no slot; the first job takes the first one.
            pids = js(descend, js).result()
        print(f"{slots} slot(s): {len(pids)} job(s) deep:", " > ".join(map(str, pids)))
        assert len(set(pids)) == len(pids) == slots
        assert os.getpid() not in pids


if __name__ == "__main__":
    main(*sys.argv[1:])
