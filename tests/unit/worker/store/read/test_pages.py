"""`list_items` and `list_turns`, with and without the index."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.builders import (
    Mail,
    Store,
    append_bytes,
    item_line,
    message_line,
    numbered,
    opened_store,
    thread_id,
)

from livethread import types
from livethread.cursor import LinePlace, encode_line_place, encode_offset
from livethread.errors import Conflict, InvalidRequest, ThreadNotFound
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, items_of
from livethread_worker.store.read import thread_file
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.list_turns import list_turns
from livethread_worker.store.write.thread_work import number_line

ASC, DESC = types.SortDirection.ASC, types.SortDirection.DESC
ONE = thread_id(1)
MOST = 1_000


@pytest.fixture(scope="module")
def paged() -> Iterator[Store]:
    """A home whose only rollout each test, or example, rewrites."""
    with tempfile.TemporaryDirectory() as folder:
        yield from opened_store(Path(folder))


def event(kind: str, **fields: Any) -> bytes:
    return item_line("event_msg", {"type": kind, **fields})


def write(store: Store, *lines: bytes, is_indexed: bool = True, tail: bytes = b"") -> Path:
    store.forget(ONE)
    path = store.write_rollout(ONE, *lines, tail=tail)
    if is_indexed:
        store.read_in(ONE)
    return path


def items(store: Store, **params: Any) -> types.ItemPage:
    return list_items(store.home, store.index, types.ListItemsParams.model_validate({"thread_id": ONE} | params))


def turns(store: Store, **params: Any) -> types.TurnPage:
    full = {"thread_id": ONE, "items_view": types.StoredTurnItemsView.FULL, "is_open": True}
    return list_turns(store.home, store.index, types.ListTurnsParams.model_validate(full | params))


def texts(page: types.ItemPage) -> list[str]:
    return [item.payload["message"] for item in page.items if item.kind == "user_message"]


def ids(page: types.TurnPage) -> list[str]:
    return [turn.turn_id for turn in page.turns]


both = pytest.mark.parametrize("is_indexed", [True, False], ids=["indexed", "not indexed"])


# -- any rollout -------------------------------------------------------------------------------------------

GARBAGE = [b"", b"garbage", b"[1]", b'{"type":"x"}', item_line("thread_metadata", {"title": "t"})]
LINES = st.one_of(
    st.sampled_from(["a", "é" * 40, "x" * 70_000]).map(message_line),
    st.sampled_from(["task_started", "task_complete", "turn_aborted", "agent_message", "token_count"]).map(event),
    st.tuples(
        st.sampled_from(["task_started", "task_started", "task_complete", "turn_aborted"]),
        st.sampled_from(["t1", "t2", "t3", "t4", "t5"]),
    ).map(lambda drawn: event(drawn[0], turn_id=drawn[1])),
    st.integers(0, 4).map(lambda n: event("thread_rolled_back", num_turns=n)),
    st.sampled_from([item_line("response_item", {"type": "reasoning"}), item_line("turn_context", {"model": "m"})]),
    st.sampled_from([event("agent_message", message="x"), item_line("compacted", {"message": "x"})]),
    st.sampled_from(GARBAGE),
)
rollouts = st.lists(LINES, max_size=20)


@dataclass
class Turn:
    turn_id: str
    lines: list[bytes]
    has_start_event: bool
    has_own_id: bool = False
    is_only_compacted: bool = False
    status: types.StoredTurnStatus | None = None


def turns_of(lines: list[bytes]) -> list[Turn]:
    """Return the turns in *lines* as codex finds them; each reaches to the next one, even if that was rolled back."""
    kept: list[Turn] = []
    present: Turn | None = None  # the turn that lines belong to
    current: Turn | None = None  # the turn that is open
    number = 0  # the session_meta's; a line that is not a record has no number
    for line in lines:
        record = decode_line(line) or {}
        number += bool(record)
        payload: Any = record.get("payload")
        kind = payload.get("type") if record.get("type") == "event_msg" and isinstance(payload, dict) else None
        is_compacted = record.get("type") == "compacted"
        is_shown = kind == "user_message" or (kind == "agent_message" and bool(payload.get("message")))
        begins = current is None and (is_compacted or is_shown)
        if kind == "user_message" and current is not None and not current.has_start_event:
            begins = not current.is_only_compacted
        if begins or kind == "task_started":
            is_started = kind == "task_started"
            turn_id = payload.get("turn_id") or f"turn-{number}"
            present = current = Turn(turn_id, [], is_started, "turn_id" in payload, is_only_compacted=is_compacted)
            kept.append(present)
        elif is_shown and current is not None:
            current.is_only_compacted = False
        elif kind in {"task_complete", "turn_aborted"}:
            current = end(kept, current, kind, payload.get("turn_id"))
        elif kind == "thread_rolled_back" and payload["num_turns"] > 0:
            kept = kept[: max(0, len(kept) - payload["num_turns"])]
            current = None
        if present is not None:
            present.lines.append(line)
    for turn in kept:
        turn.status = turn.status or status_without_end(turn, is_last=turn is present)
    return kept


def end(kept: list[Turn], current: Turn | None, kind: str, named: str | None) -> Turn | None:
    """End a turn, and return the one that is open then."""
    is_mine = named is None or (
        current is not None and current.has_start_event and (named == current.turn_id or not current.has_own_id)
    )
    other = None if is_mine else next((turn for turn in kept if turn.turn_id == named), None)
    ended = other or current
    if ended is not None and (kind == "turn_aborted" or ended.status is None):
        completed, interrupted = types.StoredTurnStatus.COMPLETED, types.StoredTurnStatus.INTERRUPTED
        ended.status = completed if kind == "task_complete" else interrupted
    goes_on = current is not None and current.has_start_event and kind == "turn_aborted" and not is_mine
    return current if other is not None or goes_on else None


def status_without_end(turn: Turn, *, is_last: bool) -> types.StoredTurnStatus:
    if not turn.has_start_event:
        return types.StoredTurnStatus.COMPLETED
    return types.StoredTurnStatus.IN_PROGRESS if is_last else types.StoredTurnStatus.INTERRUPTED


def items_in(lines: list[bytes]) -> list[RolloutItem]:
    return list(items_of(map(decode_line, lines)))


def walk(page_of: Callable[[str | None], Any], count: int) -> list[Any]:
    """Return all pages, from the first to the last."""
    pages = [page_of(None)]
    while pages[-1].next_cursor is not None:
        assert len(pages) <= count, "the pages do not end"
        pages.append(page_of(pages[-1].next_cursor))
    return pages


@given(lines=rollouts, page_size=st.integers(1, 6), is_indexed=st.booleans())
def test_pages_of_items_are_complete_in_both_directions(
    paged: Store, lines: list[bytes], page_size: int, is_indexed: bool
) -> None:
    path = write(paged, *lines, is_indexed=is_indexed)
    expected = items_in(path.read_bytes().split(b"\n"))

    forward = walk(lambda c: items(paged, cursor=c, page_size=page_size), len(expected))
    backward = walk(lambda c: items(paged, cursor=c, page_size=page_size, sort_direction=DESC), len(expected))

    assert [item for page in forward for item in page.items] == expected
    assert [item for page in backward for item in page.items] == expected[::-1]
    assert all(len(page.items) == page_size for page in (*forward[:-1], *backward[:-1]))
    for number, page in enumerate(forward):
        back = items(paged, cursor=page.backwards_cursor, page_size=MOST, sort_direction=DESC)
        assert list(back.items) == expected[: number * page_size + 1][::-1]
    for number, page in enumerate(backward):
        back = items(paged, cursor=page.backwards_cursor, page_size=MOST)
        assert list(back.items) == expected[len(expected) - number * page_size - 1 :]


@given(lines=rollouts, page_size=st.integers(1, 4), is_indexed=st.booleans())
def test_pages_of_turns_are_complete_in_both_directions(
    paged: Store, lines: list[bytes], page_size: int, is_indexed: bool
) -> None:
    write(paged, *lines, is_indexed=is_indexed)
    expected = [(turn.turn_id, turn.status, tuple(items_in(turn.lines))) for turn in turns_of(lines)]

    forward = walk(lambda c: turns(paged, cursor=c, page_size=page_size), len(expected))
    backward = walk(lambda c: turns(paged, cursor=c, page_size=page_size, sort_direction=DESC), len(expected))

    def shown(*pages: types.TurnPage) -> list[tuple[str, types.StoredTurnStatus | None, tuple[Any, ...]]]:
        return [
            (turn.turn_id, turn.status, tuple(replace(item, ordinal=None) for item in turn.items))
            for page in pages
            for turn in page.turns
        ]

    assert shown(*forward) == expected
    assert shown(*backward) == expected[::-1]
    for number, page in enumerate(forward):
        if page.turns:
            back = turns(paged, cursor=page.backwards_cursor, page_size=MOST, sort_direction=DESC)
            assert shown(back) == expected[: number * page_size + 1][::-1]
    for number, page in enumerate(backward):
        if page.turns:
            back = turns(paged, cursor=page.backwards_cursor, page_size=MOST)
            assert shown(back) == expected[len(expected) - number * page_size - 1 :]


@given(lines=rollouts)
def test_index_and_file_find_the_same_turns_by_id(paged: Store, lines: list[bytes]) -> None:
    write(paged, *lines, is_indexed=False)
    wanted = ["t1", "t2", *(f"turn-{n}" for n in range(1, len(lines) + 1))]

    def found() -> list[types.ItemPage | str]:
        pages: list[types.ItemPage | str] = []
        for turn_id in wanted:
            try:
                pages.append(items(paged, turn_id=turn_id, page_size=MOST))
            except InvalidRequest as error:
                pages.append(str(error))
        return pages

    in_file = found()
    paged.read_in(ONE)

    assert found() == in_file


# -- items -------------------------------------------------------------------------------------------------

TWO_TURNS = [
    event("task_started", turn_id="t1"),
    message_line("a"),
    event("task_complete", turn_id="t1"),
    event("task_started", turn_id="t2"),
    message_line("b"),
    message_line("c"),
]


@both
def test_the_items_of_one_turn_can_be_listed(paged: Store, is_indexed: bool) -> None:
    write(paged, *TWO_TURNS, is_indexed=is_indexed)

    first, second = (items(paged, turn_id=turn_id) for turn_id in ("t1", "t2"))

    assert [item.kind for item in first.items] == ["task_started", "user_message", "task_complete"]
    assert texts(second) == ["b", "c"]
    assert first.next_cursor is None
    back = items(paged, turn_id="t1", cursor=first.backwards_cursor, sort_direction=DESC)
    assert [item.kind for item in back.items] == ["task_started"]


@both
@pytest.mark.parametrize("direction", types.SortDirection)
def test_the_items_of_one_turn_come_in_pages(paged: Store, is_indexed: bool, direction: types.SortDirection) -> None:
    write(paged, *TWO_TURNS, is_indexed=is_indexed)

    def page_of(cursor: str | None) -> types.ItemPage:
        return items(paged, turn_id="t1", cursor=cursor, page_size=2, sort_direction=direction)

    shown = [item.kind for page in walk(page_of, 3) for item in page.items]

    expected = ["task_started", "user_message", "task_complete"]
    assert shown == (expected if direction is ASC else expected[::-1])


@both
def test_an_unknown_turn_is_refused(paged: Store, is_indexed: bool) -> None:
    write(paged, *TWO_TURNS, is_indexed=is_indexed)

    with pytest.raises(InvalidRequest, match=f"thread {ONE} has no turn t3"):
        items(paged, turn_id="t3")


@both
def test_a_turn_that_was_rolled_back_is_refused(paged: Store, is_indexed: bool) -> None:
    """No listing of turns shows it, so its id is as unknown as any other."""
    write(paged, *TWO_TURNS, event("thread_rolled_back", num_turns=1), is_indexed=is_indexed)

    assert texts(items(paged, turn_id="t1")) == ["a"]
    with pytest.raises(InvalidRequest, match="has no turn t2"):
        items(paged, turn_id="t2")


@pytest.mark.parametrize("end", [-1, 3, 100, 10**6, 10**30])
@pytest.mark.parametrize("size", [-1, 1, 10**30])
@pytest.mark.parametrize("turn_id", [None, "t1"])
def test_a_cursor_that_names_no_line_is_refused(paged: Store, end: int, size: int, turn_id: str | None) -> None:
    write(paged, *TWO_TURNS)

    with pytest.raises(InvalidRequest, match="cursor"):
        items(paged, cursor=encode_line_place(LinePlace(end, size, 7)), turn_id=turn_id)


@pytest.mark.parametrize("count", range(1, 7))
def test_a_cursor_finds_its_line_after_lines_before_it_were_removed(paged: Store, count: int) -> None:
    lines = [b"garbage", *map(message_line, "abcdef")]
    write(paged, *lines)
    page = items(paged, page_size=count + 1)  # with the session_meta

    write(paged, *lines[1:])

    assert texts(items(paged, cursor=page.end_cursor)) == list("abcdef")[count:]


def test_a_cursor_whose_line_was_taken_back_is_refused(paged: Store) -> None:
    write(paged, *map(message_line, "abc"))
    page = items(paged)

    write(paged, *map(message_line, "abdefg"))

    with pytest.raises(InvalidRequest, match="taken back"):
        items(paged, cursor=page.end_cursor)


@pytest.mark.parametrize("direction", list(types.SortDirection))
def test_lines_that_are_not_committed_are_not_listed(paged: Store, direction: types.SortDirection) -> None:
    """The worker that wrote them may take them back."""
    path = write(paged, *map(message_line, "ab"))
    append_bytes(path, message_line("c") + b"\n")

    page = items(paged, sort_direction=direction)

    assert sorted(texts(page)) == ["a", "b"]
    paged.read_in(ONE)
    assert texts(items(paged, sort_direction=direction)) == (["a", "b", "c"] if direction is ASC else ["c", "b", "a"])


@both
def test_lines_without_ordinals_are_counted(paged: Store, is_indexed: bool) -> None:
    """Older versions of codex number no lines."""
    task = numbered("1005-0", "w1", 1)
    ours = number_line(message_line("d"), 7, task).rstrip(b"\n")
    first = 1  # the session_meta
    write(paged, *map(message_line, "abc"), ours, *map(message_line, "ef"), is_indexed=is_indexed)

    after = {ordinal: texts(items(paged, after=ordinal)) for ordinal in (0, 1, 3, 6, 7, 8, 9)}

    assert after == {
        first - 1: list("abcdef"),
        first: list("bcdef"),
        first + 2: list("def"),
        6: list("def"),
        7: list("ef"),
        8: list("f"),
        9: [],
    }
    assert texts(items(paged, after="1005-0")) == list("ef")
    assert texts(items(paged, after="1004-0")) == list("abcdef")


def test_it_is_unknown_which_lines_of_other_programs_a_position_shows(paged: Store) -> None:
    write(paged, *map(message_line, "abc"))

    with pytest.raises(Conflict, match="no positions"):
        items(paged, after="1005-0")
    assert texts(items(paged, after="0-0")) == list("abc")


@pytest.mark.parametrize("cursor", ["garbage", "WyJvZmZzZXQiLCAieCIsICIiXQ==", "WyJ1cGRhdGVkX2F0IiwgNywgIiJd"])
def test_a_cursor_of_another_listing_is_refused(paged: Store, cursor: str) -> None:
    write(paged, *TWO_TURNS)

    with pytest.raises(InvalidRequest, match="cursor"):
        items(paged, cursor=cursor)
    with pytest.raises(InvalidRequest, match="cursor"):
        turns(paged, cursor=cursor)


def test_the_backwards_cursor_of_the_newest_page_leads_to_later_items(store: Store) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("a", "b"))
    newest = items(store, page_size=1, sort_direction=DESC)
    assert texts(newest) == ["b"]
    assert texts(items(store, cursor=newest.backwards_cursor)) == ["b"]

    store.apply(mail, mail.append("c", "d"))

    assert texts(items(store, cursor=newest.backwards_cursor)) == ["b", "c", "d"]


def test_the_backwards_cursor_leads_to_a_line_that_was_only_half_written(paged: Store) -> None:
    """A page that meets a half-written line must not skip it forever."""
    line = message_line("b") + b"\n"
    path = write(paged, message_line("a"), is_indexed=False, tail=line[:20])
    newest = items(paged, sort_direction=DESC)
    assert texts(newest) == ["a"]

    with path.open("ab") as file:
        file.write(line[20:])

    assert texts(items(paged, cursor=newest.backwards_cursor)) == ["a", "b"]


@pytest.mark.parametrize("page_of", [items, turns])
def test_pages_of_an_archived_thread_need_include_archived(store: Store, page_of: Callable[..., Any]) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("a"), mail.archive())

    assert page_of(store).next_cursor is None
    with pytest.raises(ThreadNotFound, match="archived"):
        page_of(store, include_archived=False)


@pytest.mark.parametrize("page_of", [items, turns])
def test_an_unknown_thread_has_no_page(store: Store, page_of: Callable[..., Any]) -> None:
    with pytest.raises(ThreadNotFound):
        page_of(store)


# -- turns -------------------------------------------------------------------------------------------------


@both
def test_turns_have_items_and_a_status(paged: Store, is_indexed: bool) -> None:
    write(paged, *TWO_TURNS, is_indexed=is_indexed)

    page = turns(paged)

    assert [(t.turn_id, t.status, len(t.items)) for t in page.turns] == [
        ("t1", types.StoredTurnStatus.COMPLETED, 3),
        ("t2", types.StoredTurnStatus.IN_PROGRESS, 3),
    ]
    assert page.next_cursor is None


@both
def test_turns_that_were_rolled_back_are_hidden_with_their_lines(paged: Store, is_indexed: bool) -> None:
    lines = [
        *TWO_TURNS,
        event("thread_rolled_back", num_turns=1),
        event("task_started", turn_id="t3"),
        message_line("d"),
    ]
    write(paged, *lines, is_indexed=is_indexed)

    page = turns(paged)

    assert ids(page) == ["t1", "t3"]
    assert [item.kind for item in page.turns[0].items] == ["task_started", "user_message", "task_complete"]
    assert ids(turns(paged, sort_direction=DESC)) == ["t3", "t1"]


@both
@pytest.mark.parametrize("count", [2, 7, 10**30])
def test_a_rollback_may_count_more_turns_than_there_are(paged: Store, is_indexed: bool, count: int) -> None:
    write(paged, *TWO_TURNS, event("thread_rolled_back", num_turns=count), is_indexed=is_indexed)

    assert ids(turns(paged)) == []


@both
@pytest.mark.parametrize("count", [0, -1, -(10**30)])
def test_a_rollback_of_zero_or_fewer_turns_has_no_effect(paged: Store, is_indexed: bool, count: int) -> None:
    write(paged, *TWO_TURNS, event("thread_rolled_back", num_turns=count), is_indexed=is_indexed)

    assert ids(turns(paged)) == ["t1", "t2"]


@pytest.mark.parametrize("offset", [-1, 10**6, 10**30])
def test_a_cursor_of_turns_beyond_the_rollout_finds_nothing_or_is_refused(paged: Store, offset: int) -> None:
    write(paged, *TWO_TURNS)

    try:
        found = ids(turns(paged, cursor=encode_offset("turns", offset)))
    except InvalidRequest:
        return

    assert found == (["t1", "t2"] if offset < 0 else [])


def test_a_turn_can_span_batches(store: Store) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append_lines(event("task_started", turn_id="t1"), message_line("a")))
    store.apply(mail, mail.append("b"))
    store.apply(mail, mail.append_lines(event("task_complete"), message_line("c")))

    page = turns(store)

    assert ids(page) == ["t1", "turn-5"]
    assert [item.payload.get("message") for item in page.turns[0].items] == [None, "a", "b", None]


def test_a_rollback_hides_the_turns_of_an_earlier_batch(store: Store) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append_lines(*TWO_TURNS))
    before = turns(store)

    store.apply(mail, mail.append_lines(event("thread_rolled_back", num_turns=1)))

    assert ids(before) == ["t1", "t2"]
    assert ids(turns(store)) == ["t1"]


def test_a_rollout_that_is_moved_while_it_is_opened_can_be_read(
    paged: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(paged, message_line("here"))
    moved = path.with_name(path.name.replace("T12", "T13"))
    locate_thread = thread_file.locate_thread

    def find_then_move(*arguments: Any, **options: Any) -> thread_file.Located:
        found = locate_thread(*arguments, **options)
        path.rename(moved)
        return found

    monkeypatch.setattr(thread_file, "locate_thread", find_then_move)

    assert len(items(paged).items) == 2
