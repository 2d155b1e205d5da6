"""How many calls a chunk of `map` is to have: what the user says, or by what calls have taken."""

from __future__ import annotations

import math

#: How long the calls of a chunk are to take, in seconds, if we choose its size: many times
#: what a fork costs, and yet no long wait for the last.
_AIM = 0.010

#: The most by which chunks grow at a time, since the next calls may be slower than the last.
_GROWTH = 128

#: The most calls of one, where calls are so short that to take and to send their arguments counts:
#: while one chunk is under way its owner packs the next. If each is a fork, that counts more.
#: (So few ints also need no memory file.)
_MOST = 8 * 1024
_MOST_FRESH = 64 * 1024

#: When a chunk that we have chosen too large ends early, in seconds; the rest is for other jobs.
_TOO_LONG = 5 * _AIM


class Sizes:
    """The size of the next chunk."""

    def __init__(self, fixed: int | None, left: int, slots: int, is_fresh: bool) -> None:
        """Fixed by the user, or chosen; for so many calls as far as is known, on so many slots.
        `is_fresh` says whether each chunk has a process of its own."""
        self._fixed = fixed
        self._slots = slots
        #: How many calls are left, as far as is known.
        self.left = left
        #: How many the next chunk is to have; and, when the last calls are shared out among the
        #: slots, at most.
        self._size = 1
        self._share = math.inf
        self._most = _MOST_FRESH if is_fresh else _MOST
        #: After how many seconds a job ends early with what it has.
        self.limit = _TOO_LONG if fixed is None else math.inf
        #: Whether the next chunks will not be much larger than the last.
        self.settled = fixed is not None

    def begin_with(self, size: int) -> None:
        """Unless the user has fixed the size: the first chunk has so many calls."""
        if self._fixed is None:
            self._size = size

    def next(self) -> int:
        """How many calls the next chunk is to have."""
        if self._fixed is not None:
            return self._fixed
        if self._share is math.inf and 0 < self.left <= self._size * self._slots:
            self._share = -(-self.left // self._slots)
        return int(min(self._size, self._share))

    def measure(self, calls: int, seconds: float) -> None:
        """Chooses by what so many calls have taken."""
        most = max(self._size, min(self._most, calls * _GROWTH))
        fitting = min(self._most, int(_AIM * calls / max(seconds, 1e-6)))
        self._size = max(1, min(most, fitting))
        self.settled = self.settled or fitting <= most
