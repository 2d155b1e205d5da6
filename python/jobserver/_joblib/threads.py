"""Batches in threads of this process, each on a slot of the pool: for work that must share memory,
and for nested work whose author says that threads suit it. (A forest of scikit-learn says so: its
trees are built without the lock of the interpreter, and nothing must be pickled.)"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent import futures
from typing import TYPE_CHECKING, Any, Callable
from weakref import WeakSet

from .. import _native

if TYPE_CHECKING:
    from .._owner import Owner

_Call = Callable[[], Any]

#: For how long a thread runs calls on one slot before it lets others have it. A batch of joblib's
#: in a job takes at least as long if its calls are short. (A slot for each call costs a wait for
#: each: 40 trees of 9 ms took 1.5 times as long.)
_SECONDS = 0.2


class SlotThreads:
    """Runs batches in threads, each while its thread has a slot.

    Its threads end when nothing waits. A thread that submits to a Jobserver of this process may
    lose its slot to the job (`thread_slot`, in the core).
    """

    def __init__(self, owner: Owner, lends: bool) -> None:
        """`lends`: this process is a job that goes on meanwhile, and lends its own slot first."""
        self.owner, self.lends = owner, lends
        self.stops = False
        self._threads: WeakSet[_Thread] = WeakSet()

    def submit(self, call: _Call, done: Callable[[futures.Future[Any]], Any]) -> None:
        future: futures.Future[Any] = futures.Future()
        future.add_done_callback(done)  # before the start: it is called in the thread
        thread = threading.current_thread()
        if isinstance(thread, _Thread) and thread.of is self and not thread.next:
            thread.next.append((call, future))  # this thread has just ended a call
        else:
            thread = _Thread(self, call, future)
            self._threads.add(thread)
            thread.start()

    def kill(self) -> None:
        """Drops the calls that have no slot. Threads cannot be killed: running calls go on."""
        self.stops = True
        self.owner.native.wake()

    def close(self) -> None:
        """Waits for the threads of ended calls; after `kill`, for none."""
        if self.stops:
            return
        for thread in [*self._threads]:
            if thread is not threading.current_thread():
                thread.join()


class _Thread(threading.Thread):
    def __init__(self, of: SlotThreads, call: _Call, future: futures.Future[Any]) -> None:
        # A daemon, as joblib's threads are: Ctrl-C need not wait for the running calls.
        super().__init__(name="jobserver-joblib", daemon=True)
        self.of = of
        self.next: deque[tuple[_Call, futures.Future[Any]]] = deque([(call, future)])
        self.slot = ThreadSlot(of.owner, of.lends)

    def run(self) -> None:
        _slots.held = self.slot
        try:
            while self.next:
                self._call(*self.next.popleft())  # its end submits the next call
        finally:
            self.slot.give_away()

    def _call(self, call: _Call, future: futures.Future[Any]) -> None:
        try:
            if not self.slot.keep(self.of):
                future.cancel()
                future.set_running_or_notify_cancel()
                return
            result = call()
        except BaseException as e:
            future.set_exception(e)
        else:
            future.set_result(result)


class ThreadSlot:
    """The slot of one thread."""

    def __init__(self, owner: Owner, lends: bool) -> None:
        self._owner, self.lends = owner, lends
        self.home = owner.here().pool.home
        self._admission: _native.Admission | None = None
        #: When it is to go back between two calls.
        self._until = 0.0

    def keep(self, of: SlotThreads) -> bool:
        """Waits for the slot, unless this thread has it, and has not had it for long. Returns False
        if these threads are to stop."""
        admission = self._admission
        if admission is not None and admission.has_thread_slot and not of.stops:
            if time.monotonic() < self._until:
                return True
        self.give_away()
        return self.get(of)

    def get(self, of: SlotThreads | None = None) -> bool:
        """Waits for the slot. Returns False if these threads are to stop."""
        owner = self._owner
        self._admission = admission = _native.Admission(1, False, None)  # at the end of the queue
        while True:
            look = owner.look()
            if of is not None and of.stops:
                return False
            if owner.native.admit_thread(admission, self.lends):
                self._until = time.monotonic() + _SECONDS
                return True
            owner.native.wait_for_slot(look, admission, None)

    def lend(self) -> None:
        self.give_away()

    def get_again(self) -> None:
        # (A generator may be closed by another thread.)
        if slot_of_this_thread() is self:
            self.get()

    def give_away(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            self._owner.native.conclude(admission)


class _Slots(threading.local):
    #: The slot of this thread, if it is one of ours.
    held: ThreadSlot | None = None


_slots = _Slots()


def slot_of_this_thread() -> ThreadSlot | None:
    return _slots.held
