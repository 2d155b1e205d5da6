"""How well the slots are used: by other programs that share ours, and by jobs that yield.

    slot_use.py [make|ninja|cargo|gcc|recipes|trees ...]

Each line tells how many pieces of work ran at once at most, and the share of slot-time in use for
as long as there was more to begin. The work of other programs is to sleep, so that what is
measured is the slots and not the CPUs; that of trees of jobs is to compute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

from jobserver import Jobserver

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import projects
from spans import Recorded, Span

SLOTS = 2
#: How many pieces each program has to do, and how long each takes, in seconds.
PIECES = 12
WORK = 0.25


def run(js: Jobserver, command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, pass_fds=js.pass_fds)


def run_in_each(folders: list[Path], command: list[str], js: Jobserver) -> None:
    for future in [js(run, js, command, folder) for folder in folders]:
        future.result()


def ninja(folder: Path, js: Jobserver) -> None:
    folders = [folder / "a", folder / "b"]
    for each in folders:
        projects.for_ninja(each, PIECES, WORK)
    run_in_each(folders, ["ninja"], js)


def make(folder: Path, js: Jobserver) -> None:
    folders = [folder / "a", folder / "b"]
    for each in folders:
        projects.for_make(each, PIECES, WORK)
    run_in_each(folders, ["make"], js)


def cargo(folder: Path, js: Jobserver) -> None:
    folders = [folder / "a", folder / "b"]
    for each in folders:
        projects.for_cargo(each, PIECES)
    os.environ["RUSTC_WRAPPER"] = str(projects.recording_rustc(folder, WORK))
    run_in_each(folders, ["cargo", "build", "--offline"], js)


def gcc(folder: Path, js: Jobserver) -> None:
    compiler = "/usr/bin/gcc"
    objects = projects.for_gcc(folder, compiler, PIECES)
    os.environ["MAKE"] = str(projects.recording_make(folder, WORK))
    commands = [[*projects.link(compiler, folder / f"out{n}"), *objects] for n in range(2)]
    for future in [js(run, js, command, folder) for command in commands]:
        future.result()


RECIPE = f"""
import os, sys
sys.path.insert(0, {str(Path(projects.__file__).parent)!r})
import spans, subprocess
from jobserver import Jobserver

def work():
    subprocess.run(["sh", "-c", spans.command({WORK})])

if __name__ == "__main__":
    with Jobserver() as js:
        for future in [js(work) for _ in range({PIECES})]:
            future.result()
"""


def recipes(folder: Path, js: Jobserver) -> None:
    """Two recipes of one make, which has the slots; each has jobs of ours."""
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "Makefile").write_text(f"all: a b\na b:\n\t+@{sys.executable} recipe.py\n")
    subprocess.run(["make", f"-j{SLOTS}"], cwd=folder, check=True, capture_output=True)


def compute() -> Span:
    begun, cpu = time.monotonic(), time.process_time()
    while time.process_time() < cpu + 0.1:
        pass
    return begun, time.monotonic()


def tree(js: Jobserver, depth: int) -> list[Span]:
    if depth == 0:
        return [compute()]
    jobs = [js(tree, js, depth - 1) for _ in range(3)]
    return [span for job in jobs for span in job.result()]


def trees() -> None:
    for waiting in ("hold", "yield"):
        for slots in (1, 2, 4):
            with Jobserver("fork", slots, waiting=waiting) as js:
                tell(f"tree, {waiting}", slots, Recorded.of(js(tree, js, 3).result()))


def tell(what: str, slots: int, ran: Recorded) -> None:
    in_use = f"{ran.in_use(slots):.1%} of slot-time in use"
    print(f"{what:12} {slots} slots: {ran.count:3} pieces, at most {ran.most} at once, {in_use}")


def recorded(what: Callable[[Path, Jobserver], None]) -> Recorded:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LOG"] = str(folder / "log")
        # In pipe style, which all of them know.
        with Jobserver("fork", SLOTS, style="pipe") as js:
            what(folder, js)
        return Recorded.in_log(folder / "log")


def main(names: list[str]) -> None:
    programs = [make, ninja, cargo, gcc, recipes]
    for program in programs:
        name = program.__name__
        if names and name not in names:
            continue
        if program is not recipes and shutil.which(name) is None:
            print(f"{name:12} is not installed")
            continue
        tell(name, SLOTS, recorded(program))
    if not names or "trees" in names:
        trees()


if __name__ == "__main__":
    main(sys.argv[1:])
