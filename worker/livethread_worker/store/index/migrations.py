"""The index's schema, as numbered migrations; each is recorded in the transaction that applies it."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from livethread.rollout.search_text import listing_text
from livethread_worker.store.index.listing_texts import listing_rows
from livethread_worker.store.index.thread_rows import SLOT_LENGTH, SLOTS

migrations = Migrations("livethread")

#: What threads are listed by, and what listings are filtered by.
_SORT_KEYS = ("created_at", "updated_at", "recency_at")
_FILTERS = ("cwd", "source", "model_provider", "parent_thread_id")


@migrations()
def m001_threads(db: Database) -> None:
    """Threads as people read them, rollouts as the writer needs them, and each writer's counter."""
    db.table("threads").create(
        {
            # Full-text tables point at a stable integer.
            "id": int,
            "thread_id": str,
            "session_id": str,
            "forked_from_id": str,
            "parent_thread_id": str,
            "name": str,
            "title": str,
            "preview": str,
            "first_user_message": str,
            "model_provider": str,
            "model": str,
            "reasoning_effort": str,
            "created_at": str,
            "updated_at": str,
            "recency_at": str,
            "archived_at": str,
            "cwd": str,
            "cli_version": str,
            "originator": str,
            "source": str,
            "thread_source": str,
            "agent_nickname": str,
            "agent_role": str,
            "agent_path": str,
            "git_sha": str,
            "git_branch": str,
            "git_origin_url": str,
            "approval_mode": str,
            "permission_profile": str,
            "token_usage": str,
            "memory_mode": str,
            "history_mode": str,
        },
        pk="id",
        not_null={"thread_id", "preview", "created_at", "updated_at", "recency_at", "source"},
    )
    db.table("threads").create_index(["thread_id"], unique=True)
    for key in ("created_at", "updated_at", "recency_at"):
        db.table("threads").create_index([key, "thread_id"])
    db.table("threads").create_index(["parent_thread_id"])
    # Counters change with every append; kept apart, they fire no trigger and move no text.
    db.table("rollouts").create(
        {
            "thread_id": str,
            "path": str,
            "rollout_bytes": int,
            "next_ordinal": int,
            "meta_offset": int,
            "meta_bytes": int,
            "applied": str,
            "observed": str,
        },
        pk="thread_id",
        not_null={"path", "rollout_bytes", "next_ordinal", "meta_offset", "meta_bytes", "applied", "observed"},
    )
    db.table("writers").create(
        {"thread_id": str, "writer": str, "n": int, "lines": int},
        pk=("thread_id", "writer"),
        not_null={"n", "lines"},
    )


@migrations()
def m002_turns_and_messages(db: Database) -> None:
    """Where turns begin, and what can be searched."""
    db.table("rollouts").add_column("phase", str, not_null_default="before")
    db.table("turns").create(
        {"thread_id": str, "offset": int, "turn_id": str, "is_taken_back": int},
        pk=("thread_id", "offset"),
        not_null={"turn_id", "is_taken_back"},
        defaults={"is_taken_back": 0},
    )
    db.table("turns").create_index(["thread_id", "turn_id"])
    db.table("messages").create(
        {"id": int, "thread_id": str, "digest": int, "ordinal": int, "role": str, "text": str},
        pk="id",
        not_null={"thread_id", "digest", "ordinal", "role", "text"},
    )
    # The same words stand in an event and in a response item; one of them is enough.
    db.table("messages").create_index(["thread_id", "digest"], unique=True)
    db.table("messages").enable_fts(["text"], create_triggers=True, tokenize="unicode61 remove_diacritics 2")


@migrations()
def m003_filtered_listings(db: Database) -> None:
    """Indexes off which a page by any key and filter is read in order, and the trigrams of what listings search."""
    db.execute(
        "ALTER TABLE threads ADD COLUMN is_archived INTEGER GENERATED ALWAYS AS (archived_at IS NOT NULL) VIRTUAL"
    )
    db.execute("DROP INDEX idx_threads_parent_thread_id")
    for key in _SORT_KEYS:
        db.execute(f"DROP INDEX idx_threads_{key}_thread_id")
        db.execute(f"CREATE INDEX threads_by_{key} ON threads (is_archived, {key}, thread_id)")
        for column in _FILTERS:
            # Most threads have no parent, and so cost nothing here.
            where = "WHERE parent_thread_id IS NOT NULL" if column == "parent_thread_id" else ""
            db.execute(
                f"CREATE INDEX threads_by_{column}_{key} ON threads ({column}, is_archived, {key}, thread_id) {where}"
            )
    # Rows are those of threads. Without positions it holds less and is written faster; what it finds is looked at.
    db.execute(
        "CREATE VIRTUAL TABLE thread_texts USING fts5 (text, tokenize = 'trigram case_sensitive 1', detail = none)"
    )
    db.execute(
        "CREATE TRIGGER threads_forget_text AFTER DELETE ON threads"
        " BEGIN DELETE FROM thread_texts WHERE rowid = old.id; END"
    )
    for row in db.query("SELECT id, name, title, preview FROM threads"):
        text = listing_text(row["name"], row["title"], row["preview"])
        db.execute("INSERT INTO thread_texts (rowid, text) VALUES (?, ?)", [row["id"], text])


@migrations()
def m004_several_open_turns(db: Database) -> None:
    """Where a turn ended behind the start of another, and in which turn a rollout stands."""
    db.table("turns").add_column("end_offset", int)
    db.table("rollouts").add_column("turn_id", str)


@migrations()
def m005_messages_indexed_together(db: Database) -> None:
    """Let a batch's messages be indexed by one statement: a trigger's cost FTS5 five times the time."""
    db.execute("DROP TRIGGER messages_ai")


@migrations()
def m006_append_keys_and_epochs(db: Database) -> None:
    """Which idempotency keys are taken, from where, and where the lines of that append begin; each thread's epoch."""
    db.table("rollouts").add_column("epoch", int, not_null_default=0)
    db.table("append_keys").create(
        {"thread_id": str, "key": str, "position": str, "offset": int},
        pk=("thread_id", "key"),
        not_null={"offset"},
    )


@migrations()
def m007_listing_texts(db: Database) -> None:
    """Give each text that listings search a row of its own: a title that changed had the preview indexed again.

    Under another name, so that a worker of the release before fails and leaves its threads to others.
    """
    db.execute("DROP TRIGGER threads_forget_text")
    db.execute("DROP TABLE thread_texts")
    db.execute(
        "CREATE VIRTUAL TABLE listing_texts USING fts5 (text, tokenize = 'trigram case_sensitive 1', detail = none)"
    )
    db.execute(
        "CREATE TRIGGER threads_forget_texts AFTER DELETE ON threads"
        " BEGIN DELETE FROM listing_texts WHERE rowid BETWEEN old.id * 3 AND old.id * 3 + 2; END"
    )
    for row in db.query("SELECT id, preview, title, name FROM threads ORDER BY id"):
        for number, text in enumerate(listing_rows(row["preview"], row["title"], row["name"])):
            if text is not None:
                db.execute("INSERT INTO listing_texts (rowid, text) VALUES (?, ?)", [row["id"] * 3 + number, text])


@migrations()
def m008_full_text_merged_between_batches(db: Database) -> None:
    """Have FTS5 merge no segments while a batch is committed, a few hundred pages at once: `Index.maintain` does, in between.

    Where nobody did, it would merge 16 segments of a level in one go (``crisismerge``).
    """
    for table in ("messages_fts", "listing_texts"):
        db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('automerge', 0)")  # noqa: S608


@migrations()
def m009_metadata_in_order(db: Database) -> None:
    """Keep of metadata which fields no line decides any more: it follows the lines where these get their order."""
    db.execute("ALTER TABLE rollouts RENAME COLUMN observed TO settled")
    db.execute(
        "UPDATE rollouts SET settled ="
        " (SELECT json_group_array(known.key) FROM json_each(settled) AS known WHERE known.value = '0-0')"
    )
    db.table("append_keys").transform(drop={"position", "offset"})


@migrations()
def m010_listings_by_slots(db: Database) -> None:
    """Index threads by slots of ten seconds: each batch that appended to one had moved it in four indexes.

    A trigger keeps the slots for whoever does not say them, such as a worker of the release before.
    """
    for key, slot in SLOTS.items():
        db.table("threads").add_column(slot, str, not_null_default="")
        db.execute(f"DROP INDEX threads_by_{key}")
        for column in _FILTERS:
            db.execute(f"DROP INDEX threads_by_{column}_{key}")
    slots = {slot: f"substr({key}, 1, {SLOT_LENGTH})" for key, slot in SLOTS.items()}
    db.execute(f"UPDATE threads SET {', '.join(f'{slot} = {text}' for slot, text in slots.items())}")  # noqa: S608
    for slot in slots:
        db.execute(f"CREATE INDEX threads_by_{slot} ON threads (is_archived, {slot})")
        for column in _FILTERS:
            where = "WHERE parent_thread_id IS NOT NULL" if column == "parent_thread_id" else ""
            db.execute(f"CREATE INDEX threads_by_{column}_{slot} ON threads ({column}, is_archived, {slot}) {where}")
    new = {slot: text.replace("(", "(new.") for slot, text in slots.items()}
    for name, event in (("inserted", "INSERT"), ("updated", f"UPDATE OF {', '.join(SLOTS)}")):
        db.execute(
            f"CREATE TRIGGER threads_{name}_slots AFTER {event} ON threads"  # noqa: S608
            f" WHEN {' OR '.join(f'new.{slot} <> {text}' for slot, text in new.items())}"
            f" BEGIN UPDATE threads SET {', '.join(f'{slot} = {text}' for slot, text in new.items())}"
            " WHERE id = new.id; END"
        )


@migrations()
def m011_full_text_merged_less_often(db: Database) -> None:
    """Merge 16 segments of a level, not four: each message is written again half as often, and searches look in more.

    FTS5 itself, which would do it within a commit, begins at 64.
    """
    for table in ("messages_fts", "listing_texts"):
        for setting, segments in (("usermerge", 16), ("crisismerge", 64)):
            db.execute(f"INSERT INTO {table} ({table}, rank) VALUES (?, ?)", [setting, segments])  # noqa: S608


@migrations()
def m012_messages_indexed_some_at_a_time(db: Database) -> None:
    """Name the messages that are still to be indexed; who deletes one must not ask FTS5 to forget what it does not know.

    A worker of the release before indexes its own at once, and does not find ours before we have indexed them.
    """
    db.table("unindexed_messages").create({"id": int}, pk="id")
    is_indexed = "NOT EXISTS (SELECT 1 FROM unindexed_messages WHERE id = old.id)"
    forget = (
        f"INSERT INTO messages_fts (messages_fts, rowid, text) SELECT 'delete', old.id, old.text WHERE {is_indexed};"
    )
    db.execute("DROP TRIGGER messages_ad")
    db.execute(
        f"CREATE TRIGGER messages_ad AFTER DELETE ON messages BEGIN {forget}"  # noqa: S608
        " DELETE FROM unindexed_messages WHERE id = old.id; END"
    )
    db.execute("DROP TRIGGER messages_au")
    db.execute(
        f"CREATE TRIGGER messages_au AFTER UPDATE ON messages WHEN {is_indexed} BEGIN {forget}"  # noqa: S608
        " INSERT INTO messages_fts (rowid, text) VALUES (new.id, new.text); END"
    )
