"""The rules of the architecture that a machine can check, and that documents name what is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "rust/core/src"
BINDING = ROOT / "rust/python/src"
PACKAGE = ROOT / "python/jobserver"
#: Compiled for tests only: kills at every step of the slot protocol.
KILLS = CORE / "slots/kills"

IN_CORE = [file for file in CORE.glob("**/*.rs") if KILLS not in file.parents]
RUST = [*IN_CORE, *BINDING.glob("**/*.rs"), *ROOT.glob("rust/cli/src/*.rs")]
PYTHON = sorted(PACKAGE.glob("**/*.py"))

#: The documents whose names of files are looked for.
DOCUMENTS = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    *sorted(
        str(file.relative_to(ROOT))
        for folder in ("docs", "benchmarks", "model", "rust/*")
        for file in ROOT.glob(f"{folder}/*.md")
    ),
]

#: Where a document may mean a path to begin, beside its own folder.
FOLDERS = ["", "tests", "rust/core/src", "rust/python/src", "python/jobserver"]

#: The floors of the core, the lowest first: each may use those before it.
FLOORS = (
    ("error",),
    ("platform",),
    ("host", "wait"),
    ("process",),
    ("slots",),
    ("make", "wire"),
    ("forkserver",),
    ("owner",),
    ("worker",),
)

#: The only places with `unsafe`.
UNSAFE = (CORE / "platform", BINDING / "hooks.rs")

#: Private names of CPython's own that a module of the package has too.
CPYTHONS = {"_bootstrap", "_exit", "_replace"}

#: The most lines of a file of the product.
MOST_LINES = 450

Graph = dict[str, set[str]]


def code_of(file: Path) -> str:
    """A Rust file without its comments and tests."""
    code = re.sub(r"//.*", "", file.read_text())
    code = re.sub(r"#\[cfg\(all\(test.*", "", code)
    return code.split("#[cfg(test)]")[0]


def test_no_file_of_the_product_is_too_long() -> None:
    long = [file for file in (*RUST, *PYTHON) if len(file.read_text().splitlines()) > MOST_LINES]
    assert long == []


def test_unsafe_stands_in_one_module_of_the_core_and_between_the_fork_hooks() -> None:
    with_it = [file for file in RUST if re.search(r"\bunsafe \{|\bunsafe fn", code_of(file))]
    strangers = [file for file in with_it if not str(file).startswith(tuple(map(str, UNSAFE)))]
    assert with_it and strangers == []


def test_only_the_platform_module_tells_one_unix_from_another() -> None:
    told = re.compile(r"cfg!?\(.*(target_os|target_vendor|jobserver_portable)")
    strangers = [
        file
        for file in RUST
        if told.search(code_of(file)) and CORE / "platform" not in file.parents
    ]
    assert strangers == []


def test_the_core_and_the_command_know_nothing_of_python() -> None:
    for crate in ("core", "cli"):
        assert "pyo3" not in (ROOT / "rust" / crate / "Cargo.toml").read_text()


def test_what_the_binding_looks_up_in_python_stands_in_one_file() -> None:
    looks_up = re.compile(r'(?<!module = )"jobserver\._|import\("jobserver')
    with_it = {file.name for file in BINDING.glob("**/*.rs") if looks_up.search(code_of(file))}
    assert with_it == {"upcalls.rs"}


def floor_of(file: Path) -> str:
    return file.relative_to(CORE).parts[0].removesuffix(".rs")


def test_each_floor_of_the_core_uses_only_those_below_it() -> None:
    order = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    for file in IN_CORE:
        here = floor_of(file)
        if here == "lib":
            continue
        code = code_of(file)
        assert "use crate::{" not in code, f"{file}: one line for each floor that it uses"
        for used in set(re.findall(r"crate::(\w+)", code)) & set(order):
            assert used == here or order[used] < order[here], f"{file} uses {used}"


def rust_imports(file: Path) -> set[Path]:
    """The files of its own folder that a Rust file uses."""
    if file.name in ("mod.rs", "lib.rs"):
        return set()
    text, folder = code_of(file), file.parent
    modules = re.findall(r"use super::(\w+)::", text)
    names = []
    for group in re.findall(r"use super::\{([^}]*)\}", text, re.DOTALL):
        names += re.findall(r"\w+", group)
    names += re.findall(r"use super::(\w+);", text)
    exported = (folder / "mod.rs").read_text() if (folder / "mod.rs").exists() else ""
    for name in names:
        source = re.search(rf"pub(?:\(\w+\))? use (\w+)::[^;]*\b{name}\b[^;]*;", exported)
        modules.append(source[1] if source else name)
    found = set()
    for module in modules:
        for path in (folder / f"{module}.rs", folder / module / "mod.rs"):
            if path.exists() and path != file:
                found.add(path)
    return found


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of a graph; none if there is none."""
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(node: str) -> list[str]:
        state[node] = 1
        trail.append(node)
        for used in sorted(graph.get(node, ())):
            if state.get(used) == 1:
                return trail[trail.index(used) :]
            if used not in state:
                circle = visit(used)
                if circle:
                    return circle
        trail.pop()
        state[node] = 2
        return []

    for node in sorted(graph):
        if node not in state:
            circle = visit(node)
            if circle:
                return circle
    return []


def test_no_files_of_the_core_use_each_other_in_a_circle() -> None:
    graph = {
        str(file.relative_to(CORE)): {str(used.relative_to(CORE)) for used in rust_imports(file)}
        for file in IN_CORE
    }
    assert any(graph.values())
    assert circle_of(graph) == []


def binding_imports(file: Path) -> set[str]:
    return set(re.findall(r"crate::(\w+)", code_of(file))) - {file.stem, "map"}


def test_no_files_of_the_binding_use_each_other_in_a_circle() -> None:
    files = [file for file in BINDING.glob("**/*.rs") if file.name not in ("lib.rs", "mod.rs")]
    graph = {file.stem: binding_imports(file) for file in files}
    assert circle_of(graph) == []


def module_of(file: Path) -> str:
    parts = list(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, also late, but not those for types only."""
    modules = {module_of(each) for each in PYTHON} | {"jobserver._native"}
    name = module_of(file)
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in without_types(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        base += node.module.split(".") if node.module else []
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found = whole if whole in modules else ".".join(base)
            if found != "jobserver" and found != name:
                yield found


def without_types(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from without_types(node)


def test_no_modules_of_the_package_import_each_other_in_a_circle() -> None:
    graph = {module_of(file): set(imports_of(file)) for file in PYTHON}
    # A folder's own file offers what the others have.
    for folder in ("_map", "_start", "_wire"):
        for used in graph.values():
            if f"jobserver.{folder}" in used and len(used) > 1:
                used.discard(f"jobserver.{folder}")
    assert circle_of(graph) == []


def private_names(tree: ast.AST) -> set[str]:
    """The private names that a module defines, or sets on its own objects."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def private_uses(tree: ast.AST) -> Iterable[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            if node.attr.startswith("_") and ast.unparse(node.value) not in ("self", "cls"):
                yield node.attr, node.lineno


def test_no_module_of_the_package_uses_private_members_of_another() -> None:
    """But for those that the binding's own classes have, which Futures inherit: the package's."""
    trees = {file: ast.parse(file.read_text()) for file in PYTHON}
    defined = {file: private_names(tree) for file, tree in trees.items()}
    shared = private_names(ast.parse((PACKAGE / "_native.pyi").read_text()))
    for file, tree in trees.items():
        others = set().union(*(names for other, names in defined.items() if other != file))
        strangers = others - defined[file] - shared - CPYTHONS
        assert [use for use in private_uses(tree) if use[0] in strangers] == [], file


def named_paths(document: str) -> list[str]:
    return re.findall(r"`([\w./-]+\.(?:rs|py|md|pml))`", (ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_are_there(document: str) -> None:
    folders = [*FOLDERS, str(Path(document).parent)]
    missing = [
        name
        for name in named_paths(document)
        if not any((ROOT / folder / name).exists() for folder in folders)
    ]
    assert missing == []
