"""Loading: how a process without its owner's memory gets its jobs.

Its introduction sets it up (`introduction.py`). Then it loads the job of each launch (`launch.py`),
until the binding ends it (rust/python/src/worker.rs).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import runpy
from typing import Any, Callable, Tuple, Union

from .. import _job, _main, _native, _pools, _tracker, _wording
from .. import _multiprocessing as mp
from .._arguments import Changes
from .._signals import raised_by_handler
from .._wire import by_value, pickling, result
from .._wire.segments import Received
from . import _starter, launch, surroundings
from .introduction import Preparation, Terms, prepared, terms
from .launch import NO_DESCRIPTORS, UNCHANGED

#: More than CPython needs before it specialises a function's bytecode.
REHEARSALS = 20


#: In a process that a helper has forked or started: the preparation that a process prepared as the
#: helper's processes are would send to jobs of its own. A process that sends the same wants its
#: jobs to be prepared as it is itself. (It is not always what the helper was sent: `python -m
#: package` has a main module, which its children do not import.)
helpers: Preparation | None = None


class JobInterpreter:
    """The state of a process that a preparation describes."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._data: dict[str, Any] | None = preparation.data
        self.pool = _pools.opened(preparation.home)
        self.identity = _job.Identity(preparation.method)
        self.setup = self.identity.setup
        _tracker.inherit(preparation.tracker.descriptor.detach())

    def apply(self) -> bool:
        """Applies the preparation. Returns false if that was done before."""
        if self._data is None:
            return False
        with _main.ends_told():
            mp.spawn.prepare(self._data)
        self._data = None
        self.setup.look_for_hooks()
        return True

    def rehearse(self) -> None:
        """In a fork server: does all steps that are the same for each job, and runs a job that does
        nothing many times, so that CPython has specialised the bytecode that each job runs."""
        self.setup.get_ready(self.pool)
        self.setup.assign()
        introduction = pickling.dump_launch(None, terms(1))[0]
        nothing = launch.dump("", _NOTHING)[0]
        for _ in range(REHEARSALS):
            _native.rehearse_job(NewProcessLoader((introduction, NO_DESCRIPTORS), self), nothing)


def _nothing() -> None:
    """The function that a fork server rehearses with."""


_NOTHING = _native.Work(None, None, None, _nothing, (), None)


#: Loads the function that a process calls before its first job.
LoadsInitializer = Callable[[], Callable[[], Any]]


class _InitializerRaised(BaseException):
    """Carries an exception of the initializer: the job has it as if its function had raised it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class JobLoader:
    """Loads the jobs of this process, each at its launch: see rust/python/src/worker.rs."""

    def __init__(
        self,
        pool: _native.Pool,
        identity: _job.Identity,
        tasks: int | None,
        load_initializer: LoadsInitializer | None,
    ) -> None:
        """`tasks` is the number of jobs that this process may run. The initializer is loaded and
        called before the first."""
        self._pool = pool
        self._process: Any = identity.process
        self._setup = identity.setup
        self._left = tasks
        self._load_initializer = load_initializer
        self._undo: Changes = []
        self._preexec_fn: _job.Undoable | None = None

    def load(
        self, message: Received, descriptors: _native.Descriptors, slot: int
    ) -> tuple[_native.Work, _native.Setup]:
        """Adopts the slot and loads the job that is launched on it."""
        pickling.received = descriptors
        by_value.came_with_work.clear()
        me = _native.getpid()
        if not self._pool.adopt(slot):
            _native.exit_at_once()  # the owner has ended, and its slot was reclaimed
        try:
            load = pickling.loads_after(UNCHANGED, message)
            if load is None:
                load = pickling.MessageReader(message).load
                env: Changes | None = load()
                if env:
                    self._undo = _job.apply_environment(env)
            work = self._load_work(load)
        except _InitializerRaised as e:
            raise e.error from None
        except BaseException as e:
            _main.end_if_forked(me, e)
            if raised_by_handler(e):
                raise
            raise _not_loaded(e) from None
        if self._left is not None:
            self._left -= 1
        return work, self._setup

    def _initialize(self, initializer: Callable[[], Any]) -> None:
        try:
            initializer()
        except BaseException as e:
            raise _InitializerRaised(e) from None

    def _load_work(self, load: Callable[[], Any]) -> _native.Work:
        if self._load_initializer is not None:
            self._initialize(self._load_initializer())
            self._load_initializer = None
        self._process._name, time_limit, preexec_fn, *call = load()
        if preexec_fn is not None:
            preexec_fn = self._preexec_fn = _job.Undoable(preexec_fn)
        return _native.Work(None, time_limit, preexec_fn, *call)

    def unload(self) -> bool:
        """After a job: undoes its environment. Returns whether another job may follow in this
        process."""
        if self._undo:
            _job.apply_environment(self._undo)
            self._undo = []
        pickling.received.clear()
        undone = self._preexec_fn is None or self._preexec_fn.undone
        self._preexec_fn = None
        return undone and self._left != 0


class _IntroducedLoader(JobLoader):
    """The loader of a process that was not forked from its owner, for a preparation."""

    def __init__(
        self,
        interpreter: JobInterpreter,
        tasks: int | None,
        load_initializer: LoadsInitializer | None,
    ) -> None:
        super().__init__(interpreter.pool, interpreter.identity, tasks, load_initializer)
        self.interpreter = interpreter

    def _initialize(self, initializer: Callable[[], Any]) -> None:
        del self._process._inheriting  # it may start processes
        super()._initialize(initializer)
        self._process._inheriting = True

    def _load_work(self, load: Callable[[], Any]) -> _native.Work:
        # While this is set, multiprocessing refuses to start processes, with a message that
        # explains the missing `if __name__ == "__main__"` that is the usual cause.
        self._process._inheriting = True
        try:
            if self.interpreter.apply() and surroundings.at_start is not None:
                del self._process._inheriting  # otherwise `prepared` would be refused too
                self._remember()
                self._process._inheriting = True
            return super()._load_work(load)
        finally:
            vars(self._process).pop("_inheriting", None)

    def _remember(self) -> None:
        """In a process that a spawn server has started: see `helpers`."""
        global helpers
        preparation = self.interpreter.preparation
        with contextlib.suppress(OSError):  # the folder was removed
            helpers = prepared(preparation.method, preparation.home)


class NewProcessLoader:
    """The loader of a new process, which is set up at its first job. If that fails, the job's
    Future gets the error."""

    def __init__(
        self,
        introduction: Introduction,
        known: Known,
        channel: _native.Channel | None = None,
        interruptible: bool = False,
    ) -> None:
        """`introduction` is the received introduction. Without a channel the process only
        rehearses, and does not become a job."""
        #: The introduction that has not been read yet.
        self._introduction: Introduction | None = introduction
        self._known = known
        self._channel = channel
        self._interruptible = interruptible
        self._loader: _IntroducedLoader | None = None

    def introduce(self, message: Received, descriptors: _native.Descriptors) -> None:
        """Another owner has this process from now on. All owners of a tree have the same limit of
        jobs."""
        self._introduction = message, descriptors

    def load(
        self, message: Received, descriptors: _native.Descriptors, slot: int
    ) -> tuple[_native.Work, _native.Setup]:
        is_first = self._loader is None
        try:
            loader = self._set_up()
        except BaseException as e:
            if raised_by_handler(e):
                raise
            raise _not_loaded(e) from None
        loaded = loader.load(message, descriptors, slot)
        if is_first and self._interruptible:
            _native.unblock_interrupts()
        return loaded

    def _set_up(self) -> JobLoader:
        """The loader, after the last introduction has been read."""
        loader, introduction = self._loader, self._introduction
        if introduction is not None:
            known = self._known if loader is None else loader.interpreter
            interpreter, terms, load_initializer = _introduced(*introduction, known)
            owner, tasks, _, tells, depth, _ = terms
            interpreter.identity.belongs_to(owner)
            interpreter.pool.set_depth(depth)
            if loader is not None and self._channel is not None:
                interpreter.setup.change_owner(interpreter.pool, self._channel, tells)
            elif self._channel is not None:
                interpreter.setup.apply(interpreter.pool, self._channel, tells)
                if known is None and _starter.joined is not None:
                    surroundings.remember()
            if loader is None:
                loader = self._loader = _IntroducedLoader(interpreter, tasks, load_initializer)
            self._introduction = None
        assert loader is not None
        return loader

    def unload(self) -> bool:
        return self._loader is not None and self._loader.unload()


def _not_loaded(error: BaseException) -> result.NotLoaded:
    """The error that the owner gets for an exception that a job met before its function ran."""
    mended = _main.not_imported(error)
    if mended is not None:
        return result.NotLoaded(mended)
    what = f"the job could not load what it was to run: {_wording.in_words(error)}"
    made = result.NotLoaded(what + _main.advice(error))
    shorn = _wording.without_steps(error, _is_machinery)
    if shorn.__traceback__ is not None or shorn.__cause__ or shorn.__context__:
        made.told = _wording.traceback_of(shorn)
    return made


#: The files of this package, and those that import modules.
_MACHINERY = (
    _wording.PACKAGE,
    "<frozen ",
    _wording.file_of(importlib.import_module),
    _wording.file_of(runpy.run_path),
    os.path.dirname(_wording.file_of(mp.process.BaseProcess.run)),
)


def _is_machinery(file: str) -> bool:
    return file.startswith(_MACHINERY)


#: A message, and the descriptors that came with it.
Introduction = Tuple[Received, _native.Descriptors]

#: The preparation of a process before its introduction; or the message that should have prepared
#: it, if that failed; or None.
Known = Union[JobInterpreter, Introduction, None]


def _introduced(
    message: Received, descriptors: _native.Descriptors, known: Known
) -> tuple[JobInterpreter, Terms, LoadsInitializer | None]:
    """The contents of an introduction, for a process with this earlier preparation."""
    pickling.received = descriptors
    loader = pickling.MessageReader(message)
    preparation: Preparation | None = loader.load()
    said: Terms = loader.load()
    if preparation is not None:
        if not isinstance(known, JobInterpreter) or known.preparation != preparation:
            known = JobInterpreter(preparation)
    elif isinstance(known, tuple):
        known, _, _ = _introduced(*known, None)
    if known is None:
        raise RuntimeError("the introduction has no preparation, and the process knows none")
    if said[-1]:
        return known, said, functools.partial(_load_initializer, loader, descriptors)
    descriptors.clear()
    return known, said, None


def _load_initializer(
    loader: pickling.MessageReader, descriptors: _native.Descriptors
) -> Callable[[], Any]:
    """Reads the last part of an introduction."""
    of_launch, pickling.received = pickling.received, descriptors
    try:
        initializer: Callable[[], Any] = loader.load()
        return initializer
    finally:
        pickling.received = of_launch
        descriptors.clear()


def preload(message: Received, descriptors: _native.Descriptors) -> Known:
    """In a fork server: prepares it by its introduction, and imports the modules to preload. The
    jobs repeat each step that fails here, because a job's Future can have the error."""
    global helpers
    try:
        interpreter, said, _ = _introduced(message, descriptors, None)
    except BaseException:
        return message, descriptors  # each job tries again
    try:
        interpreter.rehearse()
        helpers = prepared(interpreter.preparation.method, interpreter.preparation.home)
    except BaseException:
        return interpreter  # each job tries again to apply it
    me = os.getpid()
    for module in said[2]:
        try:
            importlib.import_module(module)
        except BaseException as e:
            _main.end_if_forked(me, e)
            _job.report(e)  # a job that needs the module will have the error itself
    return interpreter


def run(channel: _native.Channel, interruptible: bool, known: Known = None) -> None:
    """In a new process: waits for its jobs, runs them, and ends. Returns if the process gets no
    job, because the owner gave up or has ended. SIGINT is blocked until the first job; with
    `interruptible` it is unblocked then."""
    received = _native.receive_introduction(channel)
    if received is not None:
        introduction, _starter.joined = received
        loader = NewProcessLoader(introduction, known, channel, interruptible)
        _native.run_jobs(channel, loader, _starter.joined)
