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
one step, and an interrupted step is done again. Not here: how the input is read (`input.py`), and
the calls of a chunk within its job (`calls.py`).
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Generic,
    Iterator,
    TypeVar,
)

from .. import _arguments, _native
from .._defaults import Resolved
from .._exceptions import Blocked
from .._future import Future, load
from .._native import getpid
from .._signals import raised_by_handler
from .._wire import result
from .._wording import without_frames
from . import calls
from .calls import Calls
from .chunk import Chunk
from .input import Input, fewest
from .sizes import SAMPLE, Sizes

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._owner import Owner

T = TypeVar("T")

#: The default of `buffersize`: chunks for each slot that may be started, or have results, while the
#: caller has not taken all results.
_AHEAD = 4


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
        if argses is None and kwargses is None:
            raise TypeError("map needs argses, kwargses or both: without them it makes no call")
        argses = None if argses is None else _arguments.many(argses, "argses")
        kwargses = None if kwargses is None else _arguments.many(kwargses, "kwargses")
        self._owner = owner
        self._fn = _arguments.function(fn)
        self._name = getattr(fn, "__qualname__", None)
        #: The chunks up to the last that has been cut from the input, in order. The caller may be
        #: taking the results of the first.
        self._chunks: list[Chunk] = []
        #: The chunks of running jobs. A job's Future is here before the job starts.
        self._running: dict[Future[Any], Chunk] = {}
        self._finished: deque[Future[Any]] = deque()
        #: The number of calls, None if that is not known; and of those whose results were served.
        self._count = fewest(argses, kwargses)
        self._count_served = 0
        self._sizes = Sizes(
            _arguments.chunksize(chunksize), self._count or 0, owner.slots, owner.is_fresh
        )
        in_memory = type(argses) in (list, tuple) and kwargses is None and argses
        if in_memory and not owner.starter.sends:
            # After a fork, a process that touches an object pays for a copy of its page. This
            # process would touch each item when it takes and when it releases it. Therefore the
            # jobs read the items where they are.
            self._chunks.append(Chunk(Calls([], argses, None, 0, len(argses))))
            self._input = Input((), None)
            # Nothing is sent, so a job may get more calls than it will make.
            self._sizes.begin_with(len(argses))
        else:
            self._input = Input(argses, kwargses)
            if in_memory and _native.is_plain(argses[:SAMPLE], 8 * SAMPLE):
                self._sizes.begin_with_most()
        self._ordered = _arguments.flag(ordered, "ordered")
        self._deadline = _arguments.deadline(timeout)
        self._buffersize = _arguments.buffersize(buffersize, _AHEAD * owner.slots)
        self._options = options
        #: The time before which `sleep_fn` is not called again.
        self._asleep = 0.0
        self._pid = getpid()
        #: One, from the first job to the end of the last.
        self._progress: list[calls.Progress] = []

    def begin(self) -> Self:
        """Starts the chunks that can start without waiting. Returns itself."""
        owner = self._owner
        owner.check_open()
        owner.check(_native.Work(None, None, self._options.preexec_fn, self._fn, (), None))
        owner.look()
        try:
            self._feed()
        except BaseException:
            self.close()  # otherwise a kept traceback would keep its descriptor
            raise
        return self

    def close(self) -> None:
        """Drops the calls whose jobs have not begun, and all results."""
        self._input = Input((), None)
        self._input.ended = True
        self._chunks.clear()
        self._running.clear()
        self._serve(None, [], [])
        self._progress.clear()  # jobs that run may still use it
        self._count = 0
        self._count_served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("the number of calls is not known: the arguments have no length")
        return max(0, self._count - self._count_served + self._ready)

    def __bool__(self) -> bool:
        return True

    # The owner's loop.

    def _more(self) -> bool:
        """Waits for the results of the next chunk and serves them. Returns whether there are
        any."""
        self._check_process()
        self._drop_served()
        owner = self._owner
        while True:
            look = owner.look(callbacks=True)
            self._check_process()
            closing = owner.native.closing
            if self._finished and not closing:
                self._feed()  # before `_collect`, because loading results takes time
            self._collect()
            finished = self._next_finished()
            if finished is not None:
                return self._serve_chunk(finished)
            # While the Jobserver closes, results of running jobs are served before its refusal.
            waiting = None if closing and self._under_way() else self._feed()
            if self._finished:
                continue  # the submission has scanned too
            if not self._chunks:
                return self._end()
            if waiting is not None and self._asleep_for() <= 0 and self._must_start():
                with self._owner.several_slots_given_away() as given_away:
                    self._start(waiting, self._deadline)
                    if given_away:  # they come back together, so more chunks must start on them
                        self._feed()
                continue
            if not closing and self._pack_next():
                continue  # packing took time, so look again
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Blocked("the next result was not there in time")
            self._sleep(look, left, waiting)

    def _check_process(self) -> None:
        """RuntimeError in a forked child. Called after code of the user that may have forked, such
        as iterators and callbacks."""
        if self._pid != getpid():
            raise RuntimeError(
                f"these results belong to process {self._pid}, which called map; "
                "this is another process, forked from it"
            )

    def _drop_served(self) -> None:
        """Drops the chunk whose results the caller has taken."""
        for place, chunk in enumerate(self._may_be_served()):
            if chunk is self._served:
                self._chunks.pop(place)
                return

    def _may_be_served(self) -> list[Chunk]:
        return self._chunks[:1] if self._ordered else self._chunks

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
            self._feed()  # if this raises, the results just served still come
        return True

    def _end(self) -> bool:
        if not self._owner.native.closing:
            calls.leave_progress(self._progress, self._owner.progresses)
        self._progress.clear()
        self._count = self._count_served
        error, self._input.error = self._input.error, None
        if error is not None:
            raise error
        return False

    def _must_start(self) -> bool:
        """Whether the caller must wait for a slot for a chunk that found none: none of its jobs may
        end; or it lends its own slot, without which it can wait for a result, and no longer."""
        lasts = self._deadline is not None or self._options.sleep_fn or self._options.consume > 1
        may_lend = not lasts or self._owner.yields or self._owner.native.must_yield
        return not self._under_way() or (may_lend and self._owner.native.can_lend)

    def _under_way(self) -> int:
        """The number of running jobs."""
        return sum(1 for each in self._running if each._pid and each._outcome is None)

    def _sleep(self, look: _native.Look, left: float | None, waiting: Chunk | None) -> None:
        asleep = self._asleep_for() if waiting is not None else 0.0
        if asleep > 0:
            waiting = None
            left = asleep if left is None else min(left, asleep)
        admission = None if waiting is None else waiting.admission(self._owner, self._options)
        if admission is not None:
            self._owner.check_open()
        self._owner.sleep(look, left, admission=admission)

    # From the input to jobs.

    def _feed(self) -> Chunk | None:
        """Starts the chunks that can start without waiting. Returns a chunk that could not start,
        if there is one."""
        # Not more jobs than slots. If no following chunk is packed, the results of a job that has
        # just ended come first.
        while self._under_way() < self._owner.slots:
            chunk = next(self._packed(), None) if self._finished else self._next_chunk()
            if chunk is None or self._asleep_for() > 0:
                return chunk
            try:
                self._start(chunk, 0.0)
            except Blocked:
                return chunk
        return None

    def _packed(self) -> Iterator[Chunk]:
        return (chunk for chunk in self._chunks if chunk.packed is not None)

    def _pack_next(self) -> bool:
        """While jobs run, packs one more chunk to follow them, up to one for each slot. Returns
        whether it did."""
        if not self._sizes.settled or len([*self._packed()]) >= self._owner.slots:
            return False
        chunk = self._next_chunk(packed=False)
        if chunk is not None:
            self._pack(chunk)
        return chunk is not None

    def _next_chunk(self, packed: bool = True) -> Chunk | None:
        """The next chunk to start; if not `packed`, the next chunk to pack."""
        for place, chunk in enumerate(itertools.islice(self._chunks, self._buffersize)):
            if not chunk.to_start:
                continue
            if chunk.packed is None:
                return self._cut(place, chunk)
            if packed:
                return chunk
        if not self._input.ended and len(self._chunks) < self._buffersize:
            self._input.take(self._sizes.next(), self._chunks)
            self._check_process()
            if self._chunks and self._chunks[-1].to_start:
                return self._chunks[-1]
        return None

    def _cut(self, place: int, chunk: Chunk) -> Chunk:
        """Cuts a chunk that is too large into two. Returns the first."""
        size = self._sizes.next()
        if chunk.size <= size:
            return chunk
        self._chunks[place : place + 1] = chunk.part(0, size) + chunk.part(size, chunk.size)
        return self._chunks[place]

    def _start(self, chunk: Chunk, deadline: float | None) -> None:
        """Starts a chunk's job. Raises Blocked if there is no slot for it in time."""
        owner, options = self._owner, self._options
        admission = chunk.admission(owner, options)
        owner.check_open()
        if chunk.packed is None:
            if deadline == 0.0 and admission.consume:
                owner.refuse_early(admission, callbacks=False)
            if not self._pack(chunk):
                return
        future = chunk.future
        if future is None:
            future = Future(owner, options.time_limit, options.consume, self._name, chunk.records)
            future._watch(self._finished)
            chunk.future = future
        self._running[future] = chunk
        # Removed first, because it must not be used again after an interrupted start.
        packed, chunk.packed = chunk.packed, None
        try:
            gate = None if options.sleep_fn is None else self._ask
            owner.submit(future, None, gate, deadline != 0, deadline, packed, admission)
            self._sizes.left -= chunk.size
        except Blocked:
            chunk.packed = packed
            raise
        finally:
            del packed  # otherwise a kept traceback would keep its descriptors
            if not future._pid:
                self._running.pop(future, None)

    def _pack(self, chunk: Chunk) -> bool:
        """Packs a chunk's job: all steps that can be done, and can fail, before it has a slot. If
        the chunk cannot be sent, that error becomes the outcome of the chunk or of its parts, and
        this returns False."""
        chunk.place = self._free_place()
        try:
            chunk.packed = self._owner.pack(self._work(chunk))
        except pickle.PicklingError as e:
            if raised_by_handler(e):
                raise
            self._fail(chunk, None, (None, without_frames(e)))
        self._check_process()
        return chunk.packed is not None

    def _work(self, chunk: Chunk) -> _native.Work:
        # Places for running jobs, one of them on a loan, and for packed chunks.
        places = 2 * self._owner.slots + 1
        calls.take_progress(self._progress, self._owner.progresses, places)
        [progress] = self._progress
        progress.clear(chunk.place)
        options = self._options
        made = chunk.calls.to_send() if self._owner.starter.sends else chunk.calls
        is_inline = self._owner.options.method == "inline"
        limits = self._sizes.limit, None if is_inline else options.time_limit
        args = self._fn, made, progress, chunk.place, *limits
        env = options.env or None
        run = calls.make if is_inline else calls.run
        preexec_fn = chunk.prepared(self._owner, options)
        return _native.Work(env, None, preexec_fn, run, args, None, progress)

    def _free_place(self) -> int:
        taken = {chunk.place for chunk in (*self._running.values(), *self._packed())}
        return next(place for place in itertools.count() if place not in taken)

    def _asleep_for(self) -> float:
        """The seconds before `sleep_fn` may be called again."""
        return self._asleep and self._asleep - time.monotonic()

    def _ask(self) -> Any:
        sleep_fn = self._options.sleep_fn
        delay = sleep_fn and sleep_fn()
        self._check_process()
        self._asleep = time.monotonic() + (_arguments.delay(delay) or 0.0)
        return delay

    # From jobs to results.

    def _collect(self) -> None:
        """Takes in the outcomes of jobs that have ended."""
        while self._finished:
            future = self._finished[0]
            chunk = self._running.get(future)
            if chunk is not None:
                self._take_in(chunk, future)
                self._running.pop(future, None)
            self._finished.popleft()

    def _take_in(self, chunk: Chunk, future: Future[Any]) -> None:
        value, error = load(future)
        if value is None:
            call = self._progress[0].running(chunk.place) if self._progress else None
            self._fail(chunk, call, (value, error))
            return
        values, failures, seconds = value
        errors = [(call, result.load_failure(failure)) for call, failure in failures]
        made = len(values)
        self._sizes.measure(made, seconds)
        if made == chunk.size:
            chunk.outcome = values, errors
        else:
            self._sizes.left += chunk.size - made
            rest = chunk.part(made, chunk.size)
            self._replace(chunk, chunk.part(0, made, (values, errors)) + rest)

    def _fail(
        self, chunk: Chunk, call: int | None, outcome: tuple[Any, BaseException | None]
    ) -> None:
        """Handles the failure of a chunk's job. `call` is the call in which it failed, if that is
        known."""
        if chunk.size == 1:
            call = 0
        if call is None:
            half = chunk.size // 2
            self._replace(chunk, chunk.part(0, half) + chunk.part(half, chunk.size))
            return
        value, error = outcome
        known = [value], [] if error is None else [(0, error)]
        parts = chunk.part(0, call) + chunk.part(call, call + 1, known)
        self._replace(chunk, parts + chunk.part(call + 1, chunk.size))

    def _replace(self, chunk: Chunk, parts: list[Chunk]) -> None:
        if chunk in self._chunks:  # otherwise Ctrl-C came just after an earlier replacement
            place = self._chunks.index(chunk)
            self._chunks[place : place + 1] = parts
