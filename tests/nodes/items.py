"""Items to append, and short forms of the store's most common calls."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic_core import to_jsonable_python

from livethread import (
    AppendThreadItemsParams,
    CreateThreadParams,
    FlushThreadParams,
    LoadThreadHistoryParams,
    Position,
    ReadThreadParams,
    Receipt,
    RolloutItem,
    StoredThread,
    ThreadMetadataPatch,
    ThreadReader,
    ThreadStore,
    UpdateThreadMetadataParams,
)
from livethread.position import START
from livethread.rollout.item import parse_items


def said(text: str) -> dict[str, Any]:
    """A user's message as a person sees it; title and preview are derived from it."""
    return {"type": "event_msg", "payload": {"type": "user_message", "message": text}}


def message(text: str, **payload: Any) -> dict[str, Any]:
    """A message as the model sees it; no metadata is derived from it."""
    content = [{"type": "output_text", "text": text}]
    return {
        "type": "response_item",
        "payload": {"type": "message", "role": "assistant", "content": content, **payload},
    }


def payload_of(value: Any) -> dict[str, Any]:
    """An item with *value* in its payload."""
    return message("odd", value=value)


async def new_thread(store: ThreadStore, **params: Any) -> str:
    """Open a new thread and return its id."""
    parsed = CreateThreadParams.model_validate(params)
    await store.create_thread(parsed)
    return parsed.thread_id


async def thread_with(store: ThreadStore, text: str) -> str:
    """Open a new thread, append a message, and return the thread's id."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message(text))
    return thread_id


async def append(
    store: ThreadStore,
    thread_id: str,
    *values: dict[str, Any],
    expected: Position | None = None,
    key: str | None = None,
) -> Receipt:
    items = parse_items(values)
    params = AppendThreadItemsParams(
        thread_id=thread_id, items=items, expected_position=expected, idempotency_key=key
    )
    return await store.append_items(params)


async def update(store: ThreadStore, thread_id: str, patch: ThreadMetadataPatch, **params: Any) -> Receipt:
    return await store.update_thread_metadata(UpdateThreadMetadataParams(thread_id=thread_id, patch=patch, **params))


async def flush(store: ThreadStore, thread_id: str, timeout_s: float | None = None) -> None:
    await store.flush_thread(FlushThreadParams(thread_id=thread_id, timeout_s=timeout_s))


async def read(store: ThreadReader, thread_id: str) -> StoredThread:
    return await store.read_thread(ReadThreadParams(thread_id=thread_id))


async def metadata(store: ThreadReader, thread_id: str) -> StoredThread:
    """Return the thread without its position, which every task advances."""
    return (await read(store, thread_id)).model_copy(update={"position": START})


async def history(store: ThreadReader, thread_id: str) -> list[RolloutItem]:
    """Return the items after the ``session_meta``."""
    first, *items = (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items
    assert first.type == "session_meta"
    ordinals = [item.ordinal for item in (first, *items)]
    # There may be gaps: the store's own lines are not items.
    assert ordinals[0] == 0
    assert all(earlier < later for earlier, later in itertools.pairwise(o for o in ordinals if o is not None))
    return items


async def payloads(store: ThreadReader, thread_id: str) -> list[Any]:
    """Return the payloads of the items after the ``session_meta``."""
    return [item.payload for item in await history(store, thread_id)]


def texts(items: list[RolloutItem]) -> list[str]:
    """Return the texts of *items*, which are all messages."""
    return [
        item.payload["message"] if item.type == "event_msg" else item.payload["content"][0]["text"] for item in items
    ]


def without_positions(value: Any) -> Any:
    """Return *value* as JSON without its positions: no rollout holds them, so a rebuild forgets them."""
    match value if isinstance(value, dict | list) else to_jsonable_python(value):
        case dict() as fields:
            return {name: without_positions(each) for name, each in fields.items() if name != "position"}
        case list() as values:
            return [without_positions(each) for each in values]
        case other:
            return other
