"""`Jobserver.as_completed`: Futures in the order in which they finish.

When a job finishes, its Future appends itself to a deque of the iterator (`_watch`). The cost of a
completion therefore does not grow with the number of outstanding jobs. Callbacks of Futures would
not do: another thread may run them after it has woken this thread, and their errors are the user's.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, AsyncIterator, Iterable, Iterator, TypeVar
from weakref import WeakSet

from . import _native
from ._exceptions import Blocked
from ._future import Future, done_elsewhere
from ._native import getpid

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._await import Listener, Watch
    from ._owner import Owner

T = TypeVar("T")


class AsCompleted(Iterator["Future[T]"], AsyncIterator["Future[T]"]):
    """The iterator. Blocked and CallbackRaised do not end it: the following `next` goes on."""

    def __init__(self, owner: Owner, futures: Iterable[Future[T]], deadline: float | None) -> None:
        self._owner = owner
        self._deadline = deadline
        self._pid = getpid()
        self._finished: deque[Future[T]] = deque()
        self._left: dict[Future[T], None] = {}
        self._seen: WeakSet[Future[T]] = WeakSet()
        self._yields = False
        #: In an event loop: its watch, what is told that a job has ended, and the Futures that it
        #: does not follow yet.
        self._watch: Watch | None = None
        self._listener: Listener | None = None
        self._unfollowed: deque[Future[T]] = deque()
        #: The Futures still to be read. A list is read at once, so that its errors come early.
        self._input: Iterator[Future[T]] | None = iter(futures)
        if isinstance(futures, (list, tuple, set, frozenset, dict)):
            while self._read():
                pass

    def _read(self) -> bool:
        """Reads one more Future. Returns whether there was one."""
        if self._input is None:
            return False
        for future in self._input:
            check(self._owner, future)
            if future not in self._seen:
                self._seen.add(future)
                # A job without a slot has none to lend to jobs of its own, which may need this
                # process's.
                self._yields = self._yields or not future._consume
                self._left[future] = None
                if self._listener is not None:
                    self._unfollowed.append(future)
                future._watch(self._finished)
            return True
        self._input = None
        return False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Future[T]:
        while True:
            found = self._find()
            if isinstance(found, Future):
                return found
            self._owner.sleep(found, self._left_in_time(), yields=self._yields)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Future[T]:
        """`next` for a task of asyncio or trio: the loop goes on while this waits."""
        from ._await import Listener, watch

        while True:
            try:
                found = self._find()
            except StopIteration:
                raise StopAsyncIteration from None
            if isinstance(found, Future):
                return found
            ours = watch(self._owner)
            if self._listener is None or self._watch is not ours:
                self._watch, self._listener = ours, Listener()
                self._unfollowed = deque(self._left)
            while self._unfollowed:
                ours.follow(self._unfollowed.popleft(), self._listener)
            await self._listener.wait(ours.event(), self._left_in_time())

    def _find(self) -> Future[T] | _native.Look:
        """The next Future; or if none of its jobs has finished, the state that the scan saw."""
        while True:
            look = self._owner.look(callbacks=True)
            if self._pid != getpid():
                raise RuntimeError(
                    f"these Futures belong to process {self._pid}, which called as_completed; "
                    "this is another process, forked from it"
                )
            if self._finished:
                # Removed from the deque last, so that Ctrl-C cannot lose it.
                self._left.pop(self._finished[0], None)
                return self._finished.popleft()
            if self._read():  # a generator may submit the job here
                continue
            if not self._left:
                raise StopIteration
            return look

    def _left_in_time(self) -> float | None:
        """The seconds left; Blocked if there are none."""
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise Blocked(f"{len(self._left)} of the jobs have not finished in time")
        return left

    def __del__(self) -> None:
        # Otherwise Futures of running jobs would keep the deque, and the finished Futures in it.
        for future in getattr(self, "_left", ()):
            future._unwatch(self._finished)


def check(owner: Owner, future: Any) -> None:
    """Raises if this is no Future of this Jobserver and this process."""
    if not isinstance(future, Future):
        raise TypeError(f"as_completed takes Futures, not {type(future).__name__}")
    if future._owner is not owner:
        raise ValueError(f"{future!r} is of another Jobserver: each has its own as_completed")
    if future._owner_pid != getpid():
        done_elsewhere(future)
