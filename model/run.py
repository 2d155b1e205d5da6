"""Verify the slot protocol with the SPIN model checker, and that it finds planted flaws.

    run.py [NAME ...]       all, or those whose names contain one of the NAMEs

slots.pml, queue.pml, patience.pml and gather.pml are the protocol; here is what they are run with:
trees of processes, modes, numbers of slots, waiters and kills. Each flaw is the protocol broken on
purpose, in one place. SPIN must find all of them: a model in which nothing can go wrong would prove
nothing.

It needs spin and a C compiler. What it builds, and the trail of an error that it finds, is left in
target/model/NAME.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Union

MODELS = Path(__file__).resolve().parent
BUILT = MODELS.parent / "target" / "model"

# A verifier that wants more of either is ended, and that is a failure.
MEGABYTES = 2400
SECONDS = 240

# What each process from the second on is, and who starts it; the first is the root. `job` is
# launched on a slot, `program` takes one itself, and `command` is what a program runs on its slot.
PAIR = ("job 1", "job 1")  # two jobs of the root
LINE = ("job 1", "job 2")  # a job of a job
LONG = ("job 1", "job 2", "job 3")  # and one of that
FORK = ("job 1", "job 2", "job 2")  # a job with two jobs
HOOK = ("job 1", "job 1", "job 2")  # two jobs, the first with one of its own
TREE = ("job 1", "job 1", "job 2", "job 3")  # two jobs with one each

ONE_BELOW = ("job 1", "program 2")  # a job with a program
TWO_BELOW = ("job 1", "program 2", "program 2")  # which compete
BESIDE = ("job 1", "program 2", "job 2")  # a program and a job of one job
DEEP = ("job 1", "job 2", "program 3")  # a program of a job of a job
NEXT = ("job 1", "program 2", "job 1")  # a job with a program, and another job
EXEC = ("program 1", "command 2", "program 3")  # exec, its command, and a program below that
EXEC_BELOW = ("job 1", "program 2", "command 3")  # exec below a job
NESTED = ("job 1", "program 2", "job 3")  # a program below a job, with a job of its own
TWO_PROGRAMS = ("program 1", "program 1")
PROGRAM = ("program 1", "job 2", "job 2")  # a program with two jobs


class Run(NamedTuple):
    """One search. `partial`: a minute of one that is too large to be completed, with a bit for each
    state (so that it may also take some states for others), in random order."""

    name: str
    mode: str
    tree: tuple[str, ...]
    slots: int = 1
    kills: int = 0
    client: int = 0
    options: tuple[str, ...] = ()
    partial: bool = False

    def model(self) -> Path:
        """Return the file of the model."""
        return MODELS / "slots.pml"

    def defines(self) -> dict[str, object]:
        """Return what the model is to be built with."""
        kinds, owners = zip(*(process.split() for process in ("job 0", "job 0", *self.tree)))
        below = "program" in kinds or "COMMON" in self.options
        programs = {"PROGRAMS": 1} if below else {}
        return {
            self.mode: 1,
            "SLOTS": self.slots,
            "PROCESSES": 1 + len(self.tree),
            "OWNERS": "{" + ",".join(owners) + "}",
            "KINDS": "{" + ",".join(kinds).upper() + "}",
            "KILLS": self.kills,
            "CLIENT": self.client,
            **programs,
        }


class Queue(NamedTuple):
    """One search of the queue, in this model.

    `listeners` is how many waiters listen; `client` says whether one takes slots by no rule;
    `interrupts`, how many waits end without a slot; `stops`, how many waiters are stopped.
    """

    name: str
    file: str = "queue.pml"
    waiters: int = 3
    listeners: int = 1
    slots: int = 1
    client: int = 0
    kills: int = 0
    interrupts: int = 0
    stops: int = 0
    options: tuple[str, ...] = ()
    partial: bool = False

    def model(self) -> Path:
        """Return the file of the model."""
        return MODELS / self.file

    def defines(self) -> dict[str, object]:
        """Return what the model is to be built with."""
        numbers = ("waiters", "listeners", "slots", "client", "kills", "interrupts", "stops")
        return {name.upper(): getattr(self, name) for name in numbers}


class Gather(NamedTuple):
    """One search of waiters that gather slots; `needs` is how many each needs, in their order."""

    name: str
    needs: tuple[int, ...]
    slots: int
    kills: int = 0
    interrupts: int = 0
    passes: int = 0
    options: tuple[str, ...] = ()
    partial: bool = False

    def model(self) -> Path:
        """Return the file of the model."""
        return MODELS / "gather.pml"

    def defines(self) -> dict[str, object]:
        """Return what the model is to be built with."""
        numbers = ("slots", "kills", "interrupts", "passes")
        needs = ",".join(map(str, (self.needs + (1, 1, 1))[:4]))
        return {
            "WAITERS": len(self.needs),
            "NEEDS": "{" + needs + "}",
            **{name.upper(): getattr(self, name) for name in numbers},
        }


Search = Union[Run, Queue, Gather]

PATIENCE = "patience.pml"

PROTOCOL: list[Search] = [
    Run("hold-line", "HOLD", LINE, kills=2, client=1, options=("INTERRUPTS",)),
    Run("hold-long", "HOLD", LONG, kills=1),
    Run("hold-fork", "HOLD", FORK, kills=1),
    Run("hold-pass", "HOLD", LINE, slots=2, kills=2, client=1),
    Run("hold-hook", "HOLD", HOOK, slots=2, kills=1),
    Run("hold-timeout-0", "HOLD", FORK, slots=2, kills=1, options=("TIMEOUT_0",)),
    Run("hold-gives-long", "HOLD", LONG, kills=1, options=("GIVES",)),
    Run("hold-gives-fork", "HOLD", FORK, options=("GIVES",)),
    Run("hold-gives-hook", "HOLD", HOOK, slots=2, options=("GIVES",)),
    Run("below-hold-gives", "HOLD", BESIDE, options=("GIVES",)),
    Run("yield-line", "YIELD", LINE, kills=2, client=1, options=("INTERRUPTS",)),
    Run("yield-pair", "YIELD", PAIR, kills=1, client=1, options=("LEAVES_YIELD",)),
    Run("yield-long", "YIELD", LONG),
    Run("yield-fork", "YIELD", FORK, kills=1),
    Run("yield-hook", "YIELD", HOOK, slots=2),
    Run("yield-timeout-0", "YIELD", FORK, slots=2, kills=1, options=("TIMEOUT_0",)),
    Run("hold-tree", "HOLD", TREE, slots=3, kills=2, partial=True),
    Run("yield-tree", "YIELD", TREE, slots=3, kills=2, partial=True),
    Run("hold-names", "HOLD", LINE, kills=1, options=("NAMES",)),
    Run("yield-names", "YIELD", LINE, kills=1, options=("NAMES",)),
    Run("yield-results", "YIELD", LINE, slots=2, client=1, options=("RESULTS",)),
    Run("below-hold", "HOLD", ONE_BELOW, kills=2, client=1),
    Run("below-yield", "YIELD", ONE_BELOW, kills=2, client=1),
    Run("below-two", "HOLD", TWO_BELOW),
    Run("below-next", "HOLD", NEXT),
    Run("below-deep", "HOLD", DEEP, kills=1),
    Run("below-hold-beside", "HOLD", BESIDE),
    Run("below-yield-beside", "YIELD", BESIDE),
    Run("below-nested", "HOLD", NESTED, kills=1),
    Run("exec", "HOLD", EXEC, kills=1),
    Run("exec-below", "HOLD", EXEC_BELOW, kills=1),
    Run("common-one", "HOLD", TWO_PROGRAMS, kills=2, options=("COMMON",)),
    Run("common-two", "HOLD", TWO_PROGRAMS, slots=2, kills=1, client=1, options=("COMMON",)),
    Run("common-exec", "HOLD", EXEC, kills=1, options=("COMMON",)),
    Run("common-hold", "HOLD", LINE, kills=1, options=("COMMON",)),
    Run("common-yield", "YIELD", LINE, kills=1, options=("COMMON", "LEAVES_YIELD")),
    Run("implicit", "HOLD", PROGRAM, kills=1, options=("IMPLICIT",)),
    Queue("queue", kills=1),
    Queue("queue-open", kills=1, options=("OPEN",)),
    Queue("queue-interrupts", interrupts=1),
    Queue("queue-two-slots", slots=2),
    Queue("queue-two-listeners", listeners=2, kills=1),
    Queue("queue-stops", listeners=2, stops=1),
    Queue("queue-kills", kills=2, interrupts=1, partial=True),
    Queue("queue-four", waiters=4, listeners=2, kills=2, partial=True),
    Queue("patience", PATIENCE, kills=1, stops=1),
    Queue("patience-two-slots", PATIENCE, slots=2, kills=1, stops=1),
    Queue("patience-client", PATIENCE, slots=2, client=1),
    Queue("patience-four", PATIENCE, waiters=4),
    Gather("gather", (2, 2, 2), slots=2, kills=2, interrupts=1),
    Gather("gather-passes", (2, 2), slots=2, kills=1, passes=2),
    Gather("gather-passes-mixed", (2, 1, 2), slots=2, passes=2),
    Gather("gather-mixed", (1, 2, 3), slots=3, kills=1, interrupts=1),
    Gather("gather-mixed-back", (3, 2, 1), slots=3, kills=1, interrupts=1),
    Gather("gather-four", (2, 1, 3, 2), slots=3, kills=1, partial=True),
]

PASS = Run("", "HOLD", LINE, slots=2, kills=2, client=1)
ONE = Run("", "HOLD", LINE, kills=1)

QUEUE = Queue("", kills=1)
GATHER = Gather("", (2, 1, 2), slots=2)

FLAWS: dict[str, Search] = {
    "WRITE_THEN_MARK": ONE,
    "READ_THEN_RECORD": ONE,
    "ADOPT_STORES": ONE,
    "NO_LOOK_AT_BORROWER": ONE,
    "TAKE_OVER_PASSED": PASS,
    "BORROWER_READ_EARLY": PASS._replace(tree=HOOK, kills=1, client=0),
    "PASS_STORES": PASS._replace(kills=0),
    "GO_ON_WITHOUT_SLOT": Run("", "YIELD", FORK),
    "NO_LENDING": ONE._replace(kills=0),
    "CLEAR_CURSOR_FIRST": ONE,
    "BORROWER_BEFORE_LENDER": ONE,
    "END_PASS_FIRST": PASS,
    "OWNER_IGNORES_GEN": Run("", "HOLD", PAIR),
    "OWNER_FORGETS_UNADOPTED": ONE,
    "RING_AFTER_READ": Run("", "YIELD", PAIR, kills=1, client=1, options=("LEAVES_YIELD",)),
    "GIVE_BACK_WITHOUT_CLOSING": Run("", "HOLD", ONE_BELOW),
    "HAND_OVER_OPEN": Run("", "YIELD", BESIDE),
    "OPEN_WITHOUT_HOLDER": Run("", "YIELD", BESIDE),
    "SETTLE_ANY_LAUNCH": Run("", "YIELD", LINE, slots=2, client=1, options=("RESULTS",)),
    "NAME_ANY_LAUNCH": Run("", "YIELD", LINE, kills=1, options=("NAMES",)),
    "LAUNCH_ONCE": Run("", "YIELD", LINE, options=("NAMES",)),
    "OPEN_WITHOUT_GENERATION": Run("", "YIELD", ONE_BELOW, options=("LEAVES_YIELD",)),
    "BORROW_STORES": Run("", "HOLD", TWO_BELOW),
    "RING_OPEN_BEFORE": Run("", "YIELD", LINE, options=("COMMON", "LEAVES_YIELD")),
    "OWN_SLOT_MISSED": Run("", "HOLD", BESIDE),
    "PASS_ON_IN_SILENCE": Run("", "YIELD", BESIDE, kills=1, options=("LEAVES_YIELD",)),
    "PASSED_ON_BUT_OWNED": Run("", "HOLD", NEXT, kills=2),
    "KEEP_WHEN_TOLD": Run("", "HOLD", LONG, options=("GIVES",)),
    "OPENED_LATE": Run("", "HOLD", EXEC, kills=1),
    "STOP_AT_ENTERING": QUEUE,
    "ENTER_THEN_TELL": QUEUE._replace(options=("OPEN",)),
    "ENTER_IN_SILENCE": QUEUE,
    "DRAIN_LATE": QUEUE,
    "LISTEN_NO_MORE_LATE": QUEUE,
    "TELL_THEN_LEAVE": QUEUE,
    "SLEEP_BEHIND_THE_GONE": QUEUE,
    "PASS_NOBODY_OVER": Queue("", listeners=2, stops=1),
    "NO_PATIENCE": Queue("", PATIENCE),
    "PATIENCE_ANEW": Queue("", PATIENCE),
    "ALL_GATHER": GATHER,
    "KEEP_THE_PART": GATHER,
    "TELL_NO_GATHERER": GATHER,
    "SLEEP_WITHOUT_A_LOOK": GATHER,
    "SAY_IT_LATE": GATHER,
    "SLEEP_OUT_OF_THE_QUEUE": GATHER._replace(passes=1),
    "PASS_OVER_AT_ANY_TIME": GATHER._replace(passes=1),
}


class Found(NamedTuple):
    """What a search came to: `error` is SPIN's word for it, empty if there is none."""

    error: str
    states: int
    seconds: float
    complete: bool


def search(run: Search) -> Found:
    """Build the verifier of a run and let it search."""
    folder = BUILT / run.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    defines = {**run.defines(), **dict.fromkeys(run.options, 1)}
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    (folder / "flags").write_text(" ".join(flags) + "\n")
    # A flaw is found soon: then it is compiling that takes the time.
    planted = any(option.startswith("BREAK_") for option in run.options)
    compiler = ["cc", "-w", "-O0" if planted else "-O1", "-DSAFETY", f"-DMEMLIM={MEGABYTES}"]
    if isinstance(run, Queue) and not run.partial:
        compiler.append("-DCOLLAPSE")  # slower, but these have many states
    # Escapes by rendezvous (`kill`) and partial order reduction do not go together.
    compiler += ["-DNOREDUCE", *(["-DBITSTATE", "-DT_RAND", "-DP_RAND"] if run.partial else [])]
    verifier = ["./pan", "-m200000", *(["-w30", "-Q1"] if run.partial else ["-w24"])]
    begun = time.monotonic()
    output = ""
    for command in (
        ["spin", "-a", *flags, str(run.model())],
        [*compiler, "-o", "pan", "pan.c"],
        verifier,
    ):
        begun = time.monotonic()
        process = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        output = process.stdout
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{output}")
    seconds = time.monotonic() - begun
    (folder / "output").write_text(output)
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\d+(?:\.\d*e\+\d+)?) states, stored", output)
    if not errors or not states:
        raise RuntimeError(f"{run.name}: the verifier's output is not as expected\n{output}")
    error = re.search(r"^pan:1: (.*) \(at depth", output, re.MULTILINE)
    complete = not re.search("not completed|too small|out of memory", output)
    word = ""
    if errors.group(1) != "0":
        word = error.group(1).replace("\n", " ") if error else "an error"
    return Found(word, int(float(states.group(1))), seconds, complete)


def verify(run: Search) -> bool:
    """Search for an error where there must be none."""
    found = search(run)
    good = not found.error and (found.complete or run.partial)
    ending = found.error or ("" if good else "the search is not complete")
    how = "exhaustive" if found.complete and not run.partial else "partial"
    print(
        f"{'ok' if good else 'FAILED':7} {run.name:24} {found.states:>10,} states"
        f" {found.seconds:6.1f} s  {how}{'  ' + ending if ending else ''}",
        flush=True,
    )
    return good


def plant(flaw: str) -> bool:
    """Search for an error where there must be one."""
    run = FLAWS[flaw]._replace(name=flaw.lower().replace("_", "-"))
    found = search(run._replace(options=(*run.options, f"BREAK_{flaw}")))
    error = re.sub(r"assertion violated.*", "assertion violated", found.error)
    print(
        f"{'ok' if error else 'FAILED':7} {run.name:24} {found.states:>10,} states"
        f" {found.seconds:6.1f} s  {'found: ' + error if error else 'NOT FOUND'}",
        flush=True,
    )
    return bool(error)


def main(names: list[str]) -> int:
    """Run everything, two at a time if there are two CPUs; 0 if all is as it must be."""
    missing = [tool for tool in ("spin", "cc") if shutil.which(tool) is None]
    if missing:
        print(
            f"Missing: {' and '.join(missing)}: install SPIN 6.5 and a C compiler"
            " (Debian, Ubuntu: apt install spin gcc libc6-dev; or see https://spinroot.com)",
            file=sys.stderr,
        )
        return 1

    def chosen(name: str) -> bool:
        return not names or any(part in name for part in names)

    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        tasks = [pool.submit(verify, run) for run in PROTOCOL if chosen(run.name)]
        tasks += [pool.submit(plant, flaw) for flaw in FLAWS if chosen(flaw.lower())]
        results = [task.result() for task in tasks]
    print(f"{results.count(True)} as expected, {results.count(False)} not")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
