"""Texts of any exception, in short time, of limited length, also if the exception's methods raise.

A job sends its owner the text of its exception, and messages of this package quote exceptions. A
traceback may have 100,000 frames, a message may have a gigabyte, and `__str__` may exit. Not here:
the exception itself, which is pickled unchanged (`_wire/result.py`).
"""

from __future__ import annotations

import builtins
import itertools
import os
from types import TracebackType
from typing import Any, Callable, Iterator

from ._signals import raised_by_handler

#: Limits for frames, for exceptions in a chain or a group, and for characters of a text. Of a
#: longer text, the first half and the last half of the limit are kept.
_FRAMES = 200
_LINKS = 20
_CHARACTERS = 10_000

#: The class of exception groups, which CPython has from 3.11 on.
_Group: Any = getattr(builtins, "BaseExceptionGroup", ())

#: Python's own texts.
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def file_of(function: Any) -> str:
    """The file of a function as tracebacks name it. (In a frozen program a module may have no file
    name.)"""
    name: str = function.__code__.co_filename
    return name


#: The folder of this package, with which its files begin.
PACKAGE = os.path.join(os.path.dirname(file_of(file_of)), "")


def in_words(error: BaseException) -> str:
    """The type and the text of an exception, as in the last line of its traceback."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins" and not kind.__module__.startswith("_"):
        name = f"{kind.__module__}.{name}"
    text = converted(str, error)
    return f"{name}: {text}" if text else name


def converted(convert: Callable[[Any], str], value: Any) -> str:
    """The `str` or `repr` of a value, shortened; or a text that says that it failed."""
    try:
        text = convert(value)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        return f"<{convert.__name__}() of {type(value).__name__} failed>"
    if len(text) <= _CHARACTERS:
        return text
    half = _CHARACTERS // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, with those of its causes. The middle of a long one is left
    out."""
    try:
        return _traceback_of(error)
    except Exception as e:
        if isinstance(e, RecursionError) or raised_by_handler(e):
            raise
        # Frames of functions that Nuitka has compiled cannot be formatted under CPython 3.11. And a
        # job that has used up all descriptors cannot import the module that formats frames.
        return in_words(error) + "\n"


def _traceback_of(error: BaseException) -> str:
    import traceback

    if _is_short(error):
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    parts: list[str] = []
    chain = _chain(error)
    left_out = max(0, len(chain) - _LINKS)
    for place, (link, relation) in enumerate(chain):
        if left_out and place == _LINKS // 2:
            parts.append(f"\n... {left_out} exceptions left out ...\n\n")
        if not _LINKS // 2 <= place < _LINKS // 2 + left_out:
            parts += [relation, _alone(link)]
    return "".join(reversed(parts))  # the exception that was raised first comes first


def _is_short(error: BaseException) -> bool:
    """Whether the whole traceback is within the limits."""
    seen: dict[int, BaseException] = {}
    frames, left = 0, [error]
    while left:
        link = left.pop()
        if id(link) in seen:
            continue
        seen[id(link)] = link
        frames += sum(1 for _ in itertools.islice(steps(link), _FRAMES + 1))
        if frames > _FRAMES or len(seen) > _LINKS or any(map(_is_long, [link, *_notes(link)])):
            return False
        others = (link.__cause__, link.__context__, *_members(link))
        left += [other for other in others if other is not None]
    return True


def _is_long(value: object) -> bool:
    try:
        return len(str(value)) > _CHARACTERS
    except BaseException as e:
        if raised_by_handler(e):
            raise
        return False  # Python's text for that is short


def _notes(error: BaseException) -> list[Any]:
    notes = vars(error).get("__notes__")
    return [*notes] if isinstance(notes, (list, tuple)) else []


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions of a group; empty for any other exception."""
    return _Group.exceptions.__get__(error) if isinstance(error, _Group) else ()


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """An exception and those that led to it, each with the text that comes after it."""
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    relation = ""
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        chain.append((link, relation))
        relation = _CONTEXT if link.__cause__ is None else _CAUSE
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _alone(error: BaseException) -> str:
    """One exception's own traceback."""
    shown, notes, members = [*steps(error)], _notes(error), _members(error)
    lines = ["Traceback (most recent call last):\n"] if shown else []
    if len(shown) > _FRAMES:
        lines += _formatted(shown[: _FRAMES // 2])
        lines.append(f"  ... {len(shown) - _FRAMES} frames left out ...\n")
        shown = shown[-_FRAMES // 2 :]
    lines += _formatted(shown)
    lines.append(f"{in_words(error)}\n")
    lines += (f"{converted(str, note)}\n" for note in notes[:_LINKS])
    lines += (f"  | {in_words(member)}\n" for member in members[:_LINKS])
    if len(members) > _LINKS:
        lines.append(f"  | ... {len(members) - _LINKS} exceptions left out ...\n")
    return "".join(lines)


def _formatted(steps: list[TracebackType]) -> list[str]:
    import traceback

    frames = ((step.tb_frame, step.tb_lineno) for step in steps)
    return traceback.StackSummary.extract(frames).format()


def without_steps(error: BaseException, hidden: Callable[[str], bool]) -> BaseException:
    """The exception without the steps of its traceback in files that are `hidden`."""
    shown = [step for step in steps(error) if not hidden(step.tb_frame.f_code.co_filename)]
    traceback: TracebackType | None = None
    for step in reversed(shown):
        traceback = TracebackType(traceback, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return error.with_traceback(traceback)


def steps(error: BaseException) -> Iterator[TracebackType]:
    """A traceback's steps, the outermost first."""
    step = error.__traceback__
    while step is not None:
        yield step
        step = step.tb_next


def without_frames(error: BaseException) -> BaseException:
    """Drops tracebacks, whose frames would keep the objects that were to be sent."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
