"""Start method spawn with processes that run several jobs: all owners of the tree share them.

Only the parent of a process can find out how it ends. So a helper of the whole tree, the spawn
server, starts the interpreters, and reports the end of each to whoever is its owner by then, as a
fork server does. It loads nothing of the user's.

Nobody needs it before a handle of the Jobserver is sent to another process. Until then, the only
owner starts its interpreters itself.

An interpreter has the surroundings of the process that starts it (`surroundings.py`). So an owner
whose surroundings are not the spawn server's starts its interpreters itself, and does not share
them. It does the same for an interpreter that the spawn server could not start.
"""

from __future__ import annotations

import signal
from typing import NoReturn

from .. import _native
from .._options import Options
from .._signals import raised_by_handler
from .._wire import pickling
from . import spawn, surroundings
from ._starter import First, Helper
from .forkserver import ForkServer
from .introduction import prepared
from .launch import NO_DESCRIPTORS
from .program import is_command, program


class SpawnServer(ForkServer):
    method = "spawn"

    def __init__(self, options: Options, slots: int, home: str, helper: Helper | None) -> None:
        super().__init__(options, slots, home, helper)
        #: Those of the helper, if they are known.
        self._surroundings = surroundings.at_start
        self._alone = spawn.Spawn(options, home)
        self._shares = helper is not None

    def workers_join(self, owner: _native.Owner) -> bool:
        self._share(owner)
        return True

    def helper(self, owner: _native.Owner) -> Helper | None:
        self._share(owner)
        return super().helper(owner) if is_command() else None

    def _share(self, owner: _native.Owner) -> None:
        """From now on, there may be another owner."""
        if not self._shares:
            self._shares = True
            owner.dismiss_idle()  # they have not joined the helper

    def hire(self, owner: _native.Owner, first: First | None = None) -> int:
        assert first is None  # an owner starts a process for one job itself
        try:
            if self._shares and self._hire_shared(owner):
                return 0
        except (OSError, _native.ForkServerGone) as e:
            if raised_by_handler(e):
                raise
        return self._alone.hire(owner)

    def _hire_shared(self, owner: _native.Owner) -> bool:
        """Hires a process that owners share. Returns false if this owner must not."""
        if self._must_start_helper():
            self._start_helper(owner)
        if surroundings.now() != self._surroundings:
            return False
        for is_new in (False, True):
            introduction, descriptors, alike = self._introductions.to_job(
                self._home, self._options, owner, is_new=is_new
            )
            try:
                if not alike:
                    return False
                if owner.hire_shared(self._helper, introduction, descriptors, is_new):
                    return True
            finally:
                descriptors.clear()
        return False

    def _start_helper(self, owner: _native.Owner) -> None:
        command = program(spawn.__name__)
        if not isinstance(command, list):
            return  # a tool that sees new programs has come since this was made
        here, preparation = surroundings.now(), prepared(self.method, self._home)
        helper, message = program(__name__, is_helper=True), pickling.dump_plain(command)
        if owner.start_fork_server(self._helper, True, helper, message, NO_DESCRIPTORS):
            self._joined = 0
            self._surroundings = here
            self._introductions.was_sent(preparation)

    def stop(self) -> None:
        self._alone.stop()
        super().stop()


def main(interruptible: bool) -> NoReturn:
    """In the helper, whose request socket is its standard input. SIGINT stays blocked, and is
    blocked in what it starts."""
    requests = _native.Channel(0)
    _native.fill_standard()
    received = _native.receive_introduction(requests)
    # If it ignored SIGCHLD, as the owner may, it could not find out how a process ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = _native.Server(requests.fileno())
    del requests
    if received is not None:
        server.serve_by(pickling.load(received[0][0]))
    _native.exit_at_once()
