"""`Index`: the open SQLite file. Each operation is one or two statements; every write is one transaction.

Longer statements have modules of their own: `load_states` and `thread_writes` for batches, `list_threads` and
`search_threads` for readers, `maintenance` for the work between batches.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from sqlite_utils import Database

from livethread import types
from livethread.cursor import MAX_OFFSET
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread_worker.store.files.folder_stamps import FolderStamp
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.rollout_search import KnownFolder
from livethread_worker.store.index import thread_writes
from livethread_worker.store.index.connection import Connection
from livethread_worker.store.index.database import IndexUnavailable
from livethread_worker.store.index.directories import Directories
from livethread_worker.store.index.list_threads import list_threads
from livethread_worker.store.index.load_states import load_states
from livethread_worker.store.index.maintenance import Maintenance
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.search_threads import search_threads
from livethread_worker.store.index.state_cache import StateCache
from livethread_worker.store.index.thread_rows import from_rows
from livethread_worker.store.index.thread_writes import ThreadRows
from livethread_worker.store.thread_state import ThreadState, WriterMark

logger = logging.getLogger(__name__)

#: How long a search waits for another process' transaction before it leaves out the newest messages, and how long
#: the searches after it leave them out without waiting.
_SEARCH_WAIT: Final = 1.0  # seconds
_SEARCH_WITHOUT: Final = 3.0  # seconds

#: How often folders that other processes noted are read.
_FOLDERS_INTERVAL: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where a turn is in its rollout."""

    turn_id: str
    offset: int
    #: Where the next turn begins; None for the last one.
    end: int | None
    #: Where the turn ended, if that is after the start of another one.
    late_end: int | None = None


class KnownLineage(NamedTuple):
    """What the index knows of a thread's rollouts beside the live one."""

    #: Only then, codex can revert it, and begin another rollout.
    is_paginated: bool = False
    #: Whether inherited lines are missing.
    is_broken: bool = False


class Heir(NamedTuple):
    """A thread that needs another one."""

    thread_id: str
    #: Its live rollout, relative to the home.
    path: str
    is_attached: bool


class Index:
    """An open index. Not thread-safe: one thread at a time uses it.

    Every operation raises `IndexUnavailable` if SQLite fails; a transaction that fails stores nothing.
    """

    def __init__(self, home: Home, *, in_memory: bool = False) -> None:
        """Open the index of *home*, and create it if it is missing; or open a private one *in memory*."""
        self._home = home
        self._is_complete = False
        self._connection = Connection(home, in_memory=in_memory)
        self._cache = StateCache(self.db.conn)
        self._directories = Directories(self.db.conn)
        self._maintenance = Maintenance(self.db.conn, self._connection.transaction)
        self._folders: dict[str, KnownFolder] = {}
        self._read_folders_at = 0.0
        #: Monotonic time until which searches leave out messages that are not indexed yet.
        self._search_without_until = 0.0
        #: Whether it is private and ends with the process.
        self.in_memory = in_memory

    @property
    def db(self) -> Database:
        """The database, for tools."""
        return self._connection.db

    @property
    def is_damaged(self) -> bool:
        """Whether it has to be set aside and rebuilt."""
        return self._connection.is_damaged

    def is_current(self) -> bool:
        """Whether the open file is still the home's index: it may be deleted or replaced at any time."""
        return self._connection.is_current()

    def close(self) -> None:
        """Close the database; first index the messages that batches left for later, unless the index is busy."""
        if self.is_current():
            with suppress(IndexUnavailable), self._connection.waiting(_SEARCH_WAIT):
                self._maintenance.index_messages()
        self._connection.close()

    @property
    def is_complete(self) -> bool:
        """Whether every rollout of the home has been read into the index once."""
        if not self._is_complete:  # once it is, it stays so
            [[version]] = self._connection.select("PRAGMA user_version")
            self._is_complete = bool(version)
        return self._is_complete

    def mark_complete(self) -> None:
        """Note that every rollout of the home has been read."""
        with self._connection.errors_translated():
            self.db.conn.execute("PRAGMA user_version = 1")

    # -- batches -------------------------------------------------------------------------------------------

    def states_of_batch(
        self, writers: Mapping[str, Collection[str]], keys: Mapping[str, Collection[str]]
    ) -> dict[str, ThreadState]:
        """Return what `load_states` returns, from the `StateCache` if this index stored the threads last.

        The states belong to the caller, who changes and commits them; those from the cache may have no rollout_path.
        """
        with self._connection.errors_translated():
            self._cache.check_version()
        states: dict[str, ThreadState] = {}
        missing: dict[str, Collection[str]] = {}
        for thread_id, names in writers.items():
            state = self._cache.take(thread_id, names)
            if state is None or keys[thread_id]:  # the cache does not know which keys are taken
                missing[thread_id] = names
            else:
                states[thread_id] = self._with_turns(state)
        return states | self.load_states(missing, keys) if missing else states

    def load_states(
        self, writers: Mapping[str, Collection[str]], keys: Mapping[str, Collection[str]] | None = None
    ) -> dict[str, ThreadState]:
        """Return the states of the threads in *writers*, if known, each with the counters of the writers named there.

        Each also has its idempotency *keys* that appends have taken.
        """
        with self._connection.errors_translated():
            states = load_states(self.db.conn, self._home.root, writers, keys or {})
        return {thread_id: self._with_turns(state) for thread_id, state in states.items()}

    def _with_turns(self, state: ThreadState) -> ThreadState:
        state.stored_turns = partial(self.turn_ids, state.thread_id)
        return state

    def commit(
        self, rows: Sequence[ThreadRows], deleted: Sequence[str] = (), is_durable: Callable[[], bool] = lambda: True
    ) -> set[str] | None:
        """Store *rows* and forget the *deleted* threads, in one transaction; commit it if *is_durable* returns true.

        Return the threads that another process stored after their states were loaded; nothing is stored for these. This
        happens if a reader gives up waiting for a rollout's lock and indexes it just when the lock is released. Return
        None if nothing was committed.
        """
        with self._connection.transaction(is_synced=bool(deleted)) as connection:
            changed = thread_writes.changed_since_load(connection, rows)
            saved = [each for each in rows if each.state.thread_id not in changed]
            messages = thread_writes.save_batch(connection, saved)
            thread_writes.forget(connection, deleted, ("messages", "turns", "keys", "writers", "rollout", "thread"))
            if not is_durable():
                connection.execute("ROLLBACK")
                return None
        self._cache.forget([*deleted, *changed])
        self._cache.keep(each.state for each in saved)
        self._note(saved, messages)
        return changed

    def replace(self, rows: Sequence[ThreadRows], *, is_locked: bool = True) -> None:
        """Store whole rollouts, replacing what the index knows of their threads.

        If the caller does not hold the threads' locks, skip the threads that another process stored since they were
        read: since the index had ``loaded_bytes`` of them.
        """
        with self.transaction() as connection:
            changed = set() if is_locked else thread_writes.changed_since_load(connection, rows)
            rows = [each for each in rows if each.state.thread_id not in changed]
            messages = thread_writes.replace_threads(connection, rows)
        self._note(rows, messages)
        with suppress(IndexUnavailable):  # the rows are stored, whether or not maintenance works
            self.maintain()

    def _note(self, rows: Sequence[ThreadRows], messages: int) -> None:
        self._maintenance.note(threads=len(rows), messages=messages, texts=sum(len(each.texts) for each in rows))

    def rename(self, thread_id: str, name: str | None) -> None:
        """Store a thread's name and nothing else, whether or not another process writes the thread."""
        with self.transaction() as connection:
            state = self.load_states({thread_id: set()}).get(thread_id)
            if state is not None and state.thread is not None:
                loaded = state.thread
                state.thread = loaded.model_copy(update={"name": name})
                rows = [thread_writes.thread_rows(state, loaded)]
                self._note(rows, thread_writes.save_batch(connection, rows))

    def fence(self, thread_id: str, now: int) -> int:
        """Begin and return a new epoch of a thread: *now* in ms, or later if the last one was."""
        with self.transaction(is_synced=True) as connection:
            connection.execute(QUERIES["fence"], {"thread_id": thread_id, "now": now})
            return self.epoch(thread_id)

    def set_path(self, thread_id: str, path: str) -> None:
        """Record where a thread's rollout is now, relative to the home; readers search for a rollout that moved."""
        with self.transaction() as connection:
            connection.execute(QUERIES["set_path"], {"thread_id": thread_id, "path": path})

    def distrust(self, thread_id: str) -> None:
        """Have a thread's whole rollout read again, because the index is wrong about its lines."""
        with self.transaction(is_synced=True) as connection:
            connection.execute(QUERIES["distrust"], {"thread_id": thread_id, "rollout_bytes": MAX_OFFSET})

    def maintain(self, *, is_idle: bool = False) -> bool:
        """Do one piece of due maintenance, and return whether more is due. It changes no answer; see `Maintenance`.

        Call it after each batch, and, while the process *is_idle*, until it returns false. If it fails, it is tried
        again later.
        """
        with self._connection.errors_translated():
            return self._maintenance.do_some(is_idle=is_idle)

    # -- reading -------------------------------------------------------------------------------------------

    def read_thread(self, thread_id: str) -> StoredThread | None:
        """Return a thread; None if the index does not know it."""
        rows = self._connection.select(QUERIES["read_thread"], thread_id=thread_id)
        return from_rows(rows, self._home.root)[0] if rows else None

    def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of a listing."""
        with self._connection.errors_translated():
            return list_threads(self.db.conn, self._directories, self._home.root, params)

    def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of a search.

        If another process keeps the index locked, the newest messages may be missing.
        """
        if params.match is types.SearchMatch.WORDS and time.monotonic() >= self._search_without_until:
            self._make_searchable()
        with self._connection.snapshot() as connection:
            return search_threads(connection, self._home.root, params)

    def _make_searchable(self) -> None:
        """Index the messages that batches left for later; if the index is busy, searches leave them out for a while."""
        try:
            with self._connection.waiting(_SEARCH_WAIT):
                self._maintenance.index_messages()
        except IndexUnavailable as error:
            logger.debug("searching without the newest messages", extra={"action": "search", "error": str(error)})
            self._search_without_until = time.monotonic() + _SEARCH_WITHOUT

    def turns(self, thread_id: str, offset: int, limit: int, *, backward: bool) -> list[TurnSpan]:
        """Return up to *limit* turns from *offset* on, nearest first, without those that were rolled back."""
        query = QUERIES["turns_backward" if backward else "turns_forward"]
        return [
            TurnSpan(*row) for row in self._connection.select(query, thread_id=thread_id, offset=offset, limit=limit)
        ]

    def turn(self, thread_id: str, turn_id: str) -> TurnSpan | None:
        """Return where a turn is in its rollout."""
        rows = self._connection.select(QUERIES["turn_span"], thread_id=thread_id, turn_id=turn_id)
        return TurnSpan(*rows[0]) if rows else None

    def turn_ids(self, thread_id: str) -> list[str]:
        """Return the ids of a thread's turns, in order, without those that were taken back."""
        return [row[0] for row in self._connection.select(QUERIES["turn_ids"], thread_id=thread_id)]

    def epoch(self, thread_id: str) -> int:
        """Return a thread's newest epoch; 0 if it has none."""
        rows = self._connection.select(QUERIES["epoch"], thread_id=thread_id)
        return int(rows[0][0]) if rows else 0

    def counters_and_keys(self, thread_id: str) -> tuple[dict[str, WriterMark], set[str]]:
        """Return a thread's counters by writer, and its idempotency keys."""
        marks, keys = (
            self._connection.select(QUERIES[name], thread_id=thread_id) for name in ("all_writers", "all_keys")
        )
        return {row["writer"]: WriterMark(row["n"], row["lines"]) for row in marks}, {row["key"] for row in keys}

    def thread_ids(self) -> list[str]:
        """Return the ids of all threads."""
        return [row[0] for row in self._connection.select(QUERIES["thread_ids"])]

    def rollouts(self) -> dict[str, tuple[str, int]]:
        """Return path and committed length of every thread's rollout."""
        return _rollouts(self._connection.select(QUERIES["rollouts"]))

    def rollouts_of(self, thread_ids: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return path and committed length of the rollouts of those threads of *thread_ids* that the index knows."""
        return _rollouts(self._connection.select(QUERIES["rollouts_of"], thread_ids=json.dumps(list(thread_ids))))

    def rollouts_before(self, thread_id: str, limit: int) -> dict[str, tuple[str, int]]:
        """Return up to *limit* rollouts of the threads before *thread_id*, from the last of them on."""
        return _rollouts(self._connection.select(QUERIES["rollouts_before"], thread_id=thread_id, limit=limit))

    def rollouts_updated_last(self, limit: int) -> dict[str, tuple[str, int]]:
        """Return roughly the *limit* rollouts of active threads that were updated last, to within ten seconds."""
        return _rollouts(self._connection.select(QUERIES["rollouts_updated_last"], limit=limit))

    @property
    def folders(self) -> dict[str, KnownFolder]:
        """Folders, by path, as they were when the index knew every rollout in them; a caller may note more.

        What other processes note is read from the index every `_FOLDERS_INTERVAL`.
        """
        if (now := time.monotonic()) >= self._read_folders_at:
            for path, changed_ns, inode, others in self._connection.select(QUERIES["folders"]):
                known = self._folders.get(path)
                if known is None or known.stamp.changed_ns < changed_ns:
                    self._folders[path] = KnownFolder(FolderStamp(changed_ns, inode), tuple(json.loads(others)))
            self._read_folders_at = now + _FOLDERS_INTERVAL
        return self._folders

    def save_folders(self, folders: Mapping[str, KnownFolder]) -> None:
        """Note that the index knows every rollout in *folders*."""
        rows = [
            {"path": path, "others": json.dumps(folder.others), **folder.stamp._asdict()}
            for path, folder in folders.items()
        ]
        with self._connection.transaction() as connection:
            connection.executemany(QUERIES["save_folder"], rows)
        self.folders.update(folders)

    def rollout(self, thread_id: str) -> tuple[str, int] | None:
        """Return path and committed length of a thread's rollout; None if the index does not know it."""
        rows = self._connection.select(QUERIES["rollout"], thread_id=thread_id)
        return (rows[0][0], rows[0][1]) if rows else None

    def committed_end(self, thread_id: str) -> int:
        """Return where the committed lines of a thread's history end; beyond them all if the index does not know it."""
        rows = self._connection.select(QUERIES["committed_end"], thread_id=thread_id)
        return int(rows[0][0]) if rows else MAX_OFFSET

    def lineage(self, thread_id: str) -> KnownLineage:
        """Return what is known of a thread's rollouts beside the live one."""
        rows = self._connection.select(QUERIES["lineage"], thread_id=thread_id)
        return KnownLineage(*map(bool, rows[0])) if rows else KnownLineage()

    def heirs(self, thread_id: str, rollout_ids: Iterable[str]) -> list[Heir]:
        """Return the threads that continue one of the rollouts of *thread_id*, or are attached to it."""
        ids = json.dumps(list(rollout_ids))
        rows = self._connection.select(QUERIES["heirs"], thread_id=thread_id, rollout_ids=ids)
        return [Heir(row[0], row[1], is_attached=bool(row[2])) for row in rows if row[0] != thread_id]

    def base_ids(self) -> set[str]:
        """Return the ids of rollouts that others continue."""
        return {row[0] for row in self._connection.select(QUERIES["base_ids"])}

    def broken(self) -> list[str]:
        """Return the threads whose inherited lines are missing."""
        return [row[0] for row in self._connection.select(QUERIES["broken"])]

    def unchanged_since(self, before: datetime) -> list[str]:
        """Return the ids of threads without a change since *before* whose rollouts are plain."""
        return [row[0] for row in self._connection.select(QUERIES["unchanged_since"], before=format_time(before))]

    def names(self, thread_ids: Iterable[str]) -> dict[str, str | None]:
        """Return the names of those threads of *thread_ids* that the index knows."""
        return {
            row[0]: row[1]
            for row in self._connection.select(QUERIES["names"], thread_ids=json.dumps(list(thread_ids)))
        }

    def threads_named(self, name: str) -> list[str]:
        """Return the ids of the threads of this name, the one that was updated last first."""
        return [row[0] for row in self._connection.select(QUERIES["threads_named"], name=name)]

    def messages_and_turns(self, thread_id: str) -> tuple[set[int], set[int]]:
        """Return the digests of a thread's messages and the offsets of its turns."""
        digests, offsets = (
            self._connection.select(QUERIES[name], thread_id=thread_id) for name in ("digests", "turn_offsets")
        )
        return {row[0] for row in digests}, {row[0] for row in offsets}

    @contextmanager
    def transaction(self, *, is_synced: bool = False) -> Iterator[sqlite3.Connection]:
        """Run a write transaction that may change anything; see `Connection.transaction`."""
        self._cache.clear()
        with self._connection.transaction(is_synced=is_synced) as connection:
            yield connection


def _rollouts(rows: list[sqlite3.Row]) -> dict[str, tuple[str, int]]:
    return {row["thread_id"]: (row["path"], row["rollout_bytes"]) for row in rows}
