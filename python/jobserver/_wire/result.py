"""A job's result on its way to the owner: a value, or an exception with its traceback.

The exception is pickled by itself, inside: should it not survive the journey, the owner
can still be told what it was, and where in the job it was raised.
"""

from __future__ import annotations

import pickle
from typing import Any, Tuple, cast

from .. import _native, _wording
from .._exceptions import JobTraceback
from .._signals import raised_by_handler
from . import pickling
from .segments import Payload, Received

#: An exception pickled, in a line, and its traceback. A plain tuple: a class of its own would be
#: pickled by name each time, and to make a named one takes 2 ms of the import of this package.
Failure = Tuple[bytes, str, str]


class NotLoaded(pickle.UnpicklingError):
    """What a job meets before its function runs: an UnpicklingError to its owner, and the traceback
    that is to be `told`, if any."""

    told = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.UnpicklingError, self.args


class Dumped:
    """What a function of ours returns in a job whose message it has made itself."""

    def __init__(self, message: Payload) -> None:
        self.message = message


def dump_value(value: Any) -> Payload:
    """A message that says what the job's function returned."""
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
    """Says that what a function returned cannot be sent."""
    error = pickle.PicklingError(
        f"what the job returned, a {type(value).__name__}, cannot be pickled: {cause}"
    )
    error.__cause__ = cause
    return error


def get_ready() -> None:
    """Has what tells of exceptions loaded where jobs are forked from, so that they need not; but
    not with the package, whose import it would make a tenth slower."""
    import traceback  # noqa: F401


def dump_exception(error: BaseException) -> Payload:
    """A message that says what the job's function raised."""
    return pickling.dump((None, failure(error)))


def failure(error: BaseException) -> Failure:
    """What can be told of an exception."""
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
    """In one piece, and only if it can be read back, which is where exceptions fail most."""
    data = pickling.dump_whole(error)
    pickle.loads(data)
    return data


def load(message: Received) -> tuple[Any, BaseException | None]:
    """What a job returned, and None; or None, and what it raised."""
    if message == b"":
        return None, None  # as it is most often: see rust/python/src/job.rs
    try:
        value, failure = pickling.load(message)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        return None, _not_loaded(e)
    return value, None if failure is None else load_failure(failure)


def _not_loaded(cause: BaseException) -> pickle.UnpicklingError:
    # Not in `load`: a frame of its cause's would refer to the error, and it to that.
    error = pickle.UnpicklingError(
        f"what the job returned cannot be unpickled here: {_wording.in_words(cause)}"
    )
    error.__cause__ = cause
    return error


def load_failure(failure: Failure) -> BaseException:
    """The exception, with its traceback in the job as its cause."""
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
        what = _wording.called(repr, error)
        error = pickle.UnpicklingError(
            f"the job raised {summary}, which pickles as something else: {what}"
        )
    error.__cause__ = JobTraceback(text) if text else None
    return cast(BaseException, error)
