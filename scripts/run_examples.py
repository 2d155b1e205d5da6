"""Run every example as its reader would: a script of its own, from the project's folder; or a
notebook, cell by cell, where nbclient and a kernel are installed.

Only whether it ends well is judged here; what an example shows is its own to assert. It is a
script and not a test so that an example's output is at hand when it fails, and so that it runs
wherever the wheel is installed, pytest or not.
"""

from __future__ import annotations

import email
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# An example that takes this long hangs.
DEADLINE_SECONDS = 300

# The whole standard library is `make demo`; a small part of it, with a subfolder, shows the same.
ARGUMENTS = {"ex9_tree.py": [str(Path(email.__file__).parent)]}


# What examples need, and what executes notebooks: `make examples` has it all, and the tests on
# every CPython do without.
NEEDS = {"ex12_scikit_learn.py": ("joblib", "sklearn", "cloudpickle")}
OF_NOTEBOOKS = ("nbclient", "ipykernel", "cloudpickle")


def command(example: Path) -> list[str]:
    """How a reader runs an example."""
    if example.suffix == ".ipynb":
        # What `jupyter execute` does; that finds its subcommands on PATH only.
        return [sys.executable, "-c", "from nbclient.cli import main; main()", str(example)]
    return [sys.executable, str(example), *ARGUMENTS.get(example.name, [])]


def ends_well(example: Path, jupyters: str) -> bool:
    """Run one example; print its name and time, and all that it printed if it failed. Jupyter's
    files go into a folder of our own."""
    folders = {f"JUPYTER_{name}_DIR": jupyters for name in ("CONFIG", "DATA", "RUNTIME")}
    begun = time.monotonic()
    try:
        process = subprocess.run(
            command(example),
            cwd=ROOT,
            env={**os.environ, "IPYTHONDIR": jupyters, **folders},
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
    examples = []
    for example in sorted((ROOT / "examples").glob("ex*.*")):
        needs = OF_NOTEBOOKS if example.suffix == ".ipynb" else NEEDS.get(example.name, ())
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        if missing:
            print(f"without {example.name}: {', '.join(missing)} not installed")
        else:
            examples.append(example)
    with tempfile.TemporaryDirectory() as jupyters:
        results = [ends_well(example, jupyters) for example in examples]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
