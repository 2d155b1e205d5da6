"""What the package raises: who erred, and what to do.

Not here: TypeError and ValueError for bad arguments, pickle's errors for what cannot
travel between processes, and OSError for what the system refuses; those keep the names
that every Python programmer knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _native

if TYPE_CHECKING:
    from ._future import Future


class Blocked(Exception):
    """Nothing was ready in time: no slot for a submission, or no result for a Future.

    Nobody erred. Nothing was started and nothing is lost: try again, wait longer, or do
    the work in place.
    """


class CallbackRaised(Exception):
    """A callback that was registered by ``Future.when_done`` raised; ``__cause__`` is its error.

    The callback's author erred. The callback will not be called again; calling the method
    that raised this once more goes on with the callbacks that remain. (Not ``when_done``, which
    has registered its callback already: go on with ``wait``.)

    Attributes:
        seqno: what ``when_done`` returned for this callback.
        future: the Future that the callback was registered with; None if the exception has
            come from another process, where the Future has stayed.
    """

    def __init__(self, seqno: int, future: Future[Any] | None, text: str) -> None:
        super().__init__(text)
        self.seqno = seqno
        self.future = future

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seqno, None, *self.args)


class SubmissionDied(Exception):
    """A job's process ended without sending a result.

    The job's function exited, or something killed it: see ``exitcode`` and ``signal``. No
    other job is affected. If it exited by ``sys.exit``, the cause says where, and with which words.

    Attributes:
        pid: the job's process id.
        exitcode: what the process passed to ``exit``, or None.
        signal: the number of the signal that killed it, or None. Where both are None, the
            process ended but nobody could say how: other code in this program reaped it, the
            program ignores SIGCHLD, or the job's parent, the fork server, was killed.
    """

    def __init__(self, pid: int, exitcode: int | None, signal: int | None, text: str) -> None:
        super().__init__(f"job {pid} {text}")
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pid, self.exitcode, self.signal, self._text)


class TimeLimitExceeded(SubmissionDied):
    """A job was ended because it ran for longer than its ``time_limit``.

    Attributes:
        time_limit: the limit, in seconds.
    """

    def __init__(self, pid: int, signal: int, time_limit: float, of: str = "") -> None:
        super().__init__(pid, None, signal, f"{of}ran for longer than its {time_limit:g} seconds")
        self.time_limit = time_limit
        self._of = of

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pid, self.signal, self.time_limit, self._of)


class OwnersOnly(TypeError):
    """To pickle something that is of no use in another process."""


def advised(error: OSError, doing: str) -> OSError:
    """The same refusal of the system's, saying what was being done and what to do about it."""
    advice = _native.advice(error.errno or 0)
    file = "" if error.filename is None else f": {error.filename!r}"
    told = f"{doing}: {error.strerror}{file}" + (f"; {advice}" if advice else "")
    return OSError(error.errno, told)


class JobTraceback(Exception):
    """An exception's traceback as it was in the job: the ``__cause__`` of what is re-raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'in the job:\n\n"""\n{self.text}"""'
