"""What a run of the benchmark found: medians, spread, ratios, and which targets are met.

Everything is computed from what the run has written (`results/*.json`), so an old run can be
reported anew. Here also is how it is told: as text, and as Markdown. The picture is `plot.py`'s.

    python benchmarks/report.py [--markdown] [results/2026-01-01.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, List, NamedTuple, Optional

from scenarios import OURS, TARGETS, WARM, YIELD, Target

RESULTS = Path(__file__).with_name("results")

Figures = List[Optional[float]]

#: What a figure, in seconds or bytes, is divided by.
UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "MiB": 2.0**20,
    "processes": 1.0,
    "switches": 1.0,
    "switches a job": 1.0,
}


class Table(NamedTuple):
    """A scenario's figures. Round by round, so that ratios are of figures of the same round."""

    name: str
    title: str
    unit: str
    contenders: list[str]
    cases: list[str]
    cells: dict[tuple[str, str], Figures]
    #: Of what could not be measured.
    reasons: dict[tuple[str, str], str]

    def baseline(self, case: str) -> str | None:
        """Whose figure the others' are compared with: ours, the one made for this if it can."""
        return next((who for who in (WARM, OURS, YIELD) if (who, case) in self.cells), None)


def tables(run: dict[str, Any]) -> list[Table]:
    return [table(scenario) for scenario in run["scenarios"]]


def table(scenario: dict[str, Any]) -> Table:
    cells: dict[tuple[str, str], Figures] = {}
    reasons: dict[tuple[str, str], str] = {}
    for cell in scenario["cells"]:
        place = cell["contender"], cell["case"]
        if cell["cannot"] is None:
            cells[place] = cell["figures"]
        else:
            reasons[place] = cell["cannot"]
    contenders, cases = (
        list(dict.fromkeys(cell[name] for cell in scenario["cells"]))
        for name in ("contender", "case")
    )
    head = (scenario["name"], scenario["title"], scenario["unit"])
    return Table(*head, contenders, cases, cells, reasons)


def median(figures: Figures) -> float:
    return statistics.median(figure for figure in figures if figure is not None)


def quartiles(figures: Figures) -> tuple[float, float]:
    known = [figure for figure in figures if figure is not None]
    if len(known) < 2:
        return known[0], known[0]
    first, _, third = statistics.quantiles(known, n=4, method="inclusive")
    return first, third


def ratio(ours: Figures, others: Figures) -> float | None:
    """The median of the rounds' ratios; None if no round has both."""
    ratios = [a / b for a, b in zip(ours, others) if a is not None and b]
    return statistics.median(ratios) if ratios else None


def reached(table: Table, target: Target) -> float | None:
    """What a target's ratio, or figure, is; None if one of its figures is not there."""
    ours = table.cells.get(target.ours)
    if target.other is None or ours is None:
        return None if ours is None else median(ours) / UNITS[table.unit]
    other = table.cells.get(target.other)
    return None if other is None else ratio(ours, other)


def _why_not(table: Table, target: Target) -> str:
    """Why a target's figure is not there."""
    reasons = [table.reasons.get(cell) for cell in (target.ours, target.other) if cell]
    return next((reason for reason in reasons if reason), "not measured")


def told(table: Table, who: str, case: str) -> str:
    """A cell: median, half of the distance between the quartiles, and how many times ours."""
    figures = table.cells.get((who, case))
    if figures is None:
        return table.reasons.get((who, case), "")
    unit = UNITS[table.unit]
    first, third = quartiles(figures)
    text = f"{number(median(figures) / unit)} ± {number((third - first) / 2 / unit)}"
    baseline = table.baseline(case)
    if baseline is None or who == baseline:
        return text
    times = ratio(figures, table.cells[baseline, case])
    return text if times is None else f"{text} ({number(times)}x)"


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.3f}"


def _grid(table: Table) -> list[list[str]]:
    head = [table.unit, *table.cases]
    return [head, *([who, *(told(table, who, c) for c in table.cases)] for who in table.contenders)]


def _targets(run: dict[str, Any]) -> list[list[str]]:
    rows = [["what", "divided by", "at most", "is", ""]]
    measured = {table.name: table for table in tables(run)}
    for target in TARGETS:
        table = measured.get(target.scenario)
        if table is None:
            continue
        is_ = reached(table, target)
        verdict = "" if is_ is None else "met" if is_ <= target.at_most else "missed"
        other = f"({table.unit})" if target.other is None else ", ".join(target.other)
        rows.append(
            [
                f"{target.scenario}: {', '.join(target.ours)}",
                other,
                f"{target.at_most:g}",
                _why_not(table, target) if is_ is None else _digits(is_, target),
                verdict,
            ]
        )
    return rows


def _digits(is_: float, target: Target) -> str:
    if target.other is None:
        return number(is_)
    return f"{is_:.2f}" if is_ >= 0.1 else f"{is_:.3f}"


def made_by(run: dict[str, Any]) -> str:
    """Where the figures are from, and how far to trust them: other programs' load counts."""
    machine = run["machine"]
    return (
        f"{run['date']}: `{run['command']}`, commit {run['commit']}; {machine['cpus']} CPUs, "
        f"{machine['cpu']}, {machine['memory_mib']:,} MiB, load {machine['load_before'][0]:.1f} "
        f"before; {machine['kernel']}; {machine['python']}"
    )


def text(run: dict[str, Any]) -> str:
    each = (table_text(table) for table in tables(run))
    return "\n\n".join((made_by(run), *each, targets_text(run)))


def table_text(table: Table) -> str:
    return f"{table.name}: {table.title}\n{_aligned(_grid(table))}"


def targets_text(run: dict[str, Any]) -> str:
    return f"targets (medians of the rounds' ratios, or figures)\n{_aligned(_targets(run))}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def markdown(run: dict[str, Any]) -> str:
    blocks = [targets_markdown(run)]
    for table in tables(run):
        blocks += [f"### {table.name}: {table.title}", markdown_table(_grid(table))]
    return "\n\n".join(blocks)


def targets_markdown(run: dict[str, Any]) -> str:
    return f"{made_by(run)}.\n\n{markdown_table(_targets(run))}"


def markdown_table(rows: list[list[str]]) -> str:
    head, *rest = rows
    ruled = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def last() -> Path:
    """The last whole run."""
    return max(RESULTS.glob("[0-9]*.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("run", nargs="?", type=Path, help="the last whole one, if not given")
    options = parser.parse_args()
    run = json.loads((options.run or last()).read_text())
    print(markdown(run) if options.markdown else text(run))


if __name__ == "__main__":
    main()
