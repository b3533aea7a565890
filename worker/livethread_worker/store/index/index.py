"""Reads and writes the index. Every write of a batch is one transaction."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlite_utils import Database

from livethread.cursor import MAX_OFFSET
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.rollout.turns import TurnPhase, TurnPlace
from livethread.types import ListThreadsParams, SearchThreadsParams
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.index.database import (
    BUSY_TIMEOUT,
    IndexUnavailable,
    identity,
    in_memory_database,
    is_damaged,
    open_database,
)
from livethread_worker.store.index.list_threads import list_rows
from livethread_worker.store.index.maintenance import Upkeep
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.search_threads import search_rows
from livethread_worker.store.index.state_cache import RecentStates
from livethread_worker.store.index.thread_rows import from_row, from_rows
from livethread_worker.store.index.thread_writes import (
    ThreadRows,
    add_lines,
    forget,
    forget_lines,
    lengths,
    save_keys,
    save_threads,
    thread_rows,
)
from livethread_worker.store.thread_state import ThreadState, WriterMark

logger = logging.getLogger(__name__)

#: Databases whose file is gone; kept, since to drop the last reference is to close.
_left_open: Final[list[Database]] = []

#: How long we wait for another process that migrates the schema.
_MIGRATION_WAIT: Final = 30.0  # seconds

#: How long a search waits for another process' transaction before it goes without the newest messages, and how long
#: none waits then.
_SEARCH_WAIT: Final = 1.0  # seconds
_SEARCH_WITHOUT: Final = 3.0  # seconds


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
        #: Until when searches go without what could not be indexed; of the monotonic clock.
        self._search_without_until = 0.0
        #: Whether nobody else uses it, and it ends with the process.
        self.in_memory = in_memory
        if in_memory:
            self.db = in_memory_database()
            self._recent, self._upkeep = RecentStates(self.db.conn), Upkeep(self.db.conn, self._transaction)
            self._identity = None
            return
        with self._using(), file_lock(home.index.with_suffix(".lock"), wait_s=_MIGRATION_WAIT):
            self.db = open_database(home)
        self._recent, self._upkeep = RecentStates(self.db.conn), Upkeep(self.db.conn, self._transaction)
        self._identity = identity(home)

    def close(self) -> None:
        """Close the database; what batches left for later is indexed, unless somebody else writes for long.

        One whose file was replaced is left open: SQLite would take its companion files to be ours, by their names.
        """
        if self.is_current():
            with suppress(IndexUnavailable), self._using(), self._waiting(_SEARCH_WAIT):
                self._upkeep.index_messages()
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
        return self.in_memory or self._identity == identity(self._home)

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

    def states_of_batch(
        self, writers: Mapping[str, Collection[str]], keys: Mapping[str, Collection[str]]
    ) -> dict[str, ThreadState]:
        """Return what `load_states` does, in less time where this index stored the threads last; their paths may be missing.

        The states are the caller's to change, and to `commit`.
        """
        with self._using():
            self._recent.look()
        states: dict[str, ThreadState] = {}
        missing: dict[str, Collection[str]] = {}
        for thread_id, names in writers.items():
            state = self._recent.take(thread_id, names)
            if state is None or keys[thread_id]:  # which keys are taken, the index alone says
                missing[thread_id] = names
            else:
                states[thread_id] = state
        return states | self.load_states(missing, keys) if missing else states

    def load_states(
        self, writers: Mapping[str, Collection[str]], keys: Mapping[str, Collection[str]] | None = None
    ) -> dict[str, ThreadState]:
        """Return the states of those threads that the index knows, each with the counters of its writers named.

        And with those of its *keys* that its appends have taken.
        """
        arguments = {"thread_ids": json.dumps(list(writers)), "writers": _pairs(writers)}
        states: dict[str, ThreadState] = {}
        with self._using():
            rows = self.db.conn.execute(QUERIES["load_states"], arguments).fetchall()
            for row, thread in zip(rows, from_rows(rows, self._home.root), strict=True):
                states[thread.thread_id] = _state(row, thread)
            for row in self.db.conn.execute(QUERIES["load_writers"], arguments):
                if state := states.get(row["thread_id"]):
                    state.writers[row["writer"]] = WriterMark(row["n"], row["lines"])
            if keys and any(keys.values()):
                arguments["keys"] = _pairs(keys)
                for row in self.db.conn.execute(QUERIES["load_keys"], arguments):
                    if state := states.get(row["thread_id"]):
                        state.keys.add(row["key"])
        return states

    def commit(
        self, rows: Sequence[ThreadRows], deleted: Sequence[str] = (), is_durable: Callable[[], bool] = lambda: True
    ) -> set[str] | None:
        """Store *rows*, and forget the *deleted* threads, in one transaction, which commits if *is_durable* says so.

        Return the threads that another process has stored since their states were loaded: nothing is stored of these.
        It happens when a reader takes in a rollout that is locked for long, and the lock is released just then. None if
        nothing was committed.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        with self._transaction() as connection:
            overtaken = _overtaken(connection, rows)
            saved = [each for each in rows if each.state.thread_id not in overtaken]
            messages = self._save(connection, saved)
            forget(connection, deleted, ("messages", "turns", "keys", "writers", "rollout", "thread"))
            if not is_durable():
                connection.execute("ROLLBACK")
                return None
        self._recent.forget([*deleted, *overtaken])
        self._recent.keep(each.state for each in saved)
        self._note(saved, messages)
        return overtaken

    @staticmethod
    def _save(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> int:
        renamed = [each.state for each in rows if each.is_renamed]
        forget_lines(connection, [each for each in rows if each.state.is_reread])
        save_threads(connection, rows)
        connection.executemany(QUERIES["save_rollout"], [each.rollout for each in rows])
        connection.executemany(QUERIES["save_writer"], [row for each in rows for row in each.writers])
        save_keys(connection, rows)
        forget(connection, [state.thread_id for state in renamed], ["name"])
        return add_lines(connection, rows, renamed)

    def replace(self, rows: Sequence[ThreadRows], *, is_locked: bool = True) -> None:
        """Store what whole rollouts say, in place of what is known of their threads.

        Where the caller does not hold the threads' locks, nothing is stored of a thread that somebody else has stored
        since it was read: since the index had ``loaded_bytes`` of it.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        with self.transaction() as connection:
            if not is_locked:
                overtaken = _overtaken(connection, rows)
                rows = [each for each in rows if each.state.thread_id not in overtaken]
            forget_lines(connection, rows)
            save_threads(connection, rows)
            connection.executemany(QUERIES["save_rollout"], [each.rollout for each in rows])
            connection.executemany(QUERIES["recover_writer"], [row for each in rows for row in each.writers])
            save_keys(connection, rows)
            messages = add_lines(connection, rows, [each.state for each in rows])
        self._note(rows, messages)
        with suppress(IndexUnavailable):  # they are stored, whatever becomes of that
            self.maintain()

    def _note(self, rows: Sequence[ThreadRows], messages: int) -> None:
        """Count what was stored, and *messages* that were offered: some may have been there."""
        self._upkeep.note(threads=len(rows), messages=messages, texts=sum(len(each.texts) for each in rows))

    def rename(self, thread_id: str, name: str | None) -> None:
        """Store a thread's name and nothing else of it, whoever is at work on the thread.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        with self.transaction() as connection:
            state = self.load_states({thread_id: set()}).get(thread_id)
            if state is not None and state.thread is not None:
                loaded = state.thread
                state.thread = loaded.model_copy(update={"name": name})
                rows = [thread_rows(state, loaded)]
                self._note(rows, self._save(connection, rows))

    def fence(self, thread_id: str, now: int) -> int:
        """Begin a new epoch of a thread and return it: at least *now*, which is in ms, and later than all before.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        with self.transaction() as connection:
            connection.execute(QUERIES["fence"], {"thread_id": thread_id, "now": now})
            return self.epoch(thread_id)

    def epoch(self, thread_id: str) -> int:
        """Return a thread's newest epoch; 0 where none was begun, or none is known."""
        with self._using():
            row = self.db.conn.execute(QUERIES["epoch"], {"thread_id": thread_id}).fetchone()
        return row[0] if row else 0

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

    def distrust(self, thread_id: str) -> None:
        """Note that what is known of a thread's lines holds no longer: its whole rollout is to be read again.

        Raises:
            IndexUnavailable: it could not be noted.
        """
        with self.transaction() as connection:
            connection.execute(QUERIES["distrust"], {"thread_id": thread_id, "rollout_bytes": MAX_OFFSET})

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

    def messages_and_turns(self, thread_id: str) -> tuple[set[int], set[int]]:
        """Return the digests of the messages and the offsets of the turns that the index has of a thread's lines."""
        of_thread = {"thread_id": thread_id}
        with self._using():
            digests, offsets = (
                self.db.conn.execute(QUERIES[name], of_thread) for name in ("digests", "turn_offsets")
            )
            return {row[0] for row in digests}, {row[0] for row in offsets}

    def thread_ids(self) -> list[str]:
        """Return the ids of all threads."""
        with self._using():
            return [row["thread_id"] for row in self.db.conn.execute(QUERIES["thread_ids"])]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a write transaction, which may change anything.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        self._recent.clear()
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a write transaction. It takes the write lock at once: upgrading a read fails where two meet."""
        connection = self.db.conn
        with self._using():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                if connection.in_transaction:
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def maintain(self, *, is_idle: bool = False) -> bool:
        """Do a piece of what is due behind commits, if it is time for one, and return whether there is more.

        It changes nothing that is read; what it is stands at `Upkeep`. Who stores calls it behind each batch, and, while
        it *is_idle*, until there is no more.

        Raises:
            IndexUnavailable: somebody else writes for long, or the like; it is tried again later.
        """
        with self._using():
            return self._upkeep.do_some(is_idle=is_idle)

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
        """Return one page of what a search finds and one more thread, where there is one.

        Where somebody else writes the index for long, messages of the last moments may not be found.
        """
        if time.monotonic() >= self._search_without_until:
            self._make_searchable()
        with self._using(), _as_of_one_moment(self.db.conn) as connection:
            found = search_rows(connection, params)
        threads = from_rows([row for row, _ in found.rows], self._home.root)
        snippets = [snippet for _, snippet in found.rows]
        return SearchPage(list(zip(threads, snippets, strict=True)), found.snapshot, found.offset)

    def _make_searchable(self) -> None:
        """Index what batches left for later; where that cannot be done now, a search goes without it."""
        try:
            with self._using(), self._waiting(_SEARCH_WAIT):
                self._upkeep.index_messages()
        except IndexUnavailable as error:
            logger.debug("searching without the newest messages", extra={"action": "search", "error": str(error)})
            self._search_without_until = time.monotonic() + _SEARCH_WITHOUT

    @contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        """Wait so long at most for other processes' transactions."""
        connection = self.db.conn
        connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")

    def list_threads(self, params: ListThreadsParams) -> list[StoredThread]:
        """Return one page of threads and one more, where there is one."""
        with self._using():
            rows = list_rows(self.db.conn, params)
        return from_rows(rows, self._home.root)


@contextmanager
def _as_of_one_moment(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Have all statements see the same, whoever writes meanwhile."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:  # some errors end it
            connection.execute("ROLLBACK")  # nothing was written


def _pairs(named: Mapping[str, Collection[str]]) -> str:
    """Return each thread with each of what is *named* for it, as a query takes it."""
    return json.dumps([(thread_id, name) for thread_id, names in named.items() for name in names])


def _overtaken(connection: sqlite3.Connection, rows: Sequence[ThreadRows]) -> set[str]:
    """Return those threads of *rows* of which the index has another length than when they were loaded."""
    known = lengths(connection, [each.state.thread_id for each in rows])
    return {each.state.thread_id for each in rows if known.get(each.state.thread_id) != each.state.loaded_bytes}


def _state(row: sqlite3.Row, thread: StoredThread) -> ThreadState:
    return ThreadState(
        thread_id=row["thread_id"],
        thread=thread,
        path=row["path"],
        loaded_bytes=row["rollout_bytes"],
        rollout_bytes=row["rollout_bytes"],
        next_ordinal=row["next_ordinal"],
        meta_offset=row["meta_offset"],
        meta_bytes=row["meta_bytes"],
        applied=row["applied"],
        explicit_fields=set(json.loads(row["explicit_fields"])),
        turn=TurnPlace(TurnPhase(row["phase"]), row["turn_id"]),
        epoch=row["epoch"],
    )
