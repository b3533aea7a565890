from __future__ import annotations

import base64
import json
import sqlite3
import sys
import unicodedata
from contextlib import closing
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Mail, Store, item_line, message_line, thread_id

from livethread import types
from livethread.errors import InvalidRequest
from livethread.metadata import ThreadMetadataPatch
from livethread.rollout.literal import folded
from livethread_worker.store.index.search_threads import _is_folded_alike


def say(store: Store, *texts: str, n: int = 1, **params: Any) -> Mail:
    mail = Mail(n)
    store.apply(mail, mail.create(**params), *[mail.append_lines(message_line(text)) for text in texts])
    return mail


def search(store: Store, term: str, **params: Any) -> types.ThreadSearchPage:
    request = types.SearchThreadsParams.model_validate({"search_term": term} | params)
    return store.index.search_threads(request)


def found(store: Store, term: str, **params: Any) -> list[int]:
    return [int(result.thread.thread_id[-12:], 16) for result in search(store, term, **params).items]


def found_or_refused(store: Store, term: str) -> list[int] | str:
    try:
        return found(store, term)
    except InvalidRequest as error:
        return str(error)


# -- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "term"),
    [
        ("The quick brown fox", "quick"),
        ("The quick brown fox", "QUICK"),
        ("The quick brown fox", "fox quick"),
        ("The quick brown fox", '"quick brown"'),
        ("The quick brown fox", '"quick brown" the'),
        ("The quick brown fox", "bro*"),
        ("The quick brown fox", "brown*"),
        ("fix foo-bar.py", "foo-bar.py"),
        ("fix foo-bar.py", "bar"),
        ("snake_case here", "snake_case"),
        ("Él cantó en Ñuñoa", "canto"),
        ("Él cantó en Ñuñoa", "nunoa"),
        ("canto", "cantó"),
        ("Größe", "große"),
        (unicodedata.normalize("NFD", "les cafés fermés"), "cafés"),
        ("les cafés fermés", unicodedata.normalize("NFD", "cafés")),
        (unicodedata.normalize("NFD", "les cafés fermés"), unicodedata.normalize("NFD", "cafés")),
        ("私は東京に住んでいます", "東京"),
        ("私は東京に住んでいます", '"住んで"'),
        ("私は東京に住んでいます", "京"),
        ("用Python写代码", "python"),
        ("用Python写代码", "代码"),
        ("𠀀𠀁", "𠀁"),
        ("한국어 문장입니다", "문장*"),
        ("привет мир", "ПРИВЕТ"),
        ("version 2026", "2026"),
        ("the NEAR and the AND", "near and"),
        ("column text: x", "text:x"),
        ("a ² b", "²"),
    ],
)
def test_matching_messages_are_found(store: Store, said: str, term: str) -> None:
    say(store, said)
    say(store, "something else altogether", n=2)

    assert found(store, term) == [1]


@pytest.mark.parametrize(
    ("said", "term"),
    [
        ("The quick brown fox", "slow"),
        ("The quick brown fox", "quick slow"),
        ("The quick brown fox", '"brown quick"'),
        ("The quick brown fox", "qui"),
        ("The quick brown fox", "*uick"),
        ("東京", "京東"),
        ("東 and 京", '"東京"'),
    ],
)
def test_other_messages_are_not_found(store: Store, said: str, term: str) -> None:
    say(store, said)

    assert found(store, term) == []


def test_all_words_must_be_in_one_message(store: Store) -> None:
    say(store, "red apples", "green pears")

    assert found(store, "red pears") == []
    assert found(store, "red apples") == [1]


HOSTILE = [
    '"',
    '"""',
    "*",
    "a*b",
    '"a" *',
    "NEAR(",
    "NEAR(a b, 5)",
    "NEAR",
    "AND",
    "OR OR",
    "NOT a",
    "text:a",
    "col:",
    "{text role}: a",
    "^a",
    "-a",
    "a + b",
    "a; DROP TABLE messages; --",
    "'",
    "a' OR '1'='1",
    "(a",
    "a\0b",
    "\0",
    "%",
    "_",
    "\\",
    "\u200b",
    "\u200ba\u200b",
    "x" * 100_000,
]


@pytest.mark.parametrize("term", HOSTILE, ids=lambda term: repr(term)[:30])
def test_no_term_is_taken_for_fts5_syntax(store: Store, term: str) -> None:
    """A search for it finds nothing, or is refused because it has no word."""
    say(store, "unrelated words")

    assert found_or_refused(store, term) in ([], "a search needs at least one word")


@given(term=st.text(min_size=1, max_size=12) | st.text("\"*()^:+-{}ab \0'", min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_makes_a_search_fail(store: Store, term: str) -> None:
    assert found_or_refused(store, term) in ([], "a search needs at least one word")


# -- searched texts ----------------------------------------------------------------------------------------


def test_messages_and_names_are_found_but_tool_output_and_reasoning_are_not(store: Store) -> None:
    mail = say(store, "user")
    content = [{"type": "output_text", "text": "model"}]
    lines = [
        item_line("event_msg", {"type": "agent_message", "message": "agent"}),
        item_line("response_item", {"type": "message", "role": "assistant", "content": content}),
        item_line("response_item", {"type": "function_call_output", "output": "tool"}),
        item_line("event_msg", {"type": "agent_reasoning", "text": "thought"}),
    ]
    store.apply(mail, mail.append_lines(*lines), mail.patch(ThreadMetadataPatch(name="christened")))

    assert [found(store, term) for term in ("user", "agent", "model", "christened")] == [[1]] * 4
    assert [found(store, term) for term in ("tool", "thought")] == [[]] * 2


def test_a_thread_is_found_by_its_current_name_only(store: Store) -> None:
    mail = say(store, "hello")
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="former")))
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="present")))
    assert (found(store, "former"), found(store, "present")) == ([], [1])

    store.apply(mail, mail.patch(ThreadMetadataPatch(name=None)))

    assert found(store, "present") == []
    assert found(store, "hello") == [1]


def test_clearing_a_name_that_equals_a_message_keeps_the_message(store: Store) -> None:
    mail = say(store, "hello")
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="hello")))
    store.apply(mail, mail.patch(ThreadMetadataPatch(name=None)))

    assert found(store, "hello") == [1]


def test_an_event_and_a_response_item_with_the_same_text_match_once(store: Store) -> None:
    mail = say(store, "hello")
    content = [{"type": "input_text", "text": "hello"}]
    store.apply(
        mail, mail.append_lines(item_line("response_item", {"type": "message", "role": "user", "content": content}))
    )

    assert len(search(store, "hello").items) == 1
    assert store.index.db.execute("SELECT count(*) FROM messages").fetchone()[0] == 1


def test_a_deleted_thread_is_not_found(store: Store) -> None:
    mail = say(store, "hello")

    store.apply(mail, mail.delete())

    assert found(store, "hello") == []
    assert (
        store.index.db.execute("SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'hello'").fetchone()[0]
        == 0
    )


def test_a_search_filters_by_archived_and_source(store: Store) -> None:
    say(store, "hello", n=1, source="cli")
    say(store, "hello", n=2, source={"custom": "x"})
    mail = say(store, "hello", n=3, source="cli")
    store.apply(mail, mail.archive())

    assert sorted(found(store, "hello")) == [1, 2]
    assert found(store, "hello", archived=True) == [3]
    assert found(store, "hello", allowed_sources=[{"custom": "x"}]) == [2]
    assert found(store, "hello", allowed_sources=["cli", "exec"]) == [1]


# -- pages -------------------------------------------------------------------------------------------------


def test_a_snippet_shows_the_original_words_around_the_match(store: Store) -> None:
    say(store, "so " * 50 + "a Needle in 日本語 it" + " on" * 50)

    (result,) = search(store, "needle").items

    assert "a Needle in 日本語 it" in result.snippet
    assert len(result.snippet) < 120
    assert "\u200b" not in result.snippet


def test_threads_are_sorted_by_their_best_match_whose_snippet_is_shown(store: Store) -> None:
    say(store, "a needle " + "among much else " * 40, "needle needle", n=1)
    say(store, "needle " + "and very much more " * 60, n=2)

    results = search(store, "needle").items

    assert [result.thread.thread_id for result in results] == [thread_id(1), thread_id(2)]
    assert results[0].snippet == "needle needle"


@pytest.mark.parametrize("key", [None, *types.ThreadSortKey])
@pytest.mark.parametrize("direction", types.SortDirection)
@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8])
def test_pages_are_complete(
    store: Store, key: types.ThreadSortKey | None, direction: types.SortDirection, page_size: int
) -> None:
    for n in range(1, 8):  # some share rank and time
        say(store, "needle " * (n // 2 + 1), n=n, created_at=AT + timedelta(seconds=n // 3))
    whole = found(store, "needle", sort_key=key, sort_direction=direction)
    shown: list[int] = []
    cursor: str | None = None

    for _ in range(8):
        options = {"sort_key": key, "sort_direction": direction, "page_size": page_size, "cursor": cursor}
        shown += found(store, "needle", **options)
        cursor = search(store, "needle", **options).next_cursor
        if cursor is None:
            break

    assert sorted(whole) == list(range(1, 8))
    assert shown == whole


@pytest.mark.parametrize("how", ["rebuilt", "cut and appended to"])
def test_a_thread_that_is_reread_between_two_pages_is_still_on_the_second(store: Store, how: str) -> None:
    mails = [say(store, "needle", "hay", n=n, thread_id=thread_id(n)) for n in range(1, 5)]
    first = search(store, "needle", page_size=2)
    for mail in mails:
        if how == "rebuilt":
            store.read_in(mail.thread_id)
        else:
            path = store.path(mail)
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
            store.apply(mail, mail.append("more"))

    second = search(store, "needle", page_size=2, cursor=first.next_cursor)

    seen = [result.thread.thread_id for result in (*first.items, *second.items)]
    assert sorted(seen) == [mail.thread_id for mail in mails]
    assert found(store, "hay") == ([1, 2, 3, 4] if how == "rebuilt" else [])


def cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "garbage",
        cursor_of(["relevance", [1], "x"]),
        cursor_of(["relevance", {}, "x"]),
        cursor_of(["relevance", 10**30, "x"]),
    ],
    ids=["garbage", "a list", "an object", "a number beyond 64 bits"],
)
def test_an_invalid_cursor_is_refused(store: Store, cursor: str) -> None:
    say(store, "hello")

    with pytest.raises(InvalidRequest):
        search(store, "hello", cursor=cursor)


def test_a_cursor_of_another_sort_order_is_refused(store: Store) -> None:
    say(store, "hello", n=1)
    say(store, "hello", n=2)
    cursor = search(store, "hello", page_size=1).next_cursor

    with pytest.raises(InvalidRequest, match="this cursor is for relevance, not for created_at"):
        search(store, "hello", cursor=cursor, sort_key="created_at")


# -- literally ---------------------------------------------------------------------------------------------


def test_fts5_folds_each_character_that_is_looked_up_as_we_do() -> None:
    """Otherwise a search would not look at texts that hold the term in another case."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5 (text, tokenize = 'trigram')")
        connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab (texts, 'instance')")
        pairs = [(char, folded(char)) for char in map(chr, range(1, sys.maxunicode + 1)) if char != folded(char)]
        sought = [pair for pair in pairs if _is_folded_alike(pair[1])]
        for n, pair in enumerate(sought):
            rows = [(n * 2 + k, f"aa{char}") for k, char in enumerate(pair)]
            connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
        term_of = dict(connection.execute("SELECT doc, term FROM terms"))

    assert [pair for n, pair in enumerate(sought) if term_of[n * 2] != term_of[n * 2 + 1]] == []
    assert {"É", "Σ", "Я"} <= {char for char, _ in sought}


NUMBERS = count(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("aAbB-_ éÉσΣς日本İ\0\"'*", min_size=1, max_size=12), data=st.data())
def test_every_part_of_a_text_is_found(store: Store, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    term = text[start : data.draw(st.integers(start + 1, len(text)))]
    assume(term.replace("\0", " ").strip() and term in text.strip("\0 "))
    store.index.db.execute("DELETE FROM messages")
    n = next(NUMBERS)
    say(store, text, n=n)
    if data.draw(st.booleans()):
        while store.index.maintain(is_idle=True):
            pass

    assert found(store, term, match=types.SearchMatch.LITERAL) == [n]
    assert found(store, f"{term}zz", match=types.SearchMatch.LITERAL) == []
