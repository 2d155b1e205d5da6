"""Test the wheel on every CPython from 3.8 to 3.15 that this machine has.

Each version gets an environment of its own, `.venv/3.9` and so on, that holds the wheel with its
`test` extra and nothing else, and runs there the tests of what differs between versions, and the
examples. The default Python is among them, since only here is the wheel without the development
tools around it. Found are pythons on PATH and those of pyenv; the first that works counts for its
version. It needs no more than the standard library of Python 3.8.

It does not replace tox or nox: there is one thing to run, and nothing to configure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = [f"3.{minor}" for minor in range(8, 16)]

# Where Pythons differ: what multiprocessing, pickle, tracebacks and the fork hooks do. The rest is
# about our own table, slots and waits, and is tested on the default Python.
TESTED = [
    "basics",
    "results",
    "deaths",
    "forkserver",
    "pickling",
    "main_modules",
    "nesting",
    "parity",
    "forks",
    "large",
    "hooks",
    "frozen",
    "advice",
    "executor",
    "executor_ends",
]
# For versions that differ in nothing we use from one that has all of them: see IN_FULL.
FEWER = ["basics", "parity"]
# The oldest; 3.13, from which on forked children run their exit functions (and, as from 3.12 on,
# a fork with threads warns); and what is newest.
IN_FULL = ["3.8", "3.13", "3.15"]

# CPython's own tests of executors, which each version has others of; they mostly sleep.
FOREIGN = "tests/test_foreign_futures.py"

# Most of a run is waiting: for pip, and for the deaths and deadlines that the tests are about.
SIDE_BY_SIDE = 2

# The line that tells how many tests have passed, or that all were skipped.
TELLS = re.compile(" passed| skipped in ")

# A run that takes this long hangs.
DEADLINE_SECONDS = 900

# Asked of each candidate: what it is, and what keeps us from using it. A virtual environment
# names the Python that it was made from.
PROBE = """
import json, os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
base = os.path.join(sys.base_prefix, "bin", "python" + version)
problem = None
try:
    import ensurepip, venv
except ImportError:
    problem = "it has no venv module"
if sys.implementation.name != "cpython":
    problem = "it is not CPython"
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    problem = "it is a free-threaded build, which loads no abi3 wheel"
print(json.dumps({
    "version": version,
    "release": "%d.%d.%d" % sys.version_info[:3],
    "path": base if os.path.exists(base) else sys.executable,
    "problem": problem,
}))
"""


class Python(NamedTuple):
    """One interpreter, as it described itself."""

    version: str
    release: str
    path: str
    problem: str | None


def candidates() -> Iterator[Path]:
    """Yield every file that may be a Python: our own, those on PATH, then pyenv's, newest first."""
    yield Path(sys.executable)
    for folder in os.get_exec_path():
        for name in ["python3", *(f"python{version}" for version in VERSIONS)]:
            yield Path(folder, name)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/*/bin/python"), key=release_of, reverse=True)


def release_of(pyenv_python: Path) -> list[int]:
    """Read the release off pyenv's folder name, so that 3.8.18 is newer than 3.8.2."""
    parts = pyenv_python.parent.parent.name.split(".")
    return [int(part) if part.isdigit() else -1 for part in parts]


def ask(candidate: Path) -> Python | None:
    """Have a candidate describe itself; None if it does not run, as a shim with nothing behind."""
    try:
        process = subprocess.run(
            [str(candidate), "-c", PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
        return Python(**json.loads(process.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


def find() -> dict[str, Python]:
    """Find one Python of each version: the first without a problem, else the first."""
    found: dict[str, Python] = {}
    for candidate in candidates():
        python = ask(candidate) if candidate.is_file() else None
        if python is None or python.version not in VERSIONS:
            continue
        known = found.get(python.version)
        if known is None or (known.problem and not python.problem):
            found[python.version] = python
    return found


def install(python: Python, wheel: Path, log: Path) -> Path:
    """Make the version's environment hold exactly this wheel; return its Python."""
    environment = ROOT / ".venv" / python.version
    inside = environment / "bin" / "python"
    stamp = environment / ".installed"
    want = [python.path, hashlib.sha256(wheel.read_bytes()).hexdigest()]
    have = stamp.read_text().splitlines() if stamp.exists() else ["", ""]
    if have == want:
        return inside
    pip = [str(inside), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if have[0] != python.path:
        run([python.path, "-m", "venv", "--clear", str(environment)], log)
        run([*pip, "--upgrade", "pip"], log)
    run([*pip, "--force-reinstall", "--no-deps", str(wheel)], log)
    run([*pip, f"{wheel}[test]"], log)
    stamp.write_text("\n".join(want))
    return inside


def run(command: list[str], log: Path) -> None:
    """Run a command in the project's folder, adding what it prints to the log."""
    with log.open("ab") as output:
        subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_SECONDS,
            check=True,
        )


def check(python: Python, wheel: Path) -> tuple[str | None, str]:
    """Test the wheel on one version; return what went wrong, if anything did, and the log."""
    log = ROOT / ".venv" / f"{python.version}.log"
    foreign_log = log.with_suffix(".foreign.log")
    log.write_bytes(b"")
    foreign_log.write_bytes(b"")
    problem = None
    try:
        inside = str(install(python, wheel, log))
        # Interpreters take long to start; these files show that spawn works on this version.
        chosen = ["-m", "not slow", "-k", "not spawn or basics or parity"]
        # On the default Python all has been tested, but for the wheel without other tools.
        default = python.version == f"{sys.version_info[0]}.{sys.version_info[1]}"
        tested = TESTED if python.version in IN_FULL else FEWER
        files = [f"tests/test_{name}.py" for name in (TESTED[:1] if default else tested)]
        pytest = [inside, "-m", "pytest", "-p", "no:cacheprovider"]
        with ThreadPoolExecutor(1) as beside:
            foreign = beside.submit(run, [*pytest, FOREIGN], foreign_log)
            run([*pytest, *chosen, *files], log)
            run([inside, str(ROOT / "scripts" / "run_examples.py")], log)
            foreign.result()
    except subprocess.TimeoutExpired:
        problem = f"no end after {DEADLINE_SECONDS} s"
    except subprocess.CalledProcessError as error:
        problem = f"exit code {error.returncode} of {' '.join(error.cmd)}"
    return problem, foreign_log.read_text(errors="replace") + log.read_text(errors="replace")


def tell(found: dict[str, Python]) -> None:
    """Print which versions there are, and which of them are used."""
    for version in VERSIONS:
        python = found.get(version)
        if python is None:
            print(f"{version:<5} not found")
        elif python.problem:
            print(f"{version:<5} {python.path}: not used, since {python.problem}")
        else:
            print(f"{version:<5} {python.path} ({python.release})")
    print(flush=True)


def main() -> int:
    """Find, tell, test; 0 if there is a Python to test on and every one of them passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    wheel: Path = parser.parse_args().wheel.resolve()

    found = find()
    tell(found)
    usable = [found[v] for v in VERSIONS if v in found and not found[v].problem]
    usable.sort(key=lambda python: python.version not in IN_FULL)  # else the longest end alone
    failed = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        checks = pool.map(lambda python: check(python, wheel), usable)
        for python, (problem, log) in zip(usable, checks):
            if problem:
                failed.append(python.version)
                print(log)
                print(f"{python.version:<5} FAILED: {problem}", flush=True)
            else:
                ends = (" passed", " skipped in")
                counts = [
                    line.strip("= ") for line in log.splitlines() if any(map(line.count, ends))
                ]
                told = dict(zip(("CPython's own tests", "tests", "examples"), counts))
                print(f"{python.version:<5} {told}", flush=True)
    passed = len(usable) - len(failed)
    print(f"\nOf {len(usable)} versions of CPython: {passed} passed, {len(failed)} failed")
    return 0 if usable and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
