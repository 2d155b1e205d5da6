"""The pools that this process knows by their homes, and the one that it runs in as a job."""

from __future__ import annotations

import os
import warnings

from . import _native

#: The variables that can name a pool; the first that does counts.
_VARIABLES = ("CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS")

#: By their names in MAKEFLAGS. They stay joined: the implicit slot is this process's.
_joined: dict[str, _native.Pool] = {}

_ONE_JOB = "-j1"

_opened: dict[str, _native.Pool] = {}


def opened(home: str) -> _native.Pool:
    """The pool with this home. One object for a process: it knows the slot that we run on."""
    pool = _opened.get(home)
    if pool is None:
        pool = _opened.setdefault(home, _native.Pool.open(home))
    return pool


def in_force() -> _native.Pool | None:
    """The pool that the environment names, joined once for all that use it here; None, after
    a warning, if it cannot be."""
    values = [os.environ[name] for name in _VARIABLES if name in os.environ]
    auth, jobs, why = _native.pool_in_force(values)
    if auth is None and jobs == 1:  # of a make that was told so, with -j1
        return _joined.get(_ONE_JOB) or _joined.setdefault(_ONE_JOB, _native.Pool(1))
    if auth is not None:
        own = _native.own_pool()
        if own is not None and own.is_ours(auth):
            return own
        try:
            if auth not in _joined:
                # Of threads that come here at once, one decides for all.
                _joined.setdefault(auth, _native.Pool.join(auth, jobs))
            return _joined[auth]
        except RuntimeError as e:
            # In another namespace, or of another version. But whoever made that pool has started
            # this program on one of its slots.
            warnings.warn(
                f"{e}; going on with one slot, that which this program was started on",
                RuntimeWarning,
                stacklevel=3,
            )
            return _joined.setdefault(auth, _native.Pool(1))
        except (OSError, ValueError) as e:
            why = f"{why} ({e})"
    if why is not None:
        warnings.warn(f"{why}; going on with a pool of our own", RuntimeWarning, stacklevel=3)
    return None
