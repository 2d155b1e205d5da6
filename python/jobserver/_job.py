"""What a job sees of Python, and what is not common in its life; the common way is in the
binding (rust/python/src/job.rs).

A job sees what a child of multiprocessing sees. `BaseProcess._bootstrap`, which arranges
that, is not used: it makes many objects, and in a freshly forked process every page that
is written to, if only to count a reference, must be copied by the kernel. That costs more
than everything else that happens there. So the same is done with objects that the owner has
prepared, and nothing is undone that was not done.

Not here: how the process came to be (`_start`).
"""

from __future__ import annotations

import atexit
import errno
import itertools
import os
import sys
import threading
from multiprocessing.process import BaseProcess
from types import BuiltinFunctionType
from typing import Any, Callable

from . import _multiprocessing as mp
from . import _native, _own_jobs, _wording
from ._arguments import Changes
from ._signals import raised_by_handler
from ._wire import result
from ._wire.result import dump_value  # noqa: F401 - the binding looks for all that it calls here
from ._wire.segments import Payload

#: From CPython 3.13 on, forked children of multiprocessing run what they have registered with
#: atexit, and forget what their parent had.
_CHILDREN_RUN_ATEXIT = sys.version_info >= (3, 13)
runs_atexit = _CHILDREN_RUN_ATEXIT

#: Whether this process was not forked, but is a program of its own. It runs what has been
#: registered with atexit, also while it started up.
_is_program = False


def become_program() -> None:
    global _is_program, runs_atexit
    _is_program = runs_atexit = True


#: What coverage.py and others replace, to see a process begin and end; None if they have.
_BOOTSTRAP: Any = BaseProcess._bootstrap  # type: ignore[attr-defined]
if not mp.is_shipped(_BOOTSTRAP, BaseProcess.run):
    _BOOTSTRAP = None
_EXIT: Any = os._exit if isinstance(os._exit, BuiltinFunctionType) else None

#: The share of memory that processes which idle leave to others.
_SPARE = 0.1


class _Process(BaseProcess):
    """What `multiprocessing.current_process()` is in a job."""

    _config: dict[str, Any]
    _parent_name: str
    _parent_pid: int

    #: What `_bootstrap` is to set the start method to; None: that is set already.
    _start_method = None

    #: Which of its owner's jobs it is; the owner counts here.
    number = 0
    _given_name: str | None = None

    @property
    def _name(self) -> str:
        # Made when it is asked for, which few jobs do.
        return self._given_name or f"Job-{self.number}"

    @_name.setter
    def _name(self, name: str) -> None:
        self._given_name = name


def is_this_process() -> bool:
    """Whether this process is a job, and not one that a job has started in another way."""
    return type(mp.process._current_process) is _Process


class Identity:
    """Who a job is to multiprocessing: prepared by its owner if it is forked."""

    def __init__(self, method: str) -> None:
        """For jobs of this process, started by `method`."""
        self.context = mp.context._concrete_contexts[method]
        self.process = _Process()
        self.process._given_name = None
        self.process._config.pop("daemon", None)  # a job may have children of its own
        self.parent = mp.process._ParentProcess(
            self.process._parent_name, self.process._parent_pid, None
        )

    def belongs_to(self, owner: tuple[int, str]) -> None:
        """In a process that was not forked from its owner: that one's pid and name."""
        if (self.process._parent_pid, self.process._parent_name) != owner:
            self.process._parent_pid, self.process._parent_name = owner
            self.parent._pid, self.parent._name = owner

    def setup(self, stdin: Any = None) -> _native.Setup:
        """What makes a process a job: one with this as its `sys.stdin`, if it is not None, and
        a child in multiprocessing's eyes."""
        global _standard_error
        # (Where CPython found 2 closed, what has that number now is a file of the user's.)
        _standard_error = None if sys.__stderr__ is None else _file(2)
        process, util = vars(mp.process), mp.util
        children: set[Any] = set()
        assignments = [
            (process, "_current_process", self.process),
            (process, "_parent_process", self.parent),
            (process, "_process_counter", itertools.count(1)),
            (process, "_children", children),
            (vars(mp.context._default_context), "_actual_context", self.context),
        ]
        if stdin is not None:
            assignments.append((vars(sys), "stdin", stdin))
        return _native.Setup(
            getattr(os.environ, "_data", {}),  # the rest of it is functions
            assignments,
            stdin is not None,
            (vars(self.parent), "_sentinel"),
            {
                "owner": _own_jobs.users,
                "threads": threading._active,  # type: ignore[attr-defined]
                "finalizers": util._finalizer_registry,
                "after_fork": util._afterfork_registry.data,
                "children": children,
                "exit_functions": atexit._ncallbacks if runs_atexit else None,
            },
            {
                "process": BaseProcess,
                "bootstrap": _BOOTSTRAP,
                "os": vars(os),
                "exits_name": "_exit",
                "exit": _EXIT,
            },
        )


def disinherit() -> None:
    """Drops what a job's owner, and not the job, has to see to at its end."""
    if _CHILDREN_RUN_ATEXIT and not _is_program:
        atexit._clear()
    if BaseProcess._bootstrap is _BOOTSTRAP:  # type: ignore[attr-defined]
        mp.util._finalizer_registry.clear()
        mp.util._run_after_forkers()
    # else `live_bootstrapped` will see to that


def live_bootstrapped(sentinel: int, body: Callable[[], int]) -> int:
    """Runs this process's jobs, which `body` does, within what somebody has put in the place of
    multiprocessing's `_bootstrap`. The exit code."""
    process: Any = mp.process._current_process
    children = mp.process._children
    stdin, sys.stdin = sys.stdin, None  # or it would be closed
    codes: list[int] = []

    def run() -> None:
        sys.stdin = stdin
        mp.process._children = children
        codes.append(body())
        if codes[0]:
            raise SystemExit(codes[0])  # which is what the hook is to see

    process.run = run
    code: int = process._bootstrap(parent_sentinel=sentinel)
    return codes[0] if codes else code


def call_prepared(
    preexec_fn: Callable[[], Any], fn: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Calls the function, within what `preexec_fn` returned if that is a context manager."""
    wrapper = preexec_fn()
    if not (hasattr(type(wrapper), "__enter__") and hasattr(type(wrapper), "__exit__")):
        return fn(*args, **(kwargs or {}))
    returned = raised = None
    undone = True
    try:
        with wrapper:
            try:
                returned = fn(*args, **(kwargs or {}))
            except BaseException as e:
                raised = e
                raise
    except BaseException as e:
        undone = e is raised  # and not an error of the context manager's
        raise
    finally:
        raised = None  # or the traceback would refer to itself through this frame
        if isinstance(preexec_fn, Undoable):
            preexec_fn.undone = undone
    return returned  # None, if the context manager has suppressed an exception


class Undoable:
    """A `preexec_fn` of which is known, after the job, whether the process is as it was before."""

    #: Whether it returned a context manager, and that has been left without an error of its own.
    undone = False

    def __init__(self, preexec_fn: Callable[[], Any]) -> None:
        self._preexec_fn = preexec_fn

    def __call__(self) -> Any:
        return self._preexec_fn()


def dump_failure(error: BaseException) -> Payload | tuple[int, bytes]:
    """A message that says what the job's function raised; or, if it was to end the process,
    the exit code, and the traceback."""
    error = _without_our_frames(error)
    if isinstance(error, SystemExit):
        told = _wording.traceback_of(error).encode(errors="replace")
        return _exit_code(error), told[-_native.INLINE :]
    return result.dump_exception(error)


def report(error: BaseException) -> None:
    """Tells of an error that no message can tell the owner of."""
    if isinstance(error, KeyboardInterrupt):
        return  # the owner has been interrupted too
    if not (isinstance(error, OSError) and error.errno == errno.EBADF):
        sys.excepthook(type(error), error, error.__traceback__)
    elif _standard_error is not None and _standard_error == _file(2):
        # The job has closed descriptors, and `sys.stderr` may lead to a file of its own by now.
        import traceback

        told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        os.write(2, told.encode(errors="replace"))


#: What descriptor 2 was when this process, or the one that forked it, was prepared.
_standard_error: tuple[int, int] | None = None


def _file(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is of."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def apply_environment(changes: Changes) -> Changes:
    """Applies a submission's `env`. Returns the changes that undo it."""
    before = {name: os.environ.get(name) for name, _ in changes}
    for name, value in changes:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return list(before.items())


def memory_is_short() -> bool:
    """Whether a process that idles had better give its memory back."""
    from . import gates  # which few processes need

    try:
        return gates.memory_available(_SPARE)() is not None
    except OSError:
        return False  # the system does not tell


def _exit_code(stop: SystemExit) -> int:
    """What the interpreter would exit with; prints what it would."""
    try:
        return _code_of(stop)
    except Exception as e:
        if raised_by_handler(e):
            raise
        return 1  # the words cannot be made or printed


def _code_of(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        fits = -(1 << 63) <= stop.code < 1 << 63
        return (stop.code if fits else -1) & 0xFF
    if sys.stderr is not None:  # or `print` would take stdout
        print(stop.code, file=sys.stderr)
    return 1


def _without_our_frames(error: BaseException) -> BaseException:
    """Drops this file's frames from the top of a traceback: they tell the user nothing."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == _wording.file_of(wind_down):
        tb = tb.tb_next
    return error.with_traceback(tb)


def wind_down() -> None:
    """Ends what the job began: its own jobs, threads, multiprocessing children and queues.

    In CPython's order.
    """
    try:
        if len(threading._active) > 1:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
    finally:
        if os.getpid() in _own_jobs.users:
            _see_own_jobs_out()
    # Before CPython 3.13, what is registered with atexit comes last.
    if runs_atexit and _CHILDREN_RUN_ATEXIT:
        atexit._run_exitfuncs()
    if mp.util._finalizer_registry or mp.process._children:
        mp.util._exit_function()
    if runs_atexit and not _CHILDREN_RUN_ATEXIT:
        atexit._run_exitfuncs()
    _native.flush()


def _see_own_jobs_out() -> None:
    """Waits for the job's own jobs, whatever signal handlers raise meanwhile: nobody else
    would give their slots back. What the system refuses (to a job that has closed all
    descriptors, say) it would refuse again, and ends the wait."""
    raised: BaseException | None = None
    while True:
        try:
            _own_jobs.wait()
            break
        except BaseException as e:
            if isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno is not None):
                raise
            raised = e
    if raised is not None:
        raise raised
