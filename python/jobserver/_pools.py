"""The pools that this process knows by their homes, and the one that it runs in as a job."""

from __future__ import annotations

import os

from . import _native

_opened: dict[str, _native.Pool] = {}

#: In a job: the pool that it was started in, and runs on a slot of (or, with `consume=0`, not).
own: _native.Pool | None = None


def opened(home: str) -> _native.Pool:
    """The pool with this home. One object for a process: it knows the slot that we run on."""
    pool = _opened.get(home)
    if pool is None:
        pool = _opened.setdefault(home, _native.Pool.open(home))
    return pool


def run_in(pool: _native.Pool) -> None:
    """In a new job: this is the pool in force, for us and for every program below."""
    global own
    own = pool
    for name in ("MAKEFLAGS", "CARGO_MAKEFLAGS"):
        # cargo's own comes before make's, wherever there is one.
        if name == "MAKEFLAGS" or name in os.environ:
            os.environ[name] = pool.makeflags(os.environ.get(name, ""))
