"""Give a job its own environment: variables with env, anything else with preexec_fn.

env is applied in the job before its function is even unpickled, so that modules imported for it
see the variables; None unsets one. A module that is loaded already does not look again: under
fork and forkserver that may be each that your main module imports. preexec_fn() then runs in the
job just before the function: limits, priorities, the working folder. If it returns a context
manager, the function runs inside it. The owner's own environment stays as it is.

The threads of NumPy and other numeric libraries are limited by submit(threads=1).

Run:  python examples/ex6_environment.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import tempfile
from typing import Any, Iterator

from jobserver import Jobserver


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("PAGER", "EDITOR", "GREETING")}


def limit_open_files(limit: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def open_files_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@contextlib.contextmanager
def scratch_folder() -> Iterator[None]:
    """Run the job in a new temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir("/")  # leave, so that the folder can be removed


def write_notes() -> tuple[str, int]:
    """Write a file into the working folder; say where that is and how large the file became."""
    with open("notes.txt", "w") as notes:
        notes.write("only a draft")
    return os.getcwd(), os.path.getsize("notes.txt")


def main(context: Any = None) -> None:
    os.environ["EDITOR"] = "ed"
    os.environ["GREETING"] = "hello"
    with Jobserver(context=context, slots=2) as js:
        env = {"PAGER": "cat", "EDITOR": None}  # set one, unset one, inherit the third
        inside = js.submit(variables, env=env).result()
        print("the job sees:", inside)
        assert inside == {"PAGER": "cat", "EDITOR": None, "GREETING": "hello"}
        assert os.environ["EDITOR"] == "ed"

        ours = open_files_limit()
        limited = functools.partial(limit_open_files, 64)
        assert js.submit(open_files_limit, preexec_fn=limited).result() == 64
        assert open_files_limit() == ours
        print(f"the job may open 64 files, its owner {ours} as before")

        folder, size = js.submit(write_notes, preexec_fn=scratch_folder).result()
        assert size == len("only a draft")
        assert folder != os.getcwd()
    # The job has ended, and its context manager with it.
    assert not os.path.exists(folder)
    print("the job worked in", folder, "which is gone")


if __name__ == "__main__":
    main(*sys.argv[1:])
