"""Hash and compress every file under a folder, with nested jobs, and compare with a serial run.

The main example: real input, uneven work. The tree is planned first, as a Part made of smaller
parts: subfolders, and files in chunks. Each part is a job, which submits a job for each part in
it, does its own files, and gathers. With waiting="yield" a job that waits, for a slot or for a
result, needs no slot: only what computes counts, so all slots are busy until the last file, and
nobody has to guess how deep to nest.

Nothing is written: compressed data is only counted. Symbolic links are not followed. What cannot
be read, or vanishes meanwhile, is counted as unreadable and does no further harm.

Run:  python examples/ex9_tree.py [folder] [--slots N] [--context fork | forkserver | spawn]
The default folder is the running Python's standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import sysconfig
import time
import zlib
from typing import Any, ContextManager, NamedTuple

from jobserver import Jobserver

CHUNK = 4_000_000  # bytes: work for some 50 ms, many times what it costs to start a job
BLOCK = 1_000_000  # bytes read at a time, so that a large file needs no large memory
LEVEL = 1  # zlib's fastest


# --- the plan ---------------------------------------------------------------------------------


class Part(NamedTuple):
    """A piece of the work: files, or smaller parts."""

    files: list[str]
    parts: list[Part]
    size: int  # bytes, of everything in it


def plan(folder: str, leave_out: tuple[str, ...] = ()) -> Part:
    """All that is below a folder, except for its direct subfolders named in leave_out."""
    try:
        found = entries(folder)
    except OSError:  # forbidden, or gone: kept in the place of a file, it will count as unreadable
        return Part([folder], [], 0)
    parts: list[Part] = []
    files: list[str] = []
    size = 0
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if entry.name in leave_out:
                continue
            inner = plan(entry.path)
            if inner.parts:
                parts.append(inner)
                continue
            # A folder too small to be worth a job of its own: its files join the chunk.
            files += inner.files
            size += inner.size
        elif entry.is_file(follow_symlinks=False):  # no pipe, no device, no symbolic link
            files.append(entry.path)
            size += file_size(entry)
        if size >= CHUNK:
            parts.append(Part(files, [], size))
            files, size = [], 0
    if not parts:
        return Part(files, [], size)
    if files:
        parts.append(Part(files, [], size))
    return Part([], parts, sum(part.size for part in parts))


def entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def file_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def read_ahead(part: Part) -> None:
    """Read every file once, so that the system has it in memory: no run is to wait for a disk."""
    for path in part.files:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            while file.read(BLOCK):
                pass
    for inside in part.parts:
        read_ahead(inside)


# --- the work ---------------------------------------------------------------------------------


class Measure(NamedTuple):
    """What is found out about one file."""

    modified: int  # nanoseconds, as the file system counts
    size: int
    compressed: int
    sha256: str


class Report(NamedTuple):
    """What one job, with the jobs inside it, has to tell."""

    measures: dict[str, Measure | None]  # by path; None: could not be read
    spans: list[tuple[float, float]]  # when each job did its files, on the monotonic clock


def measure(path: str) -> Measure | None:
    size = compressed = 0
    digest = hashlib.sha256()
    packer = zlib.compressobj(LEVEL)
    try:
        with open(path, "rb", buffering=0) as file:
            modified = os.fstat(file.fileno()).st_mtime_ns
            for block in iter(lambda: file.read(BLOCK), b""):
                size += len(block)
                digest.update(block)
                compressed += len(packer.compress(block))
    except OSError:
        return None
    return Measure(modified, size, compressed + len(packer.flush()), digest.hexdigest())


def work(js: Jobserver | None, part: Part) -> Report:
    """Do a part: its files here, and what is in it in jobs inside this one (without js: here)."""
    inner = [js.submit(work, args=(js, inside)) for inside in part.parts] if js else []
    start = time.monotonic()
    report = Report({path: measure(path) for path in part.files}, [])
    report.spans.append((start, time.monotonic()))
    for future in inner:
        merge(report, future.result())
    for inside in () if js else part.parts:
        merge(report, work(None, inside))
    return report


def merge(report: Report, other: Report) -> None:
    report.measures.update(other.measures)
    report.spans.extend(other.spans)


def in_parallel(js: Jobserver, parts: list[Part]) -> Report:
    """One job for each of these parts; the bar moves as they are done."""
    report = Report({}, [])
    with progress_bar(sum(part.size for part in parts)) as bar:
        futures = []
        for part in parts:
            future = js.submit(work, args=(js, part))
            future.when_done(bar.update, part.size)
            futures.append(future)
        # While it waits for one job, result() also sees others end and runs their callbacks.
        for future in futures:
            merge(report, future.result())
    return report


# --- progress ---------------------------------------------------------------------------------


class PlainBar:
    """What we use of tqdm, for where it is not installed: one line of a terminal, rewritten."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def update(self, amount: int) -> None:
        self.done += amount
        self.show(f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB")

    def show(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> PlainBar:
        self.update(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.show("\n")


def progress_bar(total: int) -> ContextManager[Any]:
    """A bar for so many bytes; without a terminal, nothing."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return PlainBar(total)
    tqdm.monitor_interval = 0  # or it would start a thread, in a process that is about to fork
    bar: ContextManager[Any] = tqdm(total=total, unit="B", unit_scale=True, disable=None)
    return bar


# --- the proof --------------------------------------------------------------------------------


def peak(spans: list[tuple[float, float]]) -> int:
    """The most jobs that were running at once."""
    changes = [(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans]
    running = most = 0
    for _, change in sorted(changes):  # of one instant, ends come before starts
        running += change
        most = max(most, running)
    return most


def check(parallel: Report, serial: Report) -> int:
    """Both runs found the same, but for files that changed between them: how many did."""
    assert parallel.measures.keys() == serial.measures.keys(), "a part of the tree was lost"
    changed = 0
    for path, later in serial.measures.items():
        earlier = parallel.measures[path]
        if earlier != later:
            assert earlier is not None, f"only the parallel run could not read {path!r}"
            assert later is None or earlier.modified != later.modified, f"they differ on {path!r}"
            changed += 1
    return changed


def summary(parallel: Report, slots: int) -> dict[str, str]:
    """What there is to say about the parallel run, but for its time."""
    found = [measured for measured in parallel.measures.values() if measured is not None]
    size = sum(measured.size for measured in found)
    compressed = sum(measured.compressed for measured in found)
    most = peak(parallel.spans)
    assert most <= slots, "more jobs ran at once than there are slots"
    return {
        "files": f"{len(found):,}",
        "unreadable": f"{len(parallel.measures) - len(found):,}",
        "bytes": f"{size:,}",
        "compressed": f"{compressed:,}",
        "ratio": f"{size / max(compressed, 1):.2f}",
        "slots": f"{slots}",
        "jobs": f"{len(parallel.spans):,}",
        "peak jobs at once": f"{most}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Hash and compress every file under a folder.")
    parser.add_argument("folder", nargs="?", help="default: Python's standard library")
    parser.add_argument("--slots", type=int, help="default: the CPUs that may be used")
    parser.add_argument("--context", choices=["fork", "forkserver", "spawn"])
    args = parser.parse_args()
    folder = args.folder or sysconfig.get_path("stdlib")
    if not os.path.isdir(folder):
        parser.error(f"{folder!r} is no folder")
    if args.slots is not None and args.slots < 1:
        parser.error(f"--slots must be at least 1, not {args.slots}")
    # Other people's packages are not the standard library, though they may live inside it.
    whole = plan(folder, () if args.folder else ("site-packages", "dist-packages"))
    top = whole.parts or [whole]
    print(f"{folder!r} on {args.context or 'the default start method'}")

    read_ahead(whole)
    start = time.monotonic()
    with Jobserver(context=args.context, slots=args.slots, waiting="yield") as js:
        parallel = in_parallel(js, top)
    middle = time.monotonic()
    serial = work(None, whole)
    end = time.monotonic()

    table = summary(parallel, js.slots)
    table["nested jobs"] = f"{len(parallel.spans) - len(top):,}"
    table["changed meanwhile"] = f"{check(parallel, serial):,}"
    table["serial wall time"] = f"{end - middle:.2f} s"
    table["wall time"] = f"{middle - start:.2f} s"
    table["speed-up"] = f"{(end - middle) / (middle - start):.2f}"
    for name, value in table.items():
        print(f"{name:<18}{value:>16}")


if __name__ == "__main__":
    main()
