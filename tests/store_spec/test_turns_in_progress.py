"""A turn without an end is in progress as long as a process has its thread open."""

from __future__ import annotations

from tests.nodes.items import update
from tests.store_spec.kinds import SHARED_READERS
from tests.store_spec.operations import close, stored
from tests.store_spec.turns import IN_PROGRESS, INTERRUPTED, answered, event, turns_of

from livethread import DiscardThreadParams, ResumeThreadParams, ThreadMetadataPatch, ThreadStore

pytestmark = SHARED_READERS


async def test_it_is_in_progress_until_the_last_handle_in_another_store_is_closed(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"), answered("so far"))
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    [with_two] = await turns_of(second_store, thread_id)
    await close(store, thread_id)
    [with_one] = await turns_of(second_store, thread_id)
    await close(store, thread_id)
    [closed] = await turns_of(second_store, thread_id)

    assert [turn.status for turn in (with_two, with_one, closed)] == [IN_PROGRESS, IN_PROGRESS, INTERRUPTED]


async def test_a_discarded_handle_does_not_count(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"))
    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    assert [turn.status for turn in await turns_of(second_store, thread_id)] == [INTERRUPTED]


async def test_a_patch_from_a_store_without_the_thread_open_does_not_count(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"))
    await close(store, thread_id)
    await update(second_store, thread_id, ThreadMetadataPatch(title="A title"))

    assert [turn.status for turn in await turns_of(store, thread_id)] == [INTERRUPTED]
