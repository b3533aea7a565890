"""A conversation in turns, and paging through it."""

from __future__ import annotations

from typing import Any

from livethread import (
    ItemPage,
    ListItemsParams,
    ListTurnsParams,
    RolloutItem,
    SortDirection,
    StoredTurn,
    StoredTurnItemsView,
    StoredTurnStatus,
    ThreadReader,
    TurnPage,
)

ASC, DESC = SortDirection.ASC, SortDirection.DESC
COMPLETED, INTERRUPTED = StoredTurnStatus.COMPLETED, StoredTurnStatus.INTERRUPTED
FAILED, IN_PROGRESS = StoredTurnStatus.FAILED, StoredTurnStatus.IN_PROGRESS


def event(kind: str, second: int = 0, **payload: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-02T03:04:{second:02}.000Z",
        "type": "event_msg",
        "payload": {"type": kind, **payload},
    }


def answered(text: str) -> dict[str, Any]:
    return event("agent_message", message=text)


def rolled_back(turns: int) -> dict[str, Any]:
    return event("thread_rolled_back", num_turns=turns)


def turn(turn_id: str, *between: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a turn, with its start and its end."""
    return [event("task_started", turn_id=turn_id), *between, event("task_complete", turn_id=turn_id)]


async def turns_of(store: ThreadReader, thread_id: str, **params: Any) -> tuple[StoredTurn, ...]:
    return (await turn_page(store, thread_id, **params)).turns


async def turn_page(store: ThreadReader, thread_id: str, **params: Any) -> TurnPage:
    params = {"items_view": StoredTurnItemsView.FULL, **params}
    return await store.list_turns(ListTurnsParams.model_validate({"thread_id": thread_id, **params}))


async def item_page(store: ThreadReader, thread_id: str, **params: Any) -> ItemPage:
    return await store.list_items(ListItemsParams.model_validate({"thread_id": thread_id, **params}))


async def pages_of_turns(store: ThreadReader, thread_id: str, page_size: int, **params: Any) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await turn_page(store, thread_id, page_size=page_size, cursor=cursor, **params)
        pages.append([turn.turn_id for turn in page.turns])
        cursor = page.next_cursor
        if cursor is None:
            return pages


async def pages_of_items(
    store: ThreadReader, thread_id: str, page_size: int, **params: Any
) -> list[tuple[RolloutItem, ...]]:
    pages: list[tuple[RolloutItem, ...]] = []
    cursor: str | None = None
    while True:
        page = await item_page(store, thread_id, page_size=page_size, cursor=cursor, **params)
        pages.append(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return pages


def kinds_of(items: tuple[RolloutItem, ...]) -> list[str | None]:
    return [item.kind for item in items]
