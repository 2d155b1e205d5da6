"""Things for other programs to build, each of whose pieces of work records when it ran.

The log of `spans` is in $LOG.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import spans


def doubled(command: str) -> str:
    """For a makefile, or a file of ninja's, in which dollar signs are written twice."""
    return command.replace("$", "$$")


def for_make(folder: Path, pieces: int, seconds: float = spans.WORK) -> None:
    folder.mkdir(exist_ok=True)
    targets = " ".join(f"t{number}" for number in range(pieces))
    recipe = doubled(spans.command(seconds))
    (folder / "Makefile").write_text(f"all: {targets}\n{targets}:\n\t@{recipe}\n")


def for_ninja(folder: Path, pieces: int, seconds: float = spans.WORK) -> None:
    folder.mkdir()
    rules = [f"rule record\n  command = {doubled(spans.command(seconds))} && touch $out\n"]
    rules += [f"build out{number}: record\n" for number in range(pieces)]
    (folder / "build.ninja").write_text("".join(rules))


RECORDING = """#!/bin/sh
{unless}
echo + $(date +%s%N) >> $LOG
sleep {seconds}
{run} "$@"
code=$?
echo - $(date +%s%N) >> $LOG
exit $code
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def for_cargo(folder: Path, pieces: int) -> None:
    members = [f"m{number}" for number in range(pieces)]
    for member in members:
        (folder / member / "src").mkdir(parents=True)
        (folder / member / "src" / "lib.rs").write_text("pub fn f() {}\n")
        manifest = f'[package]\nname = "{member}"\nversion = "0.1.0"\nedition = "2021"\n'
        (folder / member / "Cargo.toml").write_text(manifest)
    (folder / "Cargo.toml").write_text(f"[workspace]\nresolver = '2'\nmembers = {members}\n")


def recording_rustc(folder: Path, seconds: float = 0) -> Path:
    """For RUSTC_WRAPPER: records the compilation of what `for_cargo` makes."""
    unless = 'case "$*" in *"--crate-name m"*) ;; *) exec "$@" ;; esac'
    return script(folder / "rustc", RECORDING.format(unless=unless, seconds=seconds, run=""))


def for_gcc(folder: Path, gcc: str, pieces: int) -> list[str]:
    """Compiles a program for link-time optimization: the names of what is to be linked."""
    folder.mkdir(exist_ok=True)
    for number in range(pieces):
        # Each in a part of its own, which takes that no part makes another superfluous.
        text = f"__attribute__((noipa)) int f{number}(int x) {{ return x + {number}; }}"
        (folder / f"f{number}.c").write_text(text)
    calls = " + ".join(f"f{number}(x)" for number in range(pieces))
    declared = "".join(f"int f{number}(int); " for number in range(pieces))
    (folder / "main.c").write_text(f"{declared} int main(int x, char **y) {{ return {calls}; }}")
    names = [*(f"f{number}" for number in range(pieces)), "main"]
    compiler = [gcc, "-O1", "-flto", "-c", *(f"{name}.c" for name in names)]
    subprocess.run(compiler, cwd=folder, check=True)
    return [str(folder / f"{name}.o") for name in names]


def recording_make(folder: Path, seconds: float = spans.WORK) -> Path:
    """For MAKE: gcc has make run its compilers, which takes a shell that records them."""
    folder.mkdir(exist_ok=True)
    shell = RECORDING.format(unless="", seconds=seconds, run="/bin/sh")
    recorder = script(folder / "shell", shell)
    return script(folder / "make", f'#!/bin/sh\nexec make SHELL={recorder} "$@"\n')


def link(gcc: str, output: Path) -> list[str]:
    """The command that links, to be followed by what; each file is a piece of work."""
    return [gcc, "-O1", "-flto=jobserver", "-flto-partition=1to1", "-o", str(output)]
