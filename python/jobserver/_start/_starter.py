"""What the three start methods have in common, and the choice between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Tuple

from .. import _native

if TYPE_CHECKING:
    from .._future import Future
    from .._pickling import Sent
    from .._tracker import Holder
    from .launch import Launch

#: The job that a process is born for: its Future, its slot, and what launches it.
First = Tuple["Future[Any]", Optional[_native.Slot], "Sent", _native.Descriptors]


class Starter:
    """Starts jobs by one method, for one Jobserver in one process."""

    #: Whether what jobs are to do travels to them, rather than being there already.
    sends = True

    _tracker: Holder | None = None

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> Any:
        """Does all that can be done, and fail, before a slot is taken."""
        raise NotImplementedError

    def check(self, work: _native.Work, jobs: _native.Jobs) -> None:
        """Raises what `prepare` would, and leaves nothing behind."""

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: Any,
    ) -> None:
        """Starts a job on what `prepare` returned, and on this slot. In the job itself,
        never returns."""
        raise NotImplementedError

    def descriptor(self, home: str) -> int | None:
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
    """Starts jobs in processes that are born first, and then told what to run: one job each, or
    several in turn."""

    def __init__(self, tasks: int | None) -> None:
        """With so many jobs a process, at most; None: no bound."""
        self._tasks = tasks

    def check(self, work: _native.Work, jobs: _native.Jobs) -> None:
        self.prepare(work, jobs)[1].clear()

    def hire(self, jobs: _native.Jobs, first: First | None = None) -> None:
        """Has another process born, for this job if there is one."""
        raise NotImplementedError

    def start(
        self,
        jobs: _native.Jobs,
        future: Future[Any],
        slot: _native.Slot | None,
        prepared: Launch,
    ) -> None:
        message, descriptors = prepared
        try:
            if self._tasks == 1:
                # Nobody is idle, nor ever is: a process is born and launched in one call.
                self.hire(jobs, (future, slot, message, descriptors))
            else:
                while not jobs.launch(future, slot, message, descriptors):
                    self.hire(jobs)
        finally:
            descriptors.clear()
            del prepared, descriptors  # a traceback that is kept must keep no descriptor


def starter(
    method: str,
    slots: int,
    tasks: int | None,
    preload: tuple[str, ...],
    helper: int | None,
) -> Starter:
    """The starter for a start method, with so many jobs a process at most; for a fork server, what
    it imports, and another process's `descriptor` if that has started it."""
    # Imported when wanted: a program rarely uses more than one.
    if method == "fork":
        from .fork import Fork, ForkedWorkers

        return Fork() if tasks == 1 else ForkedWorkers(tasks)
    if method == "forkserver":
        from .forkserver import ForkServer

        return ForkServer(tasks, preload, slots, helper)
    from .spawn import Spawn

    return Spawn(tasks)
