"""The rules of the architecture that a machine can check, and that documents name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUST = [*ROOT.glob("rust/core/src/**/*.rs"), *ROOT.glob("rust/python/src/**/*.rs")]

#: Where a document may mean a path to begin.
FOLDERS = [
    "",
    "tests",
    "rust/core/src",
    "rust/core/src/slots",
    "rust/python/src",
    "python/jobserver",
]

#: The only places with `unsafe`.
UNSAFE = (ROOT / "rust/core/src/sys", ROOT / "rust/python/src/hooks.rs")


def code_of(file: Path) -> str:
    """A Rust file without its comments."""
    return re.sub(r"//.*", "", file.read_text())


def test_unsafe_stands_in_one_module_of_the_core_and_between_the_fork_hooks() -> None:
    with_it = [file for file in RUST if re.search(r"\bunsafe \{|\bunsafe fn", code_of(file))]
    strangers = [file for file in with_it if not str(file).startswith(tuple(map(str, UNSAFE)))]
    assert with_it and strangers == []


def test_the_core_and_the_command_know_nothing_of_python() -> None:
    for crate in ("core", "cli"):
        assert "pyo3" not in (ROOT / "rust" / crate / "Cargo.toml").read_text()


def test_sys_needs_nothing_of_the_floors_above_it() -> None:
    for file in ROOT.glob("rust/core/src/sys/*.rs"):
        code = code_of(file).split("mod tests {")[0]
        code = code.replace("crate::process::begin_child();", "")  # in a forked child, at once
        used = set(re.findall(r"crate::(\w+)", code))
        assert used <= {"sys", "error", "linux"}, file


def named_paths(document: str) -> list[str]:
    return re.findall(r"`([\w./-]+\.(?:rs|py|md|pml))`", (ROOT / document).read_text())


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_the_files_that_a_document_names_are_there(document: str) -> None:
    missing = [
        name
        for name in named_paths(document)
        if not any((ROOT / folder / name).exists() for folder in FOLDERS)
    ]
    assert missing == []
