"""How well jobs that yield use the slots: the share of slot-time in which leaves computed.

A tree of jobs on two slots, of which only the leaves compute. Jobs that hold their slots while
they wait leave a part of them idle; jobs that yield should not.
"""

from __future__ import annotations

import time

from jobserver import Jobserver

LEAF = 0.1
SLOTS = 2


def tree(js: Jobserver, depth: int) -> list[tuple[float, float]]:
    """When each leaf below began and ended."""
    if depth == 0:
        begun, cpu = time.monotonic(), time.process_time()
        while time.process_time() < cpu + LEAF:
            pass
        return [(begun, time.monotonic())]
    jobs = [js(tree, js, depth - 1) for _ in range(3)]
    return [span for job in jobs for span in job.result()]


def main() -> None:
    for waiting in ("hold", "yield"):
        with Jobserver("fork", SLOTS, waiting=waiting) as js:
            spans = js(tree, js, 3).result()
        busy = sum(ended - begun for begun, ended in spans)
        wall = max(ended for _, ended in spans) - min(begun for begun, _ in spans)
        share = f"{busy / wall / SLOTS:.0%} of slot-time"
        print(f"{waiting:6} {len(spans)} leaves in {wall:.2f} s: {share}")


if __name__ == "__main__":
    main()
