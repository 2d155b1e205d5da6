"""The feeder of a `map`: it makes jobs of the chunks of the input, and puts their outcomes into the
chunks.

Not here: which results are served next, and how the caller waits (`results.py`).
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Iterator

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
    from .._owner import Owner

#: The default of `buffersize`: chunks for each slot that may be started, or have results, while the
#: caller has not taken all results.
_AHEAD = 4


class Feeder:
    def __init__(
        self,
        owner: Owner,
        fn: Callable[..., Any],
        argses: Any,
        kwargses: Any,
        options: Resolved,
        chunksize: Any,
        buffersize: Any,
    ) -> None:
        """Checks these arguments of `map`."""
        if argses is None and kwargses is None:
            raise TypeError("map needs argses, kwargses or both: without them it makes no call")
        argses = None if argses is None else _arguments.many(argses, "argses")
        kwargses = None if kwargses is None else _arguments.many(kwargses, "kwargses")
        self._owner = owner
        self._fn = _arguments.function(fn)
        self._name = getattr(fn, "__qualname__", None)
        #: The chunks up to the last that has been cut from the input, in order. The caller may be
        #: taking the results of the first.
        self.chunks: list[Chunk] = []
        #: The chunks of running jobs. A job's Future is here before the job starts.
        self.running: dict[Future[Any], Chunk] = {}
        self.finished: deque[Future[Any]] = deque()
        #: The number of calls; None if that is not known.
        self.count = fewest(argses, kwargses)
        self._sizes = Sizes(
            _arguments.chunksize(chunksize), self.count or 0, owner.slots, owner.is_fresh
        )
        in_memory = type(argses) in (list, tuple) and kwargses is None and argses
        if in_memory and not owner.starter.sends:
            # After a fork, a process that touches an object pays for a copy of its page. This
            # process would touch each item when it takes and when it releases it. Therefore the
            # jobs read the items where they are.
            self.chunks.append(Chunk(Calls([], argses, None, 0, len(argses))))
            self.input = Input((), None)
            # Nothing is sent, so a job may get more calls than it will make.
            self._sizes.begin_with(len(argses))
        else:
            self.input = Input(argses, kwargses)
            if in_memory and _native.is_plain(argses[:SAMPLE], 8 * SAMPLE):
                self._sizes.begin_with_most()
        self._buffersize = _arguments.buffersize(buffersize, _AHEAD * owner.slots)
        self.options = options
        #: That of the next job. It keeps its place among those that wait for slots from one try to
        #: the next: with a new one, two maps would let each other go first for ever.
        self._admission: _native.Admission | None = None
        #: The time before which `sleep_fn` is not called again.
        self._asleep = 0.0
        self._pid = getpid()
        #: One, from the first job to the end of the last.
        self.progress: list[calls.Progress] = []

    def check(self) -> None:
        """Raises what the pickling of the function raises."""
        self._owner.check(_native.Work(None, None, self.options.preexec_fn, self._fn, (), None))

    def drop(self) -> None:
        """Drops the calls whose jobs have not begun, and all results."""
        self.input = Input((), None)
        self.input.ended = True
        self.chunks.clear()
        self.running.clear()
        self._admission = None
        self.progress.clear()  # jobs that run may still use it

    def end(self) -> None:
        """After the last result. Raises the error that ended the input."""
        if not self._owner.native.closing:
            calls.leave_progress(self.progress, self._owner.progresses)
        self.progress.clear()
        error, self.input.error = self.input.error, None
        if error is not None:
            raise error

    def check_process(self) -> None:
        """RuntimeError in a forked child. Called after code of the user that may have forked, such
        as iterators and callbacks."""
        if self._pid != getpid():
            raise RuntimeError(
                f"these results belong to process {self._pid}, which called map; "
                "this is another process, forked from it"
            )

    def next_admission(self) -> _native.Admission:
        """The admission of the next chunk's job."""
        if self._admission is None:
            consume = self._owner.slots_for(self.options.consume)
            self._admission = _native.Admission(consume, False, None)
        return self._admission

    def under_way(self) -> int:
        """The number of running jobs."""
        return sum(1 for each in self.running if each._pid and each._outcome is None)

    # From the input to jobs.

    def feed(self) -> Chunk | None:
        """Starts the chunks that can start without waiting. Returns a chunk that could not start,
        if there is one."""
        # Not more jobs than slots. If no following chunk is packed, the results of a job that has
        # just ended come first.
        while self.under_way() < self._owner.slots:
            chunk = next(self._packed(), None) if self.finished else self._next_chunk()
            if chunk is None or self.asleep_for() > 0:
                return chunk
            try:
                self.start(chunk, 0.0)
            except Blocked:
                return chunk
        return None

    def _packed(self) -> Iterator[Chunk]:
        return (chunk for chunk in self.chunks if chunk.packed is not None)

    def pack_next(self) -> bool:
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
        for place, chunk in enumerate(itertools.islice(self.chunks, self._buffersize)):
            if not chunk.to_start:
                continue
            if chunk.packed is None:
                return self._cut(place, chunk)
            if packed:
                return chunk
        if not self.input.ended and len(self.chunks) < self._buffersize:
            self.input.take(self._sizes.next(), self.chunks)
            self.check_process()
            if self.chunks and self.chunks[-1].to_start:
                return self.chunks[-1]
        return None

    def _cut(self, place: int, chunk: Chunk) -> Chunk:
        """Cuts a chunk that is too large into two. Returns the first."""
        size = self._sizes.next()
        if chunk.size <= size:
            return chunk
        self.chunks[place : place + 1] = chunk.part(0, size) + chunk.part(size, chunk.size)
        return self.chunks[place]

    def start(self, chunk: Chunk, deadline: float | None) -> None:
        """Starts a chunk's job. Raises Blocked if there is no slot for it in time."""
        owner, options = self._owner, self.options
        admission = self.next_admission()
        owner.check_open()
        if chunk.packed is None:
            if deadline == 0.0 and admission.consume and not admission.is_over:
                owner.refuse_early(admission, callbacks=False)
            if not self._pack(chunk):
                return
        future = chunk.future
        if future is None:
            future = Future(owner, options.time_limit, options.consume, self._name, chunk.records)
            future._watch(self.finished)
            chunk.future = future
        self.running[future] = chunk
        # Removed first, because it must not be used again after an interrupted start.
        packed, chunk.packed = chunk.packed, None
        self._admission = None
        try:
            gate = None if options.sleep_fn is None or self._passes(admission) else self._ask
            owner.submit(future, None, gate, deadline != 0, deadline, packed, admission)
            self._sizes.left -= chunk.size
        except Blocked:
            chunk.packed, self._admission = packed, admission
            raise
        finally:
            del packed  # otherwise a kept traceback would keep its descriptors
            if not future._pid:
                self.running.pop(future, None)

    def _passes(self, admission: _native.Admission) -> bool:
        """Whether a submission that was admitted in an event loop passes its gate. It holds no
        slots while the gate is asked. Raises Blocked if it must wait then."""
        if not admission.is_over:
            return False
        native = self._owner.native
        native.conclude(admission)
        if self._ask() is not None or not native.admit_beside(admission):
            raise Blocked("the gate did not let the job go")
        return True

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
        self.check_process()
        return chunk.packed is not None

    def _work(self, chunk: Chunk) -> _native.Work:
        # Places for running jobs, one of them on a loan, and for packed chunks.
        places = 2 * self._owner.slots + 1
        calls.take_progress(self.progress, self._owner.progresses, places)
        [progress] = self.progress
        progress.clear(chunk.place)
        options = self.options
        made = chunk.calls.to_send() if self._owner.starter.sends else chunk.calls
        is_inline = self._owner.options.method == "inline"
        limits = self._sizes.limit, None if is_inline else options.time_limit
        args = self._fn, made, progress, chunk.place, *limits
        env = options.env or None
        run = calls.make if is_inline else calls.run
        preexec_fn = chunk.prepared(self._owner, options)
        return _native.Work(env, None, preexec_fn, run, args, None, progress)

    def _free_place(self) -> int:
        taken = {chunk.place for chunk in (*self.running.values(), *self._packed())}
        return next(place for place in itertools.count() if place not in taken)

    def asleep_for(self) -> float:
        """The seconds before `sleep_fn` may be called again."""
        return self._asleep and self._asleep - time.monotonic()

    def _ask(self) -> Any:
        sleep_fn = self.options.sleep_fn
        delay = sleep_fn and sleep_fn()
        self.check_process()
        self._asleep = time.monotonic() + (_arguments.delay(delay) or 0.0)
        return delay

    # From jobs to chunks.

    def collect(self) -> None:
        """Takes in the outcomes of jobs that have ended."""
        while self.finished:
            future = self.finished[0]
            chunk = self.running.get(future)
            if chunk is not None:
                self._take_in(chunk, future)
                self.running.pop(future, None)
            self.finished.popleft()

    def _take_in(self, chunk: Chunk, future: Future[Any]) -> None:
        value, error = load(future)
        if value is None:
            call = self.progress[0].running(chunk.place) if self.progress else None
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
        if chunk in self.chunks:  # otherwise Ctrl-C came just after an earlier replacement
            place = self.chunks.index(chunk)
            self.chunks[place : place + 1] = parts
