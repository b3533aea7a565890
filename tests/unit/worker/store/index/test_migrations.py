"""The schema: every release's index is brought up to date, by whoever comes first."""

from __future__ import annotations

import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database
from tests.unit.worker.builders import Mail, Store, thread_id

from livethread.types import ListThreadsParams, SearchThreadsParams
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.index.migrations import migrations
from livethread_worker.store.upkeep.rebuild import rebuild

PROCESSES = 4


def open_and_close(root: Path) -> list[str]:
    """Open the index of a home as a process that starts does; return the migrations that it holds."""
    index = Index(Home(root))
    applied = [migration.name for migration in migrations.applied(index.db)]
    index.close()
    return applied


def earlier_index(home: Home, stop_before: str) -> None:
    """Leave the index as the release before a migration made it."""
    with closing(sqlite3.connect(home.index)) as connection:
        migrations.apply(Database(connection), stop_before=stop_before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def all_names() -> list[str]:
    with closing(sqlite3.connect(":memory:")) as connection:
        return [migration.name for migration in migrations.pending(Database(connection))]


NAMES = all_names()


@pytest.mark.parametrize("stop_before", [None, NAMES[1]])
def test_processes_that_start_at_once_migrate_once(home: Home, stop_before: str | None) -> None:
    if stop_before is not None:
        earlier_index(home, stop_before)

    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(open_and_close, [home.root] * PROCESSES * 2))

    assert found == [NAMES] * PROCESSES * 2


@pytest.mark.parametrize("stop_before", NAMES[1:])
def test_an_index_of_an_earlier_release_serves_after_its_migration(home: Home, stop_before: str) -> None:
    earlier_index(home, stop_before)
    store, mail = Store(home.root), Mail(1)
    store.apply(mail, mail.create(), mail.append("zebra"))
    rebuild(home, store.index)

    assert [thread.preview for thread in store.index.list_threads(ListThreadsParams(search_term="ebr"))] == ["zebra"]
    assert len(store.index.search_threads(SearchThreadsParams(search_term="zebra")).threads) == 1
    store.close()


def test_the_texts_of_an_earlier_release_are_found_after_the_migration(home: Home) -> None:
    earlier_index(home, "m007_listing_texts")
    with closing(sqlite3.connect(home.index)) as connection, connection:
        for number, (preview, title, name) in enumerate([("zebra", "zebra", None), ("", "Okapi", "gnu")], start=1):
            connection.execute(
                "INSERT INTO threads (thread_id, preview, title, name, created_at, updated_at, recency_at, source)"
                " VALUES (?, ?, ?, ?, '2026-11-22', '2026-11-22', '2026-11-22', '\"cli\"')",
                [thread_id(number), preview, title, name],
            )
            connection.execute(
                "INSERT INTO rollouts (thread_id, path, rollout_bytes, next_ordinal, meta_offset, meta_bytes, applied, observed)"
                " VALUES (?, 'sessions/x', 0, 0, 0, 0, '0-0', '{}')",
                [thread_id(number)],
            )

    with closing(Index(home)) as index:
        found = [index.list_threads(ListThreadsParams(search_term=term)) for term in ("ebr", "okapi", "gnu", "none")]
        held = [tuple(row) for row in index.db.execute("SELECT rowid, text FROM listing_texts")]

    assert [[thread.thread_id for thread in threads] for threads in found] == [
        [thread_id(1)],
        [thread_id(2)],
        [thread_id(2)],
        [],
    ]
    assert held == [(3, "zebra"), (7, "okapi"), (8, "gnu")]


def test_what_somebody_asked_for_and_keys_that_are_taken_survive_the_migration(home: Home) -> None:
    earlier_index(home, "m009_metadata_in_order")
    with closing(sqlite3.connect(home.index)) as connection, connection:
        connection.execute(
            "INSERT INTO threads (thread_id, preview, created_at, updated_at, recency_at, source)"
            " VALUES (?, '', '2026-11-22', '2026-11-22', '2026-11-22', '\"cli\"')",
            [thread_id(1)],
        )
        connection.execute(
            "INSERT INTO rollouts (thread_id, path, rollout_bytes, next_ordinal, meta_offset, meta_bytes, applied, observed)"
            """ VALUES (?, 'sessions/x', 0, 0, 0, 0, '9-0', '{"preview": "0-0", "title": "8-0", "model": "9-0"}')""",
            [thread_id(1)],
        )
        connection.execute("INSERT INTO append_keys VALUES (?, 'k', '9-0', 7)", [thread_id(1)])

    with closing(Index(home)) as index:
        [state] = index.load_states({thread_id(1): set()}, {thread_id(1): {"k", "l"}}).values()

    assert (state.explicit_fields, state.keys) == ({"preview"}, {"k"})


@pytest.mark.parametrize("table", ["messages_fts", "listing_texts"])
def test_full_text_is_not_merged_within_commits(home: Home, table: str) -> None:
    with closing(Index(home)) as index:
        assert index.db.execute(f"SELECT v FROM {table}_config WHERE k = 'automerge'").fetchone()[0] == 0


def test_messages_of_an_earlier_index_are_found_and_forgotten(home: Home) -> None:
    earlier_index(home, "m012_messages_indexed_some_at_a_time")
    with closing(sqlite3.connect(home.index)) as connection, connection:
        connection.execute(
            "INSERT INTO messages (id, thread_id, digest, ordinal, role, text) VALUES (1, ?, 1, 1, 'user', 'zebra')",
            [thread_id(1)],
        )
        connection.execute("INSERT INTO messages_fts (rowid, text) VALUES (1, 'zebra')")
    query = "SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'zebra'"

    with closing(Index(home)) as index:
        before = index.db.execute(query).fetchone()[0]
        index.db.execute("DELETE FROM messages")

        assert (before, index.db.execute(query).fetchone()[0]) == (1, 0)
        assert index.db.execute("SELECT count(*) FROM messages_fts_docsize").fetchone()[0] == 0
