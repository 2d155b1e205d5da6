"""The launch: how a job that does not share its owner's memory learns what to run.

Two objects in one message. First the preparation: what multiprocessing passes to a new
child (search path, folder, main module, key), and the environment. When that has been
applied, the rest is unpickled, so that importing the function's module sees it all.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
from contextlib import contextmanager
from typing import Any, Iterator, NamedTuple, NoReturn, Tuple

from .. import _job, _native, _pickling, _pools
from .. import _multiprocessing as mp
from .._arguments import Changes
from .._exceptions import advised
from .._pickling import Message

Launch = Tuple[Message, _native.Descriptors]


class _Preparation(NamedTuple):
    method: str
    home: str
    owner: int
    data: dict[str, Any]
    env: Changes
    tracker: _pickling.Passed | None


def dump(method: str, name: str, work: _native.Work, home: str) -> Launch:
    """The message that launches a job of the pool with this home, and the descriptors to
    send with it."""
    preparation = _preparation(method, name, work.env or [], home)
    rest = (work.time_limit, work.preexec_fn, work.function, work.args, work.kwargs)
    return _pickling.dump_launch(preparation, rest)


class _Tracked:
    """Pickles as the descriptor of multiprocessing's resource tracker.

    A job must share its owner's tracker, if there is one: a tracker of its own would take
    the owner's shared memory away when the job ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        index = mp.context.get_spawning_popen().duplicate_for_child(self._fd)
        return _pickling.Passed, (index,)


def _preparation(method: str, name: str, env: Changes, home: str) -> Any:
    data = mp.spawn.get_preparation_data(name)
    data["start_method"] = method
    tracker: Any = _Tracked(_tracker())
    return _Preparation(method, home, os.getpid(), data, env, tracker)


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


def run(channel: _native.Channel, interruptible: bool) -> NoReturn:
    """In a new job: waits for its launch, and runs what that says. SIGINT is blocked until
    then, and after it too unless it is `interruptible`."""
    launch = channel.receive_launch()
    if launch is None:
        os._exit(0)  # the owner gave up, or is gone
    message, descriptors, slot = launch
    _pickling.received = descriptors
    _native.run_job(channel, functools.partial(_load, channel, message, slot, interruptible))


def _load(
    channel: _native.Channel, message: Message, slot: int, interruptible: bool
) -> tuple[_native.Work, _native.Setup]:
    try:
        loaded = _prepare_and_load(channel, message, slot)
        if interruptible:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return loaded
    except Exception as e:
        raise pickle.UnpicklingError(
            f"the job could not load what it was to run: {type(e).__name__}: {e}"
        ) from e


def _prepare_and_load(
    channel: _native.Channel, message: Message, slot: int
) -> tuple[_native.Work, _native.Setup]:
    objects = _pickling.load_each(message)
    preparation: _Preparation = next(objects)
    pool = _pools.opened(preparation.home)
    if not pool.adopt(slot):
        os._exit(0)  # the owner is gone, and the slot with it
    if preparation.tracker is not None:
        mp.resource_tracker._resource_tracker._fd = preparation.tracker.detach()
    identity = _job.Identity(preparation.method, preparation.owner)
    setup = identity.setup()
    setup.apply(pool, channel)
    _job.apply_environment(preparation.env)
    # While this is set, multiprocessing refuses to start processes, with a message that
    # explains the missing `if __name__ == "__main__"` that is the usual cause.
    process: Any = mp.process.current_process()
    process._inheriting = True
    try:
        mp.spawn.prepare(preparation.data)
        rest = next(objects)
    finally:
        del process._inheriting
    return _native.Work(None, *rest), setup
