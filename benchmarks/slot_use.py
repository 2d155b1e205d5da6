"""How well the slots are used: by other programs that share ours, and by jobs that yield.

    slot_use.py [make|ninja|cargo|gcc|recipes|beside|trees ...]

Each line tells how many pieces of work ran at once at most, and the share of slot-time in use for
as long as there was more to begin. The work of other programs is to sleep, so that what is
measured is the slots and not the CPUs; that of trees of jobs is to compute. `beside` runs make,
ninja and cargo, each beside a tree whose leaves sleep, and tells besides the longest time for which
the program had work to begin and ran none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

from jobserver import Jobserver

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import projects
from spans import Recorded, Span

SLOTS = 2
#: How many pieces each program has to do, and how long each takes, in seconds.
PIECES = 12
WORK = 0.25

#: For a program beside a tree: how long a piece of its work takes, how long a leaf of the tree, and
#: how deep the tree is.
BRIEF, LEAF, TREE = 0.05, 0.05, 6


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


def rest(log: Path) -> None:
    """A leaf of a tree beside a program."""
    begun = time.time_ns()
    time.sleep(LEAF)
    with open(log, "a") as file:
        file.write(f"+ {begun}\n- {time.time_ns()}\n")


def resting_tree(js: Jobserver, log: Path, depth: int) -> None:
    if depth == 0:
        return rest(log)
    for job in [js(resting_tree, js, log, depth - 1) for _ in range(2)]:
        job.result()


def beside_a_tree(program: Callable[[Path], list[str]], waiting: Any, method: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "tree"
        os.environ["LOG"] = str(folder / "log")
        command = program(folder)
        with Jobserver(method, SLOTS, waiting=waiting, style="pipe") as js:
            tree = js(resting_tree, js, log, TREE)
            js(run, js, command, folder / "a").result()
            tree.result()
        own, leaves = Recorded.in_log(folder / "log"), Recorded.in_log(log)
    both = Recorded([*own.changes, *leaves.changes])
    tell(f"{command[0]} beside a tree, {method}, {waiting}", SLOTS, both)
    print(f"    {own.count} of {command[0]}, longest pause {own.longest_pause() / 1e6:.0f} ms")


def beside() -> None:
    def by_make(folder: Path) -> list[str]:
        projects.for_make(folder / "a", PIECES, BRIEF)
        return ["make"]

    def by_ninja(folder: Path) -> list[str]:
        projects.for_ninja(folder / "a", PIECES, BRIEF)
        return ["ninja"]

    def by_cargo(folder: Path) -> list[str]:
        projects.for_cargo(folder / "a", PIECES)
        os.environ["RUSTC_WRAPPER"] = str(projects.recording_rustc(folder, BRIEF))
        return ["cargo", "build", "--offline"]

    for program in (by_make, by_ninja, by_cargo):
        for method in ("fork", "forkserver"):
            for waiting in ("hold", "yield"):
                beside_a_tree(program, waiting, method)


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
    if not names or "beside" in names:
        beside()
    if not names or "trees" in names:
        trees()


if __name__ == "__main__":
    main(sys.argv[1:])
