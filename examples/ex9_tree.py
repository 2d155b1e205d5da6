"""Hash and compress every file under a folder, with nested jobs, and compare with a serial run.

The main example: real input, uneven work. The tree is planned first: a folder is a Part whose
parts are its subfolders and its files in chunks. Each part of the top is a job, and a job offers
the parts below it to jobs of their own: submit(..., timeout=0) gives such a job if a slot is free
this very moment; if not, Blocked says so and the part is done in place. So every slot is busy
while there is work, no job ever waits for a slot, and nobody has to guess how deep to nest.

Nothing is written: the compressed data is only counted. Symbolic links are not followed; what
cannot be read, or vanishes meanwhile, is counted as unreadable and does no further harm.

Run:  python examples/ex9_tree.py [folder] [--slots N] [--context fork | forkserver | spawn]
The default folder is the running Python's standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import sysconfig
import time
import zlib
from typing import Any, ContextManager, Dict, List, NamedTuple, Optional, Tuple

from jobserver import Blocked, Future, Jobserver

CHUNK = 4_000_000  # bytes: a chunk of files is work for some 50 ms, many times the cost of a job
BLOCK = 1_000_000  # bytes read at a time, so that a large file needs no large memory
LEVEL = 1  # zlib's fastest


# --- the plan ---------------------------------------------------------------------------------


class Part(NamedTuple):
    """A piece of the work: files, or smaller parts."""

    files: List[str]
    parts: List[Part]
    size: int  # bytes, of everything in it


def plan(folder: str, leave_out: Tuple[str, ...] = ()) -> Part:
    """All that is below a folder, except for its direct subfolders named in leave_out."""
    parts: List[Part] = []
    files: List[str] = []
    size = 0
    for entry in entries(folder):
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
    parts.append(Part(files, [], size))
    return Part([], parts, sum(part.size for part in parts))


def entries(folder: str) -> List[os.DirEntry[str]]:
    """What is in the folder; nothing if it is forbidden, or gone since we heard of it."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def file_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def largest_last(parts: List[Part]) -> List[Part]:
    return sorted(parts, key=lambda part: part.size)


# --- the work ---------------------------------------------------------------------------------


class Measure(NamedTuple):
    """What is found out about one file."""

    modified: int  # nanoseconds, as the file system counts
    size: int
    compressed: int
    sha256: str


class Report(NamedTuple):
    """What one job, with the jobs below it, has to tell."""

    measures: Dict[str, Optional[Measure]]  # by path; None: could not be read
    spans: List[Tuple[float, float]]  # when each job started and ended, on the monotonic clock


def measure(path: str) -> Optional[Measure]:
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


def work(js: Optional[Jobserver], part: Part) -> Report:
    """Do a part: in place, and in jobs of their own whenever a slot is free. None: all in place.

    Only what is not larger than all the rest is given away: then this job, which keeps its slot
    to the end, does not finish long before the jobs below it and sit waiting for them.
    """
    start = time.monotonic()
    report = Report({}, [])
    below: List[Future[Report]] = []
    todo = [part]
    rest = part.size
    while todo:
        part = todo.pop()
        rest -= part.size
        if js is not None and todo and part.size <= rest:
            try:
                below.append(js.submit(work, args=(js, part), timeout=0))
                continue
            except Blocked:
                pass  # every slot is busy: in place, then
        report.measures.update((path, measure(path)) for path in part.files)
        todo += largest_last(part.parts)
        rest += sum(inner.size for inner in part.parts)
    for future in below:
        merge(report, future.result())
    report.spans.append((start, time.monotonic()))
    return report


def merge(report: Report, other: Report) -> None:
    report.measures.update(other.measures)
    report.spans.extend(other.spans)


def in_parallel(js: Jobserver, whole: Part) -> Report:
    """One job for each part of the top, the largest first; the bar moves as they are done."""
    report = Report({}, [])
    with progress_bar(whole.size) as bar:
        futures = []
        for part in reversed(largest_last(whole.parts)):
            future = js.submit(work, args=(js, part))
            future.when_done(bar.update, part.size)
            futures.append(future)
        # While it waits for one job, result() also sees the others end and runs their callbacks.
        for future in futures:
            merge(report, future.result())
    return report


# --- progress ---------------------------------------------------------------------------------


class PlainBar:
    """What we use of tqdm, for where it is not installed: one line, rewritten."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def update(self, amount: int) -> None:
        self.done += amount
        percent = 100 * self.done // max(self.total, 1)
        print(f"\r{percent:3d} % of {self.total / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> PlainBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        print(file=sys.stderr)


def progress_bar(total: int) -> ContextManager[Any]:
    """A bar of so many bytes."""
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainBar(total)
    tqdm.monitor_interval = 0  # or it would start a thread, in a process that is about to fork
    bar: ContextManager[Any] = tqdm(total=total, unit="B", unit_scale=True)
    return bar


# --- the proof --------------------------------------------------------------------------------


def peak(spans: List[Tuple[float, float]]) -> int:
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


def table(rows: List[Tuple[str, str]]) -> str:
    return "\n".join(f"{name:<18}{value:>16}" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hash and compress every file under a folder.")
    parser.add_argument("folder", nargs="?", help="default: Python's standard library")
    parser.add_argument("--slots", type=int, help="default: the CPUs that may be used")
    parser.add_argument("--context", choices=["fork", "forkserver", "spawn"])
    args = parser.parse_args()
    folder = args.folder or sysconfig.get_path("stdlib")
    if not os.path.isdir(folder):
        parser.error(f"{folder!r} is no folder")
    # Other people's packages are not the standard library, though they may live inside it.
    whole = plan(folder, () if args.folder else ("site-packages", "dist-packages"))
    print(folder)

    # The parallel run comes first: if the files are not yet in memory, that counts against it.
    start = time.monotonic()
    with Jobserver(context=args.context, slots=args.slots) as js:
        parallel = in_parallel(js, whole)
    middle = time.monotonic()
    serial = work(None, whole)
    end = time.monotonic()

    changed = check(parallel, serial)
    most = peak(parallel.spans)
    assert most <= js.slots, "more jobs ran at once than there are slots"
    found = [measured for measured in parallel.measures.values() if measured is not None]
    size = sum(measured.size for measured in found)
    compressed = sum(measured.compressed for measured in found)
    rows = [
        ("files", f"{len(found):,}"),
        ("unreadable", f"{len(parallel.measures) - len(found):,}"),
        ("changed meanwhile", f"{changed:,}"),
        ("bytes", f"{size:,}"),
        ("compressed", f"{compressed:,}"),
        ("ratio", f"{size / max(compressed, 1):.2f}"),
        ("serial", f"{end - middle:.2f} s"),
        ("parallel", f"{middle - start:.2f} s"),
        ("speed-up", f"{(end - middle) / (middle - start):.2f}"),
        ("slots", f"{js.slots}"),
        ("jobs", f"{len(parallel.spans):,}"),
        ("peak jobs at once", f"{most}"),
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
