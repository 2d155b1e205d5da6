"""Context inline: the owner runs each job itself, within the submission, for debuggers and tests.

Nothing is pickled, and no slot is taken. The environment, gates, `preexec_fn`, callbacks and errors
are as ever. What needs a process of its own is not there: a job cannot die, and has no time limit.
Ctrl-C interrupts the submission, as it would a call of the function.

The environment belongs to the process. So of several threads, one at a time runs a job that changes
it; and such a job must not wait for another thread that submits one.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from .. import _current, _death, _job, _native
from .._exceptions import SubmissionDied
from .._signals import raised_by_handler
from ._starter import Starter

if TYPE_CHECKING:
    from .._future import Future


#: Held while a job runs that changes the environment of this process.
_changes = threading.RLock()


def _begin_anew() -> None:
    """In a forked child: the thread that holds the lock may be the parent's."""
    global _changes
    _changes = threading.RLock()


os.register_at_fork(after_in_child=_begin_anew)


class Inline(Starter):
    sends = False
    takes_slots = False

    #: Whether the initializer has been called.
    _begun = False

    def renewed(self, is_job: bool) -> Inline:
        return Inline(self._options)

    def start(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: _native.Work,
    ) -> int:
        state = owner.admit(admission)
        if not state:
            with _current.inline(owner.pool.slots):
                future._ran_here(self._outcome(future, packed))
            if future._records is not None:
                future._records.settle()
        return state

    def _outcome(self, future: Future[Any], work: _native.Work) -> tuple[Any, BaseException | None]:
        """The value that the job's function returns, and None; or None, and its exception."""
        try:
            if not (work.env or work.preexec_fn) and (self._begun or not self._options.initializer):
                return self._run(work), None
            with _changes:
                return self._run_within(work), None
        except SystemExit as e:
            return None, _exited(future, e)
        except BaseException as e:
            if raised_by_handler(e):
                raise
            return None, e

    def _run_within(self, work: _native.Work) -> Any:
        """Runs a job within its environment, and the initializer first if this is the first job."""
        undo = _job.apply_environment(work.env or [])
        try:
            if self._options.initializer is not None and not self._begun:
                self._options.initializer()
            self._begun = True
            return self._run(work)
        finally:
            _job.apply_environment(undo)

    def _run(self, work: _native.Work) -> Any:
        args, kwargs = work.args, work.kwargs or {}
        if work.preexec_fn is None:
            return work.function(*args, **kwargs)
        return _job.call_prepared(work.preexec_fn, work.function, args, kwargs)


def _exited(future: Future[Any], stop: SystemExit) -> SubmissionDied:
    """The death of a job that called `sys.exit`."""
    code = _job.exit_code(stop)
    of = f"of {future._name} " if future._name else ""
    written = "" if future._records is None else _death.last_output(future._records)
    text = f"{of}exited with code {code}{written}"
    died = SubmissionDied(_native.getpid(), code, None, text)
    died.__cause__ = stop
    return died
