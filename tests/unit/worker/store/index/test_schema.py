"""One file defines the schema. An index with a different schema is rebuilt, unless a newer release made it."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest
from sqlite_utils import Database
from tests.nodes.items import append, history, message, new_thread, texts
from tests.unit.worker.builders import Mail, Store

from livethread import ListThreadsParams, Settings, Unavailable
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.database import migrations

PROCESSES = 4

#: Scripts that make an index look older, newer, or made by another program.
OLDER = "DELETE FROM _sqlite_migrations; INSERT INTO _sqlite_migrations VALUES (1, 'livethread', 'm000_older', '')"
NEWER = "UPDATE _sqlite_migrations SET name = 'm999_schema'"
FOREIGN = "DROP TABLE _sqlite_migrations"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with one thread, which the index knows."""
    store, mail = Store(tmp_path / "home"), Mail(1)
    store.apply(mail, mail.create(), mail.append("zebra"))
    store.index.mark_complete()
    store.close()
    return store.home


def change_index(home: Home, script: str) -> None:
    with closing(sqlite3.connect(home.index)) as connection:
        connection.executescript(script)


def open_and_close(root: Path) -> list[str]:
    """Open the index of a home as a starting process does; return the migrations that made it."""
    with closing(Index(Home(root))) as index:
        return [migration.name for migration in migrations.applied(index.db)]


def objects(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master")
    return {tuple(row) for row in rows if migrations.migrations_table not in row[1]}


def test_one_file_defines_the_whole_schema(home: Home) -> None:
    script = resources.files("livethread_worker.store.index").joinpath("sql", "schema.sql").read_text("utf-8")

    with closing(sqlite3.connect(":memory:")) as scripted, closing(Index(home)) as made:
        scripted.executescript(script)
        assert objects(made.db.conn) == objects(scripted)


def test_a_crash_during_the_migration_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_self: object, _db: Database, _name: str) -> None:
        raise OSError("the process dies here")

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(type(migrations), "_record_applied", crash)
            with pytest.raises(OSError, match="dies here"):
                migrations.apply(Database(connection))

        assert objects(connection) == set()


def test_processes_that_start_together_create_the_index_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()

    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(open_and_close, [home.root] * PROCESSES * 2))

    assert found == [["m006_schema"]] * PROCESSES * 2


@pytest.mark.parametrize("script", [OLDER, FOREIGN], ids=["older", "foreign"])
async def test_an_index_with_another_schema_is_rebuilt_and_nothing_is_lost(
    home: Home, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    change_index(home, script)

    with caplog.at_level(logging.ERROR):
        async with LocalThreadStore(Settings(home=home.root)) as store:
            page = await store.list_threads(ListThreadsParams(include_without_preview=True, search_term="ebr"))

    assert [thread.preview for thread in page.items] == ["zebra"]
    assert [record.getMessage() for record in caplog.records] == [
        "index set aside, to be rebuilt: it has an older or unknown schema"
    ]
    assert any(path.name.startswith("index.sqlite.") for path in home.quarantine.iterdir())


async def test_an_index_of_a_newer_release_is_kept_and_the_rollouts_answer(home: Home) -> None:
    """Two releases on one home would otherwise keep rebuilding each other's index."""
    change_index(home, NEWER)

    with pytest.raises(IndexUnavailable, match=r"newer release made the index \(m999_schema\)"):
        Index(home)
    async with LocalThreadStore(Settings(home=home.root)) as store:
        page = await store.list_threads(ListThreadsParams(include_without_preview=True))
        assert texts(await history(store, page.items[0].thread_id))[-1] == "zebra"
        with pytest.raises(Unavailable, match="newer release"):
            await append(store, await new_thread(store), message("no"))

    assert list(home.quarantine.iterdir()) == []


@pytest.mark.parametrize("table", ["messages_fts", "listing_texts"])
def test_commits_do_not_merge_the_full_text(home: Home, table: str) -> None:
    with closing(Index(home)) as index:
        assert index.db.execute(f"SELECT v FROM {table}_config WHERE k = 'automerge'").fetchone()[0] == 0


def test_changed_and_deleted_messages_leave_the_full_text(home: Home) -> None:
    def found(index: Index, word: str) -> int:
        query = "SELECT count(*) FROM messages_fts WHERE messages_fts MATCH ?"
        return int(index.db.execute(query, [word]).fetchone()[0])

    with closing(Index(home)) as index:
        index.maintain(is_idle=True)
        index.db.execute("UPDATE messages SET text = 'okapi'")
        changed = found(index, "zebra"), found(index, "okapi")
        index.db.execute("DELETE FROM messages")

        assert (changed, found(index, "okapi")) == ((0, 1), 0)
        assert index.db.execute("SELECT count(*) FROM messages_fts_docsize").fetchone()[0] == 0
