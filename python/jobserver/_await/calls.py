"""The calls that tasks await."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .. import _arguments, _native
from .._native import getpid
from .watch import watch

if TYPE_CHECKING:
    from .._future import Future
    from .._owner import Owner
    from .._submission import Submission

T = TypeVar("T")


async def until_done(future: Future[Any]) -> None:
    """Waits until the job has ended."""
    if future._outcome is None:
        await watch(future._owner).until_done(future)


async def asubmit(owner: Owner, submission: Submission) -> Future[Any]:
    """Waits for a slot, and starts the job."""
    watch(owner)  # raises if there is no loop
    future, gate = submission.future, submission.gate
    job = _Job(owner, submission.work)
    del submission
    admission = _native.Admission(owner.slots_for(future._consume), False, None)
    try:
        # (A job of several slots gives them away while it waits, in the call of `submit`.)
        if not owner.native.runs_on_several:
            await _admit(owner, admission, gate, job.pack)
            gate = None
        job.pack()
        return owner.submit(future, None, gate, False, None, job.taken(), admission)
    except BaseException:
        owner.native.conclude(admission)
        raise


class _Job:
    """The work of a submission. It is packed when it is the next to start: a packed job may have
    descriptors, and thousands of submissions may wait."""

    def __init__(self, owner: Owner, work: _native.Work) -> None:
        self._owner = owner
        self._work: _native.Work | None = work
        self._packed: Any = None

    def pack(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            self._packed = self._owner.pack(work) if self._owner.starter.sends else work

    def taken(self) -> Any:
        """What is packed. It is no more here then: a kept traceback must keep no descriptors."""
        packed, self._packed = self._packed, None
        return packed


async def _admit(
    owner: Owner,
    admission: _native.Admission,
    gate: Callable[[], Any] | None,
    pack: Callable[[], None],
) -> None:
    """Waits until the gate lets the submission go, and it has its slots. It holds none while the
    gate is asked."""
    # Once slots were there for it, it comes before the others of this loop until the gate delays
    # it. Otherwise each of several with gates would make room for the next one for ever.
    comes_first = waits = False
    while True:
        ours = watch(owner)  # the one before may have ended
        if waits or not ours.is_free_for(admission, comes_first):
            await ours.admitted(admission, pack, comes_first)
            if gate is None:
                return
            owner.native.conclude(admission)
            comes_first = True
        delay = None if gate is None else _arguments.delay(gate())
        if delay is not None:
            await ours.event().wait(delay)
            comes_first = waits = False
            continue
        pack()
        if owner.native.admit_beside(admission):
            return
        waits = True


async def run(owner: Owner, submission: Submission) -> Future[Any]:
    """Submits, and waits until the job has ended. When the task is cancelled, kills the job."""
    future = await asubmit(owner, submission)
    del submission
    try:
        await until_done(future)
    except GeneratorExit:
        # The loop has ended without a cancellation, so nothing can be awaited. (In a forked process
        # the job is the parent's.)
        if future._outcome is None and future._owner_pid == getpid():
            owner.native.kill(future._job, 0.0)
        raise
    except BaseException:
        if future._outcome is None:
            await watch(owner).until_killed(future)
        raise
    return future
