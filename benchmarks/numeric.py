"""Jobs whose libraries have threads of their own, on two slots, against joblib.

"products": eight jobs that multiply matrices. How many threads run at once, and how long it takes,
without a limit, with `threads="slots"`, and by joblib with one thread each.

"search": a nested search for a model of scikit-learn, five folds outside, and six to twelve
parameters with three folds each inside: one after the other, by joblib on both levels, and by jobs
on both. Inside, joblib uses threads. Of the two models, the support vector machine computes without
Python's lock, and the classifier of texts mostly with it.

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
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple

import joblib
import numpy
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

import jobserver
from jobserver import Jobserver

SLOTS = 2

# What a contender does in one round; it returns what it has computed.
Contenders = Dict[str, Callable[[], Any]]

JOBS = 8
PRODUCTS = 20

OUTER, INNER = KFold(5), KFold(3)


class Search(NamedTuple):
    """A model, the parameters that are tried, and the data."""

    model: Any
    grid: dict[str, list[Any]]
    x: Any
    y: Any

    @staticmethod
    def of_vectors() -> Search:
        x, y = make_classification(1500, 20, n_informative=10, random_state=0)
        return Search(SVC(), {"C": [0.1, 1, 10, 100], "gamma": [0.001, 0.01, 0.1]}, x, y)

    @staticmethod
    def of_texts() -> Search:
        random = numpy.random.default_rng(0)
        y = random.integers(0, 2, 600)
        words = random.zipf(1.3, (600, 150)) % 5000 + y[:, None]
        x = numpy.array([" ".join(f"w{word}" for word in text) for text in words])
        model = make_pipeline(TfidfVectorizer(), SGDClassifier(random_state=0))
        grid: dict[str, list[Any]] = {
            "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)],
            "sgdclassifier__alpha": [1e-5, 1e-4, 1e-3],
        }
        return Search(model, grid, x, y)


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


def score(data: Any, train: Any, test: Any, parameters: dict[str, Any]) -> float:
    model, _, x, y = data.value
    model = clone(model).set_params(**parameters).fit(x[train], y[train])
    return float(model.score(x[test], y[test]))


def fold(js: Jobserver, data: Any, train: Any, test: Any) -> float:
    """A job: finds the best parameters by jobs of its own, and returns their score."""
    grid = list(ParameterGrid(data.value.grid))
    inner = [(train[fit], train[check]) for fit, check in INNER.split(train)]
    rows = [(data, *split, parameters) for parameters in grid for split in inner]
    scores: Any = numpy.reshape([*js.map(score, rows)], (len(grid), len(inner)))
    return score(data, train, test, grid[int(scores.mean(axis=1).argmax())])


def search_by_jobs(js: Jobserver, search: Search) -> list[float]:
    data = jobserver.share(search)
    return [*js.map(fold, [(js, data, *split) for split in OUTER.split(search.x)], chunksize=1)]


def search_by_sklearn(search: Search, n_jobs: int) -> list[float]:
    inner = GridSearchCV(search.model, search.grid, cv=INNER, n_jobs=n_jobs)
    return list(cross_val_score(inner, search.x, search.y, cv=OUTER, n_jobs=n_jobs))


def threads_at_once(work: Callable[[], Any]) -> list[int]:
    """How many threads of processes below this one run at once, in samples, in their order. (A
    process that sends its result may be seen beside the one that has its slot already.)"""
    seen: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            seen.append(running(os.getpid()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        work()
    finally:
        over.set()
        sampler.join()
    return sorted(seen)


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
            seen = threads_at_once(work)
            usual = seen[len(seen) * 98 // 100]
            print(f"{each:28} threads at once: {usual} in 98 % of the samples, {seen[-1]} at most")
        measure("products", contenders, rounds, 'threads="slots"')
        for name, search in (("vectors", Search.of_vectors()), ("texts", Search.of_texts())):
            contenders = {
                "one after the other": partial(search_by_sklearn, search, 1),
                "joblib on both levels": partial(search_by_sklearn, search, SLOTS),
                "jobs on both levels": partial(search_by_jobs, limited, search),
            }
            measure(f"search, {name}", contenders, rounds, "jobs on both levels")


if __name__ == "__main__":
    main()
