"""The launch: how a process that does not share its owner's memory learns what to run.

First comes the *introduction*, once: the *preparation*, which is what multiprocessing passes to
a new child (search path, folder, main module, key) and the pool; who the owner is; and how many
jobs to expect. A fork server is prepared itself, before there are any jobs; so a process for which
that is the same has nothing to do. Then, for each job, the *launch*: changes to the
environment, and when those have been applied, the rest, which only then is unpickled, so that
importing the function's module sees it all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import runpy
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

from .. import _job, _main, _native, _pickling, _pools, _result, _told, _tracker
from .. import _multiprocessing as mp
from .._arguments import Changes
from .._exceptions import advised
from .._pickling import Message, Sent
from .._signals import raised_by_handler
from .program import interpreter

#: What launches a job, and the descriptors that go with it.
Launch = Tuple[Sent, _native.Descriptors]


class _Tracked:
    """The descriptor of multiprocessing's resource tracker, on its way to a job."""

    def __init__(self, descriptor: Any, inode: int) -> None:
        self.descriptor = descriptor
        self.inode = inode  # tells one tracker from another

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tracked) and self.inode == other.inode

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self.descriptor)
        return _Tracked, (_pickling.Passed(index), self.inode)


class Preparation(NamedTuple):
    method: str
    home: str
    data: dict[str, Any]
    tracker: _Tracked


#: The owner's pid and its name to multiprocessing; how many jobs a process may have; what a fork
#: server is to import; whether jobs are to tell when they give their slots away.
_Terms = Tuple[Tuple[int, str], Optional[int], Tuple[str, ...], bool]

#: What mostly are the changes to a job's environment, as it is pickled.
_UNCHANGED = pickle.dumps(None, pickle.HIGHEST_PROTOCOL)

_NO_DESCRIPTORS = _native.Descriptors()


class Introductions:
    """The messages that introduce this process to new ones."""

    def __init__(self, method: str) -> None:
        self._method = method
        #: What the fork server was prepared for, if this process knows.
        self._helpers: Preparation | None = None
        #: The last to a process that is prepared already.
        self._short: tuple[_Terms, Sent] | None = None

    def to_helper(
        self, home: str, preload: tuple[str, ...]
    ) -> tuple[Preparation, tuple[Sent, _native.Descriptors]]:
        """To a fork server for the pool with this home; and what to say if it `was_sent`."""
        self._helpers = None
        preparation = _preparation(self._method, home)
        return preparation, _pickling.dump_launch(preparation, _terms(None, preload))

    def was_sent(self, preparation: Preparation) -> None:
        """Not sooner: another thread may have been quicker, with one of its own."""
        self._helpers = preparation

    def to_job(self, home: str, tasks: int | None, tells: bool) -> tuple[Sent, _native.Descriptors]:
        """To a process that is to run jobs of that pool, `tasks` at most."""
        preparation, terms = _preparation(self._method, home), _terms(tasks, tells=tells)
        if preparation != self._helpers:
            return _pickling.dump_launch(preparation, terms)
        if self._short is None or self._short[0] != terms:
            self._short = terms, _pickling.dump_launch(None, terms)[0]
        return self._short[1], _NO_DESCRIPTORS


def _terms(tasks: int | None, preload: tuple[str, ...] = (), tells: bool = False) -> _Terms:
    return (os.getpid(), mp.process.current_process().name), tasks, preload, tells


def dump(name: str, work: _native.Work, forked: bool = False) -> Launch:
    """The message that launches a job, and what goes with it; in a process that is `forked` from
    this one, or in another."""
    fn, args, kwargs = work.function, work.args, work.kwargs
    if not (work.env or work.preexec_fn or kwargs) and _pickling.are_simple(fn, args):
        message = _pickling.dump_simply((name, work.time_limit, None, fn, args, None))
        if message is not None:
            return _UNCHANGED + message, _NO_DESCRIPTORS
    args, kwargs = _pickling.arguments_apart(args, kwargs)
    # A plain tuple, for which no class has to be looked up in each job.
    rest = (name, work.time_limit, work.preexec_fn, fn, args, kwargs)
    return _pickling.dump_launch(work.env, rest, forked=forked)


def _preparation(method: str, home: str) -> Preparation:
    if not _main.is_frozen():
        interpreter()  # or the resource tracker could not be started, and would not say why
    try:
        data = mp.spawn.get_preparation_data("")
    except FileNotFoundError as e:
        raise FileNotFoundError(e.errno, _folder_gone()) from None
    del data["name"]  # which is each job's own
    data["start_method"] = method
    data["sys_argv"] = list(data["sys_argv"])  # which, alone of all this, is not a copy
    try:
        tracker = _Tracked(*_tracker.running())
    except OSError as e:
        raise advised(e, "cannot start multiprocessing's resource tracker") from None
    return Preparation(method, home, data, tracker)


def _folder_gone() -> str:
    name = "this process's current folder"
    with contextlib.suppress(OSError):
        name += ", " + os.readlink("/proc/self/cwd").replace(" (deleted)", "")
    return f'{name}, is gone, and jobs begin there: call os.chdir first, or use context="fork"'


#: More than CPython needs before it specialises a function's bytecode.
REHEARSALS = 20


class Prepared:
    """What a preparation means for a process."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._data: dict[str, Any] | None = preparation.data
        self.pool = _pools.opened(preparation.home)
        self.identity = _job.Identity(preparation.method)
        self.setup = self.identity.setup()
        _tracker.inherit(preparation.tracker.descriptor.detach())

    def apply(self) -> None:
        if self._data is not None:
            with _main.ends_told():
                mp.spawn.prepare(self._data)
            self._data = None
            self.setup.look_for_hooks()

    def rehearse(self) -> None:
        """In a fork server: does all that is the same for each job, and runs one that does nothing
        again and again, so that the interpreter knows the way by heart and no job finds it cold."""
        self.setup.prepare(self.pool)
        self.setup.assign()
        introduction = _pickling.dump_launch(None, _terms(1))[0]
        launch = dump("", _NOTHING)[0]
        for _ in range(REHEARSALS):
            _native.rehearse_job(Newcomer((introduction, _NO_DESCRIPTORS), self), launch)


def _nothing() -> None:
    """For a fork server to rehearse with."""


_NOTHING = _native.Work(None, None, None, _nothing, (), None)


class Worker:
    """Loads the jobs of this process, each when it is told to: see rust/python/src/worker.rs."""

    def __init__(
        self,
        pool: _native.Pool,
        identity: _job.Identity,
        setup: _native.Setup,
        tasks: int | None,
    ) -> None:
        """For a process that may have so many jobs."""
        self._pool = pool
        self._process: Any = identity.process
        self._setup = setup
        self._left = tasks
        self._undo: Changes = []
        self._preexec_fn: _job.Undoable | None = None

    def load(
        self, message: Message, descriptors: _native.Descriptors, slot: int
    ) -> tuple[_native.Work, _native.Setup]:
        """A job that is launched on this slot."""
        _pickling.received = descriptors
        me = _native.getpid()
        if not self._pool.adopt(slot):
            _native.exit_at_once()  # the owner is gone, and the slot with it
        try:
            load = _pickling.loads_after(_UNCHANGED, message)
            if load is None:
                load = _pickling.Loader(message).load
                env: Changes | None = load()
                if env:
                    self._undo = _job.apply_environment(env)
            work = self._load_work(load)
        except BaseException as e:
            _main.end_if_forked(me, e)
            if raised_by_handler(e):
                raise
            raise _not_loaded(e) from None
        if self._left is not None:
            self._left -= 1
        return work, self._setup

    def _load_work(self, load: Callable[[], Any]) -> _native.Work:
        self._process._name, time_limit, preexec_fn, *call = load()
        if preexec_fn is not None:
            preexec_fn = self._preexec_fn = _job.Undoable(preexec_fn)
        return _native.Work(None, time_limit, preexec_fn, *call)

    def unload(self) -> bool:
        """After a job: undoes what was done for it. Whether another may follow it here."""
        if self._undo:
            _job.apply_environment(self._undo)
            self._undo = []
        _pickling.received.clear()
        undone = self._preexec_fn is None or self._preexec_fn.undone
        self._preexec_fn = None
        return undone and self._left != 0


class _Prepared(Worker):
    """The worker of a process that was not forked from its owner, by a preparation."""

    def __init__(self, prepared: Prepared, tasks: int | None) -> None:
        super().__init__(prepared.pool, prepared.identity, prepared.setup, tasks)
        self._prepared = prepared

    def _load_work(self, load: Callable[[], Any]) -> _native.Work:
        # While this is set, multiprocessing refuses to start processes, with a message that
        # explains the missing `if __name__ == "__main__"` that is the usual cause.
        self._process._inheriting = True
        try:
            self._prepared.apply()
            return super()._load_work(load)
        finally:
            del self._process._inheriting


class Newcomer:
    """A new process, which is set up when it has a job, whose Future is told if that fails."""

    def __init__(
        self,
        introduction: Introduction,
        known: Known,
        channel: _native.Channel | None = None,
        interruptible: bool = False,
    ) -> None:
        """With what it has been sent. Without a channel it only rehearses, and is not to become
        a job."""
        self._introduction = introduction
        self._known = known
        self._channel = channel
        self._interruptible = interruptible
        self._worker: Worker | None = None

    def load(
        self, message: Message, descriptors: _native.Descriptors, slot: int
    ) -> tuple[_native.Work, _native.Setup]:
        if self._worker is not None:
            return self._worker.load(message, descriptors, slot)
        try:
            self._worker = self._set_up(*self._introduction)
        except BaseException as e:
            if raised_by_handler(e):
                raise
            raise _not_loaded(e) from None
        loaded = self._worker.load(message, descriptors, slot)
        if self._interruptible:
            _native.unblock_interrupts()
        return loaded

    def _set_up(self, message: Message, descriptors: _native.Descriptors) -> Worker:
        prepared, terms = _introduced(message, descriptors, self._known)
        owner, tasks, _, tells = terms
        prepared.identity.belongs_to(owner)
        if self._channel is not None:
            prepared.setup.apply(prepared.pool, self._channel, tells)
        return _Prepared(prepared, tasks)

    def unload(self) -> bool:
        return self._worker is not None and self._worker.unload()


def _not_loaded(error: BaseException) -> _result.NotLoaded:
    """What is to be told of what a job has met before its function ran."""
    mended = _main.not_imported(error)
    if mended is not None:
        return _result.NotLoaded(mended)
    what = f"the job could not load what it was to run: {_told.in_words(error)}"
    made = _result.NotLoaded(what + _main.advice(error))
    shorn = _told.shorn(error, _is_machinery)
    if shorn.__traceback__ is not None or shorn.__cause__ or shorn.__context__:
        made.told = _told.traceback_of(shorn)
    return made


#: This package, and what imports modules.
_MACHINERY = (
    _told.PACKAGE,
    "<frozen ",
    _told.file_of(importlib.import_module),
    _told.file_of(runpy.run_path),
    os.path.dirname(_told.file_of(mp.process.BaseProcess.run)),
)


def _is_machinery(file: str) -> bool:
    return file.startswith(_MACHINERY)


#: A message with the descriptors that came with it.
Introduction = Tuple[Message, _native.Descriptors]

#: What a process is prepared for before it is introduced; or what it was sent to be prepared by, if
#: that has failed. None: nothing.
Known = Union[Prepared, Introduction, None]


def _introduced(
    message: Message, descriptors: _native.Descriptors, known: Known
) -> tuple[Prepared, _Terms]:
    """What an introduction says to a process that knows this already."""
    _pickling.received = descriptors
    loader = _pickling.Loader(message)
    preparation: Preparation | None = loader.load()
    terms: _Terms = loader.load()
    if preparation is not None:
        if not isinstance(known, Prepared) or known.preparation != preparation:
            known = Prepared(preparation)
        descriptors.clear()
    elif isinstance(known, tuple):
        known, _ = _introduced(*known, None)
    if known is None:
        raise RuntimeError("the introduction does not say what to prepare for")
    return known, terms


def prepare_ahead(message: Message, descriptors: _native.Descriptors) -> Known:
    """In a fork server, prepares for what it has been sent, and imports what it is to. What
    fails here is left to the jobs, whose Futures can be told."""
    try:
        prepared, terms = _introduced(message, descriptors, None)
    except BaseException:
        return message, descriptors  # each job tries again
    try:
        prepared.rehearse()
    except BaseException:
        return prepared  # each job tries to apply it again
    me = os.getpid()
    for module in terms[2]:
        try:
            importlib.import_module(module)
        except BaseException as e:
            _main.end_if_forked(me, e)
            _job.report(e)  # jobs can do without, or will meet it themselves
    return prepared


def run(channel: _native.Channel, interruptible: bool, known: Known = None) -> None:
    """In a new process: waits for its jobs, runs them, and ends. Returns if it is given none, since
    the owner gave up, or is gone. SIGINT is blocked until the first, and after that too unless it
    is `interruptible`."""
    introduction = channel.receive_introduction()
    if introduction is not None:
        _native.run_jobs(channel, Newcomer(introduction, known, channel, interruptible))
