"""Decide when a job may start: sleep_fn, your own and the ready-made gates.

Before each launch submit() asks sleep_fn(): None means "go", a number means "ask me again after
that many seconds". No slot is held meanwhile, so others go on, and the timeout of submit() holds.
Use it for what slots do not count: memory, load, licences, a service that must not be flooded.

Run:  python examples/ex4_sleep_fn.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import sys
import time
from typing import Any, Callable

from jobserver import Blocked, Jobserver, gates


class RateLimit:
    """A gate of our own: lets one job through, then none for ``interval`` seconds."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.opens = time.monotonic()
        self.refusals = 0

    def __call__(self) -> float | None:
        now = time.monotonic()
        if now < self.opens:
            self.refusals += 1
            return self.opens - now
        self.opens = now + self.interval
        return None


def never() -> bool:
    return False


def own_gate(context: Any) -> None:
    """Jobs start no faster than the rate limit lets them, though there are slots enough."""
    limit = RateLimit(interval=0.1)
    start = time.monotonic()
    with Jobserver(context=context, slots=3) as js:
        futures = [js.submit(pow, args=(n, 2), sleep_fn=limit) for n in range(3)]
        elapsed = time.monotonic() - start
        assert [future.result() for future in futures] == [0, 1, 4]
    assert elapsed >= 2 * limit.interval
    print(f"3 jobs, {limit.interval} s apart: {elapsed:.2f} s, refused {limit.refusals} times")


def ready_made_gates(context: Any) -> None:
    """Hold jobs back while the machine is overloaded or short of memory."""
    calm = gates.load_average(at_most=1000.0)
    gate: Callable[[], float | None] = calm
    if sys.platform == "linux":  # others do not tell how much memory is available
        gate = gates.all_of(calm, gates.memory_available(1 << 20))
    with Jobserver(context=context, slots=1) as js:
        assert js.submit(pow, args=(2, 3), sleep_fn=gate, timeout=30).result() == 8
    print("load and memory permit a job")


def closed_gate(context: Any) -> None:
    """What a gate that does not open does to its caller: nothing worse than Blocked."""
    with Jobserver(context=context, slots=1) as js:
        try:
            js.submit(pow, args=(2, 4), sleep_fn=gates.Gate(never, every=0.01), timeout=0.05)
        except Blocked as blocked:
            print("closed:", blocked)
        else:
            raise AssertionError("a closed gate must let nobody through")
        # The refused submission held no slot: the only one is there, at once.
        assert js.submit(pow, args=(2, 4), timeout=0).result() == 16

        # All ready-made gates have patience: after that long (60 s unless told otherwise) they
        # let one job through, so that a program slows down but never hangs.
        start = time.monotonic()
        impatient = gates.Gate(never, patience=0.1, every=0.02)
        assert js.submit(pow, args=(2, 5), sleep_fn=impatient).result() == 32
        assert time.monotonic() - start >= 0.1
        print(f"closed, but let one through after {time.monotonic() - start:.2f} s")


def main(context: Any = None) -> None:
    own_gate(context)
    ready_made_gates(context)
    closed_gate(context)


if __name__ == "__main__":
    main(*sys.argv[1:])
