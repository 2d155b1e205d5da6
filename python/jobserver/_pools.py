"""The pools that this process has opened, by their homes, and the pool that it joins."""

from __future__ import annotations

import os
import warnings

from . import _native

#: The pools by their homes. A joined pool stays here, because the implicit slot belongs to the
#: process.
_known: dict[str, _native.Pool] = {}

#: Pools of one slot, the implicit slot, by the reason why the program has no more slots.
_single: dict[str | None, _native.Pool] = {}


#: The homes of those that came with handles only: no job of this process runs on a slot of them.
_of_handles: set[str] = set()


def opened(home: str) -> _native.Pool:
    """The pool with this home. A process has one object for a pool, because it knows the slot that
    the process runs on."""
    own = _native.own_pool()
    if own is not None and own.home == home:
        return own  # a forked job's pool need not be among those that it has opened
    pool = _known.get(home)
    if pool is None:
        pool = _known.setdefault(home, _native.Pool.open(home))
    return pool


def opened_for_handle(home: str) -> _native.Pool:
    """The same, for a handle of a Jobserver that need not be this job's own."""
    if home not in _known:
        _of_handles.add(home)
    return opened(home)


def forget(home: str) -> None:
    """Closes a pool that is no more, if it is open and nothing refers to it."""
    _known.pop(home, None)


def forget_those_of_handles() -> None:
    """After a job whose process may stay: closes the pools that came with handles, unless something
    still refers to them."""
    while _of_handles:
        _known.pop(_of_handles.pop(), None)


def in_force() -> _native.Pool | None:
    """The pool that the environment names. It is joined once for the process. None if it cannot be
    joined; a warning says why."""
    values = [os.environ[name] for name in _native.NAMING if name in os.environ]
    pool, why, is_single = _native.join_pool(values)
    if pool is not None:
        # Of several threads at once, the first decides for all.
        return _known.setdefault(pool.home, pool)
    if is_single:
        if why is not None and why not in _single:
            then = "going on with one slot, the one that this program was started on"
            warnings.warn(f"{why}; {then}", RuntimeWarning, stacklevel=3)
        return _single.get(why) or _single.setdefault(why, _native.Pool(1))
    if why is not None:
        warnings.warn(f"{why}; going on with a pool of our own", RuntimeWarning, stacklevel=3)
    return None
