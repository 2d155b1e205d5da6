"""Deaths: the exception, and its text, for a job that ended without a result.

The core finds out how the process ended, and whether the time limit was the reason
(rust/core/src/process/death.rs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _faults, _native, _oom
from ._exceptions import JobTraceback, SubmissionDied, TimeLimitExceeded

if TYPE_CHECKING:
    from ._records import Records

_SIGKILL = 9

_WHO_KILLS = (
    "; if no process has killed it, the kernel has, because memory was short: see `dmesg`, or "
    "memory.events in its control group"
)


def error_of(
    death: _native.Death, pid: int, name: str | None, records: Records | None = None
) -> SubmissionDied:
    """The exception for the death of a job. `name` is the name of the job's function."""
    of = f"of {name} " if name else ""
    written = "" if records is None else last_output(records)
    if death.time_limit is not None and death.signal is not None:
        return TimeLimitExceeded(pid, death.signal, death.time_limit, of, written)
    text = of + death.text
    if death.signal == _SIGKILL:
        kills = _oom.has_killed()
        text += _WHO_KILLS if kills is None else f": the kernel ran out of memory ({kills.where})"
    died = SubmissionDied(pid, death.exitcode, death.signal, text + written)
    told = death.last_words
    if records is not None and records.faults is not None and death.signal in _faults.SIGNALS:
        told = records.faults.text or told
    if told is not None:
        died.__cause__ = JobTraceback(told)
    return died


def last_output(records: Records) -> str:
    """For the end of a message: the last lines of a job's output, if it was captured."""
    captured = records.captured()
    lines = "" if captured is None else captured.last_lines()
    return f"; the end of its output:{lines}" if lines else ""
