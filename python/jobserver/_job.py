"""What runs in a job's process, from its birth to its end.

A job sees what a child of multiprocessing sees. `BaseProcess._bootstrap`, which arranges
that, is not used: it creates objects and so touches memory, and in a freshly forked
process every page touched is copied by the kernel, which costs more than everything else
that happens here. The same is therefore done with objects that the owner has prepared
(`Identity`). The order of the end is CPython 3.13's: threads, atexit, finalizers, flush.

Not here: how the process came to be (`_start`).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import threading
from multiprocessing.process import BaseProcess
from typing import Any, Callable, NoReturn

from . import _multiprocessing as mp
from . import _native, _result
from ._arguments import Changes
from ._work import Work


def wait_for_own_jobs() -> None:
    """Waits for the jobs of this process; `_jobserver`, which knows them, puts its own here."""


class _Process(BaseProcess):
    """What `multiprocessing.current_process()` is in a job."""

    _config: dict[str, Any]
    _name: str
    _parent_name: str
    _parent_pid: int


class Identity:
    """Who a job is to multiprocessing: prepared by its owner, assumed by the job."""

    def __init__(self, method: str, owner: int | None = None) -> None:
        """For jobs started by `method`; by this process unless `owner` is another's pid."""
        self.method = method
        self.process = _Process(name="Job")
        self.process._config.pop("daemon", None)  # a job may have children of its own
        if owner is not None:
            self.process._parent_pid = owner
        self.parent = mp.process._ParentProcess(
            self.process._parent_name, self.process._parent_pid, None
        )
        self.counter = itertools.count(1)
        self.children: Any = set()

    def assume(self, name: str, channel: _native.Channel) -> None:
        """Makes this process a child in multiprocessing's eyes."""
        self.process._name = name
        # Readable once the owner has gone, or has heard all that it wants to hear.
        self.parent._sentinel = channel.fileno()
        mp.process._current_process = self.process
        mp.process._parent_process = self.parent
        mp.process._process_counter = self.counter
        mp.process._children = self.children
        mp.context._force_start_method(self.method)
        atexit._clear()
        mp.util._finalizer_registry.clear()
        mp.util._run_after_forkers()


class Stdin:
    """An empty standard input for forked jobs: two readers of one input get half each.

    The file object is made by the owner, on its own descriptor 0, and first used by a job.
    """

    def __init__(self) -> None:
        self._file: Any | None = None
        if sys.stdin is not None:
            with contextlib.suppress(OSError):
                self._file = open(0, closefd=False)

    def assume(self) -> None:
        """In a job: makes this its `sys.stdin`, and descriptor 0 the null device."""
        if self._file is not None:
            sys.stdin = self._file
            nullify_stdin()


def nullify_stdin() -> None:
    """Makes descriptor 0 the null device."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def run(channel: _native.Channel, load: Callable[[], Work]) -> NoReturn:
    """Runs a job: loads its work, does it, sends the result, and ends the process."""
    code = 1
    try:
        try:
            code = _run(channel, load)
        finally:
            _wind_down()
    except KeyboardInterrupt:
        pass  # the owner has been interrupted too, and says so
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _run(channel: _native.Channel, load: Callable[[], Work]) -> int:
    try:
        message = _result.dump_value(_call(load()))
    except SystemExit as e:
        return _exit_code(e)
    except BaseException as e:
        message = _result.dump_exception(_without_our_frames(e))
    # Who has the result can expect to see what was printed before it.
    mp.util._flush_std_streams()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send_result(message)
    return 0


def _call(work: Work) -> Any:
    wrapper = work.preexec_fn() if work.preexec_fn is not None else None
    if hasattr(type(wrapper), "__enter__") and hasattr(type(wrapper), "__exit__"):
        return _call_within(wrapper, work)
    return work.fn(*work.args, **work.kwargs)


def _call_within(wrapper: Any, work: Work) -> Any:
    with wrapper:
        return work.fn(*work.args, **work.kwargs)


def apply_environment(changes: Changes) -> None:
    """Applies a submission's `env`."""
    for name, value in changes:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _exit_code(stop: SystemExit) -> int:
    """What the interpreter would exit with."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _without_our_frames(error: BaseException) -> BaseException:
    """Drops this file's frames from the top of a traceback: they tell the user nothing."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return error.with_traceback(tb)


def _wind_down() -> None:
    """Ends what the job began: its own jobs, threads, multiprocessing children and queues."""
    wait_for_own_jobs()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    mp.util._exit_function()
    mp.util._flush_std_streams()
