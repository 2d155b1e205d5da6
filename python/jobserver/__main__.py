"""``python -m jobserver``: the `jobserver` command. See ``python -m jobserver --help``."""

from __future__ import annotations

import signal
import sys

from . import _native


def main() -> int:
    """Runs the command with the words of this program. Returns its exit code."""
    # No Python code runs until the command has ended, and Python's handler of SIGINT would only
    # record the signal. The command would also ignore the signals that Python ignores. The binding
    # handles SIGPIPE where it starts the command; here SIGPIPE stays ignored, as in every Rust
    # program.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return _native.command(["jobserver", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
