"""`Jobserver.map`: many calls, grouped into chunks, a submission each; results in order.

A chunk costs a process, so calls that are short must share one. What happens to a call is told
for that very call all the same: exceptions, because the job catches them one by one; deaths,
because the job says which call it is in (`Progress`). Whatever else died with the job is done
again, in another.

    input -> chunk = calls -> piece = those of them that one job makes -> results

A chunk begins as one piece. When a job dies in a call, its piece becomes that call, which
has the death as its outcome, and two pieces: the calls before and those after. When the cause
lies in no call that we know of (arguments that cannot be unpickled, a `preexec_fn` that fails),
the piece is halved until it is one call, for which it is told. So every failure makes pieces
smaller, and the work ends.

All that is done here happens in `next` and can be interrupted between any two lines: each state
is changed in one step, and what is interrupted is done again. Not here: the life of a chunk
within its job (`_calls.py`).
"""

from __future__ import annotations

import itertools
import math
import operator
import os
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
    Sequence,
    TypeVar,
)

from . import _arguments, _calls, _native, _result
from ._arguments import Changes
from ._calls import Calls, Errors
from ._exceptions import Blocked
from ._future import Future
from ._signals import raised_by_handler

if TYPE_CHECKING:
    from ._jobserver import Jobserver

T = TypeVar("T")

#: How long the calls of a chunk are to take, in seconds, if we choose its size: many times
#: what a fork costs, and yet no long wait for the last.
_AIM = 0.010

#: The most by which chunks grow at a time, since the next calls may be slower than the last.
_GROWTH = 256

#: When a chunk whose size we chose wrongly ends early, in seconds; the rest is for other jobs.
_TOO_LONG = 5 * _AIM

#: How many chunks for each slot may be ahead of the caller, if it does not say.
_AHEAD = 4


class _Piece:
    """Calls of a chunk, from `first` to before `end`, that one job makes."""

    __slots__ = ("chunk", "first", "end", "future", "place", "outcome")

    def __init__(self, chunk: _Chunk, first: int, end: int) -> None:
        self.chunk = chunk
        self.first = first
        self.end = end
        self.future: Future[Any] | None = None
        self.place = 0
        #: Values, and what is raised instead of which, once they are known.
        self.outcome: tuple[list[Any], Errors] | None = None

    @property
    def size(self) -> int:
        return self.end - self.first

    @property
    def to_start(self) -> bool:
        """Whether its job has not been started, and still is to be."""
        if self.outcome is not None or self not in self.chunk.pieces:
            return False
        return self.future is None or not self.future._pid

    def known(self, call: int, outcome: tuple[Any, BaseException | None]) -> _Piece:
        """A piece of it: one call, of which this is known."""
        piece = _Piece(self.chunk, self.first + call, self.first + call + 1)
        value, error = outcome
        piece.outcome = [value], [] if error is None else [(0, error)]
        return piece

    def part(self, first: int, end: int) -> list[_Piece]:
        """A piece of it, to be started; none if it would be empty."""
        return [_Piece(self.chunk, self.first + first, self.first + end)] if first < end else []

    def calls(self) -> Calls:
        chunk = self.chunk
        first, end = chunk.offset + self.first, chunk.offset + self.end
        return Calls(chunk.argses, chunk.kwargses, first, end)


class _Chunk:
    """Calls that are to be made together, in pieces that follow one another."""

    __slots__ = ("number", "argses", "kwargses", "offset", "pieces")

    def __init__(
        self, number: int, argses: Sequence[Any], kwargses: list[Any] | None, offset: int
    ) -> None:
        #: Which call of all its first is.
        self.number = number
        self.argses = argses
        self.kwargses = kwargses
        #: Where the arguments of its first call are.
        self.offset = offset
        self.pieces: list[_Piece] = []

    @property
    def is_done(self) -> bool:
        return all(piece.outcome is not None for piece in self.pieces)

    def results(self) -> tuple[list[Any], Errors]:
        """Those of all its calls."""
        values: list[Any] = []
        errors: Errors = []
        for piece in self.pieces:
            assert piece.outcome is not None
            errors += [(piece.first + call, error) for call, error in piece.outcome[1]]
            values += piece.outcome[0]
        return values, errors


class _Input:
    """The arguments of all calls. What is wrong with them ends them.

    A list or a tuple is left where it is, for jobs to read. After a fork, who touches an
    object pays for a copy of the page that it is on: the owner would pay twice, when it takes
    an object and when it lets go of it.
    """

    def __init__(self, argses: Any, kwargses: Any) -> None:
        self._there: Sequence[Any] | None = None
        self._argses = self._kwargses = None
        if type(argses) in (list, tuple) and kwargses is None:
            self._there = argses
        else:
            self._argses = None if argses is None else iter(argses)
            self._kwargses = None if kwargses is None else iter(kwargses)
        #: How many calls there will be, as far as is known.
        self._total = max(operator.length_hint(argses, 0), operator.length_hint(kwargses, 0))
        self._taken = 0
        self.ended = False
        #: What has ended them, to be raised when the calls before have been told.
        self.error: BaseException | None = None
        #: The chunk that is being filled, if there is one: Ctrl-C may come meanwhile.
        self._filling: list[_Chunk] = []

    @property
    def left(self) -> int:
        """How many calls are left; 0 or less if that is not known."""
        return self._total - self._taken

    def take(self, size: int, chunks: deque[_Chunk]) -> None:
        """Appends a chunk of up to so many calls to `chunks`; none if there are no more."""
        if not self._filling:
            self._filling.append(self._new_chunk())
        chunk = self._filling[0]
        count = (
            min(size, self._total - chunk.number)
            if self._there is not None
            else self._fill(chunk, size)
        )
        self.ended = self.error is not None or count < size
        if count:
            self._taken = chunk.number + count
            chunk.pieces = [_Piece(chunk, 0, count)]
            chunks.extend(itertools.starmap(self._filling.pop, ((),)))

    def _new_chunk(self) -> _Chunk:
        if self._there is not None:
            return _Chunk(self._taken, self._there, None, self._taken)
        return _Chunk(self._taken, [], None if self._kwargses is None else [], 0)

    def _fill(self, chunk: _Chunk, size: int) -> int:
        argses: Any = chunk.argses
        if self._argses is not None:
            self._extend(argses, self._argses, size)
        kwargses = chunk.kwargses
        if kwargses is not None and self._kwargses is not None:
            if self._argses is None:
                self._extend(kwargses, self._kwargses, size)
                argses[:] = itertools.repeat((), len(kwargses))
            else:
                self._extend(kwargses, self._kwargses, len(argses))
                self._compare(len(argses), len(kwargses), size)
                del argses[len(kwargses) :]
        return len(argses)

    def _extend(self, rows: list[Any], source: Iterator[Any], size: int) -> None:
        if len(rows) < size and not self.ended:
            try:
                # What has been taken stays in the list, whatever is raised meanwhile.
                rows.extend(itertools.islice(source, size - len(rows)))
            except Exception as e:
                self._end(e)

    def _compare(self, argses: int, kwargses: int, size: int) -> None:
        if self.error is not None or self._kwargses is None:
            return
        if kwargses < argses:
            self._end(ValueError("kwargses has fewer items than argses: they are taken in step"))
        elif argses < size:
            for _ in self._kwargses:
                more = "kwargses has more items than argses: they are taken in step"
                self._end(ValueError(more))
                break

    def _end(self, error: Exception) -> None:
        if raised_by_handler(error):
            raise error
        self.error = self.error or error


class Results(_native.Ready, Generic[T]):
    """What :meth:`Jobserver.map` returns: an iterator over the calls' results, in their order.

    What `next` raises does not end it, be it a call's own error, Blocked or KeyboardInterrupt:
    the next `next` goes on. It is for one thread at a time. Dropping it, or :meth:`close`,
    abandons the calls whose jobs have not begun; the others end in peace.
    """

    if TYPE_CHECKING:

        def __next__(self) -> T: ...

    def __init__(
        self,
        jobserver: Jobserver,
        fn: Callable[..., T],
        given: _Input,
        *,
        deadline: float | None,
        chunksize: int | None,
        buffersize: int,
        env: Changes | None,
        preexec_fn: Callable[[], Any] | None,
        sleep_fn: Callable[[], Any] | None,
    ) -> None:
        self._jobserver = jobserver
        self._fn = fn
        self._input = given
        self._deadline = deadline
        self._fixed = chunksize
        self._size = 1
        self._share: int | None = None
        self._limit = _TOO_LONG if chunksize is None else math.inf
        self._buffersize = buffersize
        self._around = env, preexec_fn
        self._gate = None if sleep_fn is None else self._ask
        self._sleep_fn = sleep_fn
        #: Until when `sleep_fn` does not want to be asked again.
        self._asleep = 0.0
        self._owner = os.getpid()
        #: Chunks that have not been taken to their end by the caller. Those that are served
        #: now are the first's.
        self._chunks: deque[_Chunk] = deque()
        self._served: _Chunk | None = None
        #: Pieces that have been made of others and are to be started, before new chunks; some
        #: may have been started already.
        self._again: deque[_Piece] = deque()
        #: The pieces of jobs under way. A job's Future is here before it starts.
        self._running: dict[Future[Any], _Piece] = {}
        self._finished: deque[Future[Any]] = deque()
        self._places = min(buffersize, max(2 * jobserver.slots, 64))
        self._progress = _calls.Progress(self._places)

    def close(self) -> None:
        """Abandons the calls that have not begun; there are no more results."""
        self._input = _Input((), None)
        self._serve([], [])
        self._chunks.clear()
        self._again.clear()
        self._running.clear()

    # The owner's loop.

    def _more(self) -> bool:
        """Has the next chunk's results served, waiting for them: whether there are any."""
        if self._owner != os.getpid():
            raise RuntimeError(
                f"these results belong to process {self._owner}, which called map; "
                "this is another process, forked from it"
            )
        if self._chunks and self._chunks[0] is self._served:
            self._chunks.popleft()
        self._served = None
        js = self._jobserver
        while True:
            handled = js._scan(callbacks=True)
            self._collect()
            if self._chunks and self._chunks[0].is_done:
                return self._serve_first()
            waiting = self._feed()
            if self._finished:
                continue  # submitting has looked too
            if not self._chunks:
                return self._end()
            if waiting is not None and self._must_wait():
                self._start(waiting, self._deadline)
                continue
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Blocked("the next result was not there in time")
            self._sleep(handled, left, waiting is not None)

    def _serve_first(self) -> bool:
        self._served = self._chunks[0]
        self._serve(*self._served.results())
        if self._jobserver._pool is not None:
            self._feed()  # if this raises, what has just been served is still to come
        return True

    def _end(self) -> bool:
        error, self._input.error = self._input.error, None
        if error is not None:
            raise error
        return False

    def _must_wait(self) -> bool:
        """Whether a piece that found no slot must have one. If nothing of ours runs, for nobody
        else may end; that job may then have our own. With "yield" in any case, as the caller
        needs none until a result is there."""
        js = self._jobserver
        return not any(future._pid for future in self._running) or (
            js._yields and js._open_pool().runs
        )

    def _sleep(self, handled: int, left: float | None, wants_slot: bool) -> None:
        js = self._jobserver
        if wants_slot and self._asleep:
            asleep = self._asleep - time.monotonic()
            if asleep > 0:
                wants_slot = False
                left = asleep if left is None else min(left, asleep)
        js._jobs.wait(
            handled, js._open_pool() if wants_slot else None, left, js._yield_to(js._yields)
        )

    # From the input to jobs.

    def _feed(self) -> _Piece | None:
        """Starts what can be without waiting. Returns a piece that could not, if there is one."""
        while True:
            if self._finished or len(self._running) >= self._jobserver.slots:
                return None  # what comes next may tell how many calls to start then
            piece = self._next_piece()
            if piece is None or (self._asleep and time.monotonic() < self._asleep):
                return piece
            try:
                self._start(piece, 0.0)
            except Blocked:
                return piece

    def _next_piece(self) -> _Piece | None:
        """What is to be started next."""
        while self._again:
            if self._again[0].to_start:
                return self._again[0]
            self._again.popleft()
        if not self._chunks or not self._chunks[-1].pieces[-1].to_start:
            if self._input.ended or len(self._chunks) >= self._buffersize:
                return None
            self._input.take(self._next_size(), self._chunks)
            if self._input.ended and not (self._chunks and self._chunks[-1].pieces[-1].to_start):
                return None
        return self._chunks[-1].pieces[-1]

    def _next_size(self) -> int:
        """How many calls the next chunk is to have."""
        if self._fixed is not None:
            return self._fixed
        left, slots = self._input.left, self._jobserver.slots
        if self._share is None and 0 < left <= self._size * slots:
            self._share = -(-left // slots)  # the last calls: something for each slot
        return self._size if self._share is None else min(self._size, self._share)

    def _start(self, piece: _Piece, deadline: float | None) -> None:
        """Starts a piece's job. Blocked if there is no slot for it in time."""
        js = self._jobserver
        js._open_pool()
        place = self._free_place()
        future = piece.future
        if future is None:
            future = Future(js, None, 1)
            future._watch(self._finished)
            piece.future = future
        env, preexec_fn = self._around
        args = (self._fn, piece.calls(), self._progress, place, self._limit)
        work = _native.Work(env, None, preexec_fn, _calls.run, args, None)
        self._progress.clear(place)
        piece.place = place
        self._running[future] = piece
        try:
            js._start(future, work, self._gate, deadline != 0, deadline)
        except pickle.PicklingError as e:
            if raised_by_handler(e):
                raise
            self._fail(piece, None, (None, e))
        finally:
            if not future._pid:
                self._running.pop(future, None)

    def _free_place(self) -> int:
        taken = {piece.place for future, piece in self._running.items() if future._pid}
        for place in range(self._places):
            if place not in taken:
                return place
        raise Blocked("too many jobs are under way")

    def _ask(self) -> Any:
        delay = self._sleep_fn and self._sleep_fn()
        self._asleep = time.monotonic() + (_arguments.delay(delay) or 0.0)
        return delay

    # From jobs to results.

    def _collect(self) -> None:
        """Takes in what came of jobs that have ended."""
        while self._finished:
            future = self._finished[0]
            piece = self._running.get(future)
            if piece is not None:
                self._take_in(piece, future)
                self._running.pop(future, None)
            self._finished.popleft()

    def _take_in(self, piece: _Piece, future: Future[Any]) -> None:
        value, error = future._load()
        if value is None:
            self._fail(piece, self._progress.running(piece.place), (value, error))
            return
        values, failures, seconds = value
        errors = [(call, _result.load_failure(failure)) for call, failure in failures]
        made = len(values)
        self._measure(made, seconds)
        if made == piece.size:
            piece.outcome = values, errors
        else:
            done = _Piece(piece.chunk, piece.first, piece.first + made)
            done.outcome = values, errors
            parts = [
                _Piece(piece.chunk, first, min(first + self._size, piece.end))
                for first in range(done.end, piece.end, self._size)
            ]
            self._replace(piece, [done, *parts])

    def _fail(
        self, piece: _Piece, call: int | None, outcome: tuple[Any, BaseException | None]
    ) -> None:
        """After the job of a piece has failed, in this call if that is known."""
        if piece.size == 1:
            call = 0
        if call is not None:
            parts = [*piece.part(0, call), piece.known(call, outcome)]
            parts += piece.part(call + 1, piece.size)
        else:
            half = piece.size // 2
            parts = [*piece.part(0, half), *piece.part(half, piece.size)]
        self._replace(piece, parts)

    def _replace(self, piece: _Piece, parts: list[_Piece]) -> None:
        # Until they are in the chunk, nobody would start them: so twice does no harm.
        self._again.extendleft(reversed([part for part in parts if part.outcome is None]))
        place = piece.chunk.pieces.index(piece)
        piece.chunk.pieces[place : place + 1] = parts

    def _measure(self, calls: int, seconds: float) -> None:
        """Chooses the size of chunks by what these calls have taken."""
        most = max(self._size, calls * _GROWTH)
        self._size = max(1, min(most, int(_AIM * calls / max(seconds, 1e-9))))


def results(
    jobserver: Jobserver,
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
        jobserver,
        _arguments.function(fn),
        _Input(
            None if argses is None else _arguments.many(argses, "argses"),
            None if kwargses is None else _arguments.many(kwargses, "kwargses"),
        ),
        deadline=_arguments.deadline(timeout),
        chunksize=_arguments.chunksize(chunksize),
        buffersize=_arguments.buffersize(buffersize, _AHEAD * jobserver.slots),
        env=_arguments.environment(env) if env != () else None,
        preexec_fn=_arguments.optional_function(preexec_fn, "preexec_fn"),
        sleep_fn=_arguments.optional_function(sleep_fn, "sleep_fn"),
    )
    jobserver._open_pool()
    jobserver._starter.check(_native.Work(None, None, preexec_fn, fn, (), None), jobserver._jobs)
    jobserver._scan()
    made._feed()
    return made
