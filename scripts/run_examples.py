"""Run every example as its reader would: a script of its own, from the project's folder.

Only whether it ends well is judged here; what an example shows is its own to assert. It is a
script and not a test so that an example's output is at hand when it fails, and so that it runs
wherever the wheel is installed, pytest or not.
"""

from __future__ import annotations

import email
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# An example that takes this long hangs.
DEADLINE_SECONDS = 300

# The whole standard library is `make demo`; a small part of it, with a subfolder, shows the same.
ARGUMENTS = {"ex9_tree.py": [str(Path(email.__file__).parent)]}


def ends_well(example: Path) -> bool:
    """Run one example; print its name and time, and all that it printed if it failed."""
    begun = time.monotonic()
    try:
        process = subprocess.run(
            [sys.executable, str(example), *ARGUMENTS.get(example.name, [])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_SECONDS,
        )
        output, ending = process.stdout, f"exit code {process.returncode}"
    except subprocess.TimeoutExpired as expired:
        output, ending = expired.stdout or b"", f"no end after {DEADLINE_SECONDS} s"
    seconds = time.monotonic() - begun
    if ending == "exit code 0":
        print(f"ok      {example.name}  {seconds:.1f} s", flush=True)
        return True
    print(f"FAILED  {example.name}: {ending}; it printed:", flush=True)
    print(output.decode(errors="replace"), flush=True)
    return False


def main() -> int:
    """Run them all, also after a failure; 0 if there are any and all ended well."""
    examples = sorted((ROOT / "examples").glob("ex*.py"))
    results = [ends_well(example) for example in examples]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
