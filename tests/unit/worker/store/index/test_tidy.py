from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.worker.builders import Mail

from livethread.types import SearchThreadsParams
from livethread_worker.store.index import IndexUnavailable, database, index

if TYPE_CHECKING:
    from tests.unit.worker.builders import Store

#: Segments of a level that are merged.
MERGED = 16


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is tidied by nobody but the test."""
    monkeypatch.setattr(index, "UNTIDIED", 1_000_000)


def segments(store: Store) -> int:
    """How many segments the full text of the messages is in: one more with each batch."""
    query = "SELECT count(DISTINCT segid) FROM messages_fts_idx"
    return int(store.index.db.execute(query).fetchone()[0])


def pragmas(store: Store) -> list[int]:
    return [store.index.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "wal_autocheckpoint")]


def test_tidying_merges_what_batches_left_and_changes_nothing_that_is_found(store: Store) -> None:
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(MERGED):
        store.apply(mail, mail.append(f"zebra number{n}"))
    before = segments(store)

    store.index.tidy()

    assert (before, segments(store)) == (MERGED, 1)
    for query in ("zebra", "number0", "number5"):
        [(thread, _)] = store.index.search_threads(SearchThreadsParams(search_term=query)).threads
        assert thread.thread_id == mail.thread_id
    store.index.db.execute("INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')")


def test_tidying_stops_after_so_many_pages_and_goes_on_later(store: Store, by_hand: None) -> None:
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(MERGED):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 20 for i in range(100))))
    store.index._untidied = 1
    store.index.tidy()
    after_a_little = segments(store)

    for _ in range(100):
        store.index._untidied = 1
        store.index.tidy()

    assert after_a_little > segments(store) == 1


def test_an_index_is_not_tidied_before_so_many_rows_came(store: Store) -> None:
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(MERGED):
        store.apply(mail, mail.append(f"number {n}"))

    store.index.tidy(least=100)
    untouched = segments(store)
    store.index.tidy(least=MERGED)

    assert (untouched, segments(store)) == (MERGED, 1)


def test_who_never_tidies_has_it_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "UNTIDIED", 4)
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(2 * MERGED):
        store.apply(mail, mail.append(f"number {n}"))

    assert segments(store) < 2 * MERGED


def test_a_commit_that_cannot_be_tidied_behind_is_one_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_index: object, _least: int) -> None:
        raise IndexUnavailable("locked")

    mail = Mail()
    monkeypatch.setattr(index.Index, "tidy", fail)

    store.apply(mail, mail.create(), mail.append("zebra"))

    assert len(store.index.search_threads(SearchThreadsParams(search_term="zebra")).threads) == 1


def test_tidying_leaves_commits_as_durable_as_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mail, before = Mail(), pragmas(store)
    store.apply(mail, mail.create(), mail.append("one"))
    store.index.tidy()
    store.apply(mail, mail.append("two"))
    with closing(sqlite3.connect(store.home.index)) as other:
        store.index.db.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            store.index.tidy()

    assert pragmas(store) == before == [2, database.CHECKPOINT_PAGES]


def test_the_log_is_shortened_by_who_tidies(store: Store, by_hand: None) -> None:
    """It merges something: before a batch comes upon a log so long that its commit has to."""
    mail = Mail()
    store.apply(mail, mail.create())
    while store.home.index.with_name("index.sqlite-wal").stat().st_size < database.TIDY_PAGES * 4_096:
        for n in range(MERGED):
            store.apply(mail, mail.append(*(f"word{n}x{i} " * 50 for i in range(50))))
    size = store.home.index.stat().st_size

    store.index.tidy()

    assert store.home.index.stat().st_size > size
