from __future__ import annotations

from typing import Any

import pytest
from tests.nodes.items import append, message, said
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import archive, stored
from tests.store_spec.turns import answered, event, rolled_back, turn, turns_of

from livethread import (
    InvalidRequest,
    LiveThread,
    OccurrencePage,
    ResumeThreadParams,
    SearchOccurrencesParams,
    ThreadNotFound,
    ThreadReader,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER


async def page_of(store: ThreadReader, thread_id: str, term: str = "foo", **params: Any) -> OccurrencePage:
    return await store.search_occurrences(
        SearchOccurrencesParams.model_validate({"thread_id": thread_id, "search_term": term, **params})
    )


async def found(store: ThreadReader, thread_id: str, term: str = "foo", **params: Any) -> list[tuple[str, str, str]]:
    """Return turn, role and marked snippet of each occurrence; a page holds them all."""
    page = await page_of(store, thread_id, term, **params)
    assert page.next_cursor is None
    return [
        (each.turn_id, each.role, f"{each.snippet[: each.start]}[{each.snippet[each.start : each.end]}]")
        for each in page.items
    ]


async def test_each_occurrence_is_found_in_the_order_of_the_messages(store: ThreadStore) -> None:
    thread_id = await stored(
        store,
        *turn("t1", said("foo 🎉 Foo"), answered("no"), answered("afoob foofoo")),
        *turn("t2", answered("nothing")),
        *turn("t3", said("oFOo")),
    )

    assert await found(store, thread_id) == [
        ("t1", "user", "[foo]"),
        ("t1", "user", "foo 🎉 [Foo]"),
        ("t1", "assistant", "a[foo]"),
        ("t1", "assistant", "afoob [foo]"),
        ("t1", "assistant", "afoob foo[foo]"),
        ("t3", "user", "o[FOo]"),
    ]
    assert await found(store, thread_id, "bar") == []


async def test_an_occurrence_names_its_line_and_its_turn(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1", said("x")), *turn("t2", said("y"), answered("foo")), *turn("t3"))

    [each] = (await page_of(store, thread_id)).items

    assert each.ordinal == 6
    assert [turn.turn_id for turn in await turns_of(store, thread_id, cursor=each.turn_cursor)] == ["t2", "t3"]


async def test_a_message_in_several_forms_counts_once(store: ThreadStore) -> None:
    completed = event(
        "item_completed", item={"type": "AgentMessage", "content": [{"type": "Text", "text": "foo two"}]}
    )
    both = [message("foo one", role="user"), said("foo one"), completed, message("foo two")]
    thread_id = await stored(store, *turn("t1", *both, answered("foo"), answered("foo")))

    assert [(turn_id, role) for turn_id, role, _ in await found(store, thread_id)] == [
        ("t1", "user"),
        ("t1", "assistant"),
        ("t1", "assistant"),
        ("t1", "assistant"),
    ]


async def test_only_messages_of_turns_that_were_not_rolled_back_are_searched(store: ThreadStore) -> None:
    thread_id = await stored(
        store,
        message("foo before"),
        *turn("t1", said("foo kept"), {"type": "event_msg", "payload": {"type": "agent_reasoning", "text": "foo"}}),
        *turn("t2", said("foo lost")),
        rolled_back(1),
        said("foo at last"),
    )

    assert await found(store, thread_id, "foo ") == [("t1", "user", "[foo ]"), ("turn-10", "user", "[foo ]")]


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 9, 10])
async def test_pages_neither_lose_nor_repeat_an_occurrence(store: ThreadStore, page_size: int) -> None:
    texts = ["foofoofoo", "none", "foofoo", "foo"] * 2
    thread_id = await stored(store, *(item for n, text in enumerate(texts) for item in turn(f"t{n}", said(text))))
    whole = (await page_of(store, thread_id)).items
    shown: list[Any] = []
    cursor = None

    while True:
        page = await page_of(store, thread_id, page_size=page_size, cursor=cursor)
        shown += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.items) == page_size
        await append(store, thread_id, *turn("later", said("bar")))

    assert len(whole) == 12
    assert shown == list(whole)


async def test_a_turn_that_is_rolled_back_between_pages_is_left_out(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1", said("foo")), *turn("t2", said("foo foo")))
    first = await page_of(store, thread_id, page_size=2)

    await append(store, thread_id, rolled_back(1))
    await append(store, thread_id, *turn("t3", said("foo")))
    rest = await page_of(store, thread_id, cursor=first.next_cursor)

    assert [each.turn_id for each in (*first.items, *rest.items)] == ["t1", "t2", "t3"]


async def test_a_live_thread_finds_what_it_appended(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1", said("foo")))
    thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread_id))
    await thread.append_items(turn("t2", said("foo and foo")))

    first = await thread.search_occurrences("FOO", page_size=2)
    rest = await thread.search_occurrences("FOO", cursor=first.next_cursor)

    assert [each.turn_id for each in (*first.items, *rest.items)] == ["t1", "t2", "t2"]


async def test_an_archived_thread_is_searched_unless_archived_threads_are_excluded(store: ThreadStore) -> None:
    thread_id = await stored(store, said("foo"))
    await archive(store, thread_id)

    assert len(await found(store, thread_id)) == 1
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await page_of(store, thread_id, include_archived=False)
    with pytest.raises(ThreadNotFound):
        await page_of(store, new_thread_id())


@pytest.mark.parametrize("cursor", ["x", "e30=", "WzFd", "WyJ0dXJucyIsMSwiIl0="])
async def test_a_blank_term_and_another_pages_cursor_are_refused(store: ThreadStore, cursor: str) -> None:
    thread_id = await stored(store, said("foo"))

    with pytest.raises(InvalidRequest):
        await page_of(store, thread_id, " ")
    with pytest.raises(InvalidRequest):
        await page_of(store, thread_id, cursor=cursor)
