"""How many calls a chunk of `map` has: the user's number, or a choice by the time of earlier
calls."""

from __future__ import annotations

import math

#: How long the calls of a chunk should take, in seconds, if this file chooses its size: many times
#: the cost of a fork, and still a short wait for the last chunk.
_AIM = 0.010

#: The largest factor by which chunks grow at a time. The next calls may be slower than the last, or
#: the program may not want their results.
_GROWTH = 1024

#: How many calls show whether arguments are small.
SAMPLE = 128

#: The largest number of calls in a chunk. Calls can be so short that reading and sending their
#: arguments counts: while one chunk runs, its owner packs the next. If each chunk costs a fork, the
#: fork counts more, so `_MOST_FRESH` is larger. (So few ints also need no memory file.)
_MOST = 8 * 1024
_MOST_FRESH = 64 * 1024

#: A chunk whose chosen size was too large ends early, after so many seconds; other jobs make the
#: rest.
_TOO_LONG = 5 * _AIM


class Sizes:
    """The size of the next chunk."""

    def __init__(self, fixed: int | None, left: int, slots: int, is_fresh: bool) -> None:
        """`fixed` is the user's size, or None. `left` is the number of calls as far as it is known.
        `is_fresh` says whether each chunk has a process of its own."""
        self._fixed = fixed
        self._slots = slots
        #: The number of calls that are left, as far as it is known.
        self.left = left
        #: The chosen number of calls of the next chunk; and the limit for it when the last calls
        #: are shared out among the slots.
        self._size = 1
        self._share = math.inf
        self._most = _MOST_FRESH if is_fresh else _MOST
        #: The seconds after which a job ends early with the results that it has.
        self.limit = _TOO_LONG if fixed is None else math.inf
        #: Whether the next chunks will not be much larger than the last.
        self.settled = fixed is not None

    def begin_with(self, size: int) -> None:
        """Gives the first chunk so many calls, unless the user has fixed the size."""
        if self._fixed is None:
            self._size = size

    def begin_with_most(self) -> None:
        """Gives the first chunks as many calls as any, unless the user has fixed the size. If these
        calls are slow, the jobs end after the time that a chunk should take, and what has been sent
        in vain must have cost little."""
        if self._fixed is None:
            self._size = self._most
            self.limit = _AIM
            self.settled = True

    def next(self) -> int:
        """The number of calls of the next chunk."""
        if self._fixed is not None:
            return self._fixed
        if self._share is math.inf and 0 < self.left <= self._size * self._slots:
            self._share = -(-self.left // self._slots)
        return int(min(self._size, self._share))

    def measure(self, calls: int, seconds: float) -> None:
        """Chooses the size of the next chunk: `calls` calls took `seconds` seconds."""
        most = max(self._size, min(self._most, calls * _GROWTH))
        fitting = min(self._most, int(_AIM * calls / max(seconds, 1e-6)))
        self._size = max(1, min(most, fitting))
        self.limit = max(self.limit, _TOO_LONG)
        self.settled = self.settled or fitting <= most
