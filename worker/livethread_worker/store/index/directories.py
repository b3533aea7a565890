"""Finds all spellings of a working directory in the index, without a look at every directory for each listing."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from livethread.directories import REMEMBERED_FOR, Identity, identities, identity
from livethread_worker.store.index.queries import QUERIES

#: A look at every directory is repeated only after this many times its duration: 2 % of a reader's time.
_REST_FACTOR: Final = 50


@dataclass(slots=True)
class Directories:
    """The working directories of an index, by what they lead to."""

    connection: sqlite3.Connection
    _spellings: dict[Identity, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: The newest row that was looked at.
    _newest: int = 0
    _look_again_at: float = 0.0

    def spellings(self, paths: Collection[str]) -> tuple[str, ...]:
        """Return all spellings of the directories *paths* that threads had at the last look, or have since."""
        started = time.monotonic()
        is_due = started >= self._look_again_at
        if is_due:
            self._spellings.clear()
            self._newest = 0
        for number, path in self.connection.execute(QUERIES["directories"], {"id": self._newest}):
            self._spellings[identity(path)].append(path)
            self._newest = number
        if is_due:
            now = time.monotonic()
            self._look_again_at = now + max(REMEMBERED_FOR, _REST_FACTOR * (now - started))
        return tuple(path for wanted in identities(paths) for path in self._spellings.get(wanted, ()))
