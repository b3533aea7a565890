from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.nodes.histories import HISTORIES
from tests.nodes.items import append, history, message, said, update
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import a_word, archive, close, stored
from tests.store_spec.turns import (
    ASC,
    COMPLETED,
    DESC,
    FAILED,
    IN_PROGRESS,
    INTERRUPTED,
    answered,
    event,
    item_page,
    kinds_of,
    pages_of_turns,
    rolled_back,
    turn,
    turn_page,
    turns_of,
)

from livethread import (
    InvalidRequest,
    ListThreadsParams,
    SearchThreadsParams,
    SortDirection,
    StoredTurn,
    StoredTurnItemsView,
    StoredTurnStatus,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    TurnPage,
    new_thread_id,
)

pytestmark = EVERY_READER

SECONDS = [datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC) for second in range(10)]


async def test_a_turn_has_its_items_status_and_times(store: ThreadStore) -> None:
    items = [
        event("task_started", 1, turn_id="t1"),
        event("user_message", 2, message="hello"),
        message("hello"),
        event("task_complete", 4, turn_id="t1"),
    ]
    thread_id = await stored(store, *items)

    page = await turn_page(store, thread_id)

    expected = StoredTurn(
        turn_id="t1",
        items=tuple(await history(store, thread_id)),
        items_view=StoredTurnItemsView.FULL,
        status=COMPLETED,
        started_at=SECONDS[1],
        completed_at=SECONDS[4],
    )
    assert page == TurnPage(turns=(expected,), backwards_cursor=page.backwards_cursor, position=page.position)


STATUSES: list[Any] = [
    pytest.param([event("task_complete")], (COMPLETED, None), id="task_complete"),
    pytest.param([event("turn_complete")], (COMPLETED, None), id="turn_complete"),
    pytest.param([event("turn_aborted", reason="interrupted")], (INTERRUPTED, None), id="turn_aborted"),
    pytest.param([event("error", message="no")], (FAILED, "no"), id="error"),
    pytest.param([event("task_complete", error={"message": "no"})], (FAILED, "no"), id="completed with an error"),
    pytest.param([event("task_complete", error="no")], (FAILED, "no"), id="completed with the text of an error"),
    pytest.param([answered("so far")], (IN_PROGRESS, None), id="without an end"),
    pytest.param([], (IN_PROGRESS, None), id="without an item"),
]


@pytest.mark.parametrize(("end", "expected"), STATUSES)
async def test_the_last_turn_has_the_status_of_its_end(
    store: ThreadStore, end: list[dict[str, Any]], expected: tuple[StoredTurnStatus, str | None]
) -> None:
    thread_id = await stored(store, event("task_started", 1, turn_id="t1"), *end)

    [last] = await turns_of(store, thread_id)

    assert (last.status, last.error and last.error.message) == expected
    assert last.started_at == SECONDS[1]
    assert (last.completed_at is None) == (last.status is IN_PROGRESS)


async def test_a_turn_without_an_end_before_the_next_turn_was_interrupted(store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"), answered("so far"), *turn("t2"))

    statuses = [each.status for each in await turns_of(store, thread_id)]

    assert statuses == [INTERRUPTED, COMPLETED]


async def test_in_old_rollouts_a_turn_begins_with_a_user_message(store: ThreadStore) -> None:
    thread_id = await stored(store, message("preface"), said("one"), answered("1"), message("1"), said("two"))

    turns = await turns_of(store, thread_id)

    assert [(each.turn_id, kinds_of(each.items)) for each in turns] == [
        ("turn-2", ["user_message", "agent_message", "message"]),
        ("turn-5", ["user_message"]),
    ]
    assert turns[0].status is COMPLETED


async def test_a_user_message_within_a_turn_begins_no_other(store: ThreadStore) -> None:
    items = [event("turn_started", turn_id="t1"), said("one"), said("more"), event("turn_complete"), said("late")]
    thread_id = await stored(store, *items)

    turns = await turns_of(store, thread_id)

    assert [(each.turn_id, len(each.items)) for each in turns] == [("t1", 4), ("turn-5", 1)]


async def test_a_turn_without_an_id_is_named_by_its_ordinal(store: ThreadStore) -> None:
    thread_id = await stored(store, message("x"), event("task_started"), event("task_complete"))

    assert [each.turn_id for each in await turns_of(store, thread_id)] == ["turn-2"]


async def test_turns_that_were_rolled_back_are_gone(store: ThreadStore) -> None:
    items = [
        *turn("t1"),
        *turn("t2"),
        *turn("t3"),
        rolled_back(2),
        *turn("t4"),
        *turn("t5"),
        rolled_back(1),
        *turn("t6"),
    ]
    thread_id = await stored(store, *items)

    turns = await turns_of(store, thread_id)

    assert [each.turn_id for each in turns] == ["t1", "t4", "t6"]
    assert [kinds_of(each.items) for each in turns] == [["task_started", "task_complete"]] * 3
    assert [each.turn_id for each in await turns_of(store, thread_id, sort_direction=DESC)] == ["t6", "t4", "t1"]


@pytest.mark.parametrize("count", [2, 3, 100, 2**70])
async def test_all_turns_can_be_rolled_back(store: ThreadStore, count: int) -> None:
    thread_id = await stored(store, *turn("t1"), said("two"), rolled_back(count))

    assert await turns_of(store, thread_id) == ()


@pytest.mark.parametrize("count", [0, -1, "1", None, True])
async def test_a_rollback_of_an_invalid_number_of_turns_does_nothing(store: ThreadStore, count: Any) -> None:
    thread_id = await stored(store, *turn("t1"), *turn("t2"), rolled_back(count))

    assert [each.turn_id for each in await turns_of(store, thread_id)] == ["t1", "t2"]


async def test_a_later_rollback_is_seen(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1"), *turn("t2"))
    before = [each.turn_id for each in await turns_of(store, thread_id)]

    await append(store, thread_id, rolled_back(1))
    await append(store, thread_id, *turn("t3"))

    assert before == ["t1", "t2"]
    assert [each.turn_id for each in await turns_of(store, thread_id)] == ["t1", "t3"]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (StoredTurnItemsView.NOT_LOADED, []),
        (StoredTurnItemsView.SUMMARY, ["user_message", "agent_message"]),
        (
            StoredTurnItemsView.FULL,
            ["task_started", "user_message", "message", "token_count", "agent_message", "task_complete"],
        ),
    ],
)
async def test_each_view_shows_its_items(store: ThreadStore, view: StoredTurnItemsView, expected: list[str]) -> None:
    between = (said("hello"), message("hello"), event("token_count"), answered("hi"))
    thread_id = await stored(store, *turn("t1", *between))

    [each] = await turns_of(store, thread_id, items_view=view)

    assert (kinds_of(each.items), each.items_view, each.status) == (expected, view, COMPLETED)


async def test_the_stores_own_lines_are_not_items(store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"))
    await update(store, thread_id, ThreadMetadataPatch(title="A title"))
    await append(store, thread_id, event("task_complete"))

    [each] = await turns_of(store, thread_id)

    assert kinds_of(each.items) == ["task_started", "task_complete"]


@pytest.mark.parametrize("direction", list(SortDirection))
async def test_pages_neither_lose_nor_repeat_a_turn(store: ThreadStore, direction: SortDirection) -> None:
    ids = [f"t{n}" for n in range(7)]
    lost = [*turn("lost"), rolled_back(1)]
    thread_id = await stored(store, *(item for id_ in ids for item in [*turn(id_, said(id_)), *lost]))
    ordered = ids if direction is ASC else ids[::-1]

    pages = {size: await pages_of_turns(store, thread_id, size, sort_direction=direction) for size in (1, 2, 3, 7, 8)}

    assert pages == {size: [ordered[i : i + size] for i in range(0, 7, size)] for size in (1, 2, 3, 7, 8)}


async def test_the_backwards_cursor_of_a_page_leads_back_from_its_first_turn(store: ThreadStore) -> None:
    thread_id = await stored(store, *(item for n in range(6) for item in turn(f"t{n}", said("x"))))
    first = await turn_page(store, thread_id, page_size=2)
    second = await turn_page(store, thread_id, page_size=2, cursor=first.next_cursor)
    from_the_end = await turn_page(store, thread_id, page_size=2, sort_direction=DESC)
    before_it = await turn_page(store, thread_id, page_size=2, sort_direction=DESC, cursor=from_the_end.next_cursor)

    back = await turns_of(store, thread_id, cursor=second.backwards_cursor, sort_direction=DESC)
    forth = await turns_of(store, thread_id, cursor=before_it.backwards_cursor)

    assert [each.turn_id for each in second.turns] == ["t2", "t3"]
    assert [each.turn_id for each in back] == ["t2", "t1", "t0"]
    assert [each.turn_id for each in before_it.turns] == ["t3", "t2"]
    assert [each.turn_id for each in forth] == ["t3", "t4", "t5"]
    assert await turns_of(store, thread_id, cursor=first.backwards_cursor, sort_direction=DESC) == first.turns[:1]
    assert await turns_of(store, thread_id, cursor=from_the_end.backwards_cursor) == from_the_end.turns[:1]


async def test_the_backwards_cursor_of_the_newest_turn_shows_how_it_ended(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1"), event("task_started", turn_id="t2"))
    newest = await turn_page(store, thread_id, page_size=1, sort_direction=DESC)

    await append(store, thread_id, event("task_complete", turn_id="t2"), *turn("t3"))

    newer = await turns_of(store, thread_id, cursor=newest.backwards_cursor)
    assert [(each.turn_id, each.status) for each in newest.turns] == [("t2", IN_PROGRESS)]
    assert [(each.turn_id, each.status) for each in newer] == [("t2", COMPLETED), ("t3", COMPLETED)]


async def test_turns_are_those_that_codex_shows(store: ThreadStore) -> None:
    ids = {name: await stored(store, *items) for name, (items, _) in HISTORIES.items()}
    await close(store, *ids.values())

    shown = {name: await turns_of(store, thread_id) for name, thread_id in ids.items()}

    assert {name: [(turn.status, messages_of(turn)) for turn in turns] for name, turns in shown.items()} == {
        name: expected for name, (_, expected) in HISTORIES.items()
    }


async def test_a_history_has_the_same_turns_however_it_is_divided_into_appends(store: ThreadStore) -> None:
    together: dict[str, list[tuple[Any, ...]]] = {}
    apart: dict[str, list[tuple[Any, ...]]] = {}
    for name, (items, _) in HISTORIES.items():
        one, several = await stored(store, *items), await stored(store, items[0])
        for item in items[1:]:
            await append(store, several, item)
        await close(store, one, several)
        for thread_id, turns in ((one, together), (several, apart)):
            shown = await turns_of(store, thread_id)
            turns[name] = [(turn.turn_id, turn.status, kinds_of(turn.items)) for turn in shown]

    assert apart == together


def messages_of(turn: StoredTurn) -> list[str]:
    return [item.payload["message"] for item in turn.items if item.kind in {"user_message", "agent_message"}]


async def test_a_turn_that_never_ended_is_in_progress_until_its_thread_is_closed(store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", 1, turn_id="t1"), event("token_count", 3))
    [open_] = await turns_of(store, thread_id)
    await close(store, thread_id)

    [closed] = await turns_of(store, thread_id)
    [known_better] = await turns_of(store, thread_id, is_open=True)

    assert (open_.status, open_.completed_at) == (IN_PROGRESS, None)
    assert (closed.status, closed.completed_at) == (INTERRUPTED, SECONDS[3])
    assert known_better == open_


@pytest.mark.parametrize("page_size", [1, 2, 3])
async def test_paging_to_the_end_and_back_visits_every_turn_once_each_way(store: ThreadStore, page_size: int) -> None:
    ids = [f"t{n}" for n in range(5)]
    thread_id = await stored(store, *(item for id_ in ids for item in turn(id_)))

    there = [await turn_page(store, thread_id, page_size=page_size)]
    while there[-1].next_cursor:
        there.append(await turn_page(store, thread_id, page_size=page_size, cursor=there[-1].next_cursor))
    cursor, back = there[-1].backwards_cursor, [each.turn_id for each in there[-1].turns[:0:-1]]
    while cursor:
        page = await turn_page(store, thread_id, page_size=page_size, cursor=cursor, sort_direction=DESC)
        back += [each.turn_id for each in page.turns]
        cursor = page.next_cursor

    assert [each.turn_id for page in there for each in page.turns] == ids
    assert back == ids[::-1]


SEVERAL_OPEN = [event("task_started", 1, turn_id="t1"), said("one"), event("task_started", 2, turn_id="t2")]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        pytest.param([("task_complete", "t1")], [COMPLETED, IN_PROGRESS], id="the outer one"),
        pytest.param([("turn_aborted", "t1")], [INTERRUPTED, IN_PROGRESS], id="the outer one, aborted"),
        pytest.param([("task_complete", "t2")], [INTERRUPTED, COMPLETED], id="the inner one"),
        pytest.param([("task_complete", "t2"), ("turn_aborted", "t1")], [INTERRUPTED, COMPLETED], id="both, nested"),
        pytest.param(
            [("task_complete", "t1"), ("turn_aborted", "t2")], [COMPLETED, INTERRUPTED], id="both, in order"
        ),
        pytest.param([("task_complete", None)], [INTERRUPTED, COMPLETED], id="without an id"),
        pytest.param([("task_complete", "t9")], [INTERRUPTED, COMPLETED], id="an unknown id"),
    ],
)
async def test_an_end_ends_the_open_turn_that_it_names(
    store: ThreadStore, ends: list[tuple[str, str | None]], expected: list[StoredTurnStatus]
) -> None:
    thread_id = await stored(store, *SEVERAL_OPEN)

    for second, (kind, turn_id) in enumerate(ends, start=5):
        await append(store, thread_id, event(kind, second, turn_id=turn_id))

    turns = await turns_of(store, thread_id)
    assert [each.status for each in turns] == expected
    assert [each.turn_id for each in turns] == ["t1", "t2"]
    by_end = {turn_id: SECONDS[second] for second, (_, turn_id) in enumerate(ends, start=5)}
    assert all(each.completed_at == by_end.get(each.turn_id, each.completed_at) for each in turns)


async def test_a_turn_stays_open_when_another_one_ends(store: ThreadStore) -> None:
    """Later user messages still belong to it."""
    thread_id = await stored(store, *SEVERAL_OPEN, event("task_complete", turn_id="t1"), said("two"))

    turns = await turns_of(store, thread_id)

    assert [(each.turn_id, len(each.items)) for each in turns] == [("t1", 2), ("t2", 3)]


async def test_a_user_message_after_a_rollback_begins_a_turn(store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"), said("lost"), rolled_back(1), said("kept"))

    turns = await turns_of(store, thread_id)

    assert [(each.turn_id, kinds_of(each.items)) for each in turns] == [("turn-4", ["user_message"])]


async def test_a_compaction_does_not_end_a_turn(store: ThreadStore) -> None:
    compacted = {"type": "compacted", "payload": {"message": "what was said", "replacement_history": []}}
    items = [said("one"), compacted, event("context_compacted"), answered("1")]
    thread_id = await stored(store, *turn("t1", *items), event("task_started", turn_id="t2"), compacted)

    turns = await turns_of(store, thread_id)

    assert [(each.turn_id, each.status, len(each.items)) for each in turns] == [
        ("t1", COMPLETED, 6),
        ("t2", IN_PROGRESS, 2),
    ]


async def test_the_thread_may_grow_between_pages(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1"), *turn("t2"), *turn("t3"))
    oldest = await turn_page(store, thread_id, page_size=2)
    newest = await turn_page(store, thread_id, page_size=2, sort_direction=DESC)

    await append(store, thread_id, *turn("t4"))
    await append(store, thread_id, *turn("t5"))

    assert [each.turn_id for each in await turns_of(store, thread_id, cursor=oldest.next_cursor)] == [
        "t3",
        "t4",
        "t5",
    ]
    older = await turns_of(store, thread_id, cursor=newest.next_cursor, sort_direction=DESC)
    newer = await turns_of(store, thread_id, cursor=newest.backwards_cursor)
    assert [each.turn_id for each in older] == ["t1"]
    assert [each.turn_id for each in newer] == ["t3", "t4", "t5"]


async def test_a_thread_without_a_turn_has_an_empty_page(store: ThreadStore) -> None:
    thread_id = await stored(store, message("one"))

    page = await turn_page(store, thread_id)
    assert page == TurnPage(turns=(), position=page.position)


async def test_a_read_sees_what_was_accepted_before_it(store: ThreadStore) -> None:
    thread_id = await stored(store)

    for n in range(10):
        await append(store, thread_id, *turn(f"t{n}"))
        assert len(await turns_of(store, thread_id)) == n + 1


async def test_an_archived_thread_is_read_unless_archived_threads_are_excluded(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1"))
    await archive(store, thread_id)

    assert [each.turn_id for each in await turns_of(store, thread_id)] == ["t1"]
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await turn_page(store, thread_id, include_archived=False)


@pytest.mark.parametrize("cursor", ["x", "!", "é", "e30=", "WzFd", "W10=", "IiI="])
async def test_a_malformed_cursor_is_refused(store: ThreadStore, cursor: str) -> None:
    thread_id = await stored(store)

    with pytest.raises(InvalidRequest):
        await turn_page(store, thread_id, cursor=cursor)


async def test_a_cursor_of_threads_of_results_or_of_items_is_refused(store: ThreadStore) -> None:
    word, cwd = a_word(), f"/{new_thread_id()}"
    thread_id, _ = [await stored(store, *turn("t1", said(word)), *turn("t2"), cwd=cwd) for _ in range(2)]
    listed = await store.list_threads(
        ListThreadsParams(include_without_preview=True, page_size=1, cwd_filters=(cwd,))
    )
    found = await store.search_threads(SearchThreadsParams(page_size=1, search_term=word))
    items = await item_page(store, thread_id, page_size=2)

    for cursor in (listed.next_cursor, found.next_cursor, items.next_cursor):
        assert cursor is not None
        with pytest.raises(InvalidRequest, match="this cursor is for"):
            await turn_page(store, thread_id, cursor=cursor)


async def test_an_unknown_thread_is_not_found(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await turn_page(store, new_thread_id())
