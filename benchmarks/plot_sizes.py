"""What `tree_sizes.py` has found, as a picture and as a table.

Two panels over the size of the tree, with logarithmic scales on both axes, since sizes and figures
differ by a hundred times. Written by hand, as `plot.py` is.

    python benchmarks/plot_sizes.py [results/tree_sizes.json] > tree_sizes.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Tuple

import plot
import report
from scenarios import DASK, HOLD, RAY, SERVER_HOLD, SERVER_WARM, SERVER_YIELD, YIELD

#: Colour, and dashes: ours have one hue for each start method, and dashes for "hold".
LOOKS = {
    YIELD: ("#c2410c", ""),
    HOLD: ("#c2410c", "5 3"),
    SERVER_YIELD: ("#1d4ed8", ""),
    SERVER_HOLD: ("#1d4ed8", "5 3"),
    SERVER_WARM: ("#15803d", ""),
    RAY: ("#64748b", ""),
    DASK: ("#64748b", "2 3"),
}
WIDTH, MARGIN, GAP, HEIGHT, HEAD, AXIS, FOOT = 960, 24, 56, 260, 34, 30, 40
LEGEND, KEY = 18, 28

Points = List[Tuple[float, float]]


class Scale(NamedTuple):
    """A logarithmic axis: which value is where."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def decades(self) -> list[float]:
        """The values with a line: 1, 2 and 5 of each power of ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [value for value in values if self.low <= value <= self.high]


def _milliseconds(point: dict[str, Any]) -> float:
    return float(point["seconds"]) * 1000


def _processes(point: dict[str, Any]) -> float:
    return float(point["processes"])


def _measured(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [point for point in line["points"] if "cannot" not in point]


def svg(run: dict[str, Any]) -> str:
    lines = [line for line in run["lines"] if _measured(line)]
    column = (WIDTH - 2 * MARGIN - 2 * GAP) // 2
    rows = math.ceil(len(lines) / 2)
    height = MARGIN + HEAD + HEIGHT + AXIS + LEGEND * rows + FOOT + MARGIN
    parts = [
        *_panel("A job of a nested tree (ms)", lines, _milliseconds, MARGIN + GAP, column),
        *_panel("Processes at once", lines, _processes, MARGIN + GAP + column + GAP, column),
        *_legend(lines, MARGIN + HEAD + HEIGHT + AXIS + 16),
        plot.text(MARGIN, height - MARGIN, report.made_by(run), size=10),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(
    caption: str,
    lines: list[dict[str, Any]],
    figure: Callable[[dict[str, Any]], float],
    left: int,
    width: int,
) -> list[str]:
    points = {
        line["name"]: [(float(point["jobs"]), figure(point)) for point in _measured(line)]
        for line in lines
    }
    sizes = sorted({jobs for each in points.values() for jobs, _ in each})
    values = [value for each in points.values() for _, value in each]
    if not values:
        return []
    top, bottom = MARGIN + HEAD, MARGIN + HEAD + HEIGHT
    x = Scale(min(sizes) / 1.2, max(sizes) * 1.2, left, left + width)
    y = Scale(min(values) / 1.3, max(values) * 1.3, bottom, top)
    parts = [plot.text(left, MARGIN + 14, caption, weight="bold", size=13)]
    for value in y.decades():
        parts += [
            _rule(left, y.at(value), left + width, y.at(value)),
            plot.text(left - 6, y.at(value) + 4, f"{value:,g}", anchor="end"),
        ]
    for size in sizes:
        parts.append(plot.text(x.at(size), bottom + 18, f"{size:,g}", anchor="middle", size=10))
    for name, each in points.items():
        parts += _curve(name, [(x.at(jobs), y.at(value)) for jobs, value in each])
    return parts


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#e2e8f0"/>'


def _curve(name: str, points: Points) -> list[str]:
    colour, dashes = LOOKS[name]
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dashes}"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points),
    ]


def _legend(lines: list[dict[str, Any]], top: float) -> list[str]:
    parts = []
    for number, line in enumerate(lines):
        row, place = divmod(number, 2)
        left, y = MARGIN + GAP + place * WIDTH // 2, top + row * LEGEND
        parts += _curve(line["name"], [(left, y), (left + KEY, y)])
        parts.append(plot.text(left + KEY + 8, y + 4, line["name"] + _end(line)))
    return parts


def _end(line: dict[str, Any]) -> str:
    """Why a line ends before the largest size."""
    last = line["points"][-1]
    return f" ({last['jobs']:,} jobs: {last['cannot']})" if "cannot" in last else ""


def told(point: dict[str, Any]) -> str:
    if "cannot" in point:
        return f"{point['jobs']:,} jobs: {point['cannot']}"
    cost = report.number(_milliseconds(point))
    return f"{point['jobs']:,} jobs: {cost} ms a job, {point['processes']:,} processes"


def markdown(run: dict[str, Any]) -> str:
    """A line for each size, a column for each pool: cost, and processes in brackets."""
    lines = [line for line in run["lines"] if _measured(line)]
    left_out = [line for line in run["lines"] if not _measured(line)]
    cells = {
        (line["name"], point["jobs"]): f"{report.number(_milliseconds(point))} "
        f"({point['processes']:,})"
        if "cannot" not in point
        else point["cannot"]
        for line in lines
        for point in line["points"]
    }
    sizes = sorted({jobs for _, jobs in cells})
    names = [line["name"] for line in lines]
    rows = [["jobs: ms a job (processes at once)", *names]]
    rows += [[f"{jobs:,}", *(cells.get((name, jobs), "") for name in names)] for jobs in sizes]
    notes = [f"{line['name']}: {line['points'][-1]['cannot']}." for line in left_out]
    return "\n\n".join([f"{report.made_by(run)}.", report.markdown_table(rows), *notes])


if __name__ == "__main__":
    found = Path(sys.argv[1]) if len(sys.argv) > 1 else report.RESULTS / "tree_sizes.json"
    sys.stdout.write(svg(json.loads(found.read_text())))
