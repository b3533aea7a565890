from __future__ import annotations

from typing import Any

import pytest
from tests.nodes.items import append, flush, message, read, said
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import archive, stored

from livethread import LoadThreadHistoryParams, RolloutItem, ThreadNotFound, ThreadReader, ThreadStore, new_thread_id

COMPACTED = {"type": "compacted", "payload": {"message": "", "replacement_history": [], "window_number": 1}}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": kind, **fields}}


def turn(number: int, *items: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        event("task_started", turn_id=f"t{number}"),
        {"type": "turn_context", "payload": {"turn_id": f"t{number}", "model": "m"}},
        said(f"question {number}"),
        *items,
        message(f"answer {number}"),
        event("task_complete", turn_id=f"t{number}"),
    ]


async def context(store: ThreadReader, thread_id: str, **params: Any) -> tuple[RolloutItem, ...]:
    loaded = await store.load_latest_model_context(LoadThreadHistoryParams(thread_id=thread_id, **params))
    assert loaded.thread_id == thread_id
    return loaded.items


async def history(store: ThreadReader, thread_id: str) -> tuple[RolloutItem, ...]:
    return (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items


@EVERY_READER
async def test_it_begins_with_the_session_meta_and_goes_on_with_the_turn_of_the_last_compaction(
    store: ThreadStore,
) -> None:
    thread_id = await stored(store, *turn(1, COMPACTED), *turn(2, COMPACTED), *turn(3))
    whole = await history(store, thread_id)

    items = await context(store, thread_id)

    # The compaction in turn 2 holds the history, and turn 3 the settings.
    assert items == (whole[0], *whole[10:])
    assert items[1].type == "compacted"


@EVERY_READER
async def test_without_a_compaction_it_is_the_whole_history(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn(1), *turn(2))

    assert await context(store, thread_id) == await history(store, thread_id)


async def test_it_includes_what_was_accepted_before(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn(1, COMPACTED))

    await append(store, thread_id, *turn(2))

    assert (await context(store, thread_id))[-2].payload == message("answer 2")["payload"]


async def test_an_archived_thread_is_read_unless_it_is_excluded(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn(1))
    await archive(store, thread_id)
    await flush(store, thread_id)
    await read(store, thread_id)

    assert await context(store, thread_id) == await history(store, thread_id)
    with pytest.raises(ThreadNotFound):
        await context(store, thread_id, include_archived=False)
    with pytest.raises(ThreadNotFound):
        await context(store, new_thread_id())
