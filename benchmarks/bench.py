"""Ours and the peers side by side, on the same work, in one run: what `make bench` does.

    python benchmarks/bench.py [--only NAME ...] [--rounds N] [--quick]

Each contender in each case has a process of its own (`contender.py`), set up before the first
round. A round asks each of them once, one after the other, and each round begins with another:
so what the machine does meanwhile meets all alike, and a ratio is one of two figures that were
taken within seconds. Who is not asked is stopped, lest what it goes on doing (a pool replaces its
workers, say) be in the figure of another. What is measured stands in `scenarios.py`, how in
`measures.py`, and what is made of the figures in `report.py`. Figures go to `results/`, all of
them. Not here: whether it works, which is for the tests; nor how well slots are used
(`slot_use.py`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import plot
import report
import sessions
from scenarios import IN_DASK, IN_RAY, PEER, RUST, SCENARIOS, Request, Scenario

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: The interpreters of those that have an environment of their own.
PYTHONS = {who: ROOT / ".venv" / who / "bin" / "python" for who in (PEER, IN_RAY, IN_DASK)}

#: Seconds until a contender counts as hanging: one that sets up, and one that runs (unless its
#: request says how long it may).
PATIENCE_FOR_SETUP, PATIENCE = 120.0, 60.0

#: What a process may need beside what a request says, in MiB; and how many copies of a value that
#: it hands to a job, or gets from it, there may be at once.
SPARE, COPIES = 256, 4


#: What a quick run has at most of what a request says.
QUICK = {"count": 20, "depth": 2, "jobs": 10, "seconds": 0.2}


class Cell:
    """A contender in a case: its process, and its figures round by round."""

    def __init__(self, contender: str, case: str, request: Request) -> None:
        self.contender = contender
        self.case = case
        self.request = dict(request)
        self.figures: list[float | None] = []
        self.cannot: str | None = None
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        needed = self.request.get("owner", 0) + COPIES * self.request.get("mib", 0) + SPARE
        if needed > _memory("MemAvailable"):
            self.cannot = f"needs {needed:,} MiB of memory"
            return
        command = _command(self.request)
        if not Path(command[0]).exists() and command[0] != "cargo":
            self.cannot = "not installed: see `make bench`"
            return
        # A session of its own, so that what it leaves behind can be ended with it.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self.cannot = self._answer(PATIENCE_FOR_SETUP).get("cannot")
        self._signal(signal.SIGSTOP)

    def ask(self, number: int) -> None:
        """Has it run once, if it takes part in the round of this number."""
        figure = None
        rounds = self.request.get("rounds") or number + 1
        if self.cannot is None and self._process is not None and number < rounds:
            assert self._process.stdin is not None
            self._signal(signal.SIGCONT)
            with suppress(BrokenPipeError):  # then there is no answer either
                self._process.stdin.write("run\n")
            figure = self._answer(self.request.get("patience", PATIENCE)).get("figure")
            self._signal(signal.SIGSTOP)
            figure = None if figure is None else float(f"{figure:.5g}")
        self.figures.append(figure)

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._kill()
        self._process.wait()
        self._process = None

    def _kill(self) -> None:
        """Ends it and all that it has started, whatever their process groups."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (left := sessions.alive(self._process.pid)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def processes(self) -> int:
        """How many processes there are now of those that it has started, zombies included."""
        return 0 if self._process is None else len(sessions.members(self._process.pid)) - 1

    def _signal(self, number: int) -> None:
        """Sends a signal to it and all that it has started, if it is still there."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _answer(self, patience: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        line = self._process.stdout.readline() if ready else None
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.cannot = "failed" if line == "" else f"gave no answer for {patience:.0f} s"
        self.stop()
        return {"cannot": self.cannot}

    def told(self) -> dict[str, Any]:
        names = ("contender", "case", "request", "figures", "cannot")
        return {name: getattr(self, name) for name in names}


def _command(request: Request) -> list[str]:
    if request["by"] == RUST:
        words = [str(word) for word in request["words"]]
        bench = ["cargo", "bench", "--quiet", "--package", "jobserver-core", "--bench", "floor"]
        return [*bench, "--", *words]
    python = str(PYTHONS.get(request["by"], sys.executable))
    ours = ("by", "rounds", "of", "long", "patience")
    told = {name: value for name, value in request.items() if name not in ours}
    return [python, str(HERE / "contender.py"), json.dumps(told)]


def measured(scenario: Scenario, rounds: int, quick: bool) -> dict[str, Any]:
    """A scenario's figures."""
    begun = time.monotonic()
    cells = [Cell(*cell) for cell in scenario.cells() if not quick or _is_quick(cell[2])]
    if quick:
        for cell in cells:
            few = {name: most for name, most in QUICK.items() if name in cell.request}
            cell.request.update({name: min(cell.request[name], few[name]) for name in few})
    try:
        for cell in cells:
            cell.start()
        for number in range(rounds):
            first = number % len(cells)
            for cell in cells[first:] + cells[:first]:
                cell.ask(number)
    finally:
        for cell in cells:
            cell.stop()
    return {
        **{name: getattr(scenario, name) for name in ("name", "title", "unit")},
        "seconds": round(time.monotonic() - begun, 1),
        "cells": [cell.told() for cell in cells],
    }


def _is_quick(request: Request) -> bool:
    """Whether a case takes neither much time nor much memory."""
    if request.get("long"):
        return False
    limits = {"owner": 0, "mib": 1, "outstanding": 50}
    return request["by"] != RUST and all(request.get(n, 0) <= most for n, most in limits.items())


def _memory(field: str) -> int:
    """MiB, as the kernel tells them; plenty where it does not."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) // 1024
    return 1 << 30


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    huge = "?"
    with suppress(OSError):  # for what a fork copies
        huge = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip()
    return {
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "cpu": cpu,
        "memory_mib": _memory("MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "transparent_hugepage": huge,
        "load_before": os.getloadavg(),
    }


def _packages(python: str) -> list[str]:
    """Names and versions of what this interpreter has installed."""
    listing = (
        "from importlib.metadata import distributions\n"
        "print(*sorted({d.metadata['Name'] + ' ' + d.version for d in distributions()}), sep='\\n')"
    )
    found = subprocess.run([python, "-c", listing], capture_output=True, text=True)
    return found.stdout.splitlines()


def commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    with suppress(OSError):
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    return "unknown"


def end_when_told() -> None:
    """Has SIGTERM end this as Ctrl-C does: else contenders that are stopped would stay for ever."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _save(run: dict[str, Any], whole: bool) -> Path:
    """Whole runs stay, one a day; what others wrote is overwritten by the next."""
    path = report.RESULTS / f"{run['date'][:10] if whole else 'partial'}.json"
    path.parent.mkdir(exist_ok=True)
    lines = json.dumps(run, indent=1) + "\n"
    # A cell's figures on one line, which is how they are read.
    path.write_text(re.sub(r"\[[^][{}]*\]", lambda each: " ".join(each[0].split()), lines))
    path.with_suffix(".svg").write_text(plot.svg(run))
    return path


def main() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    families = sorted({name.split("-")[0] for name in names} - {*names})
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[*names, *families],
        help=f"{', '.join(names)}; `tree` means those whose names begin with `tree-` too",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="at most so many rounds of each scenario (15)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round of what is small: does it work?"
    )
    options = parser.parse_args()
    end_when_told()
    rounds = 1 if options.quick else options.rounds
    run: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": os.environ.get("BENCH_COMMAND") or shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "rounds": rounds,
        "machine": machine(),
        "packages": _packages(sys.executable),
        "peer_packages": {who: _packages(str(p)) for who, p in PYTHONS.items() if p.exists()},
        "scenarios": [],
    }
    begun = time.monotonic()
    for scenario in SCENARIOS:
        if options.only and not {scenario.name, scenario.name.split("-")[0]} & {*options.only}:
            continue
        figures = measured(scenario, rounds, options.quick)
        run["scenarios"].append(figures)
        print(report.table_text(report.table(figures)))
        print(f"  ({figures['seconds']} s)\n", flush=True)
    run["seconds"] = round(time.monotonic() - begun)
    path = _save(run, whole=not options.only and not options.quick)
    print(report.targets_text(run))
    print(f"\n{report.made_by(run)}\n{run['seconds']} s; every figure: {path.relative_to(ROOT)}")
    failed = [cell for s in run["scenarios"] for cell in s["cells"] if cell["cannot"] == "failed"]
    if failed:
        sys.exit("failed: " + "; ".join(f"{cell['contender']}, {cell['case']}" for cell in failed))


if __name__ == "__main__":
    main()
