"""The main guard: what of the main module's source is below it, and whether the program is there.

A job that imports the main module reaches all that is not below a main guard. If the program starts
a job from there, each job would start another. (`_main.py` says what becomes of such a module.)

Not here: the errors of an import (`_main.py`).
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Iterator, NamedTuple

#: The code that the user should write.
TEXT = """

    if __name__ == "__main__":
        main()
"""


def parsed(main: Any) -> Any:
    """The syntax tree of the main module's source; None if there is none."""
    import ast

    try:
        with open(main.__file__, "rb") as file:
            return ast.parse(file.read())
    except (AttributeError, OSError, SyntaxError, ValueError, RecursionError):
        return None


def is_guard(statement: Any) -> bool:
    """Whether a statement is a main guard: an `if` that asks which process this is."""
    import ast

    return isinstance(statement, ast.If) and _asks(statement.test)


#: Names by which a program asks whether a process is a child of multiprocessing's.
_ASKED = frozenset({"__name__", "parent_process", "current_process"})


def _asks(test: Any) -> bool:
    import ast

    return any(
        (node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)) in _ASKED
        for node in ast.walk(test)
    )


class Place(NamedTuple):
    """A line of the main module."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


def place(main: Any) -> Place | None:
    """Where the main module's own code is being executed, in whichever thread. None if it is not,
    as in a job or at a prompt after a script. (What `exec` executes there has another file.)"""
    file = getattr(main, "__file__", None)
    if file is None:
        return None
    frames: dict[Any, Any] = dict(sys._current_frames())
    try:
        for thread in (threading.get_ident(), threading.main_thread().ident, *frames):
            frame = frames.get(thread)
            while frame is not None:
                code = frame.f_code
                if frame.f_globals is vars(main) and code.co_name == "<module>":
                    if code.co_filename == file:
                        return Place(file, frame.f_lineno)
                frame = frame.f_back
        return None
    finally:
        frames.clear()  # one of them is this function's own, and would keep itself


def is_reached(main: Any, place: Place) -> bool:
    """Whether an import of the main module gets to this place. False if the module has no
    source."""
    import ast

    tree = parsed(main)
    if tree is None:
        return False
    is_import = False
    for node in _around(tree, place.line):
        if any(map(_asks, _tests(node))):
            return False
        is_import = is_import or isinstance(node, (ast.Import, ast.ImportFrom))
    # A module that starts jobs as it is imported may see to it that it does so only once. If the
    # main module has a guard, jobs are meant to import it.
    return not (is_import and any(map(is_guard, tree.body)))


def _around(tree: Any, line: int) -> Iterator[Any]:
    """The nodes that this line belongs to, from the outermost on."""
    import ast

    todo = [tree]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            # (Some nodes have no lines of their own.)
            if getattr(node, "lineno", line) <= line <= getattr(node, "end_lineno", line):
                yield node
                todo.append(node)


def _tests(node: Any) -> list[Any]:
    """The expressions that decide whether the rest of a node is executed."""
    import ast

    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        return [node.test]
    if isinstance(node, ast.BoolOp):  # __name__ == "__main__" and main()
        return node.values[:-1]
    subject = getattr(node, "subject", None)  # that of a `match`, which CPython 3.8 has not
    return [] if subject is None else [subject]
