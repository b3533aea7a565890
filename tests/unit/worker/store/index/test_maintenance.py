from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.nodes.items import message
from tests.unit.worker.builders import Mail, Store, thread_id

from livethread import CreateThreadParams, LiveThread, Settings
from livethread.metadata import ThreadMetadataPatch
from livethread.types import SearchThreadsParams, StoredThreadSearchResult
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index, IndexUnavailable, database, index, maintenance, thread_writes
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.local import LocalThreadStore

#: Segments of a level that are merged.
MERGED = 16


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many messages are indexed together: three."""
    monkeypatch.setattr(maintenance, "FTS_BATCH_ROWS", 3)
    monkeypatch.setattr(thread_writes, "FTS_BATCH_ROWS", 3)
    return 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch's messages are indexed with it, in a segment of their own."""
    monkeypatch.setattr(maintenance, "FTS_BATCH_ROWS", 1)
    monkeypatch.setattr(thread_writes, "FTS_BATCH_ROWS", 1)


def said(store: Store, *texts: str, n: int = 1) -> Mail:
    """Have a new thread that says *texts*, each in a batch of its own."""
    mail = Mail(n)
    store.apply(mail, mail.create())
    for text in texts:
        store.apply(mail, mail.append(text))
    return mail


def unindexed(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM unindexed_messages").fetchone()[0])


def indexed(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM messages_fts_docsize").fetchone()[0])


def segments(store: Store) -> int:
    """How many segments the full text of the messages is in."""
    query = "SELECT count(DISTINCT segid) FROM messages_fts_idx"
    return int(store.index.db.execute(query).fetchone()[0])


def found(store: Store, term: str) -> list[str]:
    page = store.index.search_threads(SearchThreadsParams(search_term=term))
    return [result.thread.thread_id for result in page.items]


def pragmas(store: Store) -> list[int]:
    names = ("synchronous", "wal_autocheckpoint", "busy_timeout")
    return [store.index.db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]


def assert_is_whole(store: Store) -> None:
    """Every message is in the full text once, with its words, or named as one that is not."""
    messages = store.index.db.execute("SELECT count(*) FROM messages").fetchone()[0]
    assert indexed(store) + unindexed(store) == messages
    store.index.maintain(is_idle=True)
    # With the rank, what stands in the table is compared, too.
    store.index.db.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)")


# -- indexing ----------------------------------------------------------------------------------------------


def test_few_messages_are_left_for_later_and_found_all_the_same(store: Store) -> None:
    said(store, "zebra", "gnu")
    before = unindexed(store), indexed(store)

    assert (found(store, "zebra"), found(store, "gnu")) == ([thread_id(1)], [thread_id(1)])

    assert before == (2, 0)
    assert (unindexed(store), indexed(store)) == (0, 2)
    assert_is_whole(store)


def test_many_messages_are_indexed_with_their_batch(store: Store, many: int) -> None:
    mail = said(store, "gnu")

    store.apply(mail, mail.append(*(f"zebra {n}" for n in range(many))))

    assert (unindexed(store), indexed(store)) == (1, many)
    assert (found(store, "zebra"), found(store, "gnu")) == ([mail.thread_id], [mail.thread_id])
    assert_is_whole(store)


def test_messages_that_were_left_are_indexed_together_behind_a_batch(store: Store, many: int) -> None:
    mail = said(store, "one", "two")
    store.index.maintain()
    before = unindexed(store)

    store.apply(mail, mail.append("three"))
    store.index.maintain()

    assert (before, unindexed(store), indexed(store)) == (2, 0, many)
    assert segments(store) == 1


def test_who_is_idle_indexes_what_was_left(store: Store) -> None:
    said(store, "zebra")

    is_more = store.index.maintain(is_idle=True)

    assert (unindexed(store), indexed(store), is_more) == (0, 1, False)


def test_who_closes_the_index_indexes_what_was_left(store: Store) -> None:
    said(store, "zebra")

    store.index.close()

    with closing(sqlite3.connect(store.home.index)) as connection:
        assert connection.execute("SELECT count(*) FROM unindexed_messages").fetchone() == (0,)


def test_whoever_searches_indexes_what_others_left(store: Store) -> None:
    said(store, "zebra")

    with closing(Index(store.home)) as other:
        page = other.search_threads(SearchThreadsParams(search_term="zebra"))

    assert len(page.items) == 1
    assert unindexed(store) == 0


def test_who_finds_nothing_to_index_writes_nothing(store: Store) -> None:
    """Whoever else has the index open would forget what it knows."""
    said(store, "zebra")
    with closing(Index(store.home)) as other:
        other.maintain(is_idle=True)
        before = other.db.execute("PRAGMA data_version").fetchone()[0]

        store.index.maintain(is_idle=True)

        assert other.db.execute("PRAGMA data_version").fetchone()[0] == before


def test_who_is_idle_indexes_what_a_process_left_that_is_gone(store: Store) -> None:
    said(store, "zebra")

    with closing(Index(store.home)) as other:
        other.maintain(is_idle=True)

    assert unindexed(store) == 0


def test_a_failure_between_two_statements_indexes_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(store, "zebra")
    with monkeypatch.context() as patched:
        patched.setitem(QUERIES, "forget_unindexed", "DELETE FROM nothing")
        with pytest.raises(IndexUnavailable, match="nothing"):
            store.index.maintain(is_idle=True)
    between = indexed(store), unindexed(store)

    assert between == (0, 1)
    assert found(store, "zebra") == [thread_id(1)]
    assert_is_whole(store)


def test_a_search_goes_without_the_newest_messages_while_somebody_holds_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SEARCH_WAIT", 0.01)
    monkeypatch.setattr(index, "_SEARCH_WITHOUT", 0.0)
    said(store, "zebra")
    store.index.maintain(is_idle=True)
    said(store, "zebra", n=2)
    before = pragmas(store)

    with closing(sqlite3.connect(store.home.index)) as other:
        other.execute("BEGIN IMMEDIATE")
        meanwhile = found(store, "zebra")

    assert meanwhile == [thread_id(1)]
    assert sorted(found(store, "zebra")) == [thread_id(1), thread_id(2)]
    assert pragmas(store) == before


def test_not_every_search_waits_while_somebody_holds_the_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said(store, "zebra")
    waits = []

    def locked() -> None:
        waits.append(1)
        raise IndexUnavailable("locked")

    monkeypatch.setattr(store.index._maintenance, "index_messages", locked)

    assert [found(store, "zebra"), found(store, "zebra")] == [[], []]
    assert len(waits) == 1


@pytest.mark.parametrize("is_indexed_after", ["the first page", "its look at what is left"])
def test_later_pages_find_nothing_that_the_first_could_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_indexed_after: str
) -> None:
    """Else threads would come twice, and others never: a better match moves those that were shown."""
    for n in range(1, 5):
        said(store, "zebra " + "gnu " * n, n=n)
    store.index.maintain(is_idle=True)
    make_searchable = store.index._make_searchable

    def late() -> None:
        if is_indexed_after == "its look at what is left":
            make_searchable()
        said(store, "zebra", n=9)
        monkeypatch.undo()

    monkeypatch.setattr(store.index, "_make_searchable", late)
    term, pages = "zebra", list[StoredThreadSearchResult]()
    page = store.index.search_threads(SearchThreadsParams(search_term=term, page_size=2))
    pages += page.items
    page = store.index.search_threads(SearchThreadsParams(search_term=term, page_size=2, cursor=page.next_cursor))
    pages += page.items

    assert [result.thread.thread_id for result in pages] == [thread_id(n) for n in range(1, 5)]


def test_an_error_that_ends_the_transaction_of_a_search_is_told_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its code a damaged index is known."""

    def fail(connection: sqlite3.Connection, *_arguments: object) -> None:
        connection.execute("ROLLBACK")
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(index, "search_threads", fail)

    with pytest.raises(IndexUnavailable, match="malformed"):
        found(store, "zebra")


async def test_a_store_without_workers_indexes_behind_its_appends(tmp_path: Path, many: int) -> None:
    async with LocalThreadStore(Settings(home=tmp_path / "home")) as local:
        thread = await LiveThread.create(local, CreateThreadParams())
        for n in range(many):
            await thread.append_items([message(f"zebra {n}")])

        with closing(sqlite3.connect(Home(tmp_path / "home").index)) as connection:
            assert connection.execute("SELECT count(*) FROM messages_fts_docsize").fetchone() == (many,)


def test_a_thread_that_is_deleted_before_it_is_indexed_leaves_nothing(store: Store) -> None:
    """To have FTS5 forget what it does not know would spoil what it counts, and so the order of what is found."""
    said(store, "zebra", n=1)
    store.index.maintain(is_idle=True)
    mail = said(store, "zebra", "gnu", n=2)

    store.apply(mail, mail.delete())

    assert (unindexed(store), indexed(store)) == (0, 1)
    assert found(store, "zebra") == [thread_id(1)]
    assert_is_whole(store)


def test_a_thread_that_is_deleted_when_half_of_it_is_indexed_leaves_nothing(store: Store) -> None:
    mail = said(store, "zebra")
    store.index.maintain(is_idle=True)
    store.apply(mail, mail.append("gnu"))

    store.apply(mail, mail.delete())

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [])
    assert_is_whole(store)


def test_an_id_that_a_deleted_message_had_is_indexed_once(store: Store) -> None:
    """SQLite gives the id of the newest row again once that is deleted."""
    mail = said(store, "zebra")
    store.apply(mail, mail.delete())

    said(store, "gnu", n=2)

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [thread_id(2)])
    assert_is_whole(store)


@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_message_that_somebody_changes_is_found_by_its_new_words(store: Store, is_indexed: bool) -> None:
    said(store, "zebra")
    if is_indexed:
        store.index.maintain(is_idle=True)

    store.index.db.execute("UPDATE messages SET text = 'gnu'")

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [thread_id(1)])
    assert_is_whole(store)


def test_a_worker_of_the_release_before_indexes_its_own_and_leaves_ours(store: Store) -> None:
    said(store, "zebra")
    with closing(sqlite3.connect(store.home.index)) as other, other:
        other.execute(
            "INSERT INTO messages (thread_id, digest, ordinal, role, text) VALUES (?, 1, 9, 'user', 'gnu')",
            [thread_id(1)],
        )
        other.execute("INSERT INTO messages_fts (rowid, text) SELECT id, text FROM messages WHERE text = 'gnu'")

    assert (found(store, "zebra"), found(store, "gnu")) == ([thread_id(1)], [thread_id(1)])
    assert_is_whole(store)


# -- merging -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_what_batches_left_is_merged_and_what_is_found_is_the_same(store: Store) -> None:
    said(store, *(f"zebra number{n}" for n in range(MERGED)))
    before = segments(store)

    while store.index.maintain(is_idle=True):
        pass

    assert (before, segments(store)) == (MERGED, 1)
    for query in ("zebra", "number0", "number5"):
        assert found(store, query) == [thread_id(1)]
    assert_is_whole(store)


@pytest.mark.usefixtures("at_once")
def test_merging_stops_after_so_many_pages_and_goes_on_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "MERGED_PAGES", 1)
    mail = said(store)
    for n in range(MERGED):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 20 for i in range(100))))

    is_more = store.index.maintain(is_idle=True)
    after_a_little = segments(store)
    pieces = 1
    while store.index.maintain(is_idle=True):
        pieces += 1

    assert is_more
    assert after_a_little > segments(store) == 1
    assert pieces > 3


@pytest.mark.usefixtures("at_once")
def test_few_segments_are_not_looked_at(store: Store) -> None:
    mail = said(store, *(f"number {n}" for n in range(MERGED - 1)))
    while store.index.maintain(is_idle=True):
        pass
    untouched = segments(store)

    store.apply(mail, mail.append("another"))
    while store.index.maintain(is_idle=True):
        pass

    assert (untouched, segments(store)) == (MERGED - 1, 1)


@pytest.mark.usefixtures("at_once")
def test_the_texts_that_listings_search_are_merged_too(store: Store) -> None:
    query = "SELECT count(DISTINCT segid) FROM listing_texts_idx"
    mail = said(store)
    for n in range(MERGED):
        store.apply(mail, mail.patch(ThreadMetadataPatch(title=f"zebra {n}")))
    before = store.index.db.execute(query).fetchone()[0]

    while store.index.maintain(is_idle=True):
        pass

    assert before >= MERGED
    assert store.index.db.execute(query).fetchone()[0] == 1


def test_segments_stay_few_where_all_batches_are_large(store: Store) -> None:
    """At 64 of a level FTS5 would merge them all within a commit."""
    mail, most = said(store), 0
    for n in range(80):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 8 for i in range(maintenance.FTS_BATCH_ROWS))))
        store.index.maintain()
        most = max(most, segments(store))

    assert MERGED <= most < 48


# -- when --------------------------------------------------------------------------------------------------


def test_a_chore_rests_for_a_multiple_of_what_it_took_unless_nobody_waits(
    store: Store, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    work = store.index._maintenance.index_messages

    def slow() -> None:
        nonlocal now
        work()
        now += 1.0

    store.index._maintenance._chores[0].do = slow
    mail = said(store, *"abc")
    store.index.maintain()
    after_first = unindexed(store)

    store.apply(mail, mail.append(*"de"))
    store.apply(mail, mail.append("f"))
    now = 1.0 + maintenance.REST - 0.1
    store.index.maintain()
    while_it_rests = unindexed(store)
    now = 1.0 + maintenance.REST
    store.index.maintain()
    after_the_rest = unindexed(store)
    store.apply(mail, mail.append("g"))
    store.index.maintain(is_idle=True)

    assert (after_first, while_it_rests, after_the_rest, unindexed(store)) == (0, many, 0, 0)


def test_a_lock_that_is_held_for_long_is_not_waited_for_behind_every_batch(store: Store, many: int) -> None:
    said(store, *"abc")
    store.index.db.execute("PRAGMA busy_timeout = 20")
    with closing(sqlite3.connect(store.home.index)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            store.index.maintain()

        store.index.maintain()  # at once, and without an error

    store.index.maintain(is_idle=True)
    assert unindexed(store) == 0


def test_maintenance_leaves_commits_as_durable_as_before(store: Store) -> None:
    before = pragmas(store)
    mail = said(store, "one")
    store.index.maintain(is_idle=True)
    store.apply(mail, mail.append("two"))
    with closing(sqlite3.connect(store.home.index)) as other:
        store.index.db.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            store.index.maintain(is_idle=True)

    assert pragmas(store)[:2] == before[:2] == [1, database.CHECKPOINT_PAGES]


def test_a_long_log_is_moved_into_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a batch comes upon one so long that its commit has to."""
    monkeypatch.setattr(maintenance, "LOGGED_PAGES", 100)
    log, mail = store.home.index.with_name("index.sqlite-wal"), said(store)
    for n in range(100):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 50 for i in range(50))))
        store.index.maintain()
    length = log.stat().st_size

    for n in range(100):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 40 for i in range(50))))
        store.index.maintain()

    assert store.home.index.stat().st_size > length
    assert log.stat().st_size < 2 * length
    assert length < database.CHECKPOINT_PAGES * 4_096
