"""What every way to submit one function does first: it checks the arguments, and makes the Future
and the work of the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from . import _arguments, _native
from ._defaults import NONE, Defaults
from ._future import Future
from ._native import getpid

if TYPE_CHECKING:
    from ._owner import Owner


class Submission(NamedTuple):
    future: Future[Any]
    work: _native.Work
    gate: Callable[[], Any] | None


def prepare(
    owner: Owner,
    defaults: Defaults,
    fn: Any,
    args: Any,
    kwargs: Any,
    consume: Any = None,
    env: Any = (),
    preexec_fn: Any = None,
    sleep_fn: Any = None,
    threads: Any = None,
    time_limit: Any = None,
    memory_limit: Any = None,
    output: Any = None,
    faulthandler: Any = None,
) -> Submission:
    """A submission of `fn` with these options: see :meth:`Jobserver.submit`."""
    # Arguments with their default values are not checked: see ARCHITECTURE.md, "The fork path".
    records = None
    plain = consume is None and threads is None and memory_limit is None
    if defaults is not NONE or not (plain and output is None and faulthandler is None):
        given = consume, env, preexec_fn, sleep_fn, threads, time_limit, memory_limit
        options = defaults.resolved(owner.slots, *given, output, faulthandler)
        consume, env, preexec_fn, sleep_fn, time_limit, recorded = options
        if recorded is not None:
            records, preexec_fn = recorded.begin(owner, preexec_fn)
    gate = None if sleep_fn is None else _arguments.function(sleep_fn, "sleep_fn")
    work = _native.Work(
        _arguments.environment(env) if env != () else None,
        None if time_limit is None else _arguments.time_limit(time_limit),
        None if preexec_fn is None else _arguments.function(preexec_fn, "preexec_fn"),
        fn if callable(fn) else _arguments.function(fn),
        args if type(args) is tuple else _arguments.positional(args),
        None if kwargs == {} else _arguments.keywords(kwargs),
    )
    if owner.pid != getpid() or owner.native.closing:
        owner.check_open()
    name, taken = getattr(fn, "__qualname__", None), 1 if consume is None else consume
    future: Future[Any] = Future(owner, work.time_limit, taken, name, records)
    return Submission(future, work, gate)
