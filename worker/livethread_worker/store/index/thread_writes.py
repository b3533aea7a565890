"""What is stored of a thread, and how."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from livethread.metadata import StoredThread
from livethread.rollout.item import encode_json
from livethread.rollout.search_text import SearchText, spaced
from livethread.rollout.turns import TurnsTakenBack
from livethread_worker.store.index.listing_texts import listing_rows, save_listing_texts
from livethread_worker.store.index.maintenance import TOGETHER
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.thread_rows import COLUMNS, SAVE_THREAD, changed_columns, to_row, update_thread
from livethread_worker.store.thread_state import TextLine, ThreadState, TurnEndLine, TurnLine

#: Sets a name apart from a message of the same words.
NAME_MARK: Final = "\0name:"


@dataclass(frozen=True, slots=True)
class ThreadRows:
    """What is to be stored of one thread."""

    state: ThreadState
    #: Its id and the columns below, or all of them; None where it is as the index has it.
    thread: dict[str, Any] | None
    #: Columns that differ; none for a thread that the index does not know.
    changed: tuple[str, ...]
    rollout: dict[str, Any]
    writers: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    is_renamed: bool
    #: What a listing's search term is looked for in, as far as it is not as the index has it: row, text.
    texts: list[tuple[int, str | None]]


def thread_rows(state: ThreadState, loaded: StoredThread | None) -> ThreadRows:
    """Return what is to be stored of *state*; *loaded* is the thread as the index has it.

    Raises:
        InvalidRequest: the thread holds what is not JSON.
    """
    changed = state.thread if state.thread is not loaded else None
    columns = changed_columns(changed, loaded) if changed and loaded else ()
    return ThreadRows(
        state,
        thread=to_row(changed, columns or COLUMNS) if changed else None,
        changed=columns,
        rollout=_rollout_row(state),
        writers=_writer_rows(state),
        messages=_message_rows(state),
        is_renamed=_name(state.thread) != _name(loaded),
        texts=_changed_texts(changed, loaded) if changed else [],
    )


def save_threads(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Store threads. Of one that is known only what changed is written, since each index on it is written, too."""
    gone = _update_threads(connection, [each for each in rows if each.thread and each.changed])
    whole = [each.thread for each in rows if each.thread and not each.changed]
    whole += [to_row(each.state.thread) for each in gone if each.state.thread]
    if whole:
        connection.executemany(SAVE_THREAD, whole)
    texts = [(each.state.thread_id, *text) for each in rows for text in each.texts]
    texts += [(each.state.thread_id, *text) for each in gone for text in _changed_texts(each.state.thread, None)]
    save_listing_texts(connection, texts)


def _update_threads(connection: sqlite3.Connection, rows: Iterable[ThreadRows]) -> list[ThreadRows]:
    """Store what changed, and return the threads that are gone since they were loaded."""
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
    """Return the listing's rows of *thread* that differ from those of *loaded*; all, where the index does not know it."""
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
        "meta_offset": state.meta_offset,
        "meta_bytes": state.meta_bytes,
        "applied": state.applied,
        "explicit_fields": encode_json(sorted(state.explicit_fields)).decode(),
        "phase": state.turn.phase.value,
        "turn_id": state.turn.turn_id,
        "epoch": state.epoch,
    }


def _writer_rows(state: ThreadState) -> list[dict[str, Any]]:
    return [
        {"thread_id": state.thread_id, "writer": writer, "n": mark.n, "lines": mark.lines}
        for writer, mark in state.writers.items()
    ]


def save_keys(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Store the idempotency keys that the batch named or read: what was taken before stays taken."""
    keys = [{"thread_id": each.state.thread_id, "key": key} for each in rows for key in each.state.keys]
    if keys:
        connection.executemany(QUERIES["save_key"], keys)


def add_lines(connection: sqlite3.Connection, rows: Sequence[ThreadRows], named: Sequence[ThreadState]) -> int:
    """Store what the lines taken in add to turns and search, and the names of *named*; return how many messages that is.

    Where they are few, they are left for `Upkeep` to be indexed with others.
    """
    for each in rows:
        _save_turns(connection, each.state)
    messages = [row for each in rows for row in each.messages]
    messages += [_name_row(state) for state in named if _name(state.thread)]
    if messages:
        newest = connection.execute(QUERIES["newest_message"]).fetchone()[0]
        connection.executemany(QUERIES["add_message"], messages)
        connection.execute(
            QUERIES["index_messages" if len(messages) >= TOGETHER else "leave_unindexed"], {"newest": newest}
        )
    return len(messages)


def forget(connection: sqlite3.Connection, thread_ids: Iterable[str], tables: Iterable[str]) -> None:
    """Delete what *tables* hold of threads."""
    rows = [{"thread_id": thread_id} for thread_id in thread_ids]
    for table in tables if rows else ():
        connection.executemany(QUERIES[f"delete_{table}"], rows)


def forget_lines(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Delete what whole rollouts that were read again no longer say.

    A message that they still say keeps its row: later pages of a search by relevance leave out newer ones.
    """
    if not rows:
        return
    known = lengths(connection, [each.state.thread_id for each in rows])
    kept = [
        {
            "thread_id": each.state.thread_id,
            "digests": json.dumps([row["digest"] for row in (*each.messages, _name_row(each.state))]),
        }
        for each in rows
        if each.state.thread_id in known
    ]
    connection.executemany(QUERIES["forget_messages"], kept)
    forget(connection, known, ("turns",))


def lengths(connection: sqlite3.Connection, thread_ids: Sequence[str]) -> dict[str, int]:
    """Return the committed length of the rollouts of those threads of *thread_ids* that the index knows."""
    return dict(connection.execute(QUERIES["lengths"], {"thread_ids": json.dumps(thread_ids)}).fetchall())


def _save_turns(connection: sqlite3.Connection, state: ThreadState) -> None:
    """Store the turns that began, ended late and were taken back, in the order in which the lines say so."""
    for change in state.turns:
        row: dict[str, Any] = {"thread_id": state.thread_id}
        match change:
            case TurnLine():
                connection.execute(QUERIES["add_turn"], row | {"offset": change.offset, "turn_id": change.turn_id})
            case TurnEndLine():
                connection.execute(QUERIES["end_turn"], row | {"offset": change.offset, "turn_id": change.turn_id})
            case TurnsTakenBack():
                connection.execute(QUERIES["take_back_turns"], row | {"count": change.count})


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
            "text": spaced(line.text.text),
        }
        for line in first.values()
    ]


def _name_row(state: ThreadState) -> dict[str, Any]:
    name = SearchText("name", f"{NAME_MARK}{_name(state.thread)}")
    row = {"thread_id": state.thread_id, "digest": name.digest, "ordinal": -1, "role": name.role}
    return row | {"text": spaced(_name(state.thread) or "")}


def _name(thread: StoredThread | None) -> str | None:
    return thread.name if thread else None
