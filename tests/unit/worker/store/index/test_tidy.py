from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.worker.builders import Mail

from livethread.types import SearchThreadsParams
from livethread_worker.store.index import IndexUnavailable, database

if TYPE_CHECKING:
    from tests.unit.worker.builders import Store


def segments(store: Store) -> int:
    """How many segments the full text of the messages is in: one more with each batch."""
    query = "SELECT count(DISTINCT segid) FROM messages_fts_idx"
    return int(store.index.db.execute(query).fetchone()[0])


def pragmas(store: Store) -> list[int]:
    return [store.index.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "wal_autocheckpoint")]


def test_tidying_merges_what_batches_left_and_changes_nothing_that_is_found(store: Store) -> None:
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(6):
        store.apply(mail, mail.append(f"zebra number{n}"))
    before = segments(store)

    store.index.tidy(100)

    assert (before, segments(store)) == (6, 1)
    for query in ("zebra", "number0", "number5"):
        [(thread, _)] = store.index.search_threads(SearchThreadsParams(search_term=query)).threads
        assert thread.thread_id == mail.thread_id
    store.index.db.execute("INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')")


def test_tidying_stops_after_so_many_pages_and_goes_on_later(store: Store) -> None:
    mail = Mail()
    store.apply(mail, mail.create())
    for n in range(4):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 20 for i in range(200))))
    store.index.tidy(1)
    after_a_little = segments(store)

    for _ in range(100):
        store.index.tidy(1)

    assert after_a_little > segments(store) == 1


def test_tidying_leaves_commits_as_durable_as_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pragmas(store)

    store.index.tidy(10)
    with closing(sqlite3.connect(store.home.index)) as other:
        store.index.db.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            store.index.tidy(10)

    assert pragmas(store) == before == [2, database.CHECKPOINT_PAGES]


def test_the_log_is_shortened_by_who_tidies(store: Store) -> None:
    """It merges something: before a batch comes upon a log so long that its commit has to."""
    mail = Mail()
    store.apply(mail, mail.create())
    while store.home.index.with_name("index.sqlite-wal").stat().st_size < database.TIDY_PAGES * 4_096:
        for n in range(4):
            store.apply(mail, mail.append(*(f"word{n}x{i} " * 50 for i in range(200))))
    size = store.home.index.stat().st_size

    store.index.tidy(10)

    assert store.home.index.stat().st_size > size
