"""Runs joblib's own tests of Parallel, which joblib ships, over our backend.

Wherever a test has "loky" among its backends, "jobserver" is added; and it is the default, for
tests that name none. Only these are run. What is left out stands in LEFT_OUT, with the reason; what
is there and no longer in joblib's file is an error.

    python tests/foreign/joblib_parallel.py [arguments of pytest]

With PYTHONPATH it runs the tests of another joblib.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Iterator

import joblib
import pytest

import jobserver.joblib

HERE = Path(__file__).resolve().parent
TESTS = "joblib.test.test_parallel"

#: By the beginning of a test's name: why it is not run.
LEFT_OUT: dict[str, str] = {
    "test_nested_backend_context_manager[": (
        "It asserts that the Parallels of jobs use threads; ours use the pool."
    ),
    "test_nested_parallelism_limit[": (
        "It asserts the same of each depth, and that the third is sequential."
    ),
    "test_auto_memmap_on_arrays_from_generator[": (
        "It asserts that arrays of any size arrive as numpy.memmap; ours arrive as plain arrays, "
        "the large ones mapped."
    ),
    "test_backend_hinting_and_constraints[": (
        "It asserts that joblib's own backend for processes takes the place of the default one; "
        "ours runs processes already."
    ),
    "test_memmapping_leaks[": (
        "It looks for the files of numpy.memmap in the temporary folder; ours are nowhere."
    ),
}

#: Rows for the tests whose parametrizations have more than the backend.
MORE: dict[str, list[Any]] = {
    "test_nested_parallel_warnings": [
        ("jobserver", "jobserver", False),
        ("jobserver", "loky", False),
        ("jobserver", "multiprocessing", False),
        ("loky", "jobserver", False),
        ("multiprocessing", "jobserver", False),
        ("threading", "jobserver", False),
    ],
    "test_multiple_generator_call_separated_gc": [("jobserver", False)],
}


class OverOurs:
    """A plugin of pytest: adds our backend to the parametrizations, and chooses."""

    def __init__(self) -> None:
        self.left_out: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for marker in metafunc.definition.iter_markers("parametrize"):
            names, values = marker.args[:2]
            if not isinstance(values, list):
                continue
            more = MORE.get(metafunc.function.__name__, []) if "," in names else ["jobserver"]
            if "," in names or "loky" in values:
                values += [value for value in more if value not in values]

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        chosen = [item for item in items if is_ours(item) and not self.is_left_out(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def is_left_out(self, item: pytest.Item) -> bool:
        reasons = [name for name in LEFT_OUT if item.name.startswith(name)]
        self.left_out.update(reasons)
        return bool(reasons)


def is_ours(item: Any) -> bool:
    """Whether a test names our backend, or none."""
    backends = [*named_backends(item)]
    return not backends or any(name in ("jobserver", None) for name in backends)


def named_backends(item: Any) -> Iterator[str | None]:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for name, value in parameters.items():
        if "backend" not in name:
            continue
        if isinstance(value, joblib.parallel.ParallelBackendBase):
            names = [key for key, kind in joblib.parallel.BACKENDS.items() if type(value) is kind]
            yield names[0]
        elif value is None or isinstance(value, str):
            yield value
        else:
            yield str(value)


def main() -> int:
    joblib.register_parallel_backend(
        "jobserver", jobserver.joblib.JobserverBackend, make_default=True
    )
    path = [str(HERE / "registered"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    print(f"joblib {joblib.__version__}, {joblib.__file__}", flush=True)
    ours = OverOurs()
    options = [
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:logging",
        "--pyargs",
        TESTS,
    ]
    code = pytest.main([*options, *sys.argv[1:]], plugins=[ours])
    gone = LEFT_OUT.keys() - ours.left_out
    if gone and not sys.argv[1:]:
        print(f"LEFT_OUT names what joblib no longer has: {sorted(gone)}")
        return 1
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
