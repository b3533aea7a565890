from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.nodes.items import message
from tests.unit.worker.builders import Mail, Store, thread_id

from livethread import CreateThreadParams, LiveThread, Settings
from livethread.metadata import ThreadMetadataPatch
from livethread.types import SearchMatch, SearchThreadsParams, StoredThreadSearchResult
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index, IndexUnavailable, database, index, maintenance, thread_writes
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.local import LocalThreadStore

#: How many segments of a level are merged.
MERGED = 16


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have three messages indexed together; return three."""
    monkeypatch.setattr(maintenance, "FTS_BATCH_ROWS", 3)
    monkeypatch.setattr(thread_writes, "FTS_BATCH_ROWS", 3)
    return 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each batch's messages indexed with it, in a segment of their own."""
    monkeypatch.setattr(maintenance, "FTS_BATCH_ROWS", 1)
    monkeypatch.setattr(thread_writes, "FTS_BATCH_ROWS", 1)


def said(store: Store, *texts: str, n: int = 1) -> Mail:
    """Create a thread with the messages *texts*, each in a batch of its own."""
    mail = Mail(n)
    store.apply(mail, mail.create())
    for text in texts:
        store.apply(mail, mail.append(text))
    return mail


def unindexed(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM unindexed_messages").fetchone()[0])


def indexed(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM messages_fts_docsize").fetchone()[0])


def with_trigrams(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM messages_trigrams_docsize").fetchone()[0])


def segments(store: Store) -> int:
    """Count the segments of the messages' full text."""
    query = "SELECT count(DISTINCT segid) FROM messages_fts_idx"
    return int(store.index.db.execute(query).fetchone()[0])


def found(store: Store, term: str) -> list[str]:
    page = store.index.search_threads(SearchThreadsParams(search_term=term))
    return [result.thread.thread_id for result in page.items]


def pragmas(store: Store) -> list[int]:
    names = ("synchronous", "wal_autocheckpoint", "busy_timeout")
    return [store.index.db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]


def assert_is_whole(store: Store) -> None:
    """Check that each message is in the full text once, with its words, or listed as unindexed."""
    messages = store.index.db.execute("SELECT count(*) FROM messages").fetchone()[0]
    assert indexed(store) + unindexed(store) == messages
    store.index.maintain(is_idle=True)
    # With a rank, the check also compares the text with the table.
    store.index.db.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)")


def assert_trigrams_are_whole(store: Store) -> None:
    """Check the trigrams of all messages: SQLite compares them with the table, which must be indexed up to its end."""
    while store.index.maintain(is_idle=True):
        pass
    store.index.db.execute(QUERIES["check_trigrams"])


# -- indexing ----------------------------------------------------------------------------------------------


def test_few_messages_are_indexed_by_the_next_search(store: Store) -> None:
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


def test_unindexed_messages_are_indexed_together_after_a_batch(store: Store, many: int) -> None:
    mail = said(store, "one", "two")
    store.index.maintain()
    before = unindexed(store)

    store.apply(mail, mail.append("three"))
    store.index.maintain()

    assert (before, unindexed(store), indexed(store)) == (2, 0, many)
    assert segments(store) == 1


def test_idle_maintenance_indexes_the_rest(store: Store) -> None:
    said(store, "zebra")

    done_after = [store.index.maintain(is_idle=True) for _ in range(3)]

    assert (unindexed(store), indexed(store), with_trigrams(store)) == (0, 1, 1)
    assert done_after == [True, False, False]


@pytest.fixture
def few_trigrams(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the trigrams of two messages indexed together; return two."""
    monkeypatch.setattr(maintenance, "TRIGRAM_BATCH_ROWS", 2)
    monkeypatch.setattr(maintenance, "MAX_WITHOUT_TRIGRAMS", 2)
    return 2


def literally(store: Store, term: str) -> list[str]:
    params = SearchThreadsParams(search_term=term, match=SearchMatch.LITERAL)
    return [result.thread.thread_id for result in store.index.search_threads(params).items]


def test_a_literal_search_finds_messages_with_and_without_trigrams(store: Store, few_trigrams: int) -> None:
    said(store, "a zebra", "the Zebra", "no-zebra", n=1)
    store.index.maintain()
    said(store, "zebras", n=2)
    before = with_trigrams(store), unindexed(store)

    hits = [literally(store, term) for term in ("zebra", "o-z", "-z", "ebras", "gnu")]

    assert before == (few_trigrams, 4)
    assert [sorted(each) for each in hits] == [
        [thread_id(1), thread_id(2)], [thread_id(1)], [thread_id(1)], [thread_id(2)], []
    ]  # fmt: skip
    assert (with_trigrams(store), unindexed(store)) == before  # a literal search writes nothing
    assert_trigrams_are_whole(store)


def test_trigrams_are_indexed_after_small_batches_and_not_after_large_ones(
    store: Store, many: int, few_trigrams: int
) -> None:
    mail = said(store, "gnu")

    store.apply(mail, mail.append(*(f"zebra {n}" for n in range(many))))
    store.index.maintain()
    after_large = with_trigrams(store)
    store.apply(mail, mail.append("okapi"))
    while store.index.maintain():
        pass

    assert after_large == 0
    assert with_trigrams(store) >= few_trigrams
    assert_trigrams_are_whole(store)
    assert with_trigrams(store) == many + 2


def test_trigrams_of_messages_that_are_gone_are_forgotten(store: Store, few_trigrams: int) -> None:
    mail, other = said(store, "a zebra", "two", "three", n=1), said(store, "zebra too", n=2)
    store.index.maintain()
    assert 0 < with_trigrams(store) < 4

    store.apply(mail, mail.delete())

    assert literally(store, "zebra") == [other.thread_id]
    assert_trigrams_are_whole(store)
    store.apply(other, other.append("another zebra"))
    assert_trigrams_are_whole(store)
    store.index.db.execute("UPDATE messages SET text = 'gnu'")
    assert_trigrams_are_whole(store)
    assert (literally(store, "zebra"), literally(store, "gnu")) == ([], [other.thread_id])


def test_closing_the_index_indexes_the_rest(store: Store) -> None:
    said(store, "zebra")

    store.index.close()

    with closing(sqlite3.connect(store.home.index)) as connection:
        assert connection.execute("SELECT count(*) FROM unindexed_messages").fetchone() == (0,)


def test_a_search_indexes_the_messages_of_other_processes(store: Store) -> None:
    said(store, "zebra")

    with closing(Index(store.home)) as other:
        page = other.search_threads(SearchThreadsParams(search_term="zebra"))

    assert len(page.items) == 1
    assert unindexed(store) == 0


def test_maintenance_with_nothing_to_index_writes_nothing(store: Store) -> None:
    """A write would invalidate the caches of other processes."""
    said(store, "zebra")
    with closing(Index(store.home)) as other:
        while other.maintain(is_idle=True):
            pass
        before = other.db.execute("PRAGMA data_version").fetchone()[0]

        store.index.maintain(is_idle=True)

        assert other.db.execute("PRAGMA data_version").fetchone()[0] == before


def test_idle_maintenance_indexes_the_messages_of_a_dead_process(store: Store) -> None:
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


def test_a_search_skips_the_newest_messages_while_the_index_is_locked(
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


def test_only_one_search_waits_for_a_locked_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said(store, "zebra")
    waits = []

    def locked() -> None:
        waits.append(1)
        raise IndexUnavailable("locked")

    monkeypatch.setattr(store.index._maintenance, "index_messages", locked)

    assert [found(store, "zebra"), found(store, "zebra")] == [[], []]
    assert len(waits) == 1


@pytest.mark.parametrize("is_indexed_after", ["the first page", "its check for unindexed messages"])
def test_later_pages_ignore_messages_that_were_indexed_after_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_indexed_after: str
) -> None:
    """Otherwise a better match would shift the pages: some threads would come twice, others never."""
    for n in range(1, 5):
        said(store, "zebra " + "gnu " * n, n=n)
    store.index.maintain(is_idle=True)
    make_searchable = store.index._make_searchable

    def late() -> None:
        if is_indexed_after == "its check for unindexed messages":
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


def test_an_error_that_ends_a_searchs_transaction_is_raised_unchanged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code shows whether the index is damaged."""

    def fail(connection: sqlite3.Connection, *_arguments: object) -> None:
        connection.execute("ROLLBACK")
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(index, "search_threads", fail)

    with pytest.raises(IndexUnavailable, match="malformed"):
        found(store, "zebra")


async def test_a_local_store_indexes_messages_after_its_appends(tmp_path: Path, many: int) -> None:
    async with LocalThreadStore(Settings(home=tmp_path / "home")) as local:
        thread = await LiveThread.create(local, CreateThreadParams())
        for n in range(many):
            await thread.append_items([message(f"zebra {n}")])

        with closing(sqlite3.connect(Home(tmp_path / "home").index)) as connection:
            assert connection.execute("SELECT count(*) FROM messages_fts_docsize").fetchone() == (many,)


def test_deleting_a_thread_with_unindexed_messages_leaves_nothing(store: Store) -> None:
    """Deleting an unindexed row from FTS5 would spoil its counts, and so the ranking."""
    said(store, "zebra", n=1)
    store.index.maintain(is_idle=True)
    mail = said(store, "zebra", "gnu", n=2)

    store.apply(mail, mail.delete())

    assert (unindexed(store), indexed(store)) == (0, 1)
    assert found(store, "zebra") == [thread_id(1)]
    assert_is_whole(store)


def test_deleting_a_half_indexed_thread_leaves_nothing(store: Store) -> None:
    mail = said(store, "zebra")
    store.index.maintain(is_idle=True)
    store.apply(mail, mail.append("gnu"))

    store.apply(mail, mail.delete())

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [])
    assert_is_whole(store)


def test_a_reused_message_id_is_indexed_once(store: Store) -> None:
    """SQLite reuses the id of the newest row once that is deleted."""
    mail = said(store, "zebra")
    store.apply(mail, mail.delete())

    said(store, "gnu", n=2)

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [thread_id(2)])
    assert_is_whole(store)


@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_message_changed_by_another_program_is_found_by_its_new_words(store: Store, is_indexed: bool) -> None:
    said(store, "zebra")
    if is_indexed:
        store.index.maintain(is_idle=True)

    store.index.db.execute("UPDATE messages SET text = 'gnu'")

    assert (found(store, "zebra"), found(store, "gnu")) == ([], [thread_id(1)])
    assert_is_whole(store)


def test_a_message_that_another_program_indexed_is_not_indexed_again(store: Store) -> None:
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
def test_merging_segments_does_not_change_what_a_search_finds(store: Store) -> None:
    said(store, *(f"zebra number{n}" for n in range(MERGED)))
    before = segments(store)

    while store.index.maintain(is_idle=True):
        pass

    assert (before, segments(store)) == (MERGED, 1)
    for query in ("zebra", "number0", "number5"):
        assert found(store, query) == [thread_id(1)]
    assert_is_whole(store)


@pytest.mark.usefixtures("at_once")
def test_merging_stops_after_a_number_of_pages_and_resumes_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "MERGED_PAGES", 1)
    mail = said(store)
    for n in range(MERGED):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 20 for i in range(100))))

    is_more = store.index.maintain(is_idle=True)
    after_one_call = segments(store)
    calls = 1
    while store.index.maintain(is_idle=True):
        calls += 1

    assert is_more
    assert after_one_call > segments(store) == 1
    assert calls > 3


@pytest.mark.usefixtures("at_once")
def test_few_segments_are_not_merged(store: Store) -> None:
    mail = said(store, *(f"number {n}" for n in range(MERGED - 1)))
    while store.index.maintain(is_idle=True):
        pass
    untouched = segments(store)

    store.apply(mail, mail.append("another"))
    while store.index.maintain(is_idle=True):
        pass

    assert (untouched, segments(store)) == (MERGED - 1, 1)


@pytest.mark.usefixtures("at_once")
def test_the_texts_of_listings_are_merged_too(store: Store) -> None:
    query = "SELECT count(DISTINCT segid) FROM listing_texts_idx"
    mail = said(store)
    for n in range(MERGED):
        store.apply(mail, mail.patch(ThreadMetadataPatch(title=f"zebra {n}")))
    before = store.index.db.execute(query).fetchone()[0]

    while store.index.maintain(is_idle=True):
        pass

    assert before >= MERGED
    assert store.index.db.execute(query).fetchone()[0] == 1


def test_segments_stay_few_if_all_batches_are_large(store: Store) -> None:
    """At 64 segments of a level, FTS5 would merge them all in a commit."""
    mail, most = said(store), 0
    for n in range(80):
        store.apply(mail, mail.append(*(f"word{n}x{i} " * 8 for i in range(maintenance.FTS_BATCH_ROWS))))
        store.index.maintain()
        most = max(most, segments(store))

    assert MERGED <= most < 48


# -- schedule ----------------------------------------------------------------------------------------------


@pytest.fixture
def clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, `now`, in seconds; only indexing messages takes time, a second."""
    clock, work = SimpleNamespace(now=0.0), store.index._maintenance.index_messages

    def slow() -> None:
        work()
        clock.now += 1.0

    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    store.index._maintenance._chores[0].do = slow
    return clock


def test_a_chore_rests_for_a_multiple_of_its_duration_unless_idle(
    store: Store, many: int, clock: SimpleNamespace
) -> None:
    mail = said(store, *"abc")
    store.index.maintain()
    after_first = unindexed(store)

    store.apply(mail, mail.append(*"de"))
    store.apply(mail, mail.append("f"))
    clock.now = 1.0 + maintenance.REST - 0.1
    store.index.maintain()
    while_it_rests = unindexed(store)
    clock.now = 1.0 + maintenance.REST
    store.index.maintain()
    after_the_rest = unindexed(store)
    store.apply(mail, mail.append("g"))
    store.index.maintain(is_idle=True)

    assert (after_first, while_it_rests, after_the_rest, unindexed(store)) == (0, many, 0, 0)


def test_all_chores_rest_after_one_of_them(
    store: Store, many: int, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each had a rest of its own, several of them would take most of the time."""
    monkeypatch.setattr(maintenance, "MAX_WITHOUT_TRIGRAMS", 1)
    mail = said(store, *"ab")
    store.apply(mail, mail.append("c"))
    store.index.maintain()
    clock.now = 1.0 + maintenance.REST - 0.1
    store.index.maintain()
    while_they_rest = with_trigrams(store)
    clock.now = 1.0 + maintenance.REST
    store.index.maintain()

    assert (while_they_rest, with_trigrams(store)) == (0, 3)


def test_maintenance_does_not_wait_for_a_held_lock_after_every_batch(store: Store, many: int) -> None:
    said(store, *"abc")
    store.index.db.execute("PRAGMA busy_timeout = 20")
    with closing(sqlite3.connect(store.home.index)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            store.index.maintain()

        store.index.maintain()  # returns without an error

    store.index.maintain(is_idle=True)
    assert unindexed(store) == 0


def test_maintenance_restores_the_durability_of_commits(store: Store) -> None:
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


def test_maintenance_checkpoints_a_long_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the commit of a batch would have to."""
    monkeypatch.setattr(maintenance, "LOGGED_PAGES", 100)
    monkeypatch.setattr(maintenance, "REST", 0)  # a slow machine would rest for too long
    monkeypatch.setattr(maintenance, "MAX_WITHOUT_TRIGRAMS", 100_000)
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


def test_the_log_shrinks_again_after_a_long_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a reader keeps its transaction, no part of the log can be used again."""
    monkeypatch.setattr(maintenance, "LOGGED_PAGES", 1)
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 200)
    store = Store(tmp_path / "home")
    mail, log = said(store), store.home.index.with_name("index.sqlite-wal")
    limit = database.CHECKPOINT_PAGES * database.PAGE_BYTES
    with closing(sqlite3.connect(store.home.index, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM threads").fetchone()
        while log.stat().st_size <= 2 * limit:
            store.apply(mail, mail.append("x" * 100_000))
        reader.execute("COMMIT")

    for _ in range(2):  # one moves the log into the database, the next begins it again
        while store.index.maintain(is_idle=True):
            pass
        store.apply(mail, mail.append("short"))

    assert log.stat().st_size <= limit
    store.close()
