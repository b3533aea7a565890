"""Measures one awaited append and one read of a history: livethread and the sessions of OpenAI's Agents SDK."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, Final

from benchmarks import load
from benchmarks.deployments import Deployment, deployed
from benchmarks.timing import medians
from livethread import CreateThreadParams, LiveThread
from livethread_config import Settings
from livethread_worker.store.local import LocalThreadStore

if TYPE_CHECKING:
    Append = Callable[[list[Any]], Awaitable[object]]
    Read = Callable[[], Coroutine[Any, Any, object]]

#: Appends of one measurement.
_APPENDS: Final = 50

#: Items of one append of those that fill a history.
_FILLING: Final = 500


def run(items: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of one awaited append, and of reading *items*, for each kind of session.

    Without the Agents SDK, its sessions are left out.
    """
    # Fewer appends than texts, so that no text repeats.
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            appends, reads = runner.run(_opened(stack, items))
            appended = medians({name: _blocking(runner, some) for name, some in appends.items()}, repeats)
            read = medians({name: _blocking(runner, one) for name, one in reads.items()}, repeats)
        finally:
            runner.run(stack.aclose())
    return {
        "items": items,
        "append": {name: seconds / _APPENDS for name, seconds in appended.items()},
        "read": read,
        "has_agents": _has_agents(),
    }


def _blocking(runner: asyncio.Runner, operation: Read) -> Callable[[], object]:
    return lambda: runner.run(operation())


async def _opened(stack: AsyncExitStack, items: int) -> tuple[dict[str, Read], dict[str, Read]]:
    """Return functions that append some items one by one, and that read a history of *items*, by session name."""
    deployment = await stack.enter_async_context(deployed(1))
    appends, reads = await _ours(stack, deployment, items)
    if _has_agents():
        more = await _theirs(stack, deployment, items)
        appends, reads = appends | more[0], reads | more[1]
    return appends, reads


async def _ours(stack: AsyncExitStack, deployment: Deployment, items: int) -> tuple[dict[str, Read], dict[str, Read]]:
    params = CreateThreadParams(cwd="/benchmark")
    accepted, durable, full = await load.opened(deployment.store, 3)
    for thread in (accepted, durable, full):
        stack.push_async_callback(thread.shutdown)
    local = await stack.enter_async_context(LocalThreadStore(Settings(home=deployment.settings.home / "local")))
    here = await LiveThread.create(local, params)

    async def flushed(some: list[Any]) -> None:
        await durable.append_items(some)
        await durable.flush()

    async def read() -> None:
        assert len((await full.load_history()).items) > items

    await _fill(full.append_items, items, _event)
    appends = {
        "livethread, accepted": _some(accepted.append_items, _event),
        "livethread, durable": _some(flushed, _event),
        "livethread, LocalThreadStore": _some(here.append_items, _event),
    }
    return appends, {"livethread, load_history": read}


async def _theirs(
    stack: AsyncExitStack, deployment: Deployment, items: int
) -> tuple[dict[str, Read], dict[str, Read]]:
    from agents import SQLiteSession  # noqa: PLC0415 - it may not be installed
    from agents.extensions.memory import RedisSession  # noqa: PLC0415

    path, url = deployment.settings.home / "agents.sqlite", deployment.settings.client_url
    appends: dict[str, Read] = {}
    reads: dict[str, Read] = {}
    for name in ("SQLiteSession", "RedisSession"):
        session, full = (
            SQLiteSession(f"{name} {what}", path)
            if name == "SQLiteSession"
            else RedisSession.from_url(f"{name} {what}", url=url)
            for what in ("short", "full")
        )
        for each in (session, full):
            close: Any = each.close
            stack.push_async_callback(_closed, close)
        await _fill(full.add_items, items, _message)
        appends[name] = _some(session.add_items, _message)
        reads[name] = _reading(full, items)
    return appends, reads


def _reading(session: Any, items: int) -> Read:
    async def read() -> None:
        assert len(await session.get_items()) == items

    return read


async def _closed(close: Callable[[], Any]) -> None:
    if (closing := close()) is not None:
        await closing


async def _fill(append: Append, items: int, make: Callable[[int], Any]) -> None:
    for begin in range(0, items, _FILLING):
        await append([make(number) for number in range(begin, min(items, begin + _FILLING))])


def _some(append: Append, make: Callable[[int], Any]) -> Read:
    numbers = count()

    async def some() -> None:
        for _ in repeat(None, _APPENDS):
            await append([make(next(numbers))])

    return some


def _event(number: int) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": "agent_message", "message": _text(number)}}


def _message(number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": _text(number)}


def _text(number: int) -> str:
    texts = load.texts()
    return texts[number % len(texts)]


def _has_agents() -> bool:
    return importlib.util.find_spec("agents") is not None and importlib.util.find_spec("openai") is not None
