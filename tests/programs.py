"""Programs of users' kind, each run as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from conftest import DEADLINE

import jobserver


class Script:
    """Runs programs of users' kind, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(self, *args: str, stdin: str = "", **env: str) -> tuple[int, str, str]:
        """Runs Python on the arguments; returns exit code, output and error output."""
        package = str(Path(jobserver.__file__).parent.parent)
        process = subprocess.Popen(
            [sys.executable, *args],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": package, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all the jobs it may have started
            process.communicate()
            raise
        return process.returncode, out, err
