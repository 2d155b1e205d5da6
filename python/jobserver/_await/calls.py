"""The calls that tasks await."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .. import _arguments, _native
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
    ours = watch(owner)
    future, gate = submission.future, submission.gate
    packed: Any = owner.pack(submission.work) if owner.starter.sends else submission.work
    del submission
    admission = _native.Admission(owner.slots_for(future._consume), False, None)
    try:
        # (A job of several slots gives them away while it waits, in the call of `submit`.)
        while not owner.native.runs_on_several:
            if ours.is_free_for(admission):
                delay = None if gate is None else _arguments.delay(gate())
                if delay is not None:
                    await ours.event().wait(delay)
                    continue
                if owner.native.admit_beside(admission):
                    break
            await ours.admitted(admission)
            if gate is None:
                break
            # The submission holds no slots while the gate is asked.
            owner.native.conclude(admission)
        return owner.submit(future, None, None, False, None, packed, admission)
    except BaseException:
        owner.native.conclude(admission)
        raise
    finally:
        del packed


async def run(owner: Owner, submission: Submission) -> Future[Any]:
    """Submits, and waits until the job has ended. When the task is cancelled, kills the job."""
    future = await asubmit(owner, submission)
    del submission
    try:
        await until_done(future)
    except BaseException:
        if future._outcome is None:
            await watch(owner).until_killed(future)
        raise
    return future
