"""Waiting for conditions, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: Generous, for loaded machines: only a failing test waits this long.
DEADLINE = 20.0  # seconds
INTERVAL = 0.01  # seconds


def wait_until(condition: Callable[[], T], what: str = "the condition", deadline: float = DEADLINE) -> T:
    """Return the first true value of *condition*."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {deadline:g} s"
        time.sleep(INTERVAL)
    return value


async def eventually(condition: Callable[[], T | Awaitable[T]], what: str = "the condition") -> T:
    """Return the first true value of *condition*; let other asyncio tasks run meanwhile."""
    end = time.monotonic() + DEADLINE
    while True:
        result = condition()
        value = await result if inspect.isawaitable(result) else result
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come true within {DEADLINE:g} s"
        await asyncio.sleep(INTERVAL)
