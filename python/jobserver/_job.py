"""What runs in a job's process, from its birth to its end.

A job sees what a child of multiprocessing sees. `BaseProcess._bootstrap`, which arranges
that, is not used: it makes many objects, and in a freshly forked process every page that
is written to, if only to count a reference, must be copied by the kernel. That costs more
than everything else that happens here. So the same is done with objects that the owner
has prepared (`Identity`), in few functions, and nothing is undone that was not done.

Not here: how the process came to be (`_start`).
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
from multiprocessing.process import BaseProcess
from typing import Any, Callable, NoReturn

from . import _multiprocessing as mp
from . import _native, _pools, _result
from ._arguments import Changes
from ._work import Work

#: From CPython 3.13 on, forked children of multiprocessing run what they have registered with
#: atexit, and forget what their parent had. (A spawned one is a program and always does.)
_CHILDREN_RUN_ATEXIT = sys.version_info >= (3, 13)
runs_atexit = _CHILDREN_RUN_ATEXIT

#: The pid of the last process in which a Jobserver was set up or used; see `_jobserver`.
jobserver_pid = 0


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
        self.context = mp.context._concrete_contexts[method]
        self.process = _Process(name="Job")
        self.process._config.pop("daemon", None)  # a job may have children of its own
        if owner is not None:
            self.process._parent_pid = owner
        self.parent = mp.process._ParentProcess(
            self.process._parent_name, self.process._parent_pid, None
        )
        self.counter = itertools.count(1)
        self.children: set[Any] = set()

    def assume(self, name: str, channel: _native.Channel) -> None:
        """Makes this process a child in multiprocessing's eyes."""
        self.process._name = name
        # Readable once the owner has gone, or has heard all that it wants to hear.
        self.parent._sentinel = channel.fileno()
        process, util = mp.process, mp.util
        process._current_process = self.process
        process._parent_process = self.parent
        process._process_counter = self.counter
        process._children = self.children
        mp.context._default_context._actual_context = self.context
        if _CHILDREN_RUN_ATEXIT:
            atexit._clear()
        if util._finalizer_registry:
            util._finalizer_registry.clear()
        if util._afterfork_registry.data:
            util._run_after_forkers()


def run(channel: _native.Channel, load: Callable[..., Work], *how: Any) -> NoReturn:
    """Runs a job: loads its work, does it, sends the result, and ends the process."""
    code = 1
    try:
        try:
            code = _run(channel, load, how)
        finally:
            _wind_down()
    except KeyboardInterrupt:
        pass  # the owner has been interrupted too, and says so
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _run(channel: _native.Channel, load: Callable[..., Work], how: tuple[Any, ...]) -> int:
    try:
        work = load(channel, *how)
        if work.time_limit is not None:
            _native.end_after(work.time_limit)
        if work.preexec_fn is None:
            value = work.fn(*work.args, **work.kwargs)
        else:
            value = _call_prepared(work.preexec_fn(), work)
        message = _result.dump_value(value)
    except SystemExit as e:
        return _exit_code(e)
    except BaseException as e:
        message = _result.dump_exception(_without_our_frames(e))
    # Who has the result can expect to see what was printed before it.
    flush()
    try:
        channel.send_result(message, _pools.own)
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to hear it
    return 0


def _call_prepared(wrapper: Any, work: Work) -> Any:
    """Calls the function, within what `preexec_fn` returned if that is a context manager."""
    if hasattr(type(wrapper), "__enter__") and hasattr(type(wrapper), "__exit__"):
        with wrapper:
            return work.fn(*work.args, **work.kwargs)
        return None  # the context manager has suppressed an exception
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
    """Ends what the job began: its own jobs, threads, multiprocessing children and queues.

    In the order of CPython 3.13. What the job has not begun is not even looked for.
    """
    if _pools.own is not None:
        _pools.own.release_own()  # a job that sends no result has it still
    try:
        if len(threading._active) > 1:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
    finally:
        if jobserver_pid == os.getpid():
            _see_own_jobs_out()
    if runs_atexit:
        atexit._run_exitfuncs()
    if mp.util._finalizer_registry or mp.process._children:
        mp.util._exit_function()
    flush()


def _see_own_jobs_out() -> None:
    """Waits for the job's own jobs, whatever signal handlers raise meanwhile: nobody else
    would give their slots back. What the system refuses (to a job that has closed all
    descriptors, say) it would refuse again, and ends the wait."""
    raised: BaseException | None = None
    while True:
        try:
            wait_for_own_jobs()
            break
        except BaseException as e:
            if isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno is not None):
                raise
            raised = e
    if raised is not None:
        raise raised


def flush() -> None:
    """Flushes what has been printed. Either stream can be None, closed, without flush, or
    lead to where nobody reads, or to a full disk; a job's result is not lost for that."""
    try:
        sys.stdout.flush()
    except (AttributeError, ValueError, OSError):
        pass
    try:
        sys.stderr.flush()
    except (AttributeError, ValueError, OSError):
        pass
