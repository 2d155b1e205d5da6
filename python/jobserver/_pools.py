"""The pools that this process knows by their homes, and the one that it joins."""

from __future__ import annotations

import os
import warnings

from . import _native

#: By their homes. Those that were joined stay so: the implicit slot is this process's.
_known: dict[str, _native.Pool] = {}

#: Of one slot, that which this program was started on; by why the program has no more.
_single: dict[str | None, _native.Pool] = {}


def opened(home: str) -> _native.Pool:
    """The pool with this home. One for a process: it knows the slot that we run on."""
    pool = _known.get(home)
    if pool is None:
        pool = _known.setdefault(home, _native.Pool.open(home))
    return pool


def in_force() -> _native.Pool | None:
    """The pool that the environment names, joined once for all that use it here; None, after
    a warning, if it cannot be."""
    values = [os.environ[name] for name in _native.NAMING if name in os.environ]
    pool, why, is_single = _native.join_pool(values)
    if pool is not None:
        # Of threads that come here at once, one decides for all.
        return _known.setdefault(pool.home, pool)
    if is_single:
        if why is not None and why not in _single:
            then = "going on with one slot, that which this program was started on"
            warnings.warn(f"{why}; {then}", RuntimeWarning, stacklevel=3)
        return _single.get(why) or _single.setdefault(why, _native.Pool(1))
    if why is not None:
        warnings.warn(f"{why}; going on with a pool of our own", RuntimeWarning, stacklevel=3)
    return None
