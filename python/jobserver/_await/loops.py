"""The event loops that a task can await jobs in: asyncio's, and trio's if it is trio that runs
(which anyio may choose). Each is imported by those that run it, never here first."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Awaitable, Callable, Protocol, TypeVar

from .. import _native

T = TypeVar("T")


class Event(Protocol):
    """What one task waits for, once. All but `wait` is called in the loop's thread."""

    def set(self) -> None: ...

    def fail(self, error: BaseException) -> bool:
        """Returns whether the task will raise this error."""

    async def wait(self, seconds: float | None = None) -> None:
        """Waits until it is set, or so many seconds; raises the error that it failed with."""


class Loop(Protocol):
    """A loop that runs, or has run, in some thread."""

    def event(self) -> Event: ...

    def begin(self, fd: int, serve: Callable[[], None]) -> None:
        """Has `serve` called whenever the descriptor is readable."""

    def end(self, fd: int) -> None:
        """Ends that. Called in the loop's thread, or after the loop's end."""

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Has it call this in its thread. RuntimeError if it is over."""

    def runs_here(self) -> bool:
        """Whether it runs in this thread."""

    def is_over(self) -> bool:
        """Whether it can run no more."""

    def tell(self, error: BaseException) -> None:
        """Reports an error that no task waits for."""

    async def finish(self, work: Awaitable[T]) -> T:
        """Awaits this also in a task that is being cancelled."""


class _AsyncioEvent:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()

    def set(self) -> None:
        if self._is_awaited():
            self._future.set_result(None)

    def fail(self, error: BaseException) -> bool:
        is_awaited = self._is_awaited()
        if is_awaited:
            self._future.set_exception(error)
        return is_awaited

    def _is_awaited(self) -> bool:
        # (A loop may be closed while tasks wait: they never go on.)
        return not self._future.done() and not self._loop.is_closed()

    async def wait(self, seconds: float | None = None) -> None:
        if seconds is None:
            await self._future
            return
        timer = self._loop.call_later(seconds, self.set)
        try:
            await self._future
        finally:
            timer.cancel()


class AsyncioLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def event(self) -> Event:
        return _AsyncioEvent(self._loop)

    def begin(self, fd: int, serve: Callable[[], None]) -> None:
        self._loop.add_reader(fd, serve)

    def end(self, fd: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(fd)

    def call_soon(self, fn: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(fn)

    def runs_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def is_over(self) -> bool:
        return self._loop.is_closed()

    def tell(self, error: BaseException) -> None:
        told = {"message": "a callback of a job raised", "exception": error}
        self._loop.call_exception_handler(told)

    async def finish(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # anyio cancels again and again
                await asyncio.shield(task)
        return task.result()


class _TrioEvent:
    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._event = trio.Event()
        self._error: BaseException | None = None

    def set(self) -> None:
        self._event.set()

    def fail(self, error: BaseException) -> bool:
        is_awaited = not self._event.is_set()
        if is_awaited:
            self._error = error
            self._event.set()
        return is_awaited

    async def wait(self, seconds: float | None = None) -> None:
        if seconds is None:
            await self._event.wait()
        else:
            with self._trio.move_on_after(seconds):
                await self._event.wait()
        if self._error is not None:
            raise self._error


class TrioLoop:
    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        self._over = False

    def event(self) -> Event:
        return _TrioEvent(self._trio)

    def begin(self, fd: int, serve: Callable[[], None]) -> None:
        async def read() -> None:
            try:
                with self._scope:
                    while not self._scope.cancel_called:
                        await self._trio.lowlevel.wait_readable(fd)
                        try:
                            serve()
                        except BaseException as e:  # would end all that runs here
                            self.tell(e)
            finally:
                self._over = True

        self._trio.lowlevel.spawn_system_task(read)

    def end(self, fd: int) -> None:
        if self._over:
            return
        self._scope.cancel()
        self._trio.lowlevel.notify_closing(fd)

    def call_soon(self, fn: Callable[[], None]) -> None:
        self._token.run_sync_soon(fn)

    def runs_here(self) -> bool:
        try:
            return bool(self._trio.lowlevel.current_trio_token() is self._token)
        except RuntimeError:
            return False

    def is_over(self) -> bool:
        return self._over

    def tell(self, error: BaseException) -> None:
        _native.tell_unraisable(error, self)  # trio has no handler of its own

    async def finish(self, work: Awaitable[T]) -> T:
        with self._trio.CancelScope(shield=True):
            return await work


def running() -> tuple[Any, Callable[[], Loop]]:
    """What identifies the loop that runs in this thread, and how to make its Loop.

    Asked in this order, because trio may run as a guest of asyncio, in no task of that; and because
    a job that trio's process has forked looks as if trio ran in it."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and not _is_asyncio_task():
        with contextlib.suppress(RuntimeError):  # trio does not run here
            return trio.lowlevel.current_trio_token(), lambda: TrioLoop(trio)
    loop = asyncio.get_running_loop()
    return loop, lambda: AsyncioLoop(loop)


def _is_asyncio_task() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
