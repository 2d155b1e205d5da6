"""The limit of the threads that numeric libraries use in a job: `threads=` of a submission.

A library reads its environment variable when it is loaded, and not again. So variables are set for
libraries that the job loads, and the libraries that its process has loaded before are called. No
call reaches the pools of Polars and of Rayon once they have started: there, the variable alone
limits.

Sources: the documentation of OpenMP (OMP_NUM_THREADS), OpenBLAS, MKL, BLIS, Accelerate (VECLIB),
NumExpr, Numba, Polars and Rayon; https://github.com/joblib/threadpoolctl.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from typing import Any

from ._arguments import Changes
from ._around import Limit

#: Not here: Numba's, which `_limit_numba` sets.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)

_NUMBA = "NUMBA_NUM_THREADS"

#: What is in the names of the libraries that threadpoolctl knows.
_POOLS = re.compile(rb"blas|mkl|blis|armpl|omp")


def variables(threads: int) -> Changes:
    """The changes to a job's environment for so many threads."""
    return [(name, str(threads)) for name in _VARIABLES]


def to_preload() -> tuple[str, ...]:
    """The modules that a fork server should import for its jobs."""
    from importlib.util import find_spec  # imported late because it is rarely needed

    return ("threadpoolctl",) if find_spec("threadpoolctl") else ()


def limited(threads: int, env: Changes) -> Limit:
    """Limits the libraries that the job's process has loaded; and Numba, unless the submission's
    `env` does."""
    with contextlib.suppress(ImportError):
        import threadpoolctl  # type: ignore[import-untyped] # noqa: F401 - forked jobs have it
    return functools.partial(_limit, threads, any(name == _NUMBA for name, _ in env))


def _limit(threads: int, but_numba: bool, limits: contextlib.ExitStack) -> None:
    _limit_pools(threads, limits)
    _limit_numexpr(threads, limits)
    if not but_numba:
        _limit_numba(threads, limits)


#: How many modules this process had when its libraries were last searched for pools of threads, and
#: the controller of those that were found, if any.
_searched: tuple[int, Any] = 0, None


def _limit_pools(threads: int, limits: contextlib.ExitStack) -> None:
    """Limits BLAS and OpenMP, if threadpoolctl is installed.

    A search costs 2.5 ms in a process with scikit-learn, and a limit 50 us. So the libraries are
    searched again only after an import. (A library that ctypes has loaded since is not limited.)
    """
    global _searched
    known, controller = _searched
    if known != len(sys.modules):
        controller = _controller()
        _searched = len(sys.modules), controller
    if controller is not None:
        limits.enter_context(controller.limit(limits=threads))


def _controller() -> Any:
    if not _has_pools():
        return None  # the import would cost more than most jobs
    try:
        from threadpoolctl import ThreadpoolController  # since its version 3.0
    except ImportError:
        return None
    return ThreadpoolController()


def _has_pools() -> bool:
    """Whether this process has loaded a library of BLAS or OpenMP. True if that is not known."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return _POOLS.search(maps.read()) is not None
    except OSError:
        return True


def _limit_numexpr(threads: int, limits: contextlib.ExitStack) -> None:
    numexpr: Any = sys.modules.get("numexpr")
    if hasattr(numexpr, "set_num_threads") and hasattr(numexpr, "MAX_THREADS"):
        before = numexpr.set_num_threads(min(threads, numexpr.MAX_THREADS))
        limits.callback(numexpr.set_num_threads, before)


def _limit_numba(threads: int, limits: contextlib.ExitStack) -> None:
    """Numba reads its variable again at each compilation, and refuses another value than the one
    that its threads were started with. So the variable is set before Numba is loaded, and stays as
    it is afterwards."""
    numba: Any = sys.modules.get("numba")
    if numba is None:
        before = os.environ.get(_NUMBA)
        os.environ[_NUMBA] = str(threads)
        limits.callback(_restore_numba, before)
    elif hasattr(numba, "set_num_threads"):
        limits.callback(numba.set_num_threads, numba.get_num_threads())
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _restore_numba(before: str | None) -> None:
    if "numba" in sys.modules:
        return
    if before is None:
        os.environ.pop(_NUMBA, None)
    else:
        os.environ[_NUMBA] = before
