"""Admission: what becomes of a task for which there is no room, in this process or in its mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from livethread.errors import NOTHING_STORED, Unavailable
from livethread.queued.writer import Budget, NoRoom, Writer
from livethread_config import Settings

T = TypeVar("T")

#: Wait for room before Redis is asked whether there is some: publications may be lost.
ASK_INTERVAL: Final = 1.0  # seconds


class Admission:
    """Lets tasks in, in each writer's order: at once, or, where the settings say so, once there is room."""

    def __init__(self, settings: Settings, budget: Budget, ask: Callable[[Writer], Awaitable[None]]) -> None:
        self._timeout_s = settings.backpressure_timeout_s if settings.backpressure == "wait" else None
        self._budget = budget
        self._ask = ask
        self._is_stopped = False

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self._is_stopped = True
        self._budget.freed.set()

    async def submit(self, writer: Writer, submit: Callable[[float], T]) -> T:
        """Return what *submit* returns; it is called with the loop time until which its task may wait for room.

        It is called again where it raised `NoRoom` and there may be room; of one writer, in the order of the calls.

        Raises:
            ResourceExhausted: there was no room, in time; nothing is stored.
            Unavailable: the store was closed meanwhile.
        """
        if self._timeout_s is None:
            return submit(0.0)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        if not writer.in_line:
            try:
                return submit(deadline)
            except NoRoom as error:
                return await self._wait(writer, submit, deadline, error)
        return await self._wait(writer, submit, deadline, NoRoom(f"others wait before it in {writer.thread_id}"))

    async def _wait(self, writer: Writer, submit: Callable[[float], T], deadline: float, error: NoRoom) -> T:
        writer.in_line += 1
        try:
            async with asyncio.timeout_at(deadline), writer.turn:
                while not self._is_stopped:
                    try:
                        return submit(deadline)
                    except NoRoom as again:
                        error = again
                    await self._until_freed(writer)
        except TimeoutError:
            raise NoRoom(f"waited {self._timeout_s:g} s for room: {error}") from None
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(NOTHING_STORED)
            raise
        finally:
            writer.in_line -= 1
        raise Unavailable("the store was closed before Redis accepted the task")

    async def _until_freed(self, writer: Writer) -> None:
        self._budget.freed.clear()
        try:
            async with asyncio.timeout(ASK_INTERVAL):
                await self._budget.freed.wait()
        except TimeoutError:
            await self._ask(writer)
