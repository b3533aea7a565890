"""Threads that codex wrote or continued, as livethread shows them."""

from __future__ import annotations

from tests.codex.conversation import Turn
from tests.nodes.waiting import eventually
from tests.store_spec.turns import turns_of

from livethread import (
    ListThreadsParams,
    LiveThread,
    ResumeThreadParams,
    RolloutItem,
    SearchMatch,
    SearchThreadsParams,
    StoredThread,
    StoredTurnItemsView,
    StoredTurnStatus,
    ThreadReader,
    ThreadStore,
)


def said(item: RolloutItem) -> str:
    """Return the text of a message in either of codex's forms."""
    if item.kind == "item_completed":
        return "".join(part["text"] for part in item.payload["item"]["content"])
    return str(item.payload["message"])


async def summary(store: ThreadReader, thread_id: str) -> list[tuple[str, ...]]:
    """Return the messages of each turn; all turns must be complete."""
    turns = await turns_of(store, thread_id, items_view=StoredTurnItemsView.SUMMARY)
    assert {turn.status for turn in turns} == {StoredTurnStatus.COMPLETED}
    return [tuple(map(said, turn.items)) for turn in turns]


async def found(store: ThreadReader, term: str, match: SearchMatch = SearchMatch.WORDS) -> list[str]:
    """Return the ids of the threads that contain *term*."""
    page = await store.search_threads(SearchThreadsParams(search_term=term, match=match))
    return [hit.thread.thread_id for hit in page.items]


async def found_soon(store: ThreadReader, term: str) -> list[str]:
    """Return the ids once there are any: a search looks for foreign changes only now and then."""
    return await eventually(lambda: found(store, term), f"a match of {term!r}")


async def go_on(store: ThreadStore, thread: StoredThread, turn: Turn) -> LiveThread:
    """Append *turn* to a thread, in the form that codex expects there."""
    live = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id))
    is_paginated = thread.history_mode == "paginated"
    await live.append_items(list(turn.paginated_items(thread.thread_id) if is_paginated else turn.items()))
    return live


async def listed(store: ThreadReader, *, archived: bool = False) -> set[str]:
    """Return the ids of the threads that are listed."""
    page = await store.list_threads(ListThreadsParams(archived=archived))
    return {thread.thread_id for thread in page.items}


async def listed_soon(store: ThreadReader, *, archived: bool = False) -> set[str]:
    """Return the ids once there are any."""
    return await eventually(lambda: listed(store, archived=archived), "a listing")
