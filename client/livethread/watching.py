"""Follows a thread: replays its items from a given place, then yields new ones as they are committed.

It works with every store: it reads pages, and `Changes` says when to read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from livethread.changes import Changes
from livethread.errors import Conflict, InvalidRequest, Unavailable
from livethread.types import ItemPage, ListItemsParams, ThreadItem, WatchThreadParams

logger = logging.getLogger(__name__)

#: Items of one read.
PAGE: Final = 200

#: Wait after a read that failed.
RETRY_INTERVAL: Final = 1.0  # seconds

#: After a page that reached the end, a watch of a busy thread rests for the duration of the read times the factor, but not longer
#: than the limit, so that watchers do not keep workers from writing.
REST_FACTOR: Final = 2
LONGEST_REST: Final = 1.0  # seconds

Read = Callable[[ListItemsParams], Awaitable[ItemPage]]


async def watch(changes: Changes, params: WatchThreadParams, read: Read, read_on: Read) -> AsyncGenerator[ThreadItem]:
    """Yield the items of a thread; see `WatchingReader.watch_thread`.

    The first page comes from *read*, the others from *read_on*, which need not wait for what this process had accepted.
    """
    request = ListItemsParams(thread_id=params.thread_id, after=params.after, cursor=params.cursor, page_size=PAGE)
    is_following = is_failing = False
    now = asyncio.get_running_loop().time
    with changes.watching(params.thread_id) as changed:
        while True:
            changes.require_ongoing()
            changed.clear()
            began = now()
            try:
                page = await (read_on if is_following else read)(request)
            except Unavailable as error:
                if not is_following:
                    raise
                if not is_failing:
                    logger.warning(
                        "watching thread %s waits: %s",
                        params.thread_id,
                        error,
                        extra={"action": "watch_thread", "thread_id": params.thread_id},
                    )
                is_failing = True
                await changes.wait(changed, RETRY_INTERVAL)
                continue
            except InvalidRequest as error:
                if not is_following:
                    raise
                raise Conflict(
                    f"the history of thread {params.thread_id} was taken back, or rewritten, before the last item that this "
                    "watch yielded; read the thread, and watch it from there"
                ) from error
            is_following, is_failing = True, False
            rested = now() + min(REST_FACTOR * (now() - began), LONGEST_REST)
            for item in page.items[:-1]:
                yield ThreadItem(item)
            if page.items:
                # Before the first item, keep `after`: tasks up to its position may still be applied.
                request = ListItemsParams(thread_id=params.thread_id, cursor=page.end_cursor, page_size=PAGE)
                yield ThreadItem(page.items[-1], page.end_cursor, None if page.next_cursor else page.position)
            if page.next_cursor is None:
                await changes.wait(changed)
                await asyncio.sleep(rested - now())
