"""Start method forkserver: the job is forked from a small helper process.

The helper, the fork server, has loaded the user's main module and the modules to preload, and
nothing else. So the cost of a fork does not depend on the owner's size, and a fork is safe although
the owner has threads. The first submission starts it, and it serves the whole tree of jobs below.
For an owner that submits many jobs it forks workers ahead: each submission takes one of them and
requests the next.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from .. import _native, _redirection
from .._wire import by_value, result
from . import loading
from ._starter import Helper, HiringStarter
from .introduction import Introductions
from .launch import Launch, dump
from .program import program

if TYPE_CHECKING:
    from .._options import Options
    from .._wire.segments import Payload
    from ._starter import First


#: The largest number of workers ahead. Each costs one descriptor of the owner and two of the
#: helper.
_MOST_AHEAD = 64


#: After so many helpers have ended in a row, the submission fails: the next would end too.
_HELPERS = 5


class ForkServer(HiringStarter):
    method = "forkserver"

    def __init__(self, options: Options, slots: int, home: str, helper: Helper | None) -> None:
        """For a pool with so many slots and this home. `helper` is a running helper."""
        super().__init__(options)
        self._slots = slots
        self._home = home
        self._count = 0
        #: The pid of the helper that another process has started; 0 if there is none.
        self._joined = 0 if helper is None else helper.pid
        # A process that this helper has forked knows how it was prepared.
        prepared = loading.helpers if self._joined == os.getppid() else None
        self._introductions = Introductions(self.method, prepared)
        self._helper = _native.ForkServer(None if helper is None else helper.descriptors)

    def renewed(self, is_job: bool) -> ForkServer:
        # After a fork, the helper is the parent's child: this process may use it, but not end it.
        helper = None
        with contextlib.suppress(_native.ForkServerGone):
            helper = self._running()
        return type(self)(self._options, self._slots, self._home, helper)

    def workers_join(self, owner: _native.Owner) -> bool:
        return self._options.max_tasks != 1

    def helper(self, owner: _native.Owner) -> Helper | None:
        for _ in range(_HELPERS):
            if self._must_start_helper():
                self._start_helper(owner)
            with contextlib.suppress(_native.ForkServerGone):  # another thread has noticed its end
                return self._running()
        raise _gone_again("the fork server has ended")

    def _running(self) -> Helper:
        """The helper; ForkServerGone if there is none."""
        descriptors = self._helper.filenos()
        return Helper(self._helper.pid or self._joined, descriptors)

    def pack(self, work: _native.Work) -> Launch:
        self._count += 1
        return dump(f"Job-{self._count}", _redirection.passed_on(work), self)

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        for left in reversed(range(_HELPERS)):
            # If the helper is killed, its jobs lose nothing. A new helper takes its place.
            try:
                return self._hire(owner, first)
            except _native.ForkServerGone as e:
                if not left:
                    raise _gone_again(str(e)) from None
        raise AssertionError("not reached")

    def _hire(self, owner: _native.Owner, first: First | None) -> int:
        if self._must_start_helper():
            state = owner.admit(first[1]) if first is not None else 0
            if state:
                return state  # without an admitted job, no helper is started
            if self._must_start_helper():  # the wait may have been long
                self._start_helper(owner)

        def introduce() -> tuple[Payload, _native.Descriptors, bool]:
            """After the job is admitted: the wait for a slot may be long, and the owner may change
            its folder meanwhile."""
            return self._introductions.to_job(self._home, self._options, owner)

        # As many workers ahead as there are slots, but none for an owner that submits few jobs.
        ahead = (
            min(self._slots, _MOST_AHEAD, self._count // 2) if not self.workers_join(owner) else 0
        )
        return owner.hire_forked(self._helper, introduce, first, ahead)

    def _must_start_helper(self) -> bool:
        self.share_tracker()
        return not self._helper.running

    def _start_helper(self, owner: _native.Owner) -> None:
        introductions = self._introductions
        preload = self._options.preload
        cloudpickle = by_value.in_use()
        if cloudpickle is not None:
            # The first job is pickled by it already. Each would import it, which takes 20 ms.
            preload = (*preload, cloudpickle)
        preparation, (message, descriptors) = introductions.to_helper(self._home, preload)
        command = program(__name__, is_helper=True)
        try:
            shared = self.workers_join(owner)
            if owner.start_fork_server(self._helper, shared, command, message, descriptors):
                self._joined = 0
                introductions.was_sent(preparation)
        finally:
            descriptors.clear()

    def stop(self) -> None:
        self._helper.stop()
        super().stop()


def _gone_again(last: str) -> RuntimeError:
    return RuntimeError(
        f"no job was started: {last}; {_HELPERS} fork servers have ended in a row. Something kills "
        "them (the kernel, if memory or `ulimit -s` is short), or a module that they import (the "
        'main module, `preload`) ends them; see its messages, or use context="fork" or "spawn"'
    )


def main(interruptible: bool) -> NoReturn:
    """In the helper, whose request socket is its standard input. Ctrl-C at a terminal reaches the
    helper too, but must not end it: SIGINT stays blocked."""
    requests = _native.Channel(0)
    _native.fill_standard()
    received = _native.receive_introduction(requests)
    server = _native.Server(requests.fileno())
    del requests
    # The owner may ignore SIGCHLD. If the helper did, it could not find out how a job ended.
    child_ended = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    result.get_ready()
    if _nobody_minds_forks():
        for _ in range(loading.REHEARSALS):
            _native.rehearse_fork()
    known = None if received is None else loading.preload(*received[0])
    # A module may have had multiprocessing start its resource tracker, which unblocks SIGINT.
    with contextlib.suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    gc.collect()
    gc.freeze()
    channel = server.serve()
    if channel is None:
        _native.exit_at_once()
    if child_ended is not signal.SIG_DFL:
        signal.signal(signal.SIGCHLD, child_ended)
    loading.run(channel, interruptible, known)
    _native.exit_at_once()


def _nobody_minds_forks() -> bool:
    """Whether fork hooks can run here without a fork: true if only this package and `threading`
    have hooks, and there are no other threads. The user's modules are not loaded yet. But
    `sitecustomize`, for example, may have registered hooks, or started threads, whose interpreter
    state the hooks would free."""

    def mark() -> None:
        pass

    os.register_at_fork(before=mark)
    ours = (mark, threading._after_fork, _native.forget_lifeline)  # type: ignore[attr-defined]
    # CPython keeps hooks in lists, and offers no other way to see them.
    lists = [each for hook in ours for each in gc.get_referrers(hook) if type(each) is list]
    others = [hook for each in lists for hook in each if hook not in ours]
    for each in lists:
        if mark in each:
            each.remove(mark)
    return not others and len(sys._current_frames()) == 1
