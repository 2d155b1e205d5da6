"""The package's own exceptions. Each says whose fault it is and what to do.

Not here: built-in exceptions, which the package also raises: TypeError and ValueError for bad
arguments, pickle's errors for objects that cannot be sent to another process, and OSError where
the system refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _native

if TYPE_CHECKING:
    from ._future import Future


class Blocked(Exception):
    """A slot for a submission, or the result of a Future, was not there in time.

    It is nobody's fault. No job was started and no result is lost. Try again, wait longer, or call
    the function in this process.
    """


class CallbackRaised(Exception):
    """A callback that was registered by ``Future.when_done`` raised; ``__cause__`` is its error.

    It is the fault of the callback. This callback is not called again. Call the method that raised
    this exception again to run the callbacks that remain. After ``when_done`` call ``wait``
    instead, because ``when_done`` has already registered its callback.

    Attributes:
        seqno: the number that ``when_done`` returned for this callback.
        future: the Future that the callback was registered with; None if the exception was sent
            from another process, because a Future cannot be sent.
    """

    def __init__(self, seqno: int, future: Future[Any] | None, text: str) -> None:
        super().__init__(text)
        self.seqno = seqno
        self.future = future

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seqno, None, *self.args)


class SubmissionDied(Exception):
    """A job's process ended without sending a result.

    The job's process exited, or a signal killed it: see ``exitcode`` and ``signal``. Other jobs are
    not affected. If the job's function called ``sys.exit``, the ``__cause__`` of this exception has
    the traceback and the text of that call. If a crash killed a job with ``faulthandler=True``,
    it says where the job was. The message ends with the last lines of the job's output, if that was
    captured.

    Attributes:
        pid: the job's process id.
        exitcode: the exit code of the process, or None.
        signal: the number of the signal that killed the process, or None. If both are None, the
            owner could not find out how the process ended: other code in this program reaped it,
            this program ignores SIGCHLD, or the fork server, the job's parent, was killed.
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
    """A job was killed because it ran for longer than its ``time_limit``.

    Attributes:
        time_limit: the limit, in seconds.
    """

    def __init__(
        self, pid: int, signal: int, time_limit: float, of: str = "", written: str = ""
    ) -> None:
        text = f"{of}ran for longer than its {time_limit:g} seconds{written}"
        super().__init__(pid, None, signal, text)
        self.time_limit = time_limit
        self._rest = of, written

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pid, self.signal, self.time_limit, *self._rest)


class OwnersOnly(TypeError):
    """An attempt to pickle an object that only its owner can use, for example a Future."""


def advised(error: OSError, doing: str) -> OSError:
    """The same OSError with a text that also says what the package was doing and what to do."""
    advice = _native.advice(error.errno or 0)
    file = "" if error.filename is None else f": {error.filename!r}"
    told = f"{doing}: {error.strerror}{file}" + (f"; {advice}" if advice else "")
    return OSError(error.errno, told)


class JobTraceback(Exception):
    """The traceback that an exception had in the job: the ``__cause__`` of the exception that
    ``result`` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'in the job:\n\n"""\n{self.text}"""'
