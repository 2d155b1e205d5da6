"""Finds out whether a user's signal handler, or the code that it interrupted, raised an exception.

A handler runs between any two steps of Python code, therefore also during pickling or a callback.
An exception that it raises (a watchdog's timeout, or the KeyboardInterrupt of Ctrl-C) is not an
error of the pickling or the callback: it must leave the interrupted call unchanged. An exception
that these raise themselves is theirs, also SystemExit, GeneratorExit or KeyboardInterrupt.
"""

from __future__ import annotations

from types import FrameType, TracebackType
from typing import Iterator

#: In a code object's flags: its function takes ``*args``.
_VARARGS = 0x04


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal handler, or a trace function, has raised this. The function that catches the
    exception must call this.

    The traceback shows it: Python calls a handler with the frame that it interrupts as an argument,
    which is also the frame that it returns to. Hardly any other function is called so. This does
    not recognise handlers that are not written in Python, except the default handler, which raises
    KeyboardInterrupt.
    """
    caught = error.__traceback__
    # Skips the catcher's own frame. An access to its variables keeps them with the frame; the error
    # is one of them, and would refer to itself.
    step: TracebackType | None = caught and caught.tb_next
    while step is not None:
        interrupted = step.tb_frame.f_back
        if any(argument is interrupted for argument in _arguments(step.tb_frame)):
            return interrupted is not None
        step = step.tb_next
    return isinstance(error, KeyboardInterrupt) and not _raised_by_statement(error)


def _raised_by_statement(error: BaseException) -> bool:
    """Whether a `raise` statement has raised this. Ctrl-C comes at any other instruction."""
    from opcode import opmap  # imported late because it is rarely needed

    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    code, place = step.tb_frame.f_code.co_code, step.tb_lasti
    return 0 <= place < len(code) and code[place] == opmap["RAISE_VARARGS"]


def _arguments(frame: FrameType) -> Iterator[object]:
    """The positional arguments of a running call, without those that it has deleted."""
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames
    yield from (values[name] for name in names[: code.co_argcount] if name in values)
    if code.co_flags & _VARARGS:
        yield from values.get(names[code.co_argcount + code.co_kwonlyargcount], ())
