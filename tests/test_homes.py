"""The homes of pools: where they lie, that they go, and what is believed of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until
from holding import Hold, held

from jobserver import Jobserver, StartMethod, _native

#: Runs a command where there is no memory to be used, but $TMPDIR.
WITHOUT_MEMORY = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o ro none /dev/shm; exec "$@"',
    "-",
]

works = subprocess.run([*WITHOUT_MEMORY, "true"], stderr=subprocess.DEVNULL).returncode == 0
needs_mounts = pytest.mark.skipif(not works, reason="needs namespaces")


def run(program: str, cwd: Path, tmpdir: str, *command: str) -> str:
    done = subprocess.run(
        [*WITHOUT_MEMORY, *(command or (sys.executable, "-c", program))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        cwd=cwd,
        env={**os.environ, "TMPDIR": tmpdir},
    )
    return done.stdout


ELSEWHERE = """
import os, sys
from jobserver import Jobserver

def nested(js):
    return js(pow, 2, 3).result()

if __name__ == "__main__":
    with Jobserver(sys.argv[1], 2) as js:
        os.chdir("/")
        print(js(nested, js).result(), js._owner.open_pool().home)
"""


@needs_mounts
def test_a_pool_in_a_relative_tmpdir_outlives_a_change_of_folder(
    tmp_path: Path, method: str
) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "program.py").write_text(ELSEWHERE)
    said = run("", tmp_path, "tmp", sys.executable, str(tmp_path / "program.py"), method).split()
    assert said[0] == "8" and said[1].startswith(str(tmp_path / "tmp"))
    assert os.listdir(tmp_path / "tmp") == []


@needs_mounts
def test_a_tmpdir_that_is_missing_is_named(tmp_path: Path) -> None:
    said = run("from jobserver import Jobserver; Jobserver(slots=1)", tmp_path, "nowhere")
    told = f"cannot make a pool of slots in {tmp_path}/nowhere: No such file or directory"
    assert told in said.splitlines()[-1]
    said = run("", tmp_path, "nowhere", sys.executable, "-m", "jobserver", "run", "--", "true")
    assert told in said


def homes() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "jobserver-" in name}


def test_what_a_killed_maker_leaves_is_removed_by_the_next_pool() -> None:
    program = """
import os
from jobserver import Jobserver
print(Jobserver("fork", 1)._owner.open_pool().home, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    home = done.stdout.strip()
    # (If another program has made a pool meanwhile, it is gone already.) And that of one which was
    # killed in the midst of making it.
    space = os.stat("/proc/self/ns/pid").st_ino
    new = Path(home).with_name(f".jobserver-new-{space}-{4194303}-1-0")
    new.mkdir()
    Jobserver("fork", 1).close()
    assert not os.path.exists(home) and not new.exists()


def test_a_home_of_another_namespace_that_is_being_made_is_left_alone(tmp_path: Path) -> None:
    with Jobserver("fork", 1) as js:
        pool: Any = js._owner.open_pool()
        new = Path(pool.home).with_name(f".jobserver-new-1-{4194303}-1-0")
    new.mkdir()
    try:
        Jobserver("fork", 1).close()
        assert new.exists()
    finally:
        new.rmdir()


@pytest.mark.parametrize("slots", [0, 2**62, 2**64 - 1, 3, 16385])
def test_a_ledger_that_does_not_fit_is_not_believed(slots: int) -> None:
    with Jobserver("fork", 2) as js:
        pool: Any = js._owner.open_pool()
        with open(f"{pool.home}/ledger", "r+b") as ledger:
            ledger.seek(8)
            ledger.write(slots.to_bytes(8, sys.byteorder))
            ledger.flush()
            with pytest.raises(RuntimeError, match="ledger of a pool is damaged"):
                _native.Pool.open(pool.home)


JOINS = (
    "from jobserver import Jobserver; js = Jobserver('fork'); print(js.slots, js(abs, -8).result())"
)


def test_a_program_below_a_pool_of_another_version_has_one_slot() -> None:
    with Jobserver("fork", 2) as js:
        pool: Any = js._owner.open_pool()
        with open(f"{pool.home}/ledger", "r+b") as ledger:
            ledger.write(b"another ")
        flags = f" -j2 --jobserver-auth={pool.auth}"
        done = subprocess.run(
            [sys.executable, "-c", JOINS],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={**os.environ, "MAKEFLAGS": flags},
        )
    assert done.stdout == "1 8\n"
    assert "another version of jobserver; going on with one slot" in done.stderr


@pytest.mark.parametrize("field", range(7))
def test_forged_entries_of_a_ledger_are_survived(field: int) -> None:
    """Whatever one word of an entry says: no panic, no hang."""
    with Jobserver("fork", 2) as js:
        pool: Any = js._owner.open_pool()
        for word in (
            2**64 - 1,
            1 << 63 | 1 << 32 | 1,
            1 << 63 | 0xFFFFFFFF,
            1 << 61,
            1,
            2**42 * os.getpid(),
        ):
            with open(f"{pool.home}/ledger", "r+b") as ledger:
                ledger.seek(24)
                ledger.write((2).to_bytes(8, sys.byteorder))  # entries in use
                ledger.seek(512 + 64 + 8 * field)
                ledger.write(word.to_bytes(8, sys.byteorder))
                ledger.flush()
                other = _native.Pool.open(pool.home)
                other.reclaim()
                other.free()
                owner = _native.Owner(deque(), other, False, False)
                owner.could_admit(_native.Admission(True, False, 0.0), False)
                admission = _native.Admission(True, False, 0.0)
                owner.admit(admission)
                owner.conclude(admission)
                ledger.seek(512 + 64 + 8 * field)
                ledger.write(bytes(8))


def test_a_dead_holder_that_has_lent_its_slot_to_nobody_ends_no_wait_and_no_look() -> None:
    """Only a damaged ledger says that a slot is lent to an entry that is free."""
    with Jobserver("fork", 2) as js:
        pool: Any = js._owner.open_pool()
        dead, lent = (2**22 - 1) << 42 | 1 << 13 | 1, 1 << 63 | 1 << 32 | 2
        with open(f"{pool.home}/ledger", "r+b") as ledger:
            for place, word in ((24, 3), (512 + 64, dead), (512 + 64 + 8 * 4, lent)):
                ledger.seek(place)
                ledger.write(word.to_bytes(8, sys.byteorder))
        assert _native.Pool.open(pool.home).reclaim()
        assert js(abs, -8).result(DEADLINE) == 8


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("word", [9 << 60 | 1, 3 << 60])
def test_a_job_whose_own_entry_is_forged_ends(method: StartMethod, word: int) -> None:
    """The word has bits that no process writes: a comparison with what it means never fits."""
    hold = Hold()
    with Jobserver(method, 1) as js, open(f"{js._owner.open_pool().home}/ledger", "r+b") as ledger:
        future = js(held, hold.end)

        def entry_of_job() -> list[int]:
            ledger.seek(512)
            words = memoryview(ledger.read(64 * 8)).cast("Q")
            return [n for n in range(8) if words[8 * n] >> 42 == future.pid]

        [entry] = wait_until(entry_of_job)
        ledger.seek(512 + 64 * entry + 8 * 4)
        ledger.write(word.to_bytes(8, sys.byteorder))
        ledger.flush()
        hold.close()
        assert future.result(DEADLINE) == future.pid
