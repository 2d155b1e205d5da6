"""The launch: how a job that does not share its owner's memory learns what to run.

Three objects in one message. First the *preparation*: what multiprocessing passes to a new
child (search path, folder, main module, key), and the pool. A fork server applies the first
that it hears of itself, before there are any jobs; so a job for which that is the same has
nothing to do. Second the *call*: who asks, and changes to the environment. When those have been
applied, the rest is unpickled, so that importing the function's module sees it all.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
from contextlib import contextmanager
from typing import Any, Iterator, NamedTuple, NoReturn, Sequence, Tuple

from .. import _job, _native, _pickling, _pools
from .. import _multiprocessing as mp
from .._arguments import Changes
from .._exceptions import advised
from .._pickling import Message, Sent

Launch = Tuple[Sent, _native.Descriptors]


class _Tracked:
    """The descriptor of multiprocessing's resource tracker, on its way to a job.

    A job must share its owner's tracker, if there is one: a tracker of its own would take
    the owner's shared memory away when the job ends.
    """

    def __init__(self, descriptor: Any, inode: int) -> None:
        self.descriptor = descriptor
        self.inode = inode  # tells one tracker from another

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self.descriptor)
        return _Tracked, (_pickling.Passed(index), self.inode)


class _Preparation(NamedTuple):
    method: str
    home: str
    data: dict[str, Any]
    tracker: _Tracked


#: The owner's pid and its name to multiprocessing; the job's name; changes to the environment.
#: A plain tuple, for which no class has to be looked up in each job.
_Call = Tuple[Tuple[int, str], str, Changes]


def dump(method: str, name: str, work: _native.Work, home: str) -> Launch:
    """The message that launches a job of the pool with this home, and the descriptors to
    send with it."""
    owner = (os.getpid(), mp.process.current_process().name)
    call: _Call = (owner, name, work.env or [])
    args, kwargs = _pickling.arguments_apart(work.args, work.kwargs)
    rest = (work.time_limit, work.preexec_fn, work.function, args, kwargs)
    return _pickling.dump_launch(_preparation(method, home), call, rest)


def _preparation(method: str, home: str) -> _Preparation:
    data = mp.spawn.get_preparation_data("")
    del data["name"]  # which is each job's own
    data["start_method"] = method
    tracker = _tracker()
    return _Preparation(method, home, data, _Tracked(tracker, os.fstat(tracker).st_ino))


def _tracker() -> int:
    """The descriptor of multiprocessing's resource tracker, which is started if need be.

    Once it runs, its lock is left alone: a fork by another thread, while this one held it,
    would leave it locked in the child for ever.
    """
    fd: int | None = mp.resource_tracker._resource_tracker._fd
    if fd is None or _nobody_reads(fd):
        try:
            fd = mp.resource_tracker.getfd()
        except OSError as e:
            raise advised(e, "cannot start multiprocessing's resource tracker") from None
    return int(fd)


def _nobody_reads(fd: int) -> bool:
    """Whether a pipe has lost its reader."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def command(statement: str) -> list[str]:
    """A new interpreter like this one, that can import this package and runs `statement`."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = f"import sys; sys.path.insert(0, {folder!r}); {statement}"
    executable = os.fsdecode(mp.spawn.get_executable())
    return [executable, *mp.util._args_from_interpreter_flags(), "-c", program]


@contextmanager
def uninterrupted() -> Iterator[bool]:
    """Starts interpreters that Ctrl-C does not interrupt before they can keep quiet about it:
    they are born with SIGINT blocked. Whether they are to unblock it, since we have not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield signal.SIGINT not in before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: More than CPython needs before it specialises a function's bytecode.
_REHEARSALS = 20


class Prepared:
    """A preparation, as it was pickled, and what it means for a process."""

    def __init__(self, loader: _pickling.Loader) -> None:
        preparation: _Preparation = loader.load()
        self._pickled = loader.loaded()
        self._data: dict[str, Any] | None = preparation.data
        self._pool = _pools.opened(preparation.home)
        self._identity = _job.Identity(preparation.method)
        self._setup = self._identity.setup()
        mp.resource_tracker._resource_tracker._fd = preparation.tracker.descriptor.detach()

    def rehearse(self, message: Message) -> None:
        """In a fork server: applies all that is the same for each job, and loads one again and
        again, so that the interpreter knows the way by heart and no job finds it cold."""
        self._setup.assign()
        for _ in range(_REHEARSALS):
            loader = _pickling.Loader(message)
            self.serves(loader)
            self._load(loader)

    def _apply(self) -> None:
        if self._data is not None:
            mp.spawn.prepare(self._data)
            self._data = None

    def serves(self, loader: _pickling.Loader) -> bool:
        """Whether a launch wants just this to be applied; if so, it is passed over there."""
        return loader.skip(self._pickled)

    def load(
        self, channel: _native.Channel, loader: _pickling.Loader, slot: int
    ) -> tuple[_native.Work, _native.Setup]:
        """In a job: becomes it, and loads what it is to run."""
        if not self._pool.adopt(slot):
            os._exit(0)  # the owner is gone, and the slot with it
        self._setup.apply(self._pool, channel)
        return self._load(loader), self._setup

    def _load(self, loader: _pickling.Loader) -> _native.Work:
        call: _Call = loader.load()
        owner, name, env = call
        self._identity.belongs_to(owner, name)
        if env:
            _job.apply_environment(env)
        process: Any = self._identity.process
        # While this is set, multiprocessing refuses to start processes, with a message that
        # explains the missing `if __name__ == "__main__"` that is the usual cause.
        process._inheriting = True
        try:
            self._apply()
            return _native.Work(None, *loader.load())
        finally:
            del process._inheriting


def prepare_ahead(message: Message, descriptors: Sequence[int], _: int) -> Prepared | None:
    """In a fork server, applies the preparation that it has been sent. None if that failed:
    it will fail again in each job, where it can be told."""
    _pickling.received = descriptors
    try:
        prepared = Prepared(_pickling.Loader(message))
        prepared.rehearse(message)
        return prepared
    except (Exception, SystemExit):
        return None


def run(
    channel: _native.Channel, interruptible: bool, prepared: Prepared | None = None
) -> NoReturn:
    """In a new job: waits for its launch, and runs what that says. SIGINT is blocked until
    then, and after it too unless it is `interruptible`."""
    launch = channel.receive_launch()
    if launch is None:
        os._exit(0)  # the owner gave up, or is gone
    launches = [launch]
    del launch
    _native.run_job(channel, functools.partial(_load, channel, launches, interruptible, prepared))


def _load(
    channel: _native.Channel,
    launches: list[tuple[Message, list[int], int]],
    interruptible: bool,
    prepared: Prepared | None,
) -> tuple[_native.Work, _native.Setup]:
    # Not kept by who calls: a large message's memory is to go when it has been loaded.
    message, _pickling.received, slot = launches.pop()
    try:
        loader = _pickling.Loader(message)
        if prepared is None or not prepared.serves(loader):
            prepared = Prepared(loader)
        loaded = prepared.load(channel, loader, slot)
        if interruptible:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return loaded
    except Exception as e:
        raise pickle.UnpicklingError(
            f"the job could not load what it was to run: {type(e).__name__}: {e}"
        ) from e
