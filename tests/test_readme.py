"""The documents are true where a machine can tell: their Python runs, and their links resolve.

Each ```python block of README.md and docs/ is a whole program, as its reader would paste it into a
file: it is run as a script of its own, in an empty folder, and has to end well. Blocks do not see
each other's names. Code that is not to be run is fenced as something else (```text, ```console).

Not here: names of files that are no links (`test_architecture.py`), and links to other sites.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Those whose Python runs.
RUN = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

#: Those whose links are followed.
LINKED = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
    *sorted(ROOT.glob("model/*.md")),
    *sorted(ROOT.glob("rust/*/README.md")),
]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

DEADLINE_SECONDS = 120


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks() -> Iterator[tuple[str, int, str]]:
    """Yield each block with its document's name and the number of its first line there."""
    for document in RUN:
        text = document.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            yield name_of(document), text.count("\n", 0, match.start(1)) + 1, match.group(1)


def test_the_readme_and_the_guide_have_python_blocks() -> None:
    assert {"README.md", "docs/guide.md"} <= {document for document, _, _ in blocks()}


@pytest.mark.parametrize(
    "line, block", [pytest.param(*b[1:], id=f"{b[0]}-line{b[1]}") for b in blocks()]
)
def test_a_python_block_of_a_document_runs(line: int, block: str, tmp_path: Path) -> None:
    script = tmp_path / "document_block.py"
    # The block stands on its own lines, so a traceback's line numbers are the document's.
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


def prose_of(document: Path) -> str:
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def anchors_of(document: Path) -> set[str]:
    """What a link may have after `#`, as GitHub derives it from headings."""
    headings = HEADING.findall(prose_of(document))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", LINKED, ids=name_of)
def test_the_links_of_a_document_lead_to_files_and_headings(document: Path) -> None:
    broken = []
    for link in LINK.findall(prose_of(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []
