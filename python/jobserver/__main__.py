"""``python -m jobserver``: the `jobserver` command. See ``python -m jobserver --help``."""

from __future__ import annotations

import sys

from . import _native


def main() -> int:
    """Runs the command with the words of this program. Returns its exit code."""
    return _native.command(["jobserver", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
