"""`Jobserver.map`: many calls, grouped into chunks; a chunk is one submission; results in order.

A chunk costs a process, so short calls must share one. An error is still reported for the very
call that caused it: exceptions, because the job catches them one by one; deaths, because the job
records which call it is in (`Progress`). The other calls whose results died with the job are made
again, in another job.

There is one list of chunks, in the order of the calls: chunks whose results the caller has not all
taken, chunks of running jobs, and chunks to start. When a job dies in a call, its chunk becomes
three chunks: that call, with the death as its outcome, the calls before it, and the calls after it.
If the failure belongs to no known call (arguments that cannot be unpickled, a `preexec_fn` that
fails), the chunk is halved, until a chunk of one call has the failure as its outcome. Every failure
makes chunks smaller, so the work ends.

All of this happens in `next` and can be interrupted between any two lines: each state changes in
one step, and an interrupted step is done again. Not here: how chunks become jobs (`feeder.py`), how
the input is read (`input.py`), and the calls of a chunk within its job (`calls.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Generic, NamedTuple, TypeVar

from .. import _arguments, _native
from .._defaults import Resolved
from .._exceptions import Blocked
from .chunk import Chunk
from .feeder import Feeder

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._await import Listener
    from .._owner import Owner

T = TypeVar("T")


class _Pause(NamedTuple):
    """What the caller waits for: a change since that look, at most so many seconds; and slots for a
    chunk, if one waits for them."""

    look: _native.Look
    seconds: float | None
    chunk: Chunk | None


class Results(_native.Results, Generic[T]):
    """The iterator that :meth:`Jobserver.map` returns: the results of the calls, in their order or
    in the order in which their chunks end.

    An exception that `next` raises does not end it, whether it is a call's own error, Blocked or
    KeyboardInterrupt: the following `next` goes on. One thread at a time may use it. If it is
    dropped or closed, calls whose jobs have not begun are not made; jobs that run end normally.
    A `with` statement closes it at its end.

    Its length is the number of results that are still to come, if the number of calls is known
    (of a list or a range, for example, or a `zip` of such): ``tqdm(js.map(...))`` shows a total.
    """

    if TYPE_CHECKING:

        def __next__(self) -> T: ...

    def __init__(
        self,
        owner: Owner,
        fn: Callable[..., T],
        argses: Any,
        kwargses: Any,
        options: Resolved,
        *,
        ordered: Any,
        timeout: Any,
        chunksize: Any,
        buffersize: Any,
    ) -> None:
        """Checks the arguments of `map`."""
        self._owner = owner
        self._feeder = Feeder(owner, fn, argses, kwargses, options, chunksize, buffersize)
        #: The number of results that were served.
        self._count_served = 0
        self._ordered = _arguments.flag(ordered, "ordered")
        self._deadline = _arguments.deadline(timeout)
        #: In an event loop: what is told that a job has ended.
        self._listener: Listener | None = None

    def begin(self) -> Self:
        """Starts the chunks that can start without waiting. Returns itself."""
        owner = self._owner
        owner.check_open()
        self._feeder.check()
        owner.look()
        try:
            self._feeder.feed()
        except BaseException:
            self.close()  # otherwise a kept traceback would keep its descriptor
            raise
        return self

    def close(self) -> None:
        """Drops the calls whose jobs have not begun, and all results."""
        self._feeder.drop()
        self._serve(None, [], [])
        self._feeder.count = 0
        self._count_served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        if self._feeder.count is None:
            raise TypeError("the number of calls is not known: the arguments have no length")
        return max(0, self._feeder.count - self._count_served + self._ready)

    def __bool__(self) -> bool:
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """`next` for a task of asyncio or trio: the loop goes on while this waits."""
        try:
            while not self._ready:
                step = self._advance(waits=False)
                if step is False:
                    break
                if isinstance(step, _Pause):
                    await self._pause(step)
            else:
                return next(self)
        except StopAsyncIteration as e:
            raise RuntimeError(
                "a call of map, or a function around it, raised StopAsyncIteration, which would "
                "end the results: it is the cause of this error"
            ) from e
        raise StopAsyncIteration

    # The owner's loop.

    def _more(self) -> bool:
        """Waits for the results of the next chunk and serves them. Returns whether there are
        any."""
        while True:
            step = self._advance(waits=True)
            if isinstance(step, bool):
                return step
            look, seconds, chunk = step
            admission = None if chunk is None else self._feeder.next_admission()
            if admission is not None:
                self._owner.check_open()
            self._owner.sleep(look, seconds, admission=admission)

    def _advance(self, waits: bool) -> bool | _Pause:
        """Does all that is to do without a wait, and serves the results of the next chunk. Returns
        whether there are any, or what to wait for. Some submissions must wait themselves: see
        `_must_start`; with `waits`, they do."""
        feeder, owner = self._feeder, self._owner
        feeder.check_process()
        self._drop_served()
        while True:
            look = owner.look(callbacks=True)
            feeder.check_process()
            closing = owner.native.closing
            if feeder.finished and not closing:
                feeder.feed()  # before `collect`, because loading results takes time
            feeder.collect()
            finished = self._next_finished()
            if finished is not None:
                return self._serve_chunk(finished)
            # While the Jobserver closes, results of running jobs are served before its refusal.
            waiting = None if closing and feeder.under_way() else feeder.feed()
            if feeder.finished:
                continue  # the submission has scanned too
            if not feeder.chunks:
                feeder.end()
                feeder.count = self._count_served
                return False
            asleep = 0.0 if waiting is None else feeder.asleep_for()
            if waiting is not None and asleep <= 0 and self._must_start(waits):
                with owner.several_slots_given_away() as given_away:
                    feeder.start(waiting, self._deadline)
                    if given_away:  # they come back together, so more chunks must start on them
                        feeder.feed()
                continue
            if not closing and feeder.pack_next():
                continue  # packing took time, so look again
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Blocked("the next result was not there in time")
            if asleep <= 0:
                return _Pause(look, left, waiting)
            return _Pause(look, asleep if left is None else min(left, asleep), None)

    async def _pause(self, pause: _Pause) -> None:
        """Waits in an event loop: for a job, or for the slots of the next chunk."""
        from .._await import Listener, Waiter, watch

        if self._listener is None:
            self._listener = Listener()
        ours, feeder = watch(self._owner), self._feeder
        for future in feeder.running:
            ours.follow(future, self._listener)
        event = ours.event()
        admission = None if pause.chunk is None else feeder.next_admission()
        if admission is not None:
            ours.begin_to_wait(admission, Waiter(event, lambda: None))
        try:
            await self._listener.wait(event, pause.seconds)
        except BaseException:
            if admission is not None:
                self._owner.native.conclude(admission)  # it may just have been admitted
            raise
        finally:
            if admission is not None:
                ours.end_to_wait(admission)
            for future in feeder.running:
                ours.unfollow(future, self._listener)

    def _drop_served(self) -> None:
        """Drops the chunk whose results the caller has taken."""
        for place, chunk in enumerate(self._may_be_served()):
            if chunk is self._served:
                self._feeder.chunks.pop(place)
                return

    def _may_be_served(self) -> list[Chunk]:
        return self._feeder.chunks[:1] if self._ordered else self._feeder.chunks

    def _next_finished(self) -> Chunk | None:
        chunks = self._may_be_served()
        return next((chunk for chunk in chunks if chunk.outcome is not None), None)

    def _serve_chunk(self, chunk: Chunk) -> bool:
        assert chunk.outcome is not None
        self._count_served += chunk.size
        self._serve(chunk, *chunk.outcome)
        chunk.outcome = [], []  # results that the caller drops must not be kept here
        chunk.future = chunk.records = None  # or here
        if not self._owner.native.closing:
            self._feeder.feed()  # if this raises, the results just served still come
        return True

    def _must_start(self, waits: bool) -> bool:
        """Whether the caller must wait for a slot for a chunk that found none: none of its jobs may
        end; or it lends its own slot, without which it can wait for a result, and no longer. In an
        event loop, only a job of several slots must."""
        native, options = self._owner.native, self._feeder.options
        if not waits:
            return native.runs_on_several and not self._feeder.under_way()
        lasts = self._deadline is not None or options.sleep_fn or options.consume > 1
        may_lend = not lasts or self._owner.yields or native.must_yield
        return not self._feeder.under_way() or (may_lend and native.can_lend)
