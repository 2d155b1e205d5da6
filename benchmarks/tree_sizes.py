"""What a job of a nested tree costs, and how many processes there are at once, by the tree's size.

    python benchmarks/tree_sizes.py [--jobs 127 1023]
    python benchmarks/tree_sizes.py --report [results/tree_sizes.json]

Each node of a tree is a job that submits two, waits for them, and does nothing else. Each pool and
size has a process of its own (`contender.py`), which runs the tree twice. During the first run all
processes of its session are counted every 20 ms, services and zombies too; the second is timed. A
pool that takes too long, or fails, has no larger trees: its line ends there. What is found goes to
`results/` and is drawn by `plot_sizes.py`. Not here: targets, and rounds in which all take part
(`bench.py`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

import bench
import plot_sizes
import report
from scenarios import (
    DASK,
    HOLD,
    RAY,
    SERVER_HOLD,
    SERVER_WARM,
    SERVER_YIELD,
    SYSTEMS,
    YIELD,
    Request,
    nested,
)

WAYS: dict[str, Request] = {
    YIELD: nested("yield"),
    HOLD: nested("hold"),
    SERVER_YIELD: nested("yield", "forkserver"),
    SERVER_HOLD: nested("hold", "forkserver"),
    SERVER_WARM: nested("yield", "forkserver", fresh=False),
    RAY: SYSTEMS[RAY],
    DASK: SYSTEMS[DASK],
}
#: Full trees, by their depth.
DEPTHS = {2 ** (depth + 1) - 1: depth for depth in range(6, 14) if depth != 7}

#: Seconds that a tree may take, and between two counts of the processes.
PATIENCE, INTERVAL = 120, 0.02

RESULTS = report.RESULTS / "tree_sizes.json"
#: What a run of some sizes leaves: overwritten by the next.
PARTIAL = report.RESULTS / "partial.tree_sizes.json"


class Count:
    """Counts the processes of a cell, in a thread, within a `with` statement."""

    def __init__(self, cell: bench.Cell) -> None:
        self.most = 0
        self._cell = cell
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def _count(self) -> None:
        while not self._end.wait(INTERVAL):
            self.most = max(self.most, self._cell.processes())

    def __enter__(self) -> Count:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def point(way: str, jobs: int) -> dict[str, Any]:
    """The figures of a tree; or why there are none (`cannot`)."""
    common = {"measure": "jobs_of_tree", "method": "fork", "owner": 0, "depth": DEPTHS[jobs]}
    once = {"count": 1, "exact": True, "rehearse": False, "anew": False, "rounds": 2}
    cell = bench.Cell(way, f"{jobs:,} jobs", {**common, **WAYS[way], **once, "patience": PATIENCE})
    try:
        cell.start()
        with Count(cell) as count:
            cell.ask(0)
        cell.ask(1)
    finally:
        cell.stop()
    if cell.cannot is not None:
        return {"jobs": jobs, "cannot": cell.cannot}
    return {"jobs": jobs, "seconds": cell.figures[1], "processes": count.most}


def line(way: str, sizes: list[int]) -> dict[str, Any]:
    """A pool's figures, up to the size that it cannot do."""
    points = []
    for jobs in sizes:
        points.append(point(way, jobs))
        print(f"{way}: {plot_sizes.told(points[-1])}", flush=True)
        if "cannot" in points[-1]:
            break
    return {"name": way, "points": points}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", choices=[*DEPTHS], default=[*DEPTHS])
    parser.add_argument("--report", nargs="?", type=Path, const=RESULTS, metavar="RUN")
    options = parser.parse_args()
    if options.report:
        print(plot_sizes.markdown(json.loads(options.report.read_text())))
        return
    bench.end_when_told()
    sizes = sorted(options.jobs)
    run: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": os.environ.get("BENCH_COMMAND") or shlex.join(["python", *sys.argv]),
        "commit": bench.commit(),
        "machine": bench.machine(),
        "lines": [line(way, sizes) for way in WAYS],
    }
    path = RESULTS if sizes == [*DEPTHS] else PARTIAL
    path.write_text(json.dumps(run, indent=1) + "\n")
    path.with_suffix(".svg").write_text(plot_sizes.svg(run))
    print(f"\n{plot_sizes.markdown(run)}\n\nevery figure: {path.relative_to(bench.ROOT)}")


if __name__ == "__main__":
    main()
