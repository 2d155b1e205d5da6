"""A notebook: its cells submit what they define, and show what the jobs print.

Each start method has one kernel, in which all cells run; each test looks at one cell.
"""

from __future__ import annotations

import importlib.util
import json
import textwrap
from typing import Any, NamedTuple

import pytest
from conftest import METHODS
from programs import Script

MISSING = [
    name
    for name in ("nbclient", "ipykernel", "cloudpickle")
    if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

#: Executes the notebook that it is given, and writes it with its outputs. A cell that raises does
#: not end it.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
nbformat.write(notebook, sys.argv[2])
"""

CELLS = {
    "set-up": """
        import warnings
        from jobserver import Jobserver
        # From CPython 3.12 on, a fork beside the kernel's threads warns.
        warnings.filterwarnings("ignore", "this process .* has threads")
        js = Jobserver({method!r}, slots=2, max_tasks_per_child=None, output="forward")
    """,
    "a function": """
        factor = 2
        def scaled(x):
            return factor * x
        print(js(scaled, 21).result(), list(js.map(scaled, [(1,), (2,)])))
    """,
    "defined again": """
        factor = 10
        first = js(scaled, 1).result()
        def scaled(x):
            return -factor * x
        print(first, js(scaled, 1).result(), list(js.map(scaled, [(2,)])))
    """,
    "printing": """
        import os, sys
        def speak(name):
            print(name, "speaks")
            os.system("echo a program speaks")
            print("to the other stream", file=sys.stderr)
        js(speak, "the job").result()
    """,
    "the next cell": """
        print("nothing of the last cell")
    """,
    "a class": """
        import dataclasses, enum
        @dataclasses.dataclass
        class Point:
            x: int
            def moved(self):
                return js(Point, self.x + 1).result()  # the class refers to the Jobserver
        class Colour(enum.Enum):
            RED = 1
        moved = js(Point(1).moved).result()
        print(moved == Point(2), type(moved) is Point, js(Colour, 1).result() is Colour.RED)
    """,
    "the class again": """
        @dataclasses.dataclass
        class Point:
            x: int
            y: int = 5
        print(js(Point, 1).result() == Point(1, 5))
    """,
    "an exception": """
        class Trouble(Exception):
            pass
        def fail():
            raise Trouble("told")
        try:
            js(fail).result()
        except Trouble as trouble:
            print(trouble, "in fail" in str(trouble.__cause__))
    """,
    "an exception that nothing catches": """
        js(fail).result()
    """,
    "jobs of jobs": """
        def tree(depth):
            below = js(tree, depth - 1).result() if depth else 0
            print("depth", depth)
            return below + sum(js.map(abs, [(-depth,), (depth,)]))
        print(js(tree, 2).result())
    """,
    "progress": """
        results = js.map(scaled, [(n,) for n in range(3)], chunksize=1)
        total = len(results)
        for count, result in enumerate(results, 1):
            print(f"{{count}} of {{total}}: {{result}}")
    """,
    "the end": """
        js.close()
        print("closed")
    """,
}


SHOWN = {
    "set-up": "",
    "a function": "42 [2, 4]\n",
    "defined again": "10 -10 [-20]\n",
    "printing": "the job speaks\na program speaks\n",
    "the next cell": "nothing of the last cell\n",
    "a class": "True True True\n",
    "the class again": "True\n",
    "an exception": "told True\n",
    "an exception that nothing catches": "",
    "jobs of jobs": "depth 0\ndepth 1\ndepth 2\n6\n",
    "progress": "1 of 3: 0\n2 of 3: -10\n3 of 3: -20\n",
    "the end": "closed\n",
}


class Shown(NamedTuple):
    """What a cell shows."""

    stdout: str
    stderr: str
    errors: list[str]


def shown_by(cell: dict[str, Any]) -> Shown:
    outputs = cell["outputs"]
    streams = [
        "".join("".join(each["text"]) for each in outputs if each.get("name") == stream)
        for stream in ("stdout", "stderr")
    ]
    errors = [each["ename"] for each in outputs if each["output_type"] == "error"]
    return Shown(streams[0], streams[1], errors)


@pytest.fixture(scope="module", params=METHODS)
def executed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Shown]:
    """What each cell shows, with this start method."""
    script = Script(tmp_path_factory.mktemp("notebook"))
    sources = [textwrap.dedent(text.format(method=request.param)) for text in CELLS.values()]
    kind: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}}
    cells = [{**kind, "outputs": [], "source": source} for source in sources]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    script.write("notebook.ipynb", json.dumps(notebook))
    script.write("execute.py", EXECUTE)
    # Nothing is read from, or left in, the user's folders.
    of_jupyter = [f"JUPYTER_{name}_DIR" for name in ("CONFIG", "DATA", "RUNTIME")]
    folders = {name: str(script.folder / name) for name in ("IPYTHONDIR", *of_jupyter)}
    code, out, err = script.run("execute.py", "notebook.ipynb", "executed.ipynb", **folders)
    assert code == 0, out + err
    done = json.loads((script.folder / "executed.ipynb").read_text())
    return dict(zip(CELLS, map(shown_by, done["cells"])))


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_shows_what_its_jobs_return_and_print(executed: dict[str, Shown], cell: str) -> None:
    stdout, stderr, errors = executed[cell]
    assert stdout == SHOWN[cell], stderr
    assert stderr == ("to the other stream\n" if cell == "printing" else "")
    assert errors == (["Trouble"] if cell == "an exception that nothing catches" else [])
