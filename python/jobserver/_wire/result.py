"""A job's result as a message to the owner: a value, or an exception with its traceback.

The exception is a separate pickle inside the message. If it cannot be unpickled, the owner still
has its type, its text and the traceback in the job.
"""

from __future__ import annotations

import pickle
from typing import Any, Tuple, cast

from .. import _native, _wording
from .._exceptions import JobTraceback
from .._signals import raised_by_handler
from . import pickling
from .segments import Payload, Received

#: A pickled exception, its type and text in a line, and its traceback. A plain tuple: an instance
#: of a class would be pickled with the class's name each time, and to make a NamedTuple takes 2 ms
#: of this package's import.
Failure = Tuple[bytes, str, str]


class NotLoaded(pickle.UnpicklingError):
    """An error that a job met before its function ran. Its owner gets an UnpicklingError, with the
    traceback in `told`, if there is one."""

    told = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.UnpicklingError, self.args


class Dumped:
    """The return value of a function of this package that has made the job's message itself."""

    def __init__(self, message: Payload) -> None:
        self.message = message


def dump_value(value: Any) -> Payload:
    """The message with the value that the job's function returned."""
    if type(value) in pickling.SIMPLE:
        stream = pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL)
        if len(stream) <= _native.INLINE:
            return stream
    if type(value) is Dumped:
        return value.message
    try:
        return pickling.dump((pickling.apart(value), None))
    except pickle.PicklingError as e:
        return dump_exception(unpicklable(value, e))


def unpicklable(value: Any, cause: pickle.PicklingError) -> pickle.PicklingError:
    """The error for a return value that cannot be pickled."""
    error = pickle.PicklingError(
        f"what the job returned, a {type(value).__name__}, cannot be pickled: {cause}"
    )
    error.__cause__ = cause
    return error


def get_ready() -> None:
    """Loads the module that formats tracebacks into the process that jobs are forked from, so that
    jobs need not. The package does not import it, because its own import would be a tenth slower.
    """
    import traceback  # noqa: F401


def dump_exception(error: BaseException) -> Payload:
    """The message with the exception that the job's function raised."""
    return pickling.dump((None, failure(error)))


def failure(error: BaseException) -> Failure:
    """Converts an exception for a message."""
    text = error.told if isinstance(error, NotLoaded) else _wording.traceback_of(error)
    summary = _wording.in_words(error)
    try:
        pickled = _pickled(error)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        why = f"the job raised {summary}, which cannot be pickled: {_wording.in_words(e)}"
        pickled = _pickled(pickle.PicklingError(why))
    return pickled, summary, text


def _pickled(error: BaseException) -> bytes:
    """The pickle of an exception. Unpickles it too, because exceptions mostly fail there."""
    data = pickling.dump_whole(error)
    pickle.loads(data)
    return data


def load(message: Received) -> tuple[Any, BaseException | None]:
    """The value that a job returned, and None; or None, and the exception that it raised."""
    if message == b"":
        return None, None  # the most frequent case: see rust/python/src/job.rs
    try:
        value, failure = pickling.load(message)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        return None, _not_loaded(e)
    return value, None if failure is None else load_failure(failure)


def _not_loaded(cause: BaseException) -> pickle.UnpicklingError:
    # Not in `load`: the cause's traceback has the frame of `load`, which would refer to this error.
    error = pickle.UnpicklingError(
        f"what the job returned cannot be unpickled here: {_wording.in_words(cause)}"
    )
    error.__cause__ = cause
    return error


def load_failure(failure: Failure | BaseException) -> BaseException:
    """The exception, with its traceback in the job as its `__cause__`."""
    if isinstance(failure, BaseException):
        return failure  # the job ran in this process
    pickled, summary, text = failure
    try:
        error = pickle.loads(pickled)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        error = pickle.UnpicklingError(
            f"the job raised {summary}, which cannot be unpickled here: {_wording.in_words(e)}"
        )
    if not isinstance(error, BaseException):
        what = _wording.converted(repr, error)
        error = pickle.UnpicklingError(
            f"the job raised {summary}, which pickles as something else: {what}"
        )
    error.__cause__ = JobTraceback(text) if text else None
    return cast(BaseException, error)
