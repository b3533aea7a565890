"""What an index has to do between batches, little by little: the next tasks wait for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from livethread_worker.store.index.queries import QUERIES

#: Messages that are indexed together: FTS5 writes those of a transaction as a segment of their own, and merges that with
#: others again and again, so that two or three at a time cost ten times as much. (PostgreSQL's GIN indexes have a pending
#: list for the same reason: postgresql.org/docs/current/gin.html#GIN-FAST-UPDATE.)
TOGETHER: Final = 128

#: Messages of a large batch that make a segment, about: FTS5 writes one, too, when it holds a megabyte of words.
SEGMENT_MESSAGES: Final = 256
#: Segments behind which it is worth a look whether some are to be merged: FTS5 merges 16 of a level (see m011).
MERGED_SEGMENTS: Final = 16
#: Pages of full text that are merged at once: some milliseconds, since as many again are written for the segments in which
#: it leaves off. Behind a large batch more, for each message of it, so that segments are merged as fast as they come.
MERGED_PAGES: Final = 16
MERGED_PAGES_OF_MESSAGE: Final = 0.5

#: Rows that SQLite counts where there was something to merge (sqlite.org/fts5.html#the_merge_command).
CHANGES_OF_MERGE: Final = 2

#: About how many pages of the log a thread and a message take that are stored, and how many are moved into the database at
#: once.
LOGGED_PAGES_OF_THREAD: Final = 6
LOGGED_PAGES_OF_MESSAGE: Final = 0.5
LOGGED_PAGES: Final = 400

#: A chore is left for so many times as long as it took, where others wait.
REST: Final = 4


@dataclass(slots=True)
class _Chore:
    """Something to do again and again."""

    is_due: Callable[[], bool]
    do: Callable[[], None]
    #: When it may be done again though others wait; of the monotonic clock, in seconds.
    not_before: float = 0.0


class Upkeep:
    """Indexes the messages that batches left for later, merges full text, and empties the write-ahead log.

    None of it changes what is read. When something is due it knows by what was stored through this connection; who is idle
    also indexes what others left.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        self._is_idle = False
        self._unindexed = 0
        #: Messages of the last batch.
        self._messages = 0
        #: Segments of each full text that came since it was merged, and those of which more is to be merged.
        self._segments = {"messages": 0, "texts": 0}
        self._half_merged: set[str] = set()
        self._logged_pages = 0.0
        self._chores = [
            _Chore(self._is_to_be_indexed, self.index_messages),
            _Chore(lambda: self._logged_pages >= LOGGED_PAGES, self._checkpoint),
            *(_Chore(partial(self._is_to_be_merged, what), partial(self._merge, what)) for what in self._segments),
        ]

    def note(self, *, threads: int, messages: int, texts: int) -> None:
        """Count what a batch stored."""
        self._messages = messages
        if messages < TOGETHER:
            self._unindexed += messages
        else:
            self._segments["messages"] += 1 + messages // SEGMENT_MESSAGES
        if texts:
            self._segments["texts"] += 1
        self._logged_pages += threads * LOGGED_PAGES_OF_THREAD + messages * LOGGED_PAGES_OF_MESSAGE

    def do_some(self, *, is_idle: bool) -> bool:
        """Do one thing that is due, if it is time for it or nobody waits; return whether there is another.

        Behind a large batch, all that is due: it takes little beside the batch, and must not become more.

        Raises:
            IndexUnavailable: somebody else writes for long, or the like; it is tried again later.
        """
        self._is_idle, began = is_idle, time.monotonic()
        is_large = self._messages >= TOGETHER and not is_idle
        for chore in self._chores:
            if chore.is_due() and (is_large or is_idle or began >= chore.not_before):
                self._do(chore)
                if not is_large:
                    break
        return any(chore.is_due() for chore in self._chores)

    @staticmethod
    def _do(chore: _Chore) -> None:
        began = time.monotonic()
        try:
            chore.do()
        finally:  # also where it failed: a lock that is held for long is not waited for behind every batch
            ended = time.monotonic()
            chore.not_before = ended + (ended - began) * REST

    def index_messages(self) -> None:
        """Index all messages that were left for later, whoever stored them.

        Raises:
            IndexUnavailable: somebody else writes for long, or the like.
        """
        if self._any_unindexed():  # else nothing is written: others would look anew at all that they know
            with self._less_durably(), self._transaction() as connection:
                connection.execute(QUERIES["index_unindexed"])
                connection.execute(QUERIES["forget_unindexed"])
            self._segments["messages"] += 1
        self._unindexed = 0

    def _is_to_be_indexed(self) -> bool:
        # What others left is taken care of by who is idle: they may be gone.
        return self._unindexed >= TOGETHER or (self._is_idle and self._any_unindexed())

    def _any_unindexed(self) -> bool:
        return bool(self._connection.execute(QUERIES["any_unindexed"]).fetchone()[0])

    def _is_to_be_merged(self, what: str) -> bool:
        return self._segments[what] >= MERGED_SEGMENTS or what in self._half_merged

    def _merge(self, what: str) -> None:
        """Merge segments of a full text where a level holds many."""
        pages = max(MERGED_PAGES, 0 if self._is_idle else int(self._messages * MERGED_PAGES_OF_MESSAGE))
        with self._less_durably(), self._transaction() as connection:
            before = connection.total_changes
            connection.execute(QUERIES[f"merge_{what}"], {"pages": pages})
            changes = connection.total_changes - before
        self._segments[what] = 0
        if changes >= CHANGES_OF_MERGE:
            self._half_merged.add(what)
        else:
            self._half_merged.discard(what)

    def _checkpoint(self) -> None:
        """Move the log into the database, as far as no reader needs it: then it is written from its begin again."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._logged_pages = 0.0

    @contextmanager
    def _less_durably(self) -> Iterator[None]:
        """Commit without waiting for the disk: what a power cut takes is done again."""
        self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self._connection.execute("PRAGMA synchronous = FULL")
