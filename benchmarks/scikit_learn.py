"""scikit-learn's own nested parallelism, on two slots: our backend for joblib against joblib's.

"stack": `cross_validate` of a `StackingClassifier` of models of texts, which compute mostly with
Python's lock. "search": `GridSearchCV` over a `RandomForestClassifier`, whose trees are built
without the lock. All levels have `n_jobs`. Each contender has a process of its own, and a first
round that warms up; then the rounds of all alternate.

Beside the time: how many processes and threads are running (state R) on average, and in how many of
the samples there are more than slots; the processors' time of all processes, which other programs
of the machine hardly change; and the most memory, as the sum of the processes' proportional shares
(PSS). A sample reads one thread's state after the other, so where a slot passes from one to another
it may count both. Threads that submit batches or receive results count too.

    python benchmarks/scikit_learn.py [--rounds N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import joblib
import numpy
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

import jobserver.joblib

SLOTS = 2

BACKENDS = ("sequential", "jobserver", "loky", "threading")


def texts() -> tuple[Any, Any]:
    random = numpy.random.default_rng(0)
    y = random.integers(0, 2, 500)
    words = random.zipf(1.3, (500, 150)) % 5000 + y[:, None]
    return numpy.array([" ".join(f"w{word}" for word in text) for text in words]), y


def stack() -> Callable[[], Any]:
    models = [
        (f"upto{words}", make_pipeline(TfidfVectorizer(ngram_range=(1, words)), SGDClassifier()))
        for words in (1, 2, 3)
    ]
    for _, model in models:
        model.set_params(sgdclassifier__random_state=0)
    stacked = StackingClassifier(models, LogisticRegression(), cv=3, n_jobs=SLOTS)
    x, y = texts()
    return lambda: cross_validate(stacked, x, y, cv=3)["test_score"]


def search() -> Callable[[], Any]:
    x, y = make_classification(6000, 20, n_informative=10, random_state=0)
    forest = RandomForestClassifier(n_estimators=40, n_jobs=SLOTS, random_state=0)
    searched = GridSearchCV(forest, {"max_depth": [4, 8, 12]}, cv=3, refit=False)
    return lambda: searched.fit(x, y).cv_results_["mean_test_score"]


WORK = {"stack": stack, "search": search}


def contend(backend: str, work: str) -> None:
    """In a contender's process: works whenever it is told, and says how long it took."""
    jobserver.joblib.register()
    run = WORK[work]()
    for _ in sys.stdin:
        begun = time.perf_counter()
        with joblib.parallel_config(backend, n_jobs=SLOTS):
            came = run()
        print(time.perf_counter() - begun, *came, flush=True)


class Sample(NamedTuple):
    processes: int
    threads: int
    mebibytes: int


class Contender:
    def __init__(self, backend: str, work: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--contend", backend, work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds: list[float] = []
        self.processors: list[float] = []
        self.samples: list[Sample] = []
        self.came: list[float] = []

    def run(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        before = processors_time(self.process.pid)
        print(file=self.process.stdin, flush=True)
        samples: list[Sample] = []
        while not select.select([self.process.stdout], [], [], 0.01)[0]:
            samples.append(sample(self.process.pid, with_memory=len(samples) % 20 == 0))
        took, *self.came = map(float, self.process.stdout.readline().split())
        self.seconds.append(took)
        self.processors.append(processors_time(self.process.pid) - before)
        self.samples += samples

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def running(self, counts: list[int]) -> str:
        beyond = sum(count > SLOTS for count in counts) / len(counts)
        return f"{statistics.mean(counts):.1f} ({beyond:.0%})"


def processors_time(root: int) -> float:
    """Seconds of the processors, of a process and all below it, those that have ended included."""
    ticks = 0
    for process in tree(root):
        try:
            ticks += sum(map(int, fields(f"/proc/{process}/stat")[11:15]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def fields(stat: str) -> list[str]:
    """The fields of such a file after the name of the program, from the state on."""
    return Path(stat).read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """A process, and all below it."""
    found = [root]
    for process in found:
        for task in tasks(process):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"{task}/children").read_text().split())
    return found


def tasks(process: int) -> list[str]:
    try:
        return [f"/proc/{process}/task/{task}" for task in os.listdir(f"/proc/{process}/task")]
    except OSError:
        return []


def sample(root: int, with_memory: bool) -> Sample:
    """What runs in this process and all below it, and the memory that they have."""
    running = {}
    ours = tree(root)
    for process in ours:
        states = []
        for task in tasks(process):
            with contextlib.suppress(OSError):
                states.append(fields(f"{task}/stat")[0])
        running[process] = states.count("R")
    memory = sum(map(share_of_memory, ours)) // 1024 if with_memory else 0
    return Sample(sum(map(bool, running.values())), sum(running.values()), memory)


def share_of_memory(pid: int) -> int:
    """The PSS of a process, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(work: str, rounds: int) -> None:
    contenders = {backend: Contender(backend, work) for backend in BACKENDS}
    for turn in range(rounds + 1):
        for contender in contenders.values():
            contender.run()
            if not turn:
                contender.seconds.clear()
                contender.processors.clear()
                contender.samples.clear()
    expected = contenders["sequential"].came
    assert all(numpy.allclose(each.came, expected) for each in contenders.values())
    ours = contenders["jobserver"].seconds
    print(f"\n{work}, {rounds} rounds, {SLOTS} slots, {os.cpu_count()} CPUs\n")
    print(
        "| backend | seconds | ours to it | processors' seconds "
        "| processes running (more than slots) | threads running (more than slots) | MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for backend, each in contenders.items():
        ratio = statistics.median(mine / other for mine, other in zip(ours, each.seconds))
        processes = each.running([sample.processes for sample in each.samples])
        threads = each.running([sample.threads for sample in each.samples])
        memory = max(sample.mebibytes for sample in each.samples)
        seconds = statistics.median(each.seconds)
        used = statistics.median(each.processors)
        print(
            f"| {backend} | {seconds:.2f} | {ratio:.2f} | {used:.2f} | {processes} | {threads} "
            f"| {memory} |"
        )
    for each in contenders.values():
        each.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(*arguments.contend)
        return
    for work in WORK:
        measure(work, arguments.rounds)


if __name__ == "__main__":
    main()
