"""The README's Python is true: every ```python block runs.

Each block is a whole program, as its reader would paste it into a file: it is run as a script of
its own, in an empty folder, and has to end well. Blocks do not see each other's names. Code that
is not to be run is fenced as something else (```text, ```console).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

DEADLINE_SECONDS = 120


def blocks() -> Iterator[tuple[int, str]]:
    """Yield each block with the number of its first line in the README."""
    text = README.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start(1)) + 1, match.group(1)


def test_the_readme_has_python_blocks() -> None:
    assert list(blocks())


@pytest.mark.parametrize("line, block", [pytest.param(*b, id=f"line{b[0]}") for b in blocks()])
def test_a_python_block_of_the_readme_runs(line: int, block: str, tmp_path: Path) -> None:
    script = tmp_path / "readme_block.py"
    # With the block on its own lines of the README, a traceback's line numbers are the README's.
    script.write_text("\n" * (line - 1) + block, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", str(script)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_SECONDS,
    )
    printed = process.stdout.decode(errors="replace")
    assert process.returncode == 0, printed
    assert "ResourceWarning" not in printed
    # What a line is said to print by a comment at its end, it prints.
    said = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert [line for line in printed.splitlines() if line in said] == said
