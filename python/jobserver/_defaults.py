"""The options that the submissions by one handle have unless they say otherwise:
`Jobserver.with_options`."""

from __future__ import annotations

from typing import Any, Callable, Literal, NamedTuple, Union

from . import _arguments, _memory, _several, _threads
from ._arguments import Changes, Environment
from ._around import Limit, around
from ._records import Recorded

Threads = Union[int, Literal["slots"]]
Output = Literal["inherit", "capture", "forward"]


class Defaults(NamedTuple):
    """The values are _arguments."""

    consume: int = 1
    env: tuple[tuple[str, str | None], ...] = ()
    preexec_fn: Callable[[], Any] | None = None
    sleep_fn: Callable[[], Any] | None = None
    threads: Threads | None = None
    time_limit: float | None = None
    memory_limit: int | None = None
    output: Output | None = None
    faulthandler: bool | None = None

    def changed(
        self,
        slots: int,
        consume: int | None = None,
        env: Environment = (),
        preexec_fn: Callable[[], Any] | None = None,
        sleep_fn: Callable[[], Any] | None = None,
        threads: Threads | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        output: Output | None = None,
        faulthandler: bool | None = None,
    ) -> Defaults:
        """These with other values, where such are given and are not None; changes to the
        environment are added. `slots` are those of the pool."""
        return Defaults(
            self.consume if consume is None else _arguments.consume(consume, slots),
            (*self.env, *_arguments.environment(env)),
            self.preexec_fn
            if preexec_fn is None
            else _arguments.function(preexec_fn, "preexec_fn"),
            self.sleep_fn if sleep_fn is None else _arguments.function(sleep_fn, "sleep_fn"),
            self.threads if threads is None else _arguments.threads(threads),
            self.time_limit if time_limit is None else _arguments.time_limit(time_limit),
            self.memory_limit if memory_limit is None else _arguments.memory_limit(memory_limit),
            self.output if output is None else _arguments.output(output),
            self.faulthandler
            if faulthandler is None
            else _arguments.flag(faulthandler, "faulthandler"),
        )

    def resolved(self, *given: Any) -> Resolved:
        """The options of a submission for which these are given, in the order of `changed`."""
        options = self.changed(*given)
        env, preexec_fn = [*options.env], options.preexec_fn
        limits: list[Limit] = []
        if options.consume > 1:
            limits.append(_several.pool_below(options.consume))
        if options.threads is not None:
            taken = max(1, options.consume)
            number = taken if options.threads == "slots" else options.threads
            limits.append(_threads.limited(number, env))
            env[:0] = _threads.variables(number)
        if options.memory_limit is not None:
            limits.append(_memory.limited(options.memory_limit))
        if limits:
            preexec_fn = around(tuple(limits), preexec_fn)
        output = None if options.output == "inherit" else options.output
        faults = bool(options.faulthandler)
        recorded = Recorded(output, faults) if output or faults else None
        return Resolved(
            options.consume, env, preexec_fn, options.sleep_fn, options.time_limit, recorded
        )


class Resolved(NamedTuple):
    """What a submission does. The limits of threads and memory, and the pool for programs below a
    job of several slots, are a part of `env` and of `preexec_fn`."""

    consume: int
    env: Changes
    preexec_fn: Callable[[], Any] | None
    sleep_fn: Callable[[], Any] | None
    time_limit: float | None
    recorded: Recorded | None


#: A handle of which no options were given.
NONE = Defaults()
