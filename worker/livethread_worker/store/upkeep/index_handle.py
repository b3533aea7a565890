"""Keeps a home's index open even if its file is deleted, replaced or damaged; or keeps one in memory."""

from __future__ import annotations

from livethread.errors import Unavailable
from livethread_worker.store.files import Home, locks
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.database import set_aside

#: How long to wait for another process that sets the same index aside.
_LOCK_WAIT = 5.0  # seconds


class IndexHandle:
    """Opens the index on first use, and again if its file was replaced or is damaged.

    An index in memory is empty when it is opened, and needs only a readable home.
    """

    def __init__(self, home: Home, *, in_memory: bool = False) -> None:
        self._home = home
        self._in_memory = in_memory
        self._index: Index | None = None

    def get(self) -> Index:
        """Return the index.

        Raises:
            IndexUnavailable: it cannot be opened now.
            Unavailable: the home cannot be written.
        """
        try:
            if self._index is not None and self._index.is_damaged:
                self._set_aside(self._index)
            if self._index is not None and not self._index.is_current():
                self.close()
            if self._index is None:
                if not self._in_memory:
                    self._home.create()
                self._index = Index(self._home, in_memory=self._in_memory)
        except OSError as error:
            raise Unavailable(f"the home {self._home.root} cannot be used: {error}") from error
        return self._index

    def close(self) -> None:
        """Close the index, if it is open."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _set_aside(self, index: Index) -> None:
        """Move the damaged file away, unless another process has done so."""
        try:
            with locks.file_lock(self._home.index.with_suffix(".lock"), wait_s=_LOCK_WAIT):
                if index.is_current():
                    set_aside(self._home, "it is damaged")
        except locks.LockBusy:
            raise IndexUnavailable("another process is setting the damaged index aside") from None
