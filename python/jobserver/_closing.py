"""The end of a `with` statement: closes a Jobserver, and runs all callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _native
from ._exceptions import CallbackRaised
from ._signals import raised_by_handler

if TYPE_CHECKING:
    from ._jobserver import Jobserver


def close_after(js: Jobserver, error: BaseException | None) -> None:
    """Closes after a body that raised this error, if it raised one. Raises the first error of a
    callback, unless the body raised; all others go to `sys.unraisablehook`."""
    leaves = error
    while True:
        try:
            js.close()
            break
        except BaseException as e:
            callbacks = isinstance(e, CallbackRaised) or not isinstance(e, Exception)
            if not callbacks or raised_by_handler(e):
                raise
            if leaves is None:
                leaves = e
            else:
                _native.tell_unraisable(e, js)
    try:
        if leaves is not error and leaves is not None:
            raise leaves
    finally:
        del leaves, error  # otherwise the traceback would refer to itself through this frame
