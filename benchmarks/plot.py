"""A run of the benchmark as a picture: an SVG of a few panels, each a case, each bar a contender.

Bars are medians and lines quartiles, each panel on a scale of its own that begins at 0. Written by
hand and not by a plotting library, since a dozen rectangles need none, and so that the file is
small and can be compared.

    python benchmarks/plot.py [results/2026-01-01.json] > plot.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import report
from scenarios import BARE, FLOOR, OURS

#: What is shown: scenario, case, caption.
SHOWN = (
    ("fork", "0 MiB", "A fresh process for each job, by fork"),
    ("forkserver", "1024 MiB", "The same by forkserver, owner of 1 GiB"),
    ("warm", "submit all", "Workers kept: jobs submitted all at once"),
    ("warm", "one at a time", "Workers kept: one job at a time"),
    ("map", "100,000 calls", "map: a trivial call, of 100,000"),
    ("result-array", "100 MiB", "A NumPy array of 100 MiB as result"),
    ("tree-jobs", "1,023 jobs", "A job of a nested tree of 1,023, two slots"),
    ("import", "import", "Importing it"),
)

WIDTH, COLUMNS, MARGIN, GAP = 960, 2, 24, 32
BAR, STEP, HEAD, LABELS, FIGURES = 14, 20, 30, 160, 70
FOOT = 44

OURS_COLOUR, PEER_COLOUR, FLOOR_COLOUR = "#c2410c", "#64748b", "#cbd5e1"


class Bar(NamedTuple):
    who: str
    median: float
    quartiles: tuple[float, float]


class Panel(NamedTuple):
    caption: str
    unit: str
    bars: list[Bar]

    @property
    def height(self) -> int:
        return HEAD + STEP * len(self.bars)


def panels(run: dict[str, Any]) -> list[Panel]:
    measured = {table.name: table for table in report.tables(run)}
    found = []
    for name, case, caption in SHOWN:
        table = measured.get(name)
        if table is None:
            continue
        unit = report.UNITS[table.unit]
        bars = [
            Bar(who, report.median(figures) / unit, (first / unit, third / unit))
            for (who, where), figures in table.cells.items()
            if where == case
            for first, third in (report.quartiles(figures),)
        ]
        if bars:
            found.append(Panel(caption, table.unit, sorted(bars, key=lambda bar: bar.median)))
    return found


def svg(run: dict[str, Any]) -> str:
    shown = panels(run)
    column = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) // COLUMNS
    parts: list[str] = []
    top = MARGIN
    for begin in range(0, len(shown), COLUMNS):
        row = shown[begin : begin + COLUMNS]
        for place, panel in enumerate(row):
            parts += _panel(panel, MARGIN + place * (column + GAP), top, column)
        top += max(panel.height for panel in row) + GAP
    parts += _foot(run, top)
    height = top + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, left: int, top: int, width: int) -> list[str]:
    title = f"{panel.caption} ({panel.unit.replace('us', 'µs')})"
    parts = [text(left, top + 14, title, weight="bold", size=13)]
    room = width - LABELS - FIGURES
    longest = max(bar.quartiles[1] for bar in panel.bars)
    for number, bar in enumerate(panel.bars):
        y = top + HEAD + number * STEP
        middle = y + BAR / 2
        x = left + LABELS
        length = max(1.0, room * bar.median / longest)
        ends = [x + max(0.0, room * value / longest) for value in bar.quartiles]
        weight = "bold" if is_ours(bar.who) else "normal"
        parts += [
            text(x - 8, middle + 4, bar.who, anchor="end", weight=weight),
            f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" '
            f'fill="{_colour(bar.who)}"/>',
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle}" y2="{middle}" '
            'stroke="#0f172a"/>',
            text(max(x + length, ends[1]) + 6, middle + 4, report.number(bar.median), weight),
        ]
    return parts


def is_ours(who: str) -> bool:
    return who.split(",")[0] == OURS


def _colour(who: str) -> str:
    if is_ours(who):
        return OURS_COLOUR
    return FLOOR_COLOUR if who.split(",")[0] in (BARE, FLOOR) else PEER_COLOUR


def _foot(run: dict[str, Any], top: int) -> list[str]:
    legend = "Medians, and quartiles as lines; shorter is faster. Pale: no pool, but what it costs."
    return [
        text(MARGIN, top + 6, legend),
        text(MARGIN, top + 24, report.made_by(run), size=10),
    ]


def text(
    x: float, y: float, words: str, weight: str = "normal", anchor: str = "start", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="#0f172a">{escape(words)}</text>'
    )


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else report.last()
    sys.stdout.write(svg(json.loads(path.read_text())))
