"""The common parts of the three start methods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence, Tuple

from .. import _native

if TYPE_CHECKING:
    from .._future import Future
    from .._options import Options
    from .._tracker import Holder
    from .._wire.segments import Payload
    from .launch import Launch

#: The job that a worker is hired for: its Future, its admission, its launch, and the descriptors of
#: the launch.
First = Tuple["Future[Any]", _native.Admission, "Payload", _native.Descriptors]


class Helper(NamedTuple):
    """A helper process that other processes can use."""

    pid: int
    descriptors: Sequence[int]


#: In a worker that the owners of its tree share: the fork server of the tree, which it has joined.
joined: _native.ForkServer | None = None


def joined_helper() -> Helper | None:
    """The fork server that this worker has joined, if it has joined one."""
    try:
        return joined and Helper(os.getppid(), joined.filenos())
    except (OSError, _native.ForkServerGone):
        return None  # a job has closed its descriptors


class Starter:
    """Starts jobs by one method, for one owner in one process."""

    #: Whether a job's work is sent to it. False if the job has the work in its memory.
    sends = True

    #: Whether its processes are copies of this one, and so have its main module.
    copies = False

    #: Whether a job needs a slot.
    takes_slots = True

    _tracker: Holder | None = None

    def __init__(self, options: Options) -> None:
        self._options = options

    def pack(self, work: _native.Work) -> Any:
        """Packs a job: all steps that can be done, and can fail, before it has a slot."""
        return work

    def check(self, work: _native.Work) -> None:
        """Raises what `pack` would raise, and keeps nothing."""

    def start(
        self, owner: _native.Owner, future: Future[Any], admission: _native.Admission, packed: Any
    ) -> int:
        """Admits a job, and starts it; `packed` is what `pack` returned. Returns 0 if the job has
        started, otherwise `_native.DUE` or `_native.TIMED_OUT`. Never returns in the job itself."""
        raise NotImplementedError

    def start_at_once(
        self, owner: _native.Owner, future: Future[Any], admission: _native.Admission, packed: Any
    ) -> bool:
        """Starts an admitted job on a worker that is idle now. Returns False if there is none.
        Never waits, and never starts a process."""
        return False

    def workers_join(self, owner: _native.Owner) -> bool:
        """Called before one of its workers gets a handle: whether its workers join its helper when
        they are introduced."""
        return False

    def helper(self, owner: _native.Owner) -> Helper | None:
        """What another process needs to start jobs by the same helper; None without helper."""
        return None

    def renewed(self, is_job: bool) -> Starter:
        """A starter for this process, after a fork has copied this one into it. `is_job`: this
        process is a job."""
        raise NotImplementedError

    def share_tracker(self) -> None:
        """Called before a process is started: makes it share this process's resource tracker."""
        if self._tracker is None:
            from .._arguments import in_users_program
            from .._tracker import Holder

            in_users_program()
            self._tracker = Holder()

    def stop(self) -> None:
        """Ends the helper processes, and waits for their end."""
        if self._tracker is not None:
            self._tracker.release()
            self._tracker = None


class HiringStarter(Starter):
    """Starts jobs in workers that are hired first and launched then: one job each, or several one
    after the other."""

    def check(self, work: _native.Work) -> None:
        self.pack(work)[1].clear()

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        """Hires a worker. If there is a first job, admits that job before, and launches it on the
        worker."""
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
            if self._options.max_tasks == 1:
                # No worker is ever idle: one call hires a worker and launches its job.
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

    def start_at_once(
        self,
        owner: _native.Owner,
        future: Future[Any],
        admission: _native.Admission,
        packed: Launch,
    ) -> bool:
        message, descriptors = packed
        if owner.launch(future, admission, message, descriptors, at_once=True):
            return False
        descriptors.clear()
        return True
