"""Handles in the work of jobs: how a Jobserver is pickled, and what a job makes of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, List, Tuple, Union
from weakref import WeakValueDictionary

from . import _arguments, _native, _own_jobs, _pools
from . import _multiprocessing as mp
from ._defaults import NONE, Defaults
from ._options import Options
from ._owner import Owner
from ._start import Helper, joined_helper

if TYPE_CHECKING:
    from ._jobserver import Jobserver

#: Every handle of this process, by its owner's key.
handles: WeakValueDictionary[str, Jobserver] = WeakValueDictionary()

#: In a pickle: the fork server that the worker has joined.
JOINED = "joined"

#: How a pickle names the fork server of a handle: the pid and descriptors, or JOINED.
_Passed = Union[Tuple[int, List[Any]], str, None]


def reduced(kind: type[Jobserver], owner: Owner, defaults: Defaults) -> tuple[Any, ...]:
    """The reduction of a handle, for pickle; `kind` is the class of the handle in the job."""
    if mp.context.get_spawning_popen() is None:
        raise TypeError("a Jobserver can be pickled only as part of the work of a new process")
    if defaults is not NONE:
        return _with_defaults, (_handle(kind, owner, NONE), defaults)
    home = owner.open_pool().home
    method, _, *options = owner.options
    starter = owner.starter
    helper: _Passed = JOINED
    sent_by = getattr(mp.context.get_spawning_popen(), "starter", None)
    if not (sent_by is starter and starter.workers_join(owner.native)):
        known = starter.helper(owner.native)
        helper = known and (known.pid, [mp.reduction.DupFd(fd) for fd in known.descriptors])
    return _rebuild, (kind, home, helper, method, *options)


def _rebuild(
    kind: type[Jobserver], home: str, helper: _Passed, method: str, key: str, *options: Any
) -> Jobserver:
    """In a job: the handle that was pickled. All pickles of one handle give the same object, unless
    an earlier job of this process has closed that."""
    known = handles.get(key)
    if known is not None and not known._owner.is_closed:
        return known
    owner = _own_jobs.known.get(key)
    if owner is None or owner.is_closed:
        chosen = Options(method, _arguments.context_of(method), key, *options)
        owner = _owner(chosen, _pools.opened_for_handle(home), helper)
    made = handles[key] = _handle(kind, owner, NONE)
    return made


def _handle(kind: type[Jobserver], owner: Owner, defaults: Defaults) -> Jobserver:
    made = kind.__new__(kind)
    made._owner, made._defaults = owner, defaults
    return made


def _with_defaults(handle: Jobserver, defaults: Defaults) -> Jobserver:
    """In a job: a handle with defaults that was pickled."""
    return _handle(type(handle), handle._owner, defaults)


def _owner(options: Options, pool: _native.Pool, helper: _Passed) -> Owner:
    """The owner of a handle that was pickled."""
    if isinstance(helper, str):
        return Owner(options, pool, joined_helper(), stays=True)
    # The job's process must look, also if it does not use the handle.
    _own_jobs.users.add(_native.getpid())
    if helper is None:
        return Owner(options, pool, None)
    pid, passed = helper
    descriptors = [each.detach() for each in passed]
    try:
        owner = Owner(options, pool, Helper(pid, descriptors))
        _own_jobs.of_other_trees.add(owner)
        return owner
    finally:
        for fd in descriptors:
            os.close(fd)
