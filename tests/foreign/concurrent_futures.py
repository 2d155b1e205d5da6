"""Runs CPython's own tests of executors on JobserverExecutor, with one start method.

    python concurrent_futures.py fork [PART OF A NAME]

The tests are those of this interpreter: `test.test_concurrent_futures`, a module up to 3.11 and a
package since. They take ProcessPoolExecutor from `concurrent.futures`, so it is replaced there
before they are imported. Some look at private members of ProcessPoolExecutor; the class below has
what can be said of ours by the same names. LEFT_OUT says what is not run, and why.

Exit codes: 0 all passed, 1 some failed, 5 this interpreter has no such tests.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import re
import signal
import sys
import unittest
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Iterator

import jobserver
from jobserver._exceptions import JobTraceback

NO_TESTS = 5

#: Of all tests together, in seconds.
DEADLINE = 270.0

#: The tests that are not run, by patterns for start method and name, and why.
LEFT_OUT = {
    ".* test_killed_child": "expects the pool to break at one death; here one Future has the death "
    "(test_executor.py proves it)",
    ".* test_(saturation|processes_terminate|idle_process_reuse_.*|max_tasks_per_child)": "counts "
    "the processes that an executor keeps; here the executor does not know them "
    "(test_executor.py asks the jobs for their pids)",
    ".* test_max_tasks_per_child_defaults_to_spawn_context": "expects spawn in place of fork; here "
    "it is forkserver, with and without this argument",
    ".* test_python_finalization_error": "has the start of the second thread fail; here is one",
    ".* test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces methods of "
    "ProcessPoolExecutor's thread; here no pipe wakes the thread",
    "fork test_(error_at_task_pickle|shutdown_deadlock_pickle)": "expects that the arguments are "
    "pickled; under fork they are not",
}
if sys.version_info < (3, 9):
    LEFT_OUT["fork test_crash"] = (
        "also expects that arguments are pickled; from 3.9 on each crash has a test of its own"
    )
    LEFT_OUT[".* test_submit_keyword"] = (
        "expects that the function may be given as fn=, which 3.9 took away"
    )

if sys.version_info[:2] == (3, 9):
    LEFT_OUT[".* test_hang_gh83386"] = (
        "chooses a start method after its own module has fixed one; it is skipped for "
        "ProcessPoolExecutor"
    )

#: What an exception stands for here, besides itself. A job that exits, by `sys.exit` too, is a
#: death; what cannot be pickled or unpickled is told as that, and nothing breaks.
STANDS_FOR = {
    SystemExit: (jobserver.SubmissionDied, pickle.PicklingError),
    BrokenProcessPool: (pickle.PicklingError, pickle.UnpicklingError),
}

MODULES = ["process_pool", "wait", "as_completed", "shutdown", "init", "deadlock"]


class Process:
    """A job's process, with the methods of multiprocessing.Process that the tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def join(self) -> None:
        """Proves that it has ended: the caller has waited for the executor's thread."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return
        raise AssertionError(f"process {self.pid} is there")


class Ours(jobserver.JobserverExecutor):
    """Ours, with private members of ProcessPoolExecutor that the tests look at."""

    @property
    def _processes(self) -> dict[int, Process]:
        """Those of the jobs that run; of the first ones, if there are only such as will run."""
        runner = self._runner
        while True:
            found = {job.pid: Process(job.pid) for job in [*runner._running] if job.pid}
            if found or not (runner._waiting or runner._running):
                return found

    @property
    def _executor_manager_thread(self) -> Any:
        return self._runner._thread

    _queue_management_thread = _executor_manager_thread

    @property
    def _call_queue(self) -> Any:
        class NoQueue:
            def join_thread(self) -> None:
                pass

        return NoQueue()


class JobserverExecutor(Ours):
    """Under the name by which the tests' programs import it. It is not what has replaced
    ProcessPoolExecutor: one test skips that."""


def modules() -> Iterator[Any]:
    """The test modules, with ours in place of ProcessPoolExecutor."""
    replaced: Any = futures
    replaced.ProcessPoolExecutor = Ours
    replaced.process._RemoteTraceback = JobTraceback
    JobTraceback.tb = property(str)  # type: ignore[attr-defined]
    package: Any = importlib.import_module("test.test_concurrent_futures")
    if not hasattr(package, "__path__"):
        return iter([package])
    return (importlib.import_module(f"{package.__name__}.test_{name}") for name in MODULES)


def adapt(module: Any) -> None:
    """Has the module's classes, and the programs that it runs, use ours."""
    for name, value in vars(module).items():
        if re.fullmatch("ProcessPool[A-Za-z]*Mixin", name):
            value.executor_type = JobserverExecutor
    runs = getattr(module, "assert_python_ok", None)
    theirs = f"from concurrent.futures import {JobserverExecutor.__name__}"
    ours = f"import multiprocessing; from jobserver import {JobserverExecutor.__name__}"
    if runs is not None:
        module.assert_python_ok = lambda option, text: runs(option, text.replace(theirs, ours))


def tests(module: Any, method: str) -> Iterator[Any]:
    """The tests of processes of this start method."""
    for case in vars(module).values():
        if not isinstance(case, type) or not issubclass(case, unittest.TestCase):
            continue
        if getattr(case, "ctx", None) == method:
            changes: Any = case
            changes.setUp, changes.assertRaises = set_up(case.setUp, method), assert_raises
            yield from unittest.defaultTestLoader.loadTestsFromTestCase(case)
        elif hasattr(case, f"test_{method}"):
            yield case(f"test_{method}")


def set_up(theirs: Any, method: str) -> Any:
    def setUp(self: Any) -> None:
        for pattern, reason in LEFT_OUT.items():
            if re.fullmatch(pattern, f"{method} {self._testMethodName}"):
                self.skipTest(reason)
        theirs(self)

    return setUp


def assert_raises(self: Any, expected: Any, *args: Any, **kwargs: Any) -> Any:
    kinds = (expected, *STANDS_FOR.get(expected, ()))
    return unittest.TestCase.assertRaises(self, kinds, *args, **kwargs)


def main(method: str, pattern: str = "") -> int:
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    try:
        found = [*modules()]
    except ImportError as e:
        print(e)
        return NO_TESTS
    suite = unittest.TestSuite()
    for module in found:
        adapt(module)
        suite.addTests(test for test in tests(module, method) if pattern in test.id())
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.testsRun and result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
