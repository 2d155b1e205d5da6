"""Tells what a user's signal handler has raised from what the code that it interrupted has.

A handler runs between any two steps of Python code, so also in the midst of pickling or of a
callback. What it raises (a watchdog's timeout, say, or the KeyboardInterrupt of Ctrl-C) is not
their error: it must leave the call that was interrupted as it is. What they raise themselves is
theirs, be it SystemExit, GeneratorExit or KeyboardInterrupt.
"""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Iterator

#: In a code object's flags: its function takes ``*args``.
_VARARGS = 0x04


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised this, or a trace function. Asked by who catches it.

    Seen from the traceback: these are called with the frame that they interrupt, which is
    also the frame that they return to; hardly any other function is. Not recognised are
    handlers that are not written in Python, but for the one that raises KeyboardInterrupt.
    """
    caught = error.__traceback__
    # Not the catcher's own frame: looking at its variables, the error among them, keeps them
    # with the frame, and so the error would refer to itself.
    step: TracebackType | None = caught and caught.tb_next
    while step is not None:
        interrupted = step.tb_frame.f_back
        if any(argument is interrupted for argument in _arguments(step.tb_frame)):
            return interrupted is not None
        step = step.tb_next
    return isinstance(error, KeyboardInterrupt) and not _raised_by_statement(error)


def _raised_by_statement(error: BaseException) -> bool:
    """Whether a `raise` has made this; Ctrl-C comes at any other instruction."""
    from opcode import opmap  # late, since few need it

    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    code, place = step.tb_frame.f_code.co_code, step.tb_lasti
    return 0 <= place < len(code) and code[place] == opmap["RAISE_VARARGS"]


def _arguments(frame: FrameType) -> Iterator[object]:
    """The positional arguments of a call under way, those that it has not deleted."""
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames
    yield from (values[name] for name in names[: code.co_argcount] if name in values)
    if code.co_flags & _VARARGS:
        yield from values.get(names[code.co_argcount + code.co_kwonlyargcount], ())
