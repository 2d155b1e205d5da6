"""Decide when a job may start: sleep_fn, your own and the ready-made gates.

Before each launch submit() asks sleep_fn(): None means "go", a number means "ask me again after
that many seconds". No slot is held meanwhile, so others go on, and the timeout of submit() holds.
Use it for what slots do not count: memory, load, licences, a service that must not be flooded.

Run:  python examples/ex4_sleep_fn.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import sys
import time
from typing import Optional

from jobserver import Blocked, Jobserver, gates


class RateLimit:
    """A gate of our own: lets one job through, then none for ``interval`` seconds."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.opens = time.monotonic()
        self.refusals = 0

    def __call__(self) -> Optional[float]:
        now = time.monotonic()
        if now < self.opens:
            self.refusals += 1
            return self.opens - now
        self.opens = now + self.interval
        return None


def closed() -> float:
    """A gate that never opens."""
    return 0.01


def main(context: Optional[str] = None) -> None:
    with Jobserver(context=context, slots=3) as js:
        limit = RateLimit(interval=0.1)
        start = time.monotonic()
        futures = [js.submit(pow, args=(n, 2), sleep_fn=limit) for n in range(3)]
        elapsed = time.monotonic() - start
        assert elapsed >= 2 * limit.interval
        assert limit.refusals >= 2
        assert [future.result() for future in futures] == [0, 1, 4]
        print(f"3 jobs, {limit.interval} s apart: {elapsed:.2f} s, refused {limit.refusals} times")

    with Jobserver(context=context, slots=1) as js:
        try:
            js.submit(pow, args=(2, 3), sleep_fn=closed, timeout=0.05)
        except Blocked as blocked:
            print("gate closed:", blocked)
        else:
            raise AssertionError("a closed gate must let nobody through")
        # The refused submission held no slot: the only one is there for the next.
        assert js.submit(pow, args=(2, 3), timeout=0).result() == 8


if __name__ == "__main__":
    main(*sys.argv[1:])
