"""What is measured, of whom, and what is to be reached.

A scenario is a table: a line for each contender, a column for each case. Both are requests, parts
of what `contender.py` is told; a contender in a case is a *cell*, and has a process of its own.
All cells of a scenario are measured in the same rounds. Not here: how (`measures`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, NamedTuple

Request = Dict[str, Any]

OURS, WARM = "jobserver", "jobserver, warm"
PYPI = "jobserver 3.0.1 of PyPI"
BARE, FLOOR = "bare os.fork", "floor: Rust"
POOL, EXECUTOR = "multiprocessing.Pool", "ProcessPoolExecutor"
OUR_EXECUTOR = "JobserverExecutor"
LOKY, PEBBLE, MPIRE, JOBLIB = "loky", "pebble", "mpire", "joblib"
#: Those of the nested trees.
YIELD, HOLD = "jobserver, yield", "jobserver, hold"
SERVER_YIELD, SERVER_HOLD = "jobserver, forkserver, yield", "jobserver, forkserver, hold"
SERVER_WARM = "jobserver, forkserver, warm, yield"
SERVER_ONLY_WARM = "jobserver, forkserver, warm"
BARE_TREE, BARE_ROW = "bare os.fork, a tree", "bare os.fork, in a row"
RAY, DASK = "Ray", "Dask"

#: Who is run by what: the interpreter that has all others; those of an environment of their own,
#: which PyPI's jobserver needs since it has our import name; or the Rust benchmark.
MAIN, PEER, IN_RAY, IN_DASK, RUST = "main", "peer", "ray", "dask", "rust"

SLOTS = 2


def contender(pool: str, fresh: bool, by: str = MAIN) -> Request:
    return {"by": by, "pool": pool, "fresh": fresh, "slots": SLOTS}


_FRESH = {
    BARE: contender("Bare", True),
    OURS: contender("Jobserver", True),
    PYPI: contender("Jobserver", True, PEER),
    POOL: contender("Multiprocessing", True),
    EXECUTOR: contender("ProcessPoolExecutor", True),
    PEBBLE: contender("Pebble", True),
}
_WARM = {
    WARM: contender("Jobserver", False),
    POOL: contender("Multiprocessing", False),
    EXECUTOR: contender("ProcessPoolExecutor", False),
    LOKY: contender("Loky", False),
    PEBBLE: contender("Pebble", False),
    MPIRE: contender("Mpire", False),
    JOBLIB: contender("Joblib", False),
}
_OURS = {OURS: _FRESH[OURS]}
#: The largest take seconds and gigabytes: once each, of the best known, and without a rehearsal. So
#: does a list of 100 MiB, whose 13 million ints are pickled one by one: lists are smaller.
_SIZES: dict[str, Request] = {
    "1 MiB": {"mib": 1, "count": 10},
    "10 MiB": {"mib": 10, "count": 1, "rounds": 3},
    "100 MiB": {"mib": 100, "count": 1, "rounds": 7},
    "100 MiB, not read": {"mib": 100, "count": 1, "rounds": 7, "read": False},
    "100 MiB, made by the job": {"mib": 100, "count": 1, "rounds": 7, "anew": True},
    "1,000 MiB": {
        "mib": 1000,
        "count": 1,
        "rounds": 1,
        "rehearse": False,
        "of": (OURS, WARM, PYPI, POOL, EXECUTOR),
    },
}
_BOTH = {OURS: _FRESH[OURS], PYPI: _FRESH[PYPI]}


@dataclass(frozen=True)
class Scenario:
    """`unit` is that of the table. A request says for `contender.py` how many operations a run
    has at most (`count`; `exact`: exactly), and for `bench.py` in how many rounds at most it is
    run (`rounds`), how long it may take (`patience`, in seconds), and whether a quick run is to
    leave it out (`long`). A case's may say which contenders it is for (`of`)."""

    name: str
    title: str
    unit: str
    contenders: dict[str, Request]
    cases: dict[str, Request]
    #: What all requests have in common.
    common: Request = field(default_factory=dict)
    #: The cases for which there is a floor, measured in Rust.
    floor: dict[str, Request] = field(default_factory=dict)

    def cells(self) -> list[tuple[str, str, Request]]:
        """Each contender and case, and the request."""
        cells = [
            (name, case, {"owner": 0, "method": "fork", **self.common, **who, **what})
            for name, who in self.contenders.items()
            for case, what in self.cases.items()
            if name in what.get("of", self.contenders)
        ]
        floor = [(FLOOR, case, {"by": RUST, **request}) for case, request in self.floor.items()]
        return cells + floor


def _many(threads: int = 1, slots: int = SLOTS, outstanding: int = 0) -> Request:
    """The jobs that sleep have slots of their own."""
    long = max(threads, slots, outstanding) > 64
    slots += outstanding
    return {"threads": threads, "slots": slots, "outstanding": outstanding, "long": long}


def nested(waiting: str, method: str = "fork", fresh: bool = True) -> Request:
    return {**contender("Jobserver", fresh), "method": method, "waiting": waiting}


#: (They have services of their own, which cannot be stopped and go on: so they start for each
#: round, and run one tree before the one that counts.)
SYSTEMS: dict[str, Request] = {
    RAY: {**contender("Ray", False, IN_RAY), "anew": True, "rehearse": False, "rounds": 3},
    DASK: {**contender("Dask", False, IN_DASK), "anew": True, "rehearse": False, "rounds": 3},
}
_NESTED = {
    YIELD: nested("yield"),
    HOLD: nested("hold"),
    SERVER_YIELD: nested("yield", "forkserver"),
    SERVER_HOLD: nested("hold", "forkserver"),
}


def _fresh(method: str, counts: tuple[int, int, int], rounds: int) -> Scenario:
    owners = dict(zip((0, 256, 1024), counts))
    forks = method == "fork"
    return Scenario(
        method,
        f"a fresh process for each job, by {method}; an owner of so much memory",
        "us",
        {who: it for who, it in _FRESH.items() if forks or who != BARE},
        {
            f"{mib} MiB": {"owner": mib, "count": count, "rounds": rounds}
            for mib, count in owners.items()
        },
        {"measure": "submit_all", "method": method},
        {f"{mib} MiB": {"words": ["fork", count, mib]} for mib, count in owners.items()}
        if forks
        else {},
    )


def _sizes(direction: str, kind: str, *cases: str) -> Scenario:
    plural = {"bytes": "bytes", "array": "a NumPy array", "list": "a list of ints"}[kind]
    return Scenario(
        f"{direction}-{kind}",
        f"{plural} of so much memory as {direction}",
        "ms",
        {**_BOTH, **_WARM},
        {case: _SIZES[case] for case in cases},
        {"measure": direction, "kind": kind},
    )


SCENARIOS = (
    _fresh("fork", (200, 40, 10), 15),
    _fresh("forkserver", (200, 200, 200), 9),
    _fresh("spawn", (6, 6, 6), 5),
    Scenario(
        "warm",
        "workers that are kept, and a trivial job",
        "us",
        {OURS: _FRESH[OURS], **_WARM},
        {
            "submit all": {"measure": "submit_all", "count": 2000},
            "one at a time": {"measure": "one_at_a_time", "count": 1000},
        },
        floor={"one at a time": {"words": ["ping-pong", 5000]}},
    ),
    Scenario(
        "map",
        "a map of trivial calls",
        "us",
        {OURS: _FRESH[OURS], **_WARM},
        {
            "1,000 calls": {"count": 1000, "exact": True, "rounds": 31},
            "10,000 calls": {"count": 10_000, "exact": True, "rounds": 15},
            "100,000 calls": {"count": 100_000, "exact": True, "rounds": 7},
        },
        {"measure": "map_all"},
    ),
    Scenario(
        "executor",
        "executors of concurrent.futures, and a trivial job",
        "us",
        {
            OUR_EXECUTOR: contender("JobserverExecutor", False),
            EXECUTOR: _WARM[EXECUTOR],
            LOKY: _WARM[LOKY],
        },
        {
            "submit all": {"measure": "submit_all", "count": 2000},
            "one at a time": {"measure": "one_at_a_time", "count": 1000},
            "map": {"measure": "map_all", "count": 10_000},
            "map, chunksize=1": {"measure": "map_singly", "count": 2000},
        },
        {"exact": True},  # the rehearsal starts a fork server, or interpreters
    ),
    Scenario(
        "await",
        "a task of asyncio that awaits trivial jobs, workers that are kept",
        "us",
        {
            WARM: _WARM[WARM],
            OUR_EXECUTOR: contender("JobserverExecutor", False),
            EXECUTOR: _WARM[EXECUTOR],
        },
        {"one at a time": {"measure": "awaited_one_at_a_time", "count": 1000}},
        {"exact": True},
    ),
    _sizes("result", "bytes", "1 MiB", "100 MiB", "1,000 MiB"),
    _sizes(
        "result",
        "array",
        "1 MiB",
        "100 MiB",
        "100 MiB, not read",
        "100 MiB, made by the job",
        "1,000 MiB",
    ),
    _sizes("result", "list", "1 MiB", "10 MiB"),
    _sizes("argument", "bytes", "1 MiB", "100 MiB", "1,000 MiB"),
    _sizes("argument", "array", "1 MiB", "100 MiB", "1,000 MiB"),
    _sizes("argument", "list", "1 MiB", "10 MiB"),
    Scenario(
        "tree",
        "divide and conquer, seven levels of jobs that submit jobs",
        "ms",
        {**_BOTH, BARE: _FRESH[BARE]},
        {
            f"{name}, {slots} slots": {
                "kind": kind,
                "slots": slots,
                "count": 1,
                "rounds": 7,
                "of": of,
                "long": slots > 2,
            }
            for name, kind, of in (
                ("all halves", "tree", (OURS, PYPI, BARE)),
                ("if a slot is free", "tree_if_free", (OURS, PYPI)),
            )
            for slots in (2, 4)
        },
        {"measure": "tree", "levels": 7},
    ),
    Scenario(
        "tree-jobs",
        "a job of a nested tree: each node is a job that waits for its two children; two slots",
        "us",
        {
            **_NESTED,
            SERVER_WARM: nested("yield", "forkserver", fresh=False),
            PYPI: {**_FRESH[PYPI], "rounds": 3},
            BARE_TREE: contender("BareLoaded", True),
            BARE_ROW: contender("BareRow", True),
            **SYSTEMS,
        },
        {
            "127 jobs": {
                "depth": 6,
                "count": 8,
                "of": (*_NESTED, SERVER_WARM, PYPI, BARE_TREE, BARE_ROW),
            },
            "1,023 jobs": {"depth": 9, "count": 1, "long": True},
            "2,047 jobs": {
                "depth": 10,
                "count": 1,
                "of": (YIELD, SERVER_YIELD, SERVER_WARM, BARE_TREE),
                "long": True,
            },
        },
        {"measure": "jobs_of_tree", "exact": True, "patience": 120},
    ),
    Scenario(
        "tree-chain",
        "a job of a chain: each job waits for its only child; one slot",
        "us",
        {**_NESTED, BARE_TREE: contender("BareLoaded", True)},
        {
            "depth 100": {"depth": 100, "slots": 1, "count": 2, "rounds": 7},
            "depth 600": {
                "depth": 600,
                "slots": 1,
                "count": 1,
                "rounds": 5,
                "of": (SERVER_YIELD, SERVER_HOLD),
                "long": True,
            },
            # It takes a minute.
            "depth 600, by fork, once": {
                "depth": 600,
                "slots": 1,
                "count": 1,
                "rounds": 1,
                "rehearse": False,
                "patience": 240,
                "of": (YIELD, HOLD, BARE_TREE),
                "long": True,
            },
        },
        {"measure": "jobs_of_tree", "fanout": 1, "exact": True},
    ),
    Scenario(
        "tree-processes",
        "jobs of a nested tree that are there at once, at most; two slots",
        "processes",
        _NESTED,
        {
            "127 jobs, fan-out 2": {"depth": 6, "fanout": 2},
            "2,047 jobs, fan-out 2": {"depth": 10, "fanout": 2, "long": True},
            "1,111 jobs, fan-out 10": {"depth": 3, "fanout": 10, "long": True},
        },
        {"measure": "most_at_once", "count": 1, "rehearse": False, "rounds": 3},
    ),
    Scenario(
        "tree-switches",
        "context switches a job of a nested tree; four slots",
        "switches a job",
        {who: _NESTED[who] for who in (YIELD, HOLD)},
        {
            "127 jobs": {"depth": 6, "slots": 4},
            "1,023 jobs": {"depth": 9, "slots": 4, "long": True},
        },
        {"measure": "switches", "count": 1, "rehearse": False, "rounds": 5},
    ),
    Scenario(
        "tree-waiting",
        "context switches of jobs that wait on a full pool",
        "switches",
        {who: _NESTED[who] for who in (HOLD, SERVER_YIELD)},
        {"100 jobs, 5 s": {"jobs": 100, "seconds": 5.0}},
        {"measure": "wakings", "count": 1, "rehearse": False, "rounds": 2},
    ),
    Scenario(
        "scan",
        "a look at so many outstanding jobs, of which few are ready",
        "us",
        _BOTH,
        {f"{n:,} outstanding": {"outstanding": n, "count": 100} for n in (50, 1000)},
        {"measure": "scan", "ready": 5},
    ),
    Scenario(
        "many",
        "CPU time of a job: of so many threads that submit, on so many slots, beside so many jobs "
        "that sleep",
        "us",
        {OURS: _FRESH[OURS], SERVER_ONLY_WARM: {**_WARM[WARM], "method": "forkserver"}},
        {
            **{f"{n} threads": _many(threads=n) for n in (1, 4, 16, 64)},
            **{f"{n} slots": _many(threads=n, slots=n) for n in (16, 64)},
            "512 slots": _many(threads=64, slots=512),
            **{f"{n:,} asleep": _many(outstanding=n) for n in (64, 512, 2000, 4096)},
        },
        {"measure": "many", "exact": True, "count": 640, "rounds": 5, "patience": 300},
    ),
    Scenario(
        "import",
        "importing it",
        "ms",
        {
            OURS: {"by": MAIN, "module": "jobserver"},
            PYPI: {"by": PEER, "module": "jobserver"},
            POOL: {"by": MAIN, "module": "multiprocessing.pool"},
            EXECUTOR: {"by": MAIN, "module": "concurrent.futures.process"},
            **{name: {"by": MAIN, "module": name} for name in (LOKY, PEBBLE, MPIRE, JOBLIB)},
        },
        {"import": {"count": 2}},
        {"measure": "importing", "pool": "", "fresh": True, "slots": 0},
    ),
    Scenario(
        "idle",
        "memory of an idle worker",
        "MiB",
        _WARM,
        {
            "private": {"memory": "private"},
            "proportional (PSS)": {"memory": "pss"},
        },
        {"measure": "idle_worker", "count": 1, "exact": True, "rounds": 3},
    ),
)


class Target(NamedTuple):
    """The first cell's figure, divided by the second's, is to be at most this; or if there is no
    second, the figure itself, in the unit of its table."""

    scenario: str
    ours: tuple[str, str]
    other: tuple[str, str] | None
    at_most: float


def _processes(case: str, depth: int) -> tuple[Target, ...]:
    """Some for each slot and level, and two levels more."""
    most = SLOTS * (depth + 2)
    return tuple(Target("tree-processes", (who, case), None, most) for who in _NESTED)


TARGETS = (
    Target("fork", (OURS, "0 MiB"), (BARE, "0 MiB"), 1.3),
    Target("fork", (OURS, "0 MiB"), (PYPI, "0 MiB"), 0.35),
    Target("forkserver", (OURS, "0 MiB"), (PYPI, "0 MiB"), 0.04),
    Target("forkserver", (OURS, "1024 MiB"), (OURS, "0 MiB"), 1.1),
    Target("warm", (WARM, "submit all"), (EXECUTOR, "submit all"), 0.3),
    Target("warm", (WARM, "one at a time"), (EXECUTOR, "one at a time"), 0.35),
    *(
        Target("executor", (OUR_EXECUTOR, case), (who, case), most)
        for who in (EXECUTOR, LOKY)
        for case, most in (
            ("submit all", 0.5),
            ("one at a time", 0.5),
            ("map", 1.0),
            ("map, chunksize=1", 1.0),
        )
    ),
    Target("await", (WARM, "one at a time"), (EXECUTOR, "one at a time"), 0.5),
    Target("map", (WARM, "1,000 calls"), (POOL, "1,000 calls"), 1.0),
    Target("map", (WARM, "10,000 calls"), (POOL, "10,000 calls"), 1.0),
    Target("map", (WARM, "100,000 calls"), (POOL, "100,000 calls"), 1.0),
    Target("result-array", (WARM, "100 MiB, not read"), (EXECUTOR, "100 MiB, not read"), 0.15),
    Target(
        "result-array",
        (WARM, "100 MiB, made by the job"),
        (EXECUTOR, "100 MiB, made by the job"),
        0.25,
    ),
    Target("tree", (OURS, "all halves, 2 slots"), (PYPI, "all halves, 2 slots"), 0.25),
    Target("tree", (OURS, "all halves, 4 slots"), (PYPI, "all halves, 4 slots"), 0.25),
    Target("tree-jobs", (YIELD, "2,047 jobs"), (YIELD, "127 jobs"), 1.15),
    Target("tree-jobs", (YIELD, "1,023 jobs"), (HOLD, "1,023 jobs"), 1.2),
    Target("tree-jobs", (SERVER_YIELD, "1,023 jobs"), (SERVER_HOLD, "1,023 jobs"), 1.2),
    Target("tree-jobs", (YIELD, "1,023 jobs"), (BARE_TREE, "1,023 jobs"), 1.8),
    Target("tree-jobs", (SERVER_WARM, "1,023 jobs"), (BARE_ROW, "1,023 jobs"), 0.35),
    Target("tree-jobs", (SERVER_WARM, "1,023 jobs"), (PYPI, "1,023 jobs"), 0.08),
    Target("tree-jobs", (SERVER_WARM, "1,023 jobs"), (RAY, "1,023 jobs"), 0.1),
    Target("tree-jobs", (YIELD, "1,023 jobs"), (RAY, "1,023 jobs"), 0.6),
    *(
        Target("tree-chain", (who, "depth 600"), (who, "depth 100"), 1.3)
        for who in (SERVER_YIELD, SERVER_HOLD)
    ),
    *(
        Target("tree-chain", (who, "depth 600, by fork, once"), (who, "depth 100"), 1.3)
        for who in (YIELD, HOLD)
    ),
    *_processes("2,047 jobs, fan-out 2", 10),
    *_processes("1,111 jobs, fan-out 10", 3),
    Target("tree-switches", (YIELD, "1,023 jobs"), None, 6),
    Target("tree-waiting", (HOLD, "100 jobs, 5 s"), None, 0),
    Target("tree-waiting", (SERVER_YIELD, "100 jobs, 5 s"), None, 0),
    Target("scan", (OURS, "1,000 outstanding"), (OURS, "50 outstanding"), 1.2),
    Target("many", (SERVER_ONLY_WARM, "64 threads"), (SERVER_ONLY_WARM, "4 threads"), 1.5),
    Target("many", (SERVER_ONLY_WARM, "2,000 asleep"), (SERVER_ONLY_WARM, "64 asleep"), 1.2),
    Target("import", (OURS, "import"), (EXECUTOR, "import"), 1.0),
)
