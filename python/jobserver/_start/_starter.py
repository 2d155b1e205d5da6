"""What the three start methods have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Tuple

from .. import _native

if TYPE_CHECKING:
    from .._future import Future
    from .._tracker import Holder
    from .._wire.segments import Payload
    from .launch import Launch

#: The job that a worker is hired for: its Future, its admission, and what launches it.
First = Tuple["Future[Any]", _native.Admission, "Payload", _native.Descriptors]


class Starter:
    """Starts jobs by one method, for one owner in one process."""

    #: Whether what jobs are to do travels to them, rather than being there already.
    sends = True

    _tracker: Holder | None = None

    def pack(self, work: _native.Work) -> Any:
        """Does all that can be done, and fail, before a slot is taken."""
        raise NotImplementedError

    def check(self, work: _native.Work) -> None:
        """Raises what `pack` would, and leaves nothing behind."""

    def start(
        self, owner: _native.Owner, future: Future[Any], admission: _native.Admission, packed: Any
    ) -> int:
        """Admits a job, and starts it: does what `pack` returned. 0 if it has, otherwise
        `_native.DUE` or `_native.TIMED_OUT`. In the job itself, never returns."""
        raise NotImplementedError

    def descriptor(self, owner: _native.Owner) -> int | None:
        """What another process needs to start jobs by the same helper, if there is one."""
        return None

    def renewed(self) -> Starter:
        """One for this process, which this one has come to by a fork."""
        raise NotImplementedError

    def share_tracker(self) -> None:
        """Before a process is born: has it share this one's resource tracker."""
        if self._tracker is None:
            from .._arguments import in_users_program
            from .._tracker import Holder

            in_users_program()
            self._tracker = Holder()

    def stop(self) -> None:
        """Ends what was started beside the jobs, and waits for its end."""
        if self._tracker is not None:
            self._tracker.release()
            self._tracker = None


class HiringStarter(Starter):
    """Starts jobs in workers that are born first, and then told what to run: one job each, or
    several in turn."""

    def __init__(self, max_tasks: int | None) -> None:
        """With so many jobs a worker, at most; None: no bound."""
        self._max_tasks = max_tasks

    def check(self, work: _native.Work) -> None:
        self.pack(work)[1].clear()

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        """Has another worker born; if there is a first job, for that, which is admitted first."""
        raise NotImplementedError

    def start(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: Launch,
    ) -> int:
        message, descriptors = packed
        try:
            if self._max_tasks == 1:
                # Nobody is idle, nor ever is: a worker is born and launched in one call.
                state = self.hire(owner, (future, admission, message, descriptors))
            else:
                state = owner.launch(future, admission, message, descriptors)
                while state == _native.NO_WORKER:
                    self.hire(owner)
                    state = owner.launch(future, admission, message, descriptors)
        except BaseException:
            descriptors.clear()
            raise
        finally:
            del packed  # a traceback that is kept must keep no descriptor
        if not state:
            descriptors.clear()
        return state
