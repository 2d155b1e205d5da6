"""Jobs whose libraries have threads of their own, on two slots, against joblib.

"products": eight jobs that multiply matrices. How many threads run at once, and how long it takes,
without a limit, with `threads="slots"`, and by joblib with one thread each.

"search": a nested search for a model of scikit-learn, five folds outside, and twelve parameters
with three folds each inside: one after the other, by joblib on both levels, and by jobs on both.

Rounds of all alternate, since machines are shared and drift; the median of the rounds' ratios is
what to quote.

    python benchmarks/numeric.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict

import joblib
import numpy
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid, cross_val_score
from sklearn.svm import SVC

import jobserver
from jobserver import Jobserver

SLOTS = 2

# What a contender does in one round; it returns what it has computed.
Contenders = Dict[str, Callable[[], Any]]

JOBS = 8
PRODUCTS = 20

MODEL = SVC()
GRID = {"C": [0.1, 1, 10, 100], "gamma": [0.001, 0.01, 0.1]}
OUTER, INNER = KFold(5), KFold(3)


def products(count: int) -> float:
    matrix = numpy.random.default_rng(0).random((900, 900))
    for _ in range(count):
        matrix = matrix @ matrix
        matrix /= matrix.max()
    return float(matrix[0, 0])


def by_jobs(js: Jobserver) -> list[float]:
    return [job.result() for job in [js(products, PRODUCTS) for _ in range(JOBS)]]


def by_joblib() -> list[float]:
    with joblib.parallel_config("loky", n_jobs=SLOTS, inner_max_num_threads=1):
        return list(joblib.Parallel()(joblib.delayed(products)(PRODUCTS) for _ in range(JOBS)))


def score(data: Any, train: Any, test: Any, parameters: dict[str, float]) -> float:
    x, y = data.value
    model = clone(MODEL).set_params(**parameters).fit(x[train], y[train])
    return float(model.score(x[test], y[test]))


def fold(js: Jobserver, data: Any, train: Any, test: Any) -> float:
    """A job: finds the best parameters by jobs of its own, and returns their score."""
    grid = list(ParameterGrid(GRID))
    inner = [(train[fit], train[check]) for fit, check in INNER.split(train)]
    rows = [(data, *split, parameters) for parameters in grid for split in inner]
    scores: Any = numpy.reshape([*js.map(score, rows)], (len(grid), len(inner)))
    return score(data, train, test, grid[int(scores.mean(axis=1).argmax())])


def search_by_jobs(js: Jobserver, x: Any, y: Any) -> list[float]:
    data = jobserver.share((x, y))
    return [*js.map(fold, [(js, data, *split) for split in OUTER.split(x)], chunksize=1)]


def search_by_sklearn(x: Any, y: Any, n_jobs: int) -> list[float]:
    inner = GridSearchCV(MODEL, GRID, cv=INNER, n_jobs=n_jobs)
    return list(cross_val_score(inner, x, y, cv=OUTER, n_jobs=n_jobs))


def most_threads(work: Callable[[], Any]) -> int:
    """How many threads of processes below this one run at once, at most, in samples."""
    most, over = 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, running(os.getpid()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        work()
    finally:
        over.set()
        sampler.join()
    return most


def running(above: int) -> int:
    stats = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            threads = [(task / "stat").read_text() for task in (process / "task").iterdir()]
        except OSError:
            continue
        fields = [stat[stat.rindex(")") + 2 :].split() for stat in threads]
        if fields:
            states = sum(state == "R" for state, *_ in fields)
            stats[int(process.name)] = int(fields[0][1]), states

    def is_below(process: int) -> bool:
        while process in stats:
            process = stats[process][0]
            if process == above:
                return True
        return False

    return sum(states for process, (_, states) in stats.items() if is_below(process))


def measure(name: str, contenders: Contenders, rounds: int, ours: str) -> None:
    seconds: dict[str, list[float]] = {each: [] for each in contenders}
    expected = None
    for turn in range(rounds + 1):
        for each, work in contenders.items():
            begun = time.perf_counter()
            came = work()
            if turn:  # the first round warms up
                seconds[each].append(time.perf_counter() - begun)
            expected = came if expected is None else expected
            assert numpy.allclose(came, expected)
    print(f"{name}, {rounds} rounds; {ours} against:")
    for each, took in seconds.items():
        ratio = statistics.median(mine / other for mine, other in zip(seconds[ours], took))
        print(f"    {each:24} {statistics.median(took):6.2f} s   {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    x, y = make_classification(1500, 20, n_informative=10, random_state=0)
    preload = ["numpy", "sklearn.svm", "sklearn.model_selection"]
    with Jobserver("forkserver", SLOTS, max_tasks_per_child=None, preload=preload) as js:
        limited = js.with_options(threads="slots")
        contenders: Contenders = {
            "no limit": lambda: by_jobs(js),
            'threads="slots"': lambda: by_jobs(limited),
            "joblib, one thread each": by_joblib,
        }
        for each, work in contenders.items():
            work()
            print(f"{each:28} {most_threads(work)} threads run at once, at most")
        measure("products", contenders, rounds, 'threads="slots"')
        searches: Contenders = {
            "one after the other": lambda: search_by_sklearn(x, y, 1),
            "joblib on both levels": lambda: search_by_sklearn(x, y, SLOTS),
            "jobs on both levels": lambda: search_by_jobs(limited, x, y),
        }
        measure("search", searches, rounds, "jobs on both levels")


if __name__ == "__main__":
    main()
