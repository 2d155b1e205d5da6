"""The exceptions of an executor's jobs: a death is one Future's, and old `except` clauses hold."""

from __future__ import annotations

import logging
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, NamedTuple, NoReturn

from .. import _multiprocessing as mp
from .._exceptions import SubmissionDied, TimeLimitExceeded

#: The priority at which multiprocessing's queues write what they have; more is done before.
_WITH_QUEUES = -5


class ExecutorJobDied(SubmissionDied, BrokenProcessPool):
    """The process of an executor's job ended without sending a result.

    It is also a :class:`~concurrent.futures.process.BrokenProcessPool`, which programs for
    ProcessPoolExecutor catch; but only this job is lost, and the executor goes on.
    """


class ExecutorTimeLimitExceeded(TimeLimitExceeded, ExecutorJobDied):
    """The same of a job that ran for longer than its time limit."""


def as_executors(error: BaseException) -> BaseException:
    """The error of a job, as its Future of concurrent.futures has it."""
    kind: type[BaseException]
    if isinstance(error, TimeLimitExceeded):
        kind = ExecutorTimeLimitExceeded
    elif isinstance(error, SubmissionDied):
        kind = ExecutorJobDied
    else:
        return error
    made = kind(*error.__reduce__()[1])  # type: ignore[misc, unused-ignore]
    made.__cause__ = error.__cause__
    return made


class InitializerFailed(Exception):
    """What a job raises whose process could not be initialized; `cause` is the initializer's
    error."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause,)


class Initializer(NamedTuple):
    """The initializer of an executor: marks its errors, and logs them as ProcessPoolExecutor
    does."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self) -> None:
        try:
            self.fn(*self.args)
        except BaseException as e:
            logger = logging.getLogger("concurrent.futures")
            logger.critical("Exception in initializer:", exc_info=True)
            _fail(e)


def _fail(error: BaseException) -> NoReturn:
    # Whoever knows of the failure can read the log: what went into queues arrives before.
    mp.util._run_finalizers(_WITH_QUEUES)
    raise InitializerFailed(error) from error
