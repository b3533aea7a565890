"""Reads and writes the index. Every write of a batch is one transaction."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlite_utils import Database

from livethread.model import format_time
from livethread.search_text import SearchText, listing_text, spaced
from livethread.turns import TurnPhase, TurnPlace, TurnsTakenBack
from livethread_worker.store.home import FILE_MODE
from livethread_worker.store.index.list_threads import list_rows
from livethread_worker.store.index.migrations import migrations
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.rows import (
    SAVE_THREAD,
    changed_columns,
    from_row,
    from_rows,
    to_row,
    update_thread,
)
from livethread_worker.store.index.search_threads import search_rows
from livethread_worker.store.locking import LockBusy, file_lock
from livethread_worker.store.state import TextLine, ThreadState, TurnEndLine, TurnLine, WriterMark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from livethread.metadata import StoredThread
    from livethread.types import ListThreadsParams, SearchThreadsParams
    from livethread_worker.store.home import Home

logger = logging.getLogger(__name__)

#: Databases whose file is gone; kept, since to drop the last reference is to close.
_left_open: Final[list[Database]] = []

#: How long a statement waits for another process' transaction.
BUSY_TIMEOUT: Final = 5.0  # seconds

#: Sets a name apart from a message of the same words.
NAME_MARK: Final = "\0name:"

#: How long we wait for another process that migrates the schema.
_MIGRATION_WAIT: Final = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where a turn stands in its rollout."""

    turn_id: str
    offset: int
    #: Where the next one begins; None for the last.
    end: int | None
    #: Where it ended, if that stands behind the start of another.
    late_end: int | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Threads that a search found, each with its snippet."""

    threads: list[tuple[StoredThread, str]]
    #: Where the page stands in a search by relevance; see `encode_relevance`.
    snapshot: int
    offset: int


@dataclass(frozen=True, slots=True)
class ThreadRows:
    """What is to be stored of one thread."""

    state: ThreadState
    #: None where it is as the index has it.
    thread: dict[str, Any] | None
    #: Columns of it that differ; none for a thread that the index does not know.
    changed: tuple[str, ...]
    rollout: dict[str, Any]
    writers: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    is_renamed: bool
    #: What a listing's search term is looked for in; None where it is as the index has it.
    text: str | None


class IndexUnavailable(Exception):
    """The index cannot be used now: locked by somebody for long, out of disk, or damaged."""


class Index:
    """An open index. Not thread-safe: one thread at a time uses it."""

    def __init__(self, home: Home, *, in_memory: bool = False) -> None:
        """Open the index of *home*, creating and migrating it where needed; or one in memory, which nobody shares.

        Raises:
            IndexUnavailable: it is locked for long, or no database.
        """
        self._home = home
        #: Whether it has to be set aside and made again.
        self.is_damaged = False
        #: Whether nobody else uses it, and it ends with the process.
        self.in_memory = in_memory
        if in_memory:
            self.db = _in_memory_database()
            self._identity = None
            return
        with self._using(), file_lock(home.index.with_suffix(".lock"), wait_s=_MIGRATION_WAIT):
            try:
                self.db = _open_database(home)
            except sqlite3.DatabaseError as error:
                if not is_damaged(error):
                    raise
                set_aside(home)
                self.db = _open_database(home)
        self._identity = _identity(home)

    def close(self) -> None:
        """Close the database.

        One whose file was replaced is left open: SQLite would take its companion files to be ours, by their names.
        """
        if self.is_current():
            self.db.close()
        else:
            _left_open.append(self.db)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Translate SQLite's errors, and notice damage."""
        try:
            yield
        except sqlite3.Error as error:
            self.is_damaged = self.is_damaged or is_damaged(error)
            raise IndexUnavailable(f"the index: {error}") from error
        except LockBusy:
            raise IndexUnavailable("the index is being migrated by another process for long") from None

    def is_current(self) -> bool:
        """Whether the file that is open is still the home's index: it may be deleted or replaced at any time."""
        return self.in_memory or self._identity == _identity(self._home)

    @property
    def is_complete(self) -> bool:
        """Whether every rollout of the home has been read into the index once."""
        with self._using():
            return bool(self.db.conn.execute("PRAGMA user_version").fetchone()[0])

    def mark_complete(self) -> None:
        """Note that every rollout of the home has been read."""
        with self._using():
            self.db.conn.execute("PRAGMA user_version = 1")

    # -- writing -------------------------------------------------------------------------------------------

    def load_states(self, writers: dict[str, set[str]]) -> dict[str, ThreadState]:
        """Return the states of those threads that the index knows, each with the counters of the writers named."""
        arguments = {
            "thread_ids": json.dumps(list(writers)),
            "writers": json.dumps(sorted(set().union(*writers.values()))),
        }
        states: dict[str, ThreadState] = {}
        with self._using():
            rows = self.db.conn.execute(QUERIES["load_states"], arguments).fetchall()
            for row, thread in zip(rows, from_rows(rows, self._home.root), strict=True):
                states[thread.thread_id] = _state(row, thread)
            for row in self.db.conn.execute(QUERIES["load_writers"], arguments):
                if state := states.get(row["thread_id"]):
                    state.writers[row["writer"]] = WriterMark(row["n"], row["lines"])
        return states

    def prepare(self, state: ThreadState, loaded: StoredThread | None) -> ThreadRows:
        """Return what is to be stored of *state*; *loaded* is the thread as the index has it.

        Raises:
            InvalidRequest: the thread holds what is not JSON.
        """
        changed = state.thread if state.thread is not loaded else None
        is_said_anew = loaded is None or (changed is not None and _texts(changed) != _texts(loaded))
        return ThreadRows(
            state,
            thread=to_row(changed) if changed else None,
            changed=changed_columns(changed, loaded) if changed and loaded else (),
            rollout=_rollout_row(state),
            writers=_writer_rows(state),
            messages=_message_rows(state),
            is_renamed=state.is_reread or _name(state.thread) != _name(loaded),
            text=_text(state.thread) if is_said_anew else None,
        )

    def commit(self, rows: Sequence[ThreadRows], deleted: Sequence[str] = ()) -> None:
        """Store *rows*, and forget the *deleted* threads, in one transaction.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        renamed = [each.state for each in rows if each.is_renamed]
        reread = [each.state.thread_id for each in rows if each.state.is_reread]
        with self.transaction() as connection:
            _forget(connection, reread, ("messages", "turns"))
            _save_threads(connection, rows)
            connection.executemany(QUERIES["save_rollout"], [each.rollout for each in rows])
            connection.executemany(QUERIES["save_writer"], [row for each in rows for row in each.writers])
            connection.executemany(QUERIES["forget_name"], [{"thread_id": state.thread_id} for state in renamed])
            _add_lines(connection, rows, renamed)
            _forget(connection, deleted, ("messages", "turns", "writers", "rollout", "thread"))

    def replace(self, rows: Sequence[ThreadRows]) -> None:
        """Store what whole rollouts say, in place of what is known of their threads.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        with self.transaction() as connection:
            _forget(connection, [each.state.thread_id for each in rows], ("messages", "turns"))
            _save_threads(connection, rows)
            connection.executemany(QUERIES["save_rollout"], [each.rollout for each in rows])
            connection.executemany(QUERIES["recover_writer"], [row for each in rows for row in each.writers])
            _add_lines(connection, rows, [each.state for each in rows])

    def unchanged_since(self, before: datetime) -> list[str]:
        """Return the ids of the threads without a change since *before* whose rollouts are plain."""
        with self._using():
            rows = self.db.conn.execute(QUERIES["unchanged_since"], {"before": format_time(before)})
            return [row["thread_id"] for row in rows]

    def set_path(self, thread_id: str, path: str) -> None:
        """Note where a thread's rollout lies now, relative to the home.

        Raises:
            IndexUnavailable: it could not be noted; a reader looks for the rollout where it is not found.
        """
        with self.transaction() as connection:
            connection.execute(QUERIES["set_path"], {"thread_id": thread_id, "path": path})

    def rollouts(self) -> dict[str, tuple[str, int]]:
        """Return path and committed length of the rollout of every thread."""
        with self._using():
            return {row[0]: (row[1], row[2]) for row in self.db.conn.execute(QUERIES["rollouts"])}

    def rollout(self, thread_id: str) -> tuple[str, int] | None:
        """Return path and committed length of a thread's rollout; None where the index does not know it."""
        with self._using():
            row = self.db.conn.execute(QUERIES["rollout"], {"thread_id": thread_id}).fetchone()
        return (row[0], row[1]) if row else None

    def names(self, thread_ids: Iterable[str]) -> dict[str, str | None]:
        """Return the names of those threads of *thread_ids* that the index knows."""
        with self._using():
            rows = self.db.conn.execute(QUERIES["names"], {"thread_ids": json.dumps(list(thread_ids))})
            return {row[0]: row[1] for row in rows}

    def line_counts(self, thread_id: str) -> tuple[int, int]:
        """Return how many messages and how many turns of a thread's lines the index holds."""
        with self._using():
            row = self.db.conn.execute(QUERIES["line_counts"], {"thread_id": thread_id}).fetchone()
        return row[0], row[1]

    def thread_ids(self) -> list[str]:
        """Return the ids of all threads."""
        with self._using():
            return [row["thread_id"] for row in self.db.conn.execute(QUERIES["thread_ids"])]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a write transaction. It takes the write lock at once: upgrading a read fails where two meet.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        connection = self.db.conn
        with self._using():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # -- reading -------------------------------------------------------------------------------------------

    def read_thread(self, thread_id: str) -> StoredThread | None:
        """Return a thread, or None where the index does not know it."""
        with self._using():
            row = self.db.conn.execute(QUERIES["read_thread"], {"thread_id": thread_id}).fetchone()
        return from_row(row, self._home.root) if row else None

    def turns(self, thread_id: str, offset: int, limit: int, *, backward: bool) -> list[TurnSpan]:
        """Return up to *limit* turns from *offset* on, nearest first, without those that were taken back."""
        query = QUERIES["turns_backward" if backward else "turns_forward"]
        arguments = {"thread_id": thread_id, "offset": offset, "limit": limit}
        with self._using():
            return [TurnSpan(*row) for row in self.db.conn.execute(query, arguments)]

    def turn(self, thread_id: str, turn_id: str) -> TurnSpan | None:
        """Return where a turn stands."""
        with self._using():
            arguments = {"thread_id": thread_id, "turn_id": turn_id}
            row = self.db.conn.execute(QUERIES["turn_span"], arguments).fetchone()
        return TurnSpan(*row) if row else None

    def search_threads(self, params: SearchThreadsParams) -> SearchPage:
        """Return one page of what a search finds and one more thread, where there is one."""
        with self._using():
            found = search_rows(self.db.conn, params)
        threads = from_rows([row for row, _ in found.rows], self._home.root)
        snippets = [snippet for _, snippet in found.rows]
        return SearchPage(list(zip(threads, snippets, strict=True)), found.snapshot, found.offset)

    def list_threads(self, params: ListThreadsParams) -> list[StoredThread]:
        """Return one page of threads and one more, where there is one."""
        with self._using():
            rows = list_rows(self.db.conn, params)
        return from_rows(rows, self._home.root)


def _open_database(home: Home) -> Database:
    if not home.index.exists() or not home.index.stat().st_size:
        for companion in _companions(home):  # of an index that was deleted without them
            companion.unlink(missing_ok=True)
    os.close(os.open(home.index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    # Autocommit: transactions are begun where they are meant to begin.
    connection = sqlite3.connect(home.index, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # `flush` says that the index is durable, too
        database = Database(connection)
        migrations.apply(database)
    except BaseException:
        connection.close()
        raise
    return database


def _in_memory_database() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    database = Database(connection)
    migrations.apply(database)
    return database


def set_aside(home: Home) -> None:
    """Move a damaged index out of the way, into the quarantine; it is made again from the rollouts."""
    logger.error("index is damaged; it is set aside and made again", extra={"action": "open_index"})
    stamp = time.time_ns()
    for path in (home.index, *_companions(home)):
        if path.exists():
            path.rename(home.quarantine / f"{path.name}.{stamp}")


def _companions(home: Home) -> tuple[Path, ...]:
    return tuple(home.index.with_name(home.index.name + suffix) for suffix in ("-wal", "-shm"))


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether *error* says that the database is none, or none any more."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _identity(home: Home) -> tuple[int, int] | None:
    try:
        stat = home.index.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _state(row: sqlite3.Row, thread: StoredThread) -> ThreadState:
    return ThreadState(
        thread_id=row["thread_id"],
        thread=thread,
        path=row["path"],
        rollout_bytes=row["rollout_bytes"],
        next_ordinal=row["next_ordinal"],
        meta_offset=row["meta_offset"],
        meta_bytes=row["meta_bytes"],
        applied=row["applied"],
        observed=json.loads(row["observed"]),
        turn=TurnPlace(TurnPhase(row["phase"]), row["turn_id"]),
    )


def _save_threads(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> None:
    """Store threads. Of one that is known only what changed is written, since each index on it is written, too."""
    gone = [  # since they were loaded
        each
        for each in rows
        if each.thread and each.changed and not connection.execute(update_thread(each.changed), each.thread).rowcount
    ]
    whole = [each for each in rows if each.thread and not each.changed] + gone
    connection.executemany(SAVE_THREAD, [each.thread for each in whole if each.thread])
    texts = {each.state.thread_id: each.text for each in rows if each.text is not None}
    texts |= {each.state.thread_id: _text(each.state.thread) for each in gone}
    if texts:
        connection.execute(QUERIES["save_texts"], {"texts": json.dumps(texts, ensure_ascii=False)})


def _text(thread: StoredThread | None) -> str:
    """Return what a listing's search term is looked for in."""
    return listing_text(*_texts(thread)) if thread else ""


def _texts(thread: StoredThread) -> tuple[str | None, ...]:
    return thread.name, thread.title, thread.preview


def _rollout_row(state: ThreadState) -> dict[str, Any]:
    return {
        "thread_id": state.thread_id,
        "path": state.path,
        "rollout_bytes": state.rollout_bytes,
        "next_ordinal": state.next_ordinal,
        "meta_offset": state.meta_offset,
        "meta_bytes": state.meta_bytes,
        "applied": state.applied,
        "observed": json.dumps(state.observed),
        "phase": state.turn.phase.value,
        "turn_id": state.turn.turn_id,
    }


def _writer_rows(state: ThreadState) -> list[dict[str, Any]]:
    return [
        {"thread_id": state.thread_id, "writer": writer, "n": mark.n, "lines": mark.lines}
        for writer, mark in state.writers.items()
    ]


def _add_lines(connection: sqlite3.Connection, rows: Sequence[ThreadRows], named: Sequence[ThreadState]) -> None:
    """Store what the lines taken in add to turns and search, and the names of *named*."""
    for each in rows:
        _save_turns(connection, each.state)
    messages = [row for each in rows for row in each.messages]
    messages += [_name_row(state) for state in named if _name(state.thread)]
    if messages:
        newest = connection.execute(QUERIES["newest_message"]).fetchone()[0]
        connection.executemany(QUERIES["add_message"], messages)
        connection.execute(QUERIES["index_messages"], {"newest": newest})


def _forget(connection: sqlite3.Connection, thread_ids: Iterable[str], tables: Iterable[str]) -> None:
    rows = [{"thread_id": thread_id} for thread_id in thread_ids]
    for table in tables:
        connection.executemany(QUERIES[f"delete_{table}"], rows)


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
