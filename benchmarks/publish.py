"""Puts the last whole run of the benchmark into the documents: their figures come from it.

Between two marks in each file, and nowhere else; and the picture, at a place that does not change
with the date.

    python benchmarks/publish.py [results/2026-01-01.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import plot
import report

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- the last run: begin -->", "<!-- the last run: end -->"


def put(path: Path, found: str) -> None:
    """Replaces what stands between the marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{path} lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}")


def publish(run: dict[str, Any]) -> None:
    (HERE / "plot.svg").write_text(plot.svg(run))
    put(HERE / "README.md", report.markdown(run))
    picture = "![what a job costs, by pool](../benchmarks/plot.svg)"
    put(HERE.parent / "docs/speed.md", f"{picture}\n\n{report.targets_markdown(run)}")


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else report.last()
    publish(json.loads(path.read_text()))
