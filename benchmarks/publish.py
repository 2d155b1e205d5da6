"""Puts the last runs of the benchmarks into the documents: their figures come from them.

Between two marks in each file, and nowhere else; and the pictures, at places that do not change
with the date. That of the sizes of trees (`tree_sizes.py`) is left as it is if there is no run.

    python benchmarks/publish.py [results/2026-01-01.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import plot
import plot_sizes
import report

HERE = Path(__file__).resolve().parent
LAST_RUN, TREE_SIZES = "the last run", "trees by size"


def put(path: Path, part: str, found: str) -> None:
    """Replaces what stands between a part's marks."""
    begin, end = (f"<!-- {part}: {mark} -->" for mark in ("begin", "end"))
    before, _, rest = path.read_text().partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        sys.exit(f"{path} lacks the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n\n{found}\n\n{end}{after}")


def publish(run: dict[str, Any]) -> None:
    (HERE / "plot.svg").write_text(plot.svg(run))
    put(HERE / "README.md", LAST_RUN, report.markdown(run))
    picture = "![what a job costs, by pool](../benchmarks/plot.svg)"
    put(HERE.parent / "docs/speed.md", LAST_RUN, f"{picture}\n\n{report.targets_markdown(run)}")


def publish_sizes(run: dict[str, Any]) -> None:
    (HERE / "tree_sizes.svg").write_text(plot_sizes.svg(run))
    picture = "![a job of a tree, and processes at once, by size](tree_sizes.svg)"
    put(HERE / "README.md", TREE_SIZES, f"{picture}\n\n{plot_sizes.markdown(run)}")


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else report.last()
    publish(json.loads(path.read_text()))
    sizes = report.RESULTS / "tree_sizes.json"
    if sizes.exists():
        publish_sizes(json.loads(sizes.read_text()))
