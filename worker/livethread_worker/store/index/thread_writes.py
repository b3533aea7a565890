"""How threads are stored: the rows of a batch, and the statements that write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from livethread.metadata import StoredThread
from livethread.rollout import lines, search_text, turns
from livethread_config import names
from livethread_worker.store.index.listing_texts import listing_rows, save_listing_texts
from livethread_worker.store.index.maintenance import FTS_BATCH_ROWS
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.thread_rows import COLUMNS, SAVE_THREAD, changed_columns, to_row, update_thread
from livethread_worker.store.thread_state import TextLine, ThreadState

#: Distinguishes a name from a message of the same words.
NAME_MARK: Final = "\0name:"


@dataclass(frozen=True, slots=True)
class ThreadRows:
    """The rows to store for one thread."""

    state: ThreadState
    #: Its id and the columns below, or all columns; None if the index has the same thread.
    thread: dict[str, Any] | None
    #: Columns that differ; empty for a thread that the index does not know.
    changed: tuple[str, ...]
    rollout: dict[str, Any]
    writers: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    is_renamed: bool
    #: Rows of `listing_texts` that differ: number of the row, text.
    texts: list[tuple[int, str | None]]


def thread_rows(state: ThreadState, loaded: StoredThread | None) -> ThreadRows:
    """Return the rows to store for *state*; *loaded* is the thread as the index has it.

    Raises:
        InvalidRequest: the thread holds a value that is not JSON.
    """
    changed = state.thread if state.thread is not loaded else None
    columns = changed_columns(changed, loaded) if changed and loaded else ()
    return ThreadRows(
        state,
        thread=to_row(changed, columns or COLUMNS) if changed else None,
        changed=columns,
        rollout=_rollout_row(state),
        writers=[
            {
                "thread_id": state.thread_id,
                "writer": writer,
                "n": mark.n,
                "lines": mark.lines,
                "opened_at": names.opened_at(writer),
                "ordinal": state.next_ordinal,
            }
            for writer, mark in state.writers.items()
        ],
        messages=_message_rows(state),
        is_renamed=_name(state.thread) != _name(loaded),
        texts=_changed_texts(changed, loaded) if changed else [],
    )


def save_batch(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> int:
    """Store *rows*, and return how many messages they add, at most."""
    renamed = [each.state for each in rows if each.is_renamed]
    forget(connection, [state.thread_id for state in renamed], ["name"])
    return _save(connection, rows, [each for each in rows if each.state.is_reread], renamed, "save_writer")


def replace_threads(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> int:
    """Store whole rollouts, replacing what is known of their threads; return how many messages they add, at most."""
    return _save(connection, rows, rows, [each.state for each in rows], "recover_writer")


def _save(
    connection: sqlite3.Connection,
    rows: Sequence[ThreadRows],
    reread: Sequence[ThreadRows],
    named: Sequence[ThreadState],
    save_writer: str,
) -> int:
    """Store *rows*, the lines of *reread* in place of the known ones, and the names of *named*."""
    _forget_lines(connection, reread)
    _save_threads(connection, rows)
    connection.executemany(QUERIES["save_rollout"], [each.rollout for each in rows])
    connection.executemany(QUERIES[save_writer], [row for each in rows for row in each.writers])
    # Idempotency keys that the batch named or read; keys that were taken before stay.
    keys = [{"thread_id": each.state.thread_id, "key": key} for each in rows for key in each.state.idempotency_keys]
    if keys:
        connection.executemany(QUERIES["save_key"], keys)
    return _add_lines(connection, rows, named)


def changed_since_load(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> set[str]:
    """Return the threads of *rows* whose committed length differs from the one that their states were loaded with."""
    known = _lengths(connection, [each.state.thread_id for each in rows])
    return {each.state.thread_id for each in rows if known.get(each.state.thread_id) != each.state.loaded_bytes}


def _save_threads(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Store threads; of a known one, only the columns that changed, so that SQLite rewrites no other index."""
    gone = _update_threads(connection, [each for each in rows if each.thread and each.changed])
    whole = [each.thread for each in rows if each.thread and not each.changed]
    whole += [to_row(each.state.thread) for each in gone if each.state.thread]
    if whole:
        connection.executemany(SAVE_THREAD, whole)
    texts = [(each.state.thread_id, *text) for each in rows for text in each.texts]
    texts += [(each.state.thread_id, *text) for each in gone for text in _changed_texts(each.state.thread, None)]
    save_listing_texts(connection, texts)


def _update_threads(connection: sqlite3.Connection, rows: Iterable[ThreadRows]) -> list[ThreadRows]:
    """Store what changed, and return the threads whose rows were deleted since they were loaded."""
    gone: list[ThreadRows] = []
    alike: dict[tuple[str, ...], list[ThreadRows]] = {}
    for each in rows:
        alike.setdefault(each.changed, []).append(each)
    for columns, several in alike.items():
        changes = [each.thread for each in several if each.thread]
        updated = connection.executemany(update_thread(columns), changes).rowcount
        if updated < len(several):
            ids = json.dumps([each.state.thread_id for each in several])
            known = {row[0] for row in connection.execute(QUERIES["names"], {"thread_ids": ids})}
            gone += [each for each in several if each.state.thread_id not in known]
    return gone


def _changed_texts(thread: StoredThread | None, loaded: StoredThread | None) -> list[tuple[int, str | None]]:
    """Return the rows of `listing_texts` that differ between *thread* and *loaded*; all rows if nothing was loaded."""
    present, past = _texts(thread), _texts(loaded)
    if loaded and present == past:
        return []
    before = listing_rows(*past)
    return [row for row in enumerate(listing_rows(*present)) if not loaded or row[1] != before[row[0]]]


def _texts(thread: StoredThread | None) -> tuple[str | None, str | None, str | None]:
    return (thread.preview, thread.title, thread.name) if thread else (None, None, None)


def _rollout_row(state: ThreadState) -> dict[str, Any]:
    return {
        "thread_id": state.thread_id,
        "path": state.path,
        "rollout_bytes": state.rollout_bytes,
        "next_ordinal": state.next_ordinal,
        "base_id": state.base_id,
        "inherited_bytes": state.inherited_bytes,
        "meta_offset": state.meta_offset,
        "meta_bytes": state.meta_bytes,
        "applied": state.applied,
        "explicit_fields": lines.encode_json(sorted(state.explicit_fields)).decode(),
        "phase": state.turn.phase.value,
        "turn_id": state.turn.turn_id,
        "epoch": state.epoch,
    }


def _add_lines(connection: sqlite3.Connection, rows: Sequence[ThreadRows], named: Sequence[ThreadState]) -> int:
    """Store what new lines add to turns and search, and the names of *named*; return how many messages that is.

    A few messages are left for `Maintenance`, which indexes them together with others.
    """
    for each in rows:
        _save_turns(connection, each.state)
    messages = [row for each in rows for row in each.messages]
    messages += [_name_row(state) for state in named if _name(state.thread)]
    if messages:
        newest = connection.execute(QUERIES["newest_message"]).fetchone()[0]
        connection.executemany(QUERIES["add_message"], messages)
        connection.execute(
            QUERIES["index_messages" if len(messages) >= FTS_BATCH_ROWS else "leave_unindexed"], {"newest": newest}
        )
    return len(messages)


def forget(connection: sqlite3.Connection, thread_ids: Iterable[str], tables: Iterable[str]) -> None:
    """Delete the rows of threads from *tables*."""
    rows = [{"thread_id": thread_id} for thread_id in thread_ids]
    for table in tables if rows else ():
        connection.executemany(QUERIES[f"delete_{table}"], rows)


def _forget_lines(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Delete turns and messages that are gone from rollouts that were read again.

    A message that is still in its line keeps its row: later pages of a search by relevance leave out newer rows.
    """
    if not rows:
        return
    known = _lengths(connection, [each.state.thread_id for each in rows])
    kept = [
        {
            "thread_id": each.state.thread_id,
            "kept": json.dumps([
                f"{row['digest']}:{row['ordinal']}" for row in (*each.messages, _name_row(each.state))
            ]),
        }
        for each in rows
        if each.state.thread_id in known
    ]
    connection.executemany(QUERIES["forget_messages"], kept)
    forget(connection, known, ("turns",))


def _lengths(connection: sqlite3.Connection, thread_ids: Sequence[str]) -> dict[str, int]:
    """Return the committed lengths of those rollouts of *thread_ids* that the index knows."""
    rows = connection.execute(QUERIES["rollouts_of"], {"thread_ids": json.dumps(thread_ids)})
    return {row["thread_id"]: row["rollout_bytes"] for row in rows}


def _save_turns(connection: sqlite3.Connection, state: ThreadState) -> None:
    """Store the turns that began, ended late or were rolled back, in the order of the lines."""
    for offset, change in state.turns:
        row: dict[str, Any] = {"thread_id": state.thread_id, "offset": offset}
        match change:
            case turns.TurnStart(turn_id):
                connection.execute(QUERIES["add_turn"], row | {"turn_id": turn_id})
            case turns.TurnEnd(turn_id):
                connection.execute(QUERIES["end_turn"], row | {"turn_id": turn_id})
            case turns.TurnsRolledBack(count):
                connection.execute(QUERIES["take_back_turns"], row | {"count": count})


def _message_rows(state: ThreadState) -> list[dict[str, Any]]:
    first: dict[str, TextLine] = {}
    for line in state.texts:
        first.setdefault(line.text.text, line)
    return [
        {
            "thread_id": state.thread_id,
            "digest": line.text.digest,
            "ordinal": line.ordinal,
            "role": line.text.role,
            "text": search_text.spaced(line.text.text),
        }
        for line in first.values()
    ]


def _name_row(state: ThreadState) -> dict[str, Any]:
    name = search_text.SearchText("name", f"{NAME_MARK}{_name(state.thread)}")
    row = {"thread_id": state.thread_id, "digest": name.digest, "ordinal": -1, "role": name.role}
    return row | {"text": search_text.spaced(search_text.searchable(_name(state.thread) or ""))}


def _name(thread: StoredThread | None) -> str | None:
    return thread.name if thread else None
