"""The Python state that a job sees, and the rare steps of a job. The common steps are in the
binding (rust/python/src/job.rs).

A job sees the state that a child of multiprocessing sees. multiprocessing makes that state in
`BaseProcess._bootstrap`. A job does not call it, because it makes many objects: in a newly forked
process the kernel must copy every page that is written to, also if only a reference count changes.
These copies cost more than everything else in the job. Instead, the owner prepares the objects, and
the job assigns them. The job undoes only what it has done.

Not here: how the process is started (`_start`).
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
from ._wire.result import dump_value  # noqa: F401 - the binding looks up all its helpers here
from ._wire.segments import Payload

#: From CPython 3.13 on, a forked child of multiprocessing runs the functions that it has registered
#: with atexit, and drops those that its parent had registered.
_CHILDREN_RUN_ATEXIT = sys.version_info >= (3, 13)
runs_atexit = _CHILDREN_RUN_ATEXIT

#: Whether this process is a new program, and not forked. A program also runs the functions that
#: were registered with atexit during its start.
_is_program = False


def become_program() -> None:
    global _is_program, runs_atexit
    _is_program = runs_atexit = True


#: CPython's functions at the begin and the end of a process; None if coverage.py or another tool
#: has replaced them to see processes begin and end.
_BOOTSTRAP: Any = BaseProcess._bootstrap  # type: ignore[attr-defined]
if not mp.is_shipped(_BOOTSTRAP, BaseProcess.run):
    _BOOTSTRAP = None
_EXIT: Any = os._exit if isinstance(os._exit, BuiltinFunctionType) else None

#: The fraction of the memory that idle processes must leave free.
_SPARE = 0.1


class _Process(BaseProcess):
    """The value of `multiprocessing.current_process()` in a job."""

    _config: dict[str, Any]
    _parent_name: str
    _parent_pid: int

    #: The start method that `_bootstrap` sets; None, because it is set already.
    _start_method = None

    #: The number of the job among its owner's jobs. The owner counts here.
    number = 0
    _given_name: str | None = None

    @property
    def _name(self) -> str:
        # Made at the first use, because few jobs use it.
        return self._given_name or f"Job-{self.number}"

    @_name.setter
    def _name(self, name: str) -> None:
        self._given_name = name


def is_this_process() -> bool:
    """Whether this process is a job. A process that a job has started in another way is not."""
    return type(mp.process._current_process) is _Process


class Identity:
    """A job's identity in multiprocessing, and the setup that gives it to a process. If the job is
    forked, its owner prepares both."""

    def __init__(self, method: str, stdin: Any = None) -> None:
        """For jobs of this process, started by `method`, with `stdin` as their `sys.stdin` if that
        is not None."""
        global _standard_error
        # (If CPython found descriptor 2 closed, a file of the user may have that number now.)
        _standard_error = None if sys.__stderr__ is None else _file(2)
        self.context = mp.context._concrete_contexts[method]
        self.process = _Process()
        self.process._given_name = None
        self.process._config.pop("daemon", None)  # a job may have children of its own
        #: The attributes of `process` before it is used.
        self._fresh = vars(self.process).copy()
        self.parent = mp.process._ParentProcess(
            self.process._parent_name, self.process._parent_pid, None
        )
        process, util = vars(mp.process), mp.util
        self.setup = _native.Setup(
            getattr(os.environ, "_data", {}),  # the other attributes are functions
            [
                (process, "_current_process"),
                (process, "_parent_process"),
                (process, "_process_counter"),
                (process, "_children"),
                (vars(mp.context._default_context), "_actual_context"),
                (vars(sys), "stdin"),
            ],
            self._own(stdin),
            {
                "owner": _own_jobs.users,
                "threads": threading._active,  # type: ignore[attr-defined]
                "finalizers": util._finalizer_registry,
                "after_fork": util._afterfork_registry.data,
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

    def _own(self, stdin: Any) -> dict[str, Any]:
        """What makes a process a job, a child in multiprocessing's sense, and what its state is."""
        children: set[Any] = set()
        return {
            "values": [
                self.process,
                self.parent,
                itertools.count(1),
                children,
                self.context,
                stdin,
            ],
            "parent": self.parent.__dict__,
            "children": children,
        }

    def renewed(self, stdin: Any) -> Identity:
        """In a job that was forked: an identity for jobs of its own. What is the same for them is
        copied, because a new process writes to a page for nearly each object that it touches: the
        constructors of multiprocessing's objects and of the setup cost 40 page faults more."""
        process = mp.process
        owner = process._current_process
        made = Identity.__new__(Identity)
        made.context, made._fresh = self.context, self._fresh
        made.process = _Process.__new__(_Process)
        made.process.__dict__.update(
            self._fresh,
            _identity=(*owner._identity, next(process._process_counter)),
            _config=owner._config.copy(),
            _parent_pid=_native.getpid(),
            _parent_name=owner.name,
            _given_name=None,
            number=0,
        )
        made.process._config.pop("daemon", None)
        made.parent = process._ParentProcess.__new__(process._ParentProcess)
        made.parent.__dict__.update(
            self.parent.__dict__,
            _name=made.process._parent_name,
            _pid=made.process._parent_pid,
            _config={},
        )
        made.setup = self.setup.renewed(made._own(stdin))
        return made

    def belongs_to(self, owner: tuple[int, str]) -> None:
        """In a process that was not forked from its owner: sets the owner's pid and name."""
        if (self.process._parent_pid, self.process._parent_name) != owner:
            self.process._parent_pid, self.process._parent_name = owner
            self.parent._pid, self.parent._name = owner


def disinherit() -> None:
    """Drops the functions and finalizers that the job's owner, and not the job, runs at its end."""
    if _CHILDREN_RUN_ATEXIT and not _is_program:
        atexit._clear()
    if BaseProcess._bootstrap is _BOOTSTRAP:  # type: ignore[attr-defined]
        mp.util._finalizer_registry.clear()
        mp.util._run_after_forkers()
    # otherwise `live_bootstrapped` does that


def live_bootstrapped(sentinel: int, body: Callable[[], int]) -> int:
    """Runs this process's jobs, by `body`, within the function that a tool has put in the place of
    multiprocessing's `_bootstrap`. Returns the exit code."""
    process: Any = mp.process._current_process
    children = mp.process._children
    stdin, sys.stdin = sys.stdin, None  # otherwise `_bootstrap` would close it
    codes: list[int] = []

    def run() -> None:
        sys.stdin = stdin
        mp.process._children = children
        codes.append(body())
        if codes[0]:
            raise SystemExit(codes[0])  # the hook sees the exit code

    process.run = run
    code: int = process._bootstrap(parent_sentinel=sentinel)
    return codes[0] if codes else code


def call_prepared(
    preexec_fn: Callable[[], Any], fn: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Calls `preexec_fn`, and then the function; if `preexec_fn` returned a context manager, within
    that."""
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
        undone = e is raised  # False if the context manager raised an error of its own
        raise
    finally:
        undone = undone and not getattr(wrapper, "leaves_changes", False)  # see `_around.Entered`
        raised = None  # otherwise the traceback would refer to itself through this frame
        if isinstance(preexec_fn, Undoable):
            preexec_fn.undone = undone
    return returned  # None, if the context manager has suppressed an exception


class Undoable:
    """A `preexec_fn` with a record, after the job, of whether its changes to the process are
    undone."""

    #: Whether it returned a context manager whose exit raised no error of its own.
    undone = False

    def __init__(self, preexec_fn: Callable[[], Any]) -> None:
        self._preexec_fn = preexec_fn

    def __call__(self) -> Any:
        return self._preexec_fn()


def dump_failure(error: BaseException) -> Payload | tuple[int, bytes]:
    """The message with the exception that the job's function raised. For SystemExit, the exit code
    and the traceback instead."""
    error = _without_our_frames(error)
    if isinstance(error, SystemExit):
        told = _wording.traceback_of(error).encode(errors="replace")
        return exit_code(error), told[-_native.INLINE :]
    return result.dump_exception(error)


def report(error: BaseException) -> None:
    """Reports an error that cannot be sent to the owner."""
    if isinstance(error, KeyboardInterrupt):
        return  # the owner has been interrupted too
    if not (isinstance(error, OSError) and error.errno == errno.EBADF):
        sys.excepthook(type(error), error, error.__traceback__)
    elif _standard_error is not None and _standard_error == _file(2):
        # The job has closed descriptors, so `sys.stderr` may refer to another file of the job.
        import traceback

        told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        os.write(2, told.encode(errors="replace"))


#: The file of descriptor 2 when this process, or the process that forked it, was prepared.
_standard_error: tuple[int, int] | None = None


def _file(descriptor: int) -> tuple[int, int] | None:
    """The device and inode of a descriptor's file; None if the descriptor is not open."""
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
    """Whether memory is so short that an idle process should end."""
    from . import gates  # imported here because few processes need it

    try:
        return gates.memory_available(_SPARE)() is not None
    except OSError:
        return False  # the system does not report it


def exit_code(stop: SystemExit) -> int:
    """The exit code that the interpreter would use; prints the text that it would print."""
    try:
        return _code_of(stop)
    except Exception as e:
        if raised_by_handler(e):
            raise
        return 1  # the text cannot be made or printed


def _code_of(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        fits = -(1 << 63) <= stop.code < 1 << 63
        return (stop.code if fits else -1) & 0xFF
    if sys.stderr is not None:  # otherwise `print` would use stdout
        print(stop.code, file=sys.stderr)
    return 1


def _without_our_frames(error: BaseException) -> BaseException:
    """Drops this file's frames from the top of a traceback, because they do not help the user."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == _wording.file_of(wind_down):
        tb = tb.tb_next
    return error.with_traceback(tb)


def wind_down() -> None:
    """Ends the threads, own jobs, multiprocessing children and queues of this job, in CPython's
    order."""
    try:
        if len(threading._active) > 1:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
    finally:
        if os.getpid() in _own_jobs.users:
            _see_own_jobs_out()
    # Before CPython 3.13, functions that are registered with atexit run last.
    if runs_atexit and _CHILDREN_RUN_ATEXIT:
        atexit._run_exitfuncs()
    if mp.util._finalizer_registry or mp.process._children:
        mp.util._exit_function()
    if runs_atexit and not _CHILDREN_RUN_ATEXIT:
        atexit._run_exitfuncs()
    _native.flush()


def _see_own_jobs_out() -> None:
    """Waits for the job's own jobs, also if signal handlers raise meanwhile, because no other
    process would give their slots back. An OSError of the system ends the wait (for example if the
    job has closed all descriptors), because the next try would fail too."""
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
