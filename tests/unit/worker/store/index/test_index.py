from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.worker.builders import AT, Store, thread_id

from livethread.metadata import GitInfo, MemoryMode, StoredThread
from livethread.types import ListThreadsParams
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.index import Index, IndexUnavailable, connection
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.thread_rows import changed_columns
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import ThreadState, WriterMark

ONE, TWO = thread_id(1), thread_id(2)

#: Links to the files that this process has open, on Linux.
OPEN_FILES = Path("/proc/self/fd")

TABLES = {
    "threads": {
        *("id", "thread_id", "session_id", "forked_from_id", "parent_thread_id", "name", "title", "preview"),
        "attached_to_thread_id",
        *("first_user_message", "model_provider", "model", "reasoning_effort", "created_at", "updated_at"),
        *("recency_at", "archived_at", "cwd", "cli_version", "originator", "source", "thread_source"),
        *("agent_nickname", "agent_role", "agent_path", "git_sha", "git_branch", "git_origin_url"),
        *("approval_mode", "permission_profile", "token_usage", "memory_mode", "history_mode"),
        *("created_slot", "updated_slot", "recency_slot"),
    },  # is_archived and hidden are generated: table_info leaves them out
    "rollouts": {
        *("thread_id", "path", "rollout_bytes", "next_ordinal", "meta_offset", "meta_bytes", "applied"),
        *("base_id", "inherited_bytes"),
        *("explicit_fields", "phase", "turn_id", "epoch", "forgotten_to"),
    },
    "writers": {"thread_id", "writer", "n", "lines", "opened_at", "ordinal"},
    "directories": {"id", "path"},
    "folders": {"path", "changed_ns", "inode", "others"},
    "idempotency_keys": {"thread_id", "key"},
    "turns": {"thread_id", "offset", "turn_id", "is_taken_back", "end_offset"},
    "messages": {"id", "thread_id", "digest", "ordinal", "role", "text"},
    "unindexed_messages": {"id"},
}

#: The tables of the migrations and of the full-text search.
COMPANIONS = {
    *("_sqlite_migrations", "sqlite_sequence"),
    *("messages_fts", "messages_fts_data", "messages_fts_idx", "messages_fts_docsize", "messages_fts_config"),
    *("messages_trigrams", "messages_trigrams_data", "messages_trigrams_idx", "messages_trigrams_docsize"),
    "messages_trigrams_config",
    *("listing_texts", "listing_texts_data", "listing_texts_idx", "listing_texts_docsize", "listing_texts_config"),
    "listing_texts_content",
}

FULL = StoredThread(
    thread_id=ONE,
    session_id=TWO,
    forked_from_id=TWO,
    attached_to_thread_id=TWO,
    parent_thread_id=TWO,
    preview="p",
    name="n",
    title="t \u2028 é",
    first_user_message="f",
    model_provider="openai",
    model="m",
    reasoning_effort="high",
    created_at=AT,
    updated_at=AT + timedelta(milliseconds=1),
    recency_at=AT + timedelta(days=1),
    archived_at=AT + timedelta(days=2),
    cwd="/work",
    cli_version="1",
    originator="o",
    source={"custom": "x"},
    thread_source="automation",
    agent_nickname="a",
    agent_role="b",
    agent_path="c",
    git_info=GitInfo(commit_hash="s", repository_url="u"),
    approval_mode={"granular": [None, 1]},
    permission_profile="p",
    token_usage={"total": 2**70},
    memory_mode=MemoryMode.DISABLED,
    history_mode="paginated",
)
BARE = StoredThread(thread_id=ONE, created_at=AT, updated_at=AT, recency_at=AT)


def state(thread: StoredThread, **fields: object) -> ThreadState:
    made = ThreadState(thread.thread_id, thread, path="sessions/r.jsonl")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# -- the schema --------------------------------------------------------------------------------------------


def test_the_schema_has_the_expected_tables(store: Store) -> None:
    tables = {name: {column.name for column in store.index.db[name].columns} for name in TABLES}

    assert tables == TABLES
    assert store.index.db.table("rollouts").pks == ["thread_id"]
    assert store.index.db.table("writers").pks == ["thread_id", "writer"]
    assert store.index.db.table("turns").pks == ["thread_id", "offset"]
    assert ["thread_id", "digest"] in [i.columns for i in store.index.db.table("messages").indexes if i.unique]
    unique = [i.columns for i in store.index.db.table("threads").indexes if i.unique]
    assert ["thread_id"] in unique


def test_every_listing_with_one_filter_has_a_sorted_index(store: Store) -> None:
    indexed = {tuple(i.columns) for i in store.index.db.table("threads").indexes}

    for slot in ("created_slot", "updated_slot", "recency_slot"):
        in_order = ("is_archived", "hidden", slot)
        assert {in_order, ("cwd", *in_order), ("source", *in_order), ("model_provider", *in_order)} <= indexed
        assert ("parent_thread_id", *in_order) in indexed
        assert ("attached_to_thread_id", *in_order) in indexed


def test_the_threads_updated_last_are_read_in_order(store: Store) -> None:
    plan = store.index.db.execute(f"EXPLAIN QUERY PLAN {QUERIES['rollouts_updated_last']}", {"limit": 1}).fetchall()
    details = [row["detail"] for row in plan]

    assert len([each for each in details if "threads_by_updated_slot (is_archived=? AND hidden=?)" in each]) == 4
    assert not [each for each in details if "TEMP B-TREE" in each]


def test_a_name_is_found_without_a_look_at_every_thread(store: Store) -> None:
    plan = store.index.db.execute(f"EXPLAIN QUERY PLAN {QUERIES['threads_named']}", {"name": "n"}).fetchall()

    assert plan[0]["detail"] == "SEARCH threads USING INDEX threads_by_name (name=?)"


def test_the_queries_in_the_reference_use_indexes(store: Store) -> None:
    text = (Path(__file__).parents[5] / "docs" / "reference.md").read_text(encoding="utf-8")
    queries = [query for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL) for query in block.split(";")[:-1]]

    plans = [
        [row["detail"] for row in store.index.db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()]
        for query in queries
    ]

    by_time, by_words = plans
    assert "USING INDEX threads_by_updated_slot (is_archived=? AND hidden=?)" in by_time[0]
    assert by_time[1:] in (
        [],
        ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"],
        ["USE TEMP B-TREE FOR LAST TERM OF ORDER BY"],
    )
    assert "messages_fts VIRTUAL TABLE INDEX" in by_words[0]
    assert "USING INTEGER PRIMARY KEY" in by_words[1]


def test_opening_an_index_again_changes_nothing(store: Store) -> None:
    before = store.index.db.schema

    with closing(Index(store.home)) as again:
        assert again.db.schema == before


def test_two_processes_can_create_the_index_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from livethread_worker.store.files.home import Home\n"
        "from livethread_worker.store.index import Index\n"
        "home = Home(pathlib.Path(sys.argv[1])); home.create()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(sorted(Index(home).db.table_names()), flush=True)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "home")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in started:  # both are ready
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in started]

    assert [stderr for _, stderr in results] == ["", ""]
    assert {stdout for stdout, _ in results} == {f"{sorted([*TABLES, *COMPANIONS])}\n"}


def test_only_the_owner_may_read_the_index(store: Store) -> None:
    assert stat.S_IMODE(store.home.index.stat().st_mode) == 0o600


# -- unusable files ----------------------------------------------------------------------------------------


def quarantined(home: Home) -> dict[str, bytes]:
    return {path.name.rpartition(".")[0]: path.read_bytes() for path in home.quarantine.iterdir()}


@pytest.mark.parametrize(
    "damaged",
    [b"garbage" * 1_000, b"SQLite format 3\0" + b"\xff" * 4_080, b"SQLite format 4\0" + bytes(4_080)],
    ids=["garbage", "a header and garbage", "a header of another format"],
)
def test_a_file_that_is_not_a_database_moves_to_the_quarantine(tmp_path: Path, damaged: bytes) -> None:
    home = Home(tmp_path)
    home.create()
    home.index.write_bytes(damaged)

    with closing(Index(home)) as made:
        assert made.is_current()
        assert not made.is_complete
        assert made.thread_ids() == []

    assert quarantined(home)["index.sqlite"] == damaged


def test_a_folder_at_the_indexs_path_is_unavailable_and_stays(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.index.mkdir()

    with pytest.raises((IndexUnavailable, OSError)):
        Index(home)

    assert (home.index.is_dir(), quarantined(home)) == (True, {})


def test_an_index_that_another_process_is_migrating_is_unavailable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SCHEMA_WAIT", 0.0)  # the lock is never released here

    with file_lock(store.home.index.with_suffix(".lock")), pytest.raises(IndexUnavailable):
        Index(store.home)


def test_a_deleted_or_replaced_index_is_not_current(store: Store) -> None:
    assert store.index.is_current()

    store.home.index.rename(store.home.own / "old.sqlite")
    assert not store.index.is_current()

    with closing(Index(store.home)):
        assert not store.index.is_current()


# -- writing and reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("thread", [FULL, BARE], ids=["full", "bare"])
def test_a_thread_comes_back_from_the_index_unchanged(store: Store, thread: StoredThread) -> None:
    store.commit(state(thread))

    assert store.index.read_thread(ONE) == thread.model_copy(
        update={"rollout_path": store.home.root / "sessions/r.jsonl", "position": state(thread).applied}
    )


def test_a_changed_thread_replaces_its_row(store: Store) -> None:
    store.commit(state(FULL))

    store.commit(state(BARE), loaded=FULL)

    read = store.index.read_thread(ONE)
    assert read is not None
    assert (read.name, read.git_info, read.memory_mode, read.token_usage) == (None, None, None, None)


def test_a_thread_whose_row_was_deleted_after_it_was_loaded_is_stored_whole(store: Store) -> None:
    store.commit(state(FULL))
    store.forget(ONE)
    later = FULL.model_copy(update={"updated_at": AT + timedelta(hours=1)})

    store.commit(state(later), loaded=FULL)

    params = ListThreadsParams(
        archived=True, include_without_preview=True, search_term=FULL.title, include_attached_threads=True
    )
    [listed] = store.index.list_threads(params).items
    assert listed == later.model_copy(update={"rollout_path": store.home.root / "sessions/r.jsonl"})


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="this system does not list open files")
def test_storing_new_threads_needs_no_temporary_file(store: Store) -> None:
    """SQLite's statement journal would write fifteen pages for each thread."""
    threads = [FULL.model_copy(update={"thread_id": thread_id(n)}) for n in range(1, 101)]
    files: list[str] = []

    def look() -> bool:
        files.extend(str(link.readlink()) for link in OPEN_FILES.iterdir() if link.exists())
        return True

    store.index.commit([thread_rows(state(thread), None) for thread in threads], is_durable=look)

    assert any(file.endswith("index.sqlite-wal") for file in files)
    assert not [file for file in files if "etilqs" in file]


def test_a_thread_that_is_updated_again_within_ten_seconds_moves_in_no_index(store: Store) -> None:
    store.commit(state(FULL))
    moved: list[str] = []
    store.index.db.execute(
        "CREATE TRIGGER moved AFTER UPDATE OF updated_slot ON threads BEGIN SELECT note(new.updated_slot); END"
    )
    store.index.db.conn.create_function("note", 1, moved.append)
    indexed = {name for index in store.index.db.table("threads").indexes for name in index.columns}
    soon, later = (FULL.model_copy(update={"updated_at": AT + timedelta(seconds=seconds)}) for seconds in (9, 10))

    store.commit(state(soon), loaded=FULL)
    assert (moved, indexed & set(changed_columns(soon, FULL))) == ([], set())
    store.commit(state(later), loaded=soon)

    assert moved == ["2026-11-22T12:00:1"]


@pytest.mark.parametrize("column", ["created", "updated", "recency"])
def test_a_time_outside_its_slot_is_refused(store: Store, column: str) -> None:
    store.commit(state(FULL))

    with pytest.raises(sqlite3.IntegrityError, match=f"{column}_slot"):
        store.index.db.execute(f"UPDATE threads SET {column}_at = '2027-01-01T00:00:00.000Z'")


def test_the_index_has_no_state_of_an_unknown_thread(store: Store) -> None:
    assert store.index.read_thread(TWO) is None
    assert store.index.load_states({TWO: {"w1"}}) == {}


def test_a_state_comes_back_with_the_requested_counters(store: Store) -> None:
    written = state(
        BARE,
        rollout_bytes=7,
        next_ordinal=3,
        meta_offset=1,
        meta_bytes=2,
        applied="9-1",
        writers={"w1": WriterMark(4, 2), "w2": WriterMark(5, 1)},
        explicit_fields={"title", "preview"},
    )
    store.commit(written)

    loaded = store.index.load_states({ONE: {"w1", "w9"}})[ONE]

    path = store.home.root / "sessions/r.jsonl"
    assert loaded == ThreadState(
        ONE,
        BARE.model_copy(update={"rollout_path": path}),
        path="sessions/r.jsonl",
        rollout_bytes=7,
        next_ordinal=3,
        meta_offset=1,
        meta_bytes=2,
        applied="9-1",
        writers={"w1": WriterMark(4, 2)},
        explicit_fields={"title", "preview"},
    )


def test_a_thread_without_its_first_line_is_not_stored(store: Store) -> None:
    store.commit(ThreadState(ONE))

    assert store.index.load_states({ONE: set()}) == {}


def test_a_failed_commit_stores_nothing(store: Store) -> None:
    broken = state(BARE.model_copy(update={"thread_id": TWO}))
    broken.path = None  # type: ignore[assignment]  # breaks a NOT NULL

    with pytest.raises(IndexUnavailable, match="NOT NULL"):
        store.commit(state(BARE), broken)

    assert store.index.read_thread(ONE) is None
    assert not store.index.db.conn.in_transaction


def test_every_query_has_a_name_and_parses(store: Store) -> None:
    parameters = dict.fromkeys(
        (
            "thread_ids",
            "writers",
            "thread_id",
            "path",
            "rollout_bytes",
            "next_ordinal",
            "meta_offset",
            "before",
            "kept",
        ),
        "[]",
    )
    parameters |= dict.fromkeys(("meta_bytes", "applied", "explicit_fields", "phase", "writer", "n", "lines"), "[]")
    parameters |= dict.fromkeys(("offset", "turn_id", "count", "limit", "digest", "ordinal", "role", "text"), "[]")
    parameters |= dict.fromkeys(
        (
            "texts",
            "newest",
            "keys",
            "key",
            "now",
            "epoch",
            "pages",
            "id",
            "changed_ns",
            "inode",
            "others",
            "name",
            "base_id",
            "inherited_bytes",
            "rollout_ids",
            "opened_at",
            "ordinal",
        ),
        "[]",
    )
    with closing(sqlite3.connect(store.home.index)) as connection:
        for name, sql in QUERIES.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            assert plan is not None, name

    assert {"load_states", "load_writers", "save_rollout", "save_writer", "read_thread"} <= QUERIES.keys()


def test_json_columns_hold_json(store: Store) -> None:
    store.commit(state(FULL))

    (row,) = store.index.db.query("select source, approval_mode, token_usage from threads")

    assert {name: json.loads(str(value)) for name, value in row.items()} == {
        "source": {"custom": "x"},
        "approval_mode": {"granular": [None, 1]},
        "token_usage": {"total": 2**70},
    }


# -- what survives a power cut -----------------------------------------------------------------------------

#: Changes that no rollout holds: the index alone knows them.
NOT_IN_THE_ROLLOUTS: dict[str, Callable[[Index], object]] = {
    "a deletion": lambda index: index.commit((), [thread_id(1)]),
    "an epoch": lambda index: index.fence(thread_id(1), 1),
    "distrust": lambda index: index.distrust(thread_id(1)),
}


def commits(index: Index, change: Callable[[Index], object]) -> list[str]:
    """What *change* executes that begins, ends, or decides how durable a transaction is."""
    statements: list[str] = []
    index.db.conn.set_trace_callback(statements.append)
    change(index)
    index.db.conn.set_trace_callback(None)
    return [each for each in statements if each.startswith(("PRAGMA synchronous", "BEGIN", "COMMIT"))]


@pytest.mark.parametrize("change", NOT_IN_THE_ROLLOUTS.values(), ids=list(NOT_IN_THE_ROLLOUTS))
def test_a_change_that_no_rollout_holds_waits_for_the_disk(store: Store, change: Callable[[Index], object]) -> None:
    store.commit(state(FULL))

    assert commits(store.index, change) == [
        "PRAGMA synchronous = FULL",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "PRAGMA synchronous = NORMAL",
    ]


def test_a_change_that_the_rollout_holds_does_not_wait_for_the_disk(store: Store) -> None:
    assert commits(store.index, lambda _: store.commit(state(FULL))) == ["BEGIN IMMEDIATE", "COMMIT"]
