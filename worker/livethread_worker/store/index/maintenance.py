"""Work between batches: indexes messages, merges full text, empties the log. In small pieces, because tasks wait for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from livethread_worker.store.index.queries import QUERIES

#: So many messages are left for later, and then indexed by one statement. FTS5 writes the messages of a transaction as
#: one segment, and merges segments again and again, so two or three messages at a time cost ten times as much.
#: (PostgreSQL's GIN indexes have a pending list for the same reason:
#: postgresql.org/docs/current/gin.html#GIN-FAST-UPDATE.)
FTS_BATCH_ROWS: Final = 128

#: Messages whose trigrams are indexed by one statement, which takes a few milliseconds.
TRIGRAM_BATCH_ROWS: Final = 64
#: Messages whose trigrams may wait until the process is idle: a search reads that many in a few milliseconds.
MAX_WITHOUT_TRIGRAMS: Final = 4_000

#: About how many messages of a large batch make a segment: FTS5 also writes one when it holds a megabyte of words.
SEGMENT_MESSAGES: Final = 256
#: New segments after which we ask FTS5 to merge: it merges 16 of a level, see usermerge in schema.sql.
MERGED_SEGMENTS: Final = 16
#: Pages of full text that one piece merges: a few milliseconds, as FTS5 writes as many again for unfinished segments.
#: After a large batch, more pages for each of its messages, so that segments are merged as fast as they come.
MERGED_PAGES: Final = 16
MERGED_PAGES_OF_MESSAGE: Final = 0.5

#: Changes that SQLite counts if there was something to merge (sqlite.org/fts5.html#the_merge_command).
CHANGES_OF_MERGE: Final = 2

#: About how many pages of the log a stored thread and message take, and after how many a checkpoint is due.
LOGGED_PAGES_OF_THREAD: Final = 6
LOGGED_PAGES_OF_MESSAGE: Final = 0.5
LOGGED_PAGES: Final = 400

#: While tasks wait, all chores rest for this many times as long as the last one took: together they take at most a fifth
#: of the time.
REST: Final = 4


@dataclass(slots=True)
class _Chore:
    """A piece of work that recurs."""

    is_due: Callable[[], bool]
    do: Callable[[], None]
    #: Whether it may wait, however much there is to do: it takes longer than the batches that cause it.
    may_pile_up: bool = False


class Maintenance:
    """Indexes the messages that batches left for later, merges full text, and empties the write-ahead log.

    It changes no answer. To know what is due, it counts what this connection stored; an idle process also indexes
    messages that other processes left.
    """

    def __init__(
        self, connection: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        self._is_idle = False
        self._unindexed = 0
        #: Messages without trigrams, as far as this connection knows.
        self._without_trigrams = self._count_without_trigrams()
        #: Messages of the last batch.
        self._messages = 0
        #: New segments of each full text since it was merged, and the full texts whose merge is unfinished.
        self._segments = {"messages": 0, "trigrams": 0, "texts": 0}
        self._half_merged: set[str] = set()
        self._logged_pages = 0.0
        #: The most urgent first: those that may pile up get the time that the others leave.
        self._chores = [
            _Chore(self._is_to_be_indexed, self.index_messages),
            _Chore(lambda: self._logged_pages >= LOGGED_PAGES, self._checkpoint),
            *(_Chore(partial(self._is_to_be_merged, what), partial(self._merge, what)) for what in self._segments),
            _Chore(self._are_trigrams_to_be_indexed, self._index_trigrams, may_pile_up=True),
        ]
        #: Monotonic time, in seconds, until which no chore is done while tasks wait.
        self._rests_until = 0.0

    def note(self, *, threads: int, messages: int, texts: int) -> None:
        """Count what a batch stored."""
        self._messages = messages
        self._without_trigrams += messages
        if messages < FTS_BATCH_ROWS:
            self._unindexed += messages
        else:
            self._segments["messages"] += 1 + messages // SEGMENT_MESSAGES
        if texts:
            self._segments["texts"] += 1
        self._logged_pages += threads * LOGGED_PAGES_OF_THREAD + messages * LOGGED_PAGES_OF_MESSAGE

    def do_some(self, *, is_idle: bool) -> bool:
        """Do one due chore if the last was long enough ago or the process *is_idle*; return whether another is due.

        After a large batch, do all chores that must not pile up: they take little time compared with the batch.

        Raises:
            IndexUnavailable: for example, another process keeps the index locked; the chore is tried again later.
        """
        self._is_idle = is_idle
        is_large = self._messages >= FTS_BATCH_ROWS and not is_idle
        if is_idle or is_large or time.monotonic() >= self._rests_until:
            for chore in self._chores:
                if chore.is_due() and not (is_large and chore.may_pile_up):
                    self._do(chore)
                    if not is_large:
                        break
        return any(chore.is_due() for chore in self._chores)

    def _do(self, chore: _Chore) -> None:
        began = time.monotonic()
        try:
            chore.do()
        finally:  # also after a failure, so that not every batch waits while the index stays locked
            ended = time.monotonic()
            self._rests_until = ended + (ended - began) * REST

    def index_messages(self) -> None:
        """Index all messages that were left for later, by any process.

        Raises:
            IndexUnavailable: for example, another process keeps the index locked.
        """
        if self._any_unindexed():  # an empty write would make other processes clear their caches
            with self._transaction() as connection:
                connection.execute(QUERIES["index_unindexed"])
                connection.execute(QUERIES["forget_unindexed"])
            self._segments["messages"] += 1
        self._unindexed = 0

    def _is_to_be_indexed(self) -> bool:
        # An idle process does the work that other processes left: they may have ended.
        return self._unindexed >= FTS_BATCH_ROWS or (self._is_idle and self._any_unindexed())

    def _any_unindexed(self) -> bool:
        return bool(self._connection.execute(QUERIES["any_unindexed"]).fetchone()[0])

    def _are_trigrams_to_be_indexed(self) -> bool:
        if self._is_idle:  # it takes care of what other processes left, too
            self._without_trigrams = self._count_without_trigrams()
        return self._without_trigrams >= (1 if self._is_idle else MAX_WITHOUT_TRIGRAMS)

    def _count_without_trigrams(self) -> int:
        return int(self._connection.execute(QUERIES["without_trigrams"]).fetchone()[0])

    def _index_trigrams(self) -> None:
        """Index the trigrams of the next messages, of any process."""
        with self._transaction() as connection:
            connection.execute(QUERIES["index_trigrams"], {"limit": TRIGRAM_BATCH_ROWS})
        self._without_trigrams = self._count_without_trigrams()
        self._segments["trigrams"] += 1

    def _is_to_be_merged(self, what: str) -> bool:
        return self._segments[what] >= MERGED_SEGMENTS or what in self._half_merged

    def _merge(self, what: str) -> None:
        """Merge segments of a full text, if a level holds many."""
        pages = max(MERGED_PAGES, 0 if self._is_idle else int(self._messages * MERGED_PAGES_OF_MESSAGE))
        with self._transaction() as connection:
            before = connection.total_changes
            connection.execute(QUERIES[f"merge_{what}"], {"pages": pages})
            changes = connection.total_changes - before
        self._segments[what] = 0
        if changes >= CHANGES_OF_MERGE:
            self._half_merged.add(what)
        else:
            self._half_merged.discard(what)

    def _checkpoint(self) -> None:
        """Move the log into the database, except what a reader needs; the log then starts from its beginning again."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._logged_pages = 0.0
