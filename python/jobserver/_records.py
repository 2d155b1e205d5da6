"""What an owner keeps of a job beside its outcome: its output, and where it was when it crashed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ._around import around
from ._faults import Faults, Recorder
from ._output import Captured, Forwarded
from ._redirection import Redirection

if TYPE_CHECKING:
    from ._owner import Owner


class Recorded(NamedTuple):
    """What is to be kept of each job of a submission."""

    #: "capture", "forward", or None.
    output: str | None
    faults: bool

    def begin(
        self, owner: Owner, preexec_fn: Callable[[], Any] | None
    ) -> tuple[Records | None, Callable[[], Any] | None]:
        """For one job, which has not started yet: its records, and the `preexec_fn` that makes it
        write them."""
        records = self._records(owner)
        return records, preexec_fn if records is None else records.around(preexec_fn)

    def _records(self, owner: Owner) -> Records | None:
        if owner.options.method == "inline":
            # What such a job prints goes to this process's `sys.stdout` already, and a debugger
            # within it needs a prompt. It cannot crash alone.
            return InProcess(Captured(), None, True) if self.output == "capture" else None
        output: Captured | Forwarded | None = None
        if self.output == "capture":
            output = Captured()
        elif self.output == "forward":
            output = Forwarded(owner.forwards())
        return Records(output, Faults() if self.faults else None, not owner.is_fresh)


class Records:
    """The records of one job. Its Future has them."""

    __slots__ = ("output", "faults", "_restores", "_limits")

    #: Whether SystemExit ends the job's process.
    _exit_ends = True

    def __init__(
        self, output: Captured | Forwarded | None, faults: Faults | None, restores: bool
    ) -> None:
        self.output = output
        self.faults = faults
        self._restores = restores
        self._limits: list[Redirection | Recorder] = []

    def around(self, preexec_fn: Callable[[], Any] | None) -> Callable[[], Any]:
        """The job's `preexec_fn`, which makes the job write its records."""
        limits: list[Redirection | Recorder] = []
        if self.output is not None:
            limits.append(Redirection(self.output.files, self._restores, self._exit_ends))
        if self.faults is not None:
            limits.append(self.faults.recorder(self._restores))
        self._limits = limits
        return around(tuple(limits), preexec_fn)

    def settle(self) -> None:
        """After the job has ended: takes in what it has written, and closes the files."""
        if self.output is not None:
            self.output.settle()
        if self.faults is not None:
            self.faults.settle()
        for limit in self._limits:
            limit.release()  # a kept traceback may have it

    def captured(self) -> Captured | None:
        return self.output if isinstance(self.output, Captured) else None


class InProcess(Records):
    """The records of a job that its owner runs itself."""

    __slots__ = ()
    _exit_ends = False
