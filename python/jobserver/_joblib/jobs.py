"""Batches in jobs. Each Parallel has an executor of its own, so that its jobs can be killed and
those of others go on. The Jobserver, and with it the processes, stays."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any, Callable

from .._executor import JobserverExecutor
from .batch import Batch, Buffers
from .threads import slot_of_this_thread

if TYPE_CHECKING:
    from .._jobserver import Jobserver


class Jobs:
    """Runs batches in jobs of a Jobserver."""

    def __init__(self, jobserver: Jobserver, buffers: Buffers) -> None:
        self._executor = JobserverExecutor(jobserver=jobserver)
        self._buffers = buffers

    def submit(
        self, calls: Callable[[], list[Any]], done: Callable[[futures.Future[Any]], Any]
    ) -> None:
        future: futures.Future[Any]
        try:
            future = self._executor.submit(Batch(calls, self._buffers))
        except RuntimeError as e:  # at the end of the interpreter, or after a kill
            future = futures.Future()
            future.set_exception(e)
        future.add_done_callback(done)

    def kill(self) -> None:
        """Kills the jobs, and all that is below them, and waits for their ends."""
        self._executor.kill_workers()
        self._executor.shutdown()

    def close(self) -> None:
        # A thread that has a slot does not wait for the executor's thread: that one may have given
        # the job's slot away, and be waiting for a slot too.
        self._executor.shutdown(wait=slot_of_this_thread() is None)
