"""A process that watches all conversations: each item must come once, in order, whatever happens.

It runs until SIGTERM. Then it waits until it has seen everything, compares that with the histories, and exits with 0 if they
are equal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from contextlib import suppress

from livethread import (
    ListThreadsParams,
    LoadThreadHistoryParams,
    RolloutItem,
    Settings,
    ThreadNotFound,
    ThreadStoreError,
    Unavailable,
    WatchingReader,
    WatchThreadParams,
)
from livethread.composition import open_reader

#: What a watcher prints when it is open.
OPEN = "watcher is open"

#: Between two looks for new threads, and before a watch that ended is begun again.
INTERVAL = 0.5  # seconds

#: How long a watcher may need for the rest.
CLOSING = 60.0  # seconds


async def follow(reader: WatchingReader, thread_id: str, seen: list[RolloutItem]) -> None:
    """Add a thread's items to *seen*; if the watch ends because a file was away, or for lack of Redis, go on."""
    cursor: str | None = None
    while True:
        found: list[RolloutItem] = []
        with suppress(ThreadNotFound, Unavailable):
            async for each in reader.watch_thread(WatchThreadParams(thread_id=thread_id, cursor=cursor)):
                found.append(each.item)
                if each.cursor is not None:
                    seen += found
                    cursor, found = each.cursor, []
        await asyncio.sleep(INTERVAL)


async def conversations(reader: WatchingReader) -> list[str]:
    ids: list[str] = []
    for archived in (False, True):
        params = ListThreadsParams(
            page_size=1000,
            cwd_filters=("/repo",),
            archived=archived,
            include_without_preview=True,
            allow_partial=True,
        )
        with suppress(ThreadStoreError):
            ids += [thread.thread_id for thread in (await reader.list_threads(params)).items]
    return ids


async def has_seen_all(reader: WatchingReader, seen: dict[str, list[RolloutItem]]) -> bool:
    """Whether each thread's history is what was seen."""
    for thread_id in await conversations(reader):
        history = await reader.load_history(LoadThreadHistoryParams(thread_id=thread_id))
        known = seen.get(thread_id, [])
        if known != list(history.items[: len(known)]):
            texts = [[(item.ordinal, str(item.payload)[:80]) for item in items] for items in (known, history.items)]
            sys.exit(f"the watch of {thread_id} differs from its history: {json.dumps(texts)}")
        if len(known) < len(history.items):
            return False
    return True


async def main(settings: Settings) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    seen: dict[str, list[RolloutItem]] = {}
    async with open_reader(settings) as reader, asyncio.TaskGroup() as watches:
        tasks: list[asyncio.Task[None]] = []
        print(OPEN, flush=True)  # noqa: T201 - `Cluster.start` waits for it
        until: float | None = None
        while until is None or asyncio.get_running_loop().time() < until:
            for thread_id in await conversations(reader):
                if thread_id not in seen:
                    seen[thread_id] = []
                    tasks.append(watches.create_task(follow(reader, thread_id, seen[thread_id])))
            if stopped.is_set():
                until = until or asyncio.get_running_loop().time() + CLOSING
                if await has_seen_all(reader, seen):
                    break
            await asyncio.sleep(INTERVAL)
        else:
            sys.exit("the watches have not seen everything")
        for task in tasks:
            task.cancel()
    print(f"{len(seen)} threads, {sum(map(len, seen.values()))} items")  # noqa: T201 - for the log


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(Settings(**json.loads(sys.argv[1]))))
