"""The batches of one Parallel: when they are started, and when all have ended. Not here: what runs
them (`jobs.py`, `threads.py`)."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Protocol

if TYPE_CHECKING:
    from concurrent import futures

    from .._jobserver import Jobserver
    from .._owner import Owner

_Calls = Callable[[], "list[Any]"]
_Callback = Callable[["futures.Future[Any]"], Any]


class Runner(Protocol):
    """What runs the batches."""

    def submit(self, calls: _Calls, done: _Callback) -> None:
        """Has a batch run, and then `done` called with a Future that has its outcome."""

    def kill(self) -> None:
        """Drops the batches that have not begun, and ends the others as soon as it can."""

    def close(self) -> None:
        """After the last batch."""


class Workers:
    """Runs batches of one Parallel, at most `most` at a time.

    There is no lock: a callback may come in the middle of a submission, in the same thread too.
    """

    def __init__(
        self,
        jobserver: Jobserver,
        runner: Runner,
        most: int,
        has_failed: Callable[[], bool],
    ) -> None:
        """`has_failed`: whether joblib has met with an error, after a callback."""
        self.jobserver = jobserver
        self._has_failed = has_failed
        self._runner = runner
        self._waiting: deque[tuple[_Calls, _Callback]] = deque()
        #: One entry for each batch that may be started.
        self._free = deque([True] * most)
        #: Whether batches wait until `go`.
        self._holds = False
        #: One entry for each batch whose callback has not returned.
        self._left: deque[bool] = deque()
        self._fails = False
        self._error: BaseException | None = None
        self._may_be_over = threading.Event()

    @property
    def owner(self) -> Owner:
        return self.jobserver._owner

    def hold(self) -> None:
        """From now on batches are not started, until `go`."""
        self._holds = True

    def go(self) -> None:
        self._holds = False
        self._start()

    def submit(self, calls: _Calls, callback: _Callback) -> None:
        self._left.append(True)
        self._waiting.append((calls, callback))
        self._start()

    def _start(self) -> None:
        # If two threads are here at once, each sees what the other has added last: so no batch is
        # left that could start.
        while self._waiting and not self._holds:
            if not take(self._free):
                return
            next_one = take(self._waiting)
            if next_one is None:
                self._free.append(True)
                continue
            calls, callback = next_one
            self._runner.submit(calls, partial(self._done, callback))

    def _done(self, callback: _Callback, future: futures.Future[Any]) -> None:
        self._free.append(True)
        self._start()  # before joblib, which may take its time: no slot is to be idle meanwhile
        try:
            callback(future)  # it submits further batches
        except BaseException as e:
            self._error = e
            raise
        finally:
            take(self._left)
            self._fails = self._fails or self._error is not None or self._has_failed()
            if not self._left or self._fails:
                self._may_be_over.set()

    def wait(self) -> bool:
        """Waits until no batch is left, or joblib has met with an error. Returns whether it has
        not. Raises an error of a callback: joblib 1.3 does not notice when the tasks cannot be
        read."""
        while self._left and not self._fails:
            self._may_be_over.clear()
            if self._left and not self._fails:
                self._may_be_over.wait()
        if self._error is not None:
            raise self._error
        return not self._fails

    def kill(self) -> None:
        """Drops the batches that have not begun, and ends the others."""
        self._holds = True
        self._waiting.clear()
        self._runner.kill()

    def close(self) -> None:
        """After the last batch."""
        self._runner.close()


def take(items: deque[Any]) -> Any:
    """The first item, or None: another thread may have taken the last one."""
    try:
        return items.popleft()
    except IndexError:
        return None
