"""What the three start methods have in common, and the choice between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _native

if TYPE_CHECKING:
    from .._future import Future


class Starter:
    """Starts jobs by one method, for one Jobserver in one process."""

    def prepare(self, work: _native.Work, jobs: _native.Jobs) -> Any:
        """Does all that can be done, and fail, before a slot is taken."""
        raise NotImplementedError

    def check(self, work: _native.Work, jobs: _native.Jobs) -> None:
        """Raises what `prepare` would, and leaves nothing behind."""
        _, descriptors = self.prepare(work, jobs)
        descriptors.clear()

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

    def stop(self) -> None:
        """Ends what was started beside the jobs, and waits for its end."""


def starter(method: str, helper: int | None = None) -> Starter:
    """The starter for a start method; `helper` is another process's `descriptor`."""
    # Imported when wanted: a program rarely uses more than one.
    if method == "fork":
        from .fork import Fork

        return Fork()
    if method == "forkserver":
        from .forkserver import ForkServer

        return ForkServer(helper)
    from .spawn import Spawn

    return Spawn()
