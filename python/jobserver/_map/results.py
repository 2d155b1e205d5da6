"""`Jobserver.map`: many calls, grouped into chunks, a submission each; results in order.

A chunk costs a process, so calls that are short must share one. What happens to a call is told
for that very call all the same: exceptions, because the job catches them one by one; deaths,
because the job says which call it is in (`Progress`). Whatever else died with the job is done
again, in another.

There is one list of chunks, in the calls' order: results that the caller has not taken to their
end, jobs under way, and what is to be started. When a job dies in a call, its chunk becomes
three: that call, which has the death as its outcome, and the calls before and after. When the
cause lies in no call that we know of (arguments that cannot be unpickled, a `preexec_fn` that
fails), the chunk is halved until it is one call, for which it is told. So every failure makes
chunks smaller, and the work ends.

All that is done here happens in `next` and can be interrupted between any two lines: each state
is changed in one step, and what is interrupted is done again. Not here: what is read of the
input (`_input.py`), and the life of a chunk within its job (`calls.py`).
"""

from __future__ import annotations

import itertools
import operator
import pickle
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Generic,
    Iterable,
    Iterator,
    TypeVar,
)

from .. import _arguments, _native
from .._arguments import Changes
from .._exceptions import Blocked
from .._future import Future, load
from .._native import getpid
from .._signals import raised_by_handler
from .._wire import result
from . import calls
from .calls import Calls
from .chunk import Chunk
from .input import Input
from .sizes import Sizes

if TYPE_CHECKING:
    from .._owner import Owner

T = TypeVar("T")

#: How many chunks for each slot may be ahead of the caller, if it does not say.
_AHEAD = 4


class Results(_native.Results, Generic[T]):
    """What :meth:`Jobserver.map` returns: an iterator over the calls' results, in their order.

    What `next` raises does not end it, be it a call's own error, Blocked or KeyboardInterrupt:
    the next `next` goes on. It is for one thread at a time. Dropping it, or :meth:`close`,
    abandons the calls whose jobs have not begun; the others end in peace.
    """

    if TYPE_CHECKING:

        def __next__(self) -> T: ...

    def __init__(
        self,
        owner: Owner,
        fn: Callable[..., T],
        argses: Any,
        kwargses: Any,
        *,
        deadline: float | None,
        chunksize: int | None,
        buffersize: int,
        env: Changes | None,
        preexec_fn: Callable[[], Any] | None,
        sleep_fn: Callable[[], Any] | None,
    ) -> None:
        self._owner = owner
        self._fn = fn
        self._name = getattr(fn, "__qualname__", None)
        #: Chunks up to the last that has been cut from the input, in order. The first may be
        #: the one whose results are being taken.
        self._chunks: list[Chunk] = []
        #: The chunks of jobs under way. A job's Future is here before it starts.
        self._running: dict[Future[Any], Chunk] = {}
        self._finished: deque[Future[Any]] = deque()
        left = max(operator.length_hint(argses, 0), operator.length_hint(kwargses, 0))
        self._sizes = Sizes(chunksize, left, owner.slots, owner.is_fresh)
        in_memory = type(argses) in (list, tuple) and kwargses is None and argses
        if in_memory and not owner.starter.sends:
            # After a fork, who touches an object pays for a copy of its page: we would when we
            # take it and when we let go of it. So jobs read them where they are.
            self._chunks.append(Chunk(Calls([], argses, None, 0, len(argses))))
            self._input = Input((), None)
            # And as nothing is sent, a job may be given more than it will do.
            self._sizes.begin_with(len(argses))
        else:
            self._input = Input(argses, kwargses)
        self._deadline = deadline
        self._buffersize = buffersize
        self._around = env, preexec_fn
        self._sleep_fn = sleep_fn
        #: Until when `sleep_fn` does not want to be asked again.
        self._asleep = 0.0
        self._pid = getpid()
        #: While there is something to be done.
        self._progress: _native.Progress | None = None

    def close(self) -> None:
        """Abandons the calls that have not begun; there are no more results."""
        self._input = Input((), None)
        self._input.ended = True
        self._chunks.clear()
        self._running.clear()
        self._serve(None, [], [])
        self._progress = None

    # The owner's loop.

    def _more(self) -> bool:
        """Has the next chunk's results served, waiting for them: whether there are any."""
        self._check_process()
        if self._chunks and self._chunks[0] is self._served:
            self._chunks.pop(0)
        owner = self._owner
        while True:
            look = owner.look(callbacks=True)
            self._check_process()
            closing = owner.native.closing
            if self._finished and not closing:
                self._feed()  # first, as to load what has been returned takes time
            self._collect()
            if self._chunks and self._chunks[0].outcome is not None:
                return self._serve_first(self._chunks[0])
            # While the Jobserver closes, what runs is served before its refusal is told.
            waiting = None if closing and self._under_way() else self._feed()
            if self._finished:
                continue  # submitting has looked too
            if not self._chunks:
                return self._end()
            if waiting is not None and self._asleep_for() <= 0 and self._must_start():
                self._start(waiting, self._deadline)
                continue
            if not closing and self._pack_next():
                continue  # that took time
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Blocked("the next result was not there in time")
            self._sleep(look, left, waiting is not None)

    def _check_process(self) -> None:
        """Asked after what may have forked: iterators, callbacks and the like are the user's."""
        if self._pid != getpid():
            raise RuntimeError(
                f"these results belong to process {self._pid}, which called map; "
                "this is another process, forked from it"
            )

    def _serve_first(self, chunk: Chunk) -> bool:
        assert chunk.outcome is not None
        self._serve(chunk, *chunk.outcome)
        chunk.outcome = [], []  # what the caller drops is not to be kept here,
        chunk.future = None  # nor there
        if not self._owner.native.closing:
            self._feed()  # if this raises, what has just been served is still to come
        return True

    def _end(self) -> bool:
        self._progress = None  # its descriptor is not for who keeps a traceback
        error, self._input.error = self._input.error, None
        if error is not None:
            raise error
        return False

    def _must_start(self) -> bool:
        """Whether a chunk that found no slot must have one. If nothing of ours runs, for nobody
        else may end; that job may then have our own. With "yield" in any case, as the caller
        needs none until a result is there."""
        return not self._under_way() or self._owner.gives_slot_away()

    def _under_way(self) -> int:
        """How many jobs run."""
        return sum(1 for each in self._running if each._pid and each._outcome is None)

    def _sleep(self, look: _native.Look, left: float | None, wants_slot: bool) -> None:
        asleep = self._asleep_for() if wants_slot else 0.0
        if asleep > 0:
            wants_slot = False
            left = asleep if left is None else min(left, asleep)
        if wants_slot:
            self._owner.check_open()
        self._owner.sleep(look, left, for_slot=wants_slot)

    # From the input to jobs.

    def _feed(self) -> Chunk | None:
        """Starts what can be without waiting. Returns a chunk that could not, if there is one."""
        # No more than there are slots. A job that has just ended has something to tell first, if
        # what is to follow it has not been prepared.
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
        """While jobs run, prepares a chunk to follow them, one for each slot: whether it did."""
        if not self._sizes.settled or len([*self._packed()]) >= self._owner.slots:
            return False
        chunk = self._next_chunk(packed=False)
        if chunk is not None:
            self._pack(chunk)
        return chunk is not None

    def _next_chunk(self, packed: bool = True) -> Chunk | None:
        """What is to be started next; or if not `prepared`, what is to be prepared."""
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
        """Makes two of a chunk that is too large: the first of them."""
        size = self._sizes.next()
        if chunk.size <= size:
            return chunk
        self._chunks[place : place + 1] = chunk.part(0, size) + chunk.part(size, chunk.size)
        return self._chunks[place]

    def _start(self, chunk: Chunk, deadline: float | None) -> None:
        """Starts a chunk's job. Blocked if there is no slot for it in time."""
        owner = self._owner
        owner.check_open()
        future = chunk.future
        if future is None:
            future = Future(owner, None, 1, self._name)
            future._watch(self._finished)
            chunk.future = future
        if chunk.packed is None:
            if deadline == 0.0:
                owner.refuse_early(callbacks=False)
            if not self._pack(chunk):
                return
        self._running[future] = chunk
        # Not to be used again after a start that was interrupted.
        packed, chunk.packed = chunk.packed, None
        try:
            gate = None if self._sleep_fn is None else self._ask
            owner.submit(future, None, gate, deadline != 0, deadline, packed)
            self._sizes.left -= chunk.size
        except Blocked:
            chunk.packed = packed
            raise
        finally:
            del packed  # its descriptors are not for who keeps a traceback
            if not future._pid:
                self._running.pop(future, None)

    def _pack(self, chunk: Chunk) -> bool:
        """Does for a chunk all that can be done, and fail, before it has a slot. If it cannot be
        sent, that is its outcome, or that of its parts, and this returns False."""
        chunk.place = self._free_place()
        try:
            chunk.packed = self._owner.pack(self._work(chunk))
        except pickle.PicklingError as e:
            if raised_by_handler(e):
                raise
            self._fail(chunk, None, (None, _without_frames(e)))
        self._check_process()
        return chunk.packed is not None

    def _work(self, chunk: Chunk) -> _native.Work:
        if self._progress is None:
            # For what runs, on a slot that is lent too, and for what is prepared.
            self._progress = calls.Progress(2 * self._owner.slots + 1)
        self._progress.clear(chunk.place)
        env, preexec_fn = self._around
        args = self._fn, chunk.calls, self._progress, chunk.place, self._sizes.limit
        return _native.Work(env, None, preexec_fn, calls.run, args, None)

    def _free_place(self) -> int:
        taken = {chunk.place for chunk in (*self._running.values(), *self._packed())}
        return next(place for place in itertools.count() if place not in taken)

    def _asleep_for(self) -> float:
        """For how many seconds `sleep_fn` does not want to be asked."""
        return self._asleep and self._asleep - time.monotonic()

    def _ask(self) -> Any:
        delay = self._sleep_fn and self._sleep_fn()
        self._check_process()
        self._asleep = time.monotonic() + (_arguments.delay(delay) or 0.0)
        return delay

    # From jobs to results.

    def _collect(self) -> None:
        """Takes in what came of jobs that have ended."""
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
            call = None if self._progress is None else self._progress.running(chunk.place)
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
        """After the job of a chunk has failed, in this call if that is known."""
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
        if chunk in self._chunks:  # else Ctrl-C came just after this
            place = self._chunks.index(chunk)
            self._chunks[place : place + 1] = parts


def _without_frames(error: BaseException) -> BaseException:
    """Drops tracebacks whose frames would keep what was to be sent."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def results(
    owner: Owner,
    fn: Callable[..., T],
    argses: Iterable[Any] | None,
    kwargses: Iterable[Any] | None,
    *,
    timeout: Any,
    chunksize: Any,
    buffersize: Any,
    env: Any,
    preexec_fn: Any,
    sleep_fn: Any,
) -> Results[T]:
    """Checks what `map` was given, and starts what can be started without waiting."""
    if argses is None and kwargses is None:
        raise TypeError("map needs argses, kwargses or both: without them it makes no call")
    made = Results(
        owner,
        _arguments.function(fn),
        None if argses is None else _arguments.many(argses, "argses"),
        None if kwargses is None else _arguments.many(kwargses, "kwargses"),
        deadline=_arguments.deadline(timeout),
        chunksize=_arguments.chunksize(chunksize),
        buffersize=_arguments.buffersize(buffersize, _AHEAD * owner.slots),
        env=_arguments.environment(env) if env != () else None,
        preexec_fn=_arguments.optional_function(preexec_fn, "preexec_fn"),
        sleep_fn=_arguments.optional_function(sleep_fn, "sleep_fn"),
    )
    owner.check_open()
    owner.check(_native.Work(None, None, preexec_fn, fn, (), None))
    owner.look()
    try:
        made._feed()
    except BaseException:
        made.close()  # its descriptor is not for who keeps a traceback
        raise
    return made
