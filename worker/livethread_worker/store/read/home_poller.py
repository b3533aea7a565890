"""Notices changes of watched threads in a home: of all of them with a few cheap calls, several times a second.

Workers' changes show in the index, whose ``data_version`` says whether any process has committed. What other programs write
shows in the lengths of the rollouts, which readers then add to the index.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from livethread.changes import Changes, Source
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import database
from livethread_worker.store.index.queries import QUERIES

#: Between two looks at the index.
INTERVAL: Final = 0.3  # seconds

#: Every so many looks, it looks at the rollouts, too.
LOOKS_PER_ROUND: Final = 4

#: For how many of these a rollout that grew is noted while the index lacks the new lines: a reader that finds the thread's
#: lock held leaves them to a later read.
ROUNDS_NOTED: Final = 5

#: Path and committed length of a rollout.
_Row = tuple[Path, int]


def home_source(home: Home) -> Source:
    """Return a `Source` that notes the changes of *home*."""

    async def poll(changes: Changes) -> None:
        poller = HomePoller(home)
        # One thread of its own: files and SQLite block.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-poller")
        try:
            for looks in count():
                look = partial(poller.look, frozenset(changes.thread_ids), at_rollouts=looks % LOOKS_PER_ROUND == 0)
                for thread_id in await asyncio.get_running_loop().run_in_executor(executor, look):
                    changes.note(thread_id)
                await asyncio.sleep(INTERVAL)
        finally:
            executor.submit(poller.close)  # after a look that is under way
            executor.shutdown(wait=False)

    return poll


class HomePoller:
    """Looks at one home for all watchers of a process. It changes nothing and waits for no other process."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version: int | None = None
        #: What was last seen of each watched thread; None: the index did not know it.
        self._rows: dict[str, _Row | None] = {}
        #: Length of each rollout, and for how many rounds it has had that length.
        self._sizes: dict[str, tuple[int, int]] = {}

    def look(self, watched: Collection[str], *, at_rollouts: bool) -> set[str]:
        """Return the threads of *watched* that may have changed since the last look, or that are new."""
        try:
            changed = set(self._look_at_index(watched))
        except (sqlite3.Error, OSError):  # it is being replaced, or damaged, or its disk is away: readers say so
            self.close()
            changed = set()
        if at_rollouts:
            changed.update(self._look_at_rollouts(watched))
        return changed

    def _look_at_index(self, watched: Collection[str]) -> Iterator[str]:
        if self._connection is None or database.identity(self._home) != self._identity:
            self._open()
        if self._connection is None:
            return
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version and self._rows.keys() == watched:
            return
        found = self._connection.execute(QUERIES["rollouts_of"], {"thread_ids": json.dumps([*watched])})
        root = self._home.root
        rows = {thread_id: (root / path, rollout_bytes) for thread_id, path, rollout_bytes in found}
        known, self._rows, self._version = self._rows, {each: rows.get(each) for each in watched}, version
        for thread_id, row in self._rows.items():
            if thread_id not in known or known[thread_id] != row:
                yield thread_id

    def _look_at_rollouts(self, watched: Collection[str]) -> Iterator[str]:
        known, self._sizes = self._sizes, {}
        for thread_id in watched:
            row = self._rows.get(thread_id)
            if row is None:  # only a reader finds its rollout
                yield thread_id
                continue
            with suppress(OSError):  # it is being moved
                size = row[0].stat().st_size
                known_size, rounds = known.get(thread_id, (None, 0))
                rounds = rounds + 1 if size == known_size else 1
                self._sizes[thread_id] = size, rounds
                if size != row[1] and rounds <= ROUNDS_NOTED:
                    yield thread_id

    def _open(self) -> None:
        self.close()
        self._identity = database.identity(self._home)
        if self._identity is not None:
            # Without a timeout: the next look is near.
            self._connection = sqlite3.connect(f"{self._home.index.absolute().as_uri()}?mode=ro", 0, uri=True)

    def close(self) -> None:
        """Close the index; the next look opens it again, and notes every thread."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._rows = None, {}
