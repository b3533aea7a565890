from __future__ import annotations

import asyncio
import os

import pytest

from livethread import InvalidRequest, Unavailable
from livethread.opener import Opener, checking


@checking(Opener.require_loop)
class Store:
    """A store with one operation."""

    def __init__(self) -> None:
        self._opener = Opener()

    async def read(self, number: int) -> int:
        return await self._double(number)

    async def _double(self, number: int) -> int:
        return 2 * number


async def test_the_loop_that_opened_a_store_can_call_it() -> None:
    store = Store()
    store._opener.enter_loop()

    assert await store.read(21) == 42


async def test_a_store_that_is_not_open_refuses_calls() -> None:
    with pytest.raises(InvalidRequest, match="is not open, and nothing was stored: use it in `async with`"):
        await Store().read(1)


async def test_a_closed_store_refuses_calls() -> None:
    store = Store()
    store._opener.enter_loop()
    store._opener.close()

    with pytest.raises(Unavailable, match="the store was closed, and nothing was stored"):
        await store.read(1)


def test_another_loop_is_refused() -> None:
    store = Store()

    async def enter() -> None:
        store._opener.enter_loop()

    asyncio.run(enter())

    with pytest.raises(InvalidRequest, match="opened in another event loop"):
        asyncio.run(store.read(1))


async def test_a_forked_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store._opener.enter_loop()
    opener = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: opener + 1)

    with pytest.raises(InvalidRequest, match=f"belongs to process {opener}.*after a fork, open a store"):
        await store.read(1)
