"""A program at a terminal of its own, for tests of Ctrl-C; and when it has come to rest."""

from __future__ import annotations

import multiprocessing.connection
import os
import pty
import time
from pathlib import Path

from conftest import DEADLINE


def until_asleep(pid: int) -> None:
    """Looks until a process sleeps in the kernel: there is no event that says so."""
    deadline = time.monotonic() + DEADLINE
    before = None
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        if before == status and "State:\tS" in status:
            return  # it has not run between two looks
        before = status
        time.sleep(0.002)
    raise AssertionError("the process never came to rest")


class Terminal:
    """A program at a terminal of its own: its keyboard, and what it has shown."""

    def __init__(self, *command: str) -> None:
        self.pid, self._keyboard = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)
        self.shown = ""

    def read_until(self, *words: str) -> None:
        while not all(word in self.shown for word in words):
            assert self._read(), f"the program ended: {self.shown}"

    def _read(self) -> bool:
        assert multiprocessing.connection.wait([self._keyboard], DEADLINE), self.shown
        try:
            self.shown += os.read(self._keyboard, 10000).decode()
        except OSError:
            return False  # which is how the end of a terminal's program is told
        return True

    def press(self, key: bytes) -> None:
        os.write(self._keyboard, key)

    def join(self) -> int:
        while self._read():
            pass
        os.close(self._keyboard)
        return os.waitpid(self.pid, 0)[1]
