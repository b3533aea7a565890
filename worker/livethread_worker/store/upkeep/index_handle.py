"""Keeps a home's index open, whatever happens to its file: deleted, replaced, damaged; or one in memory."""

from __future__ import annotations

from livethread.errors import Unavailable
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.database import set_aside
from livethread_worker.store.upkeep.refresh import Refresh, Refresher

#: How long another process may be busy with setting the same index aside.
_LOCK_WAIT = 5.0  # seconds


class IndexHandle:
    """Opens the index on first use, and again where its file is another one, or is damaged.

    One in memory knows nothing when it is opened, and needs a home that can be read, no more.
    """

    def __init__(self, home: Home, *, in_memory: bool = False) -> None:
        self._home = home
        self._in_memory = in_memory
        self._index: Index | None = None
        self._refresher: Refresher | None = None

    def get(self) -> Index:
        """Return the index.

        Raises:
            IndexUnavailable: it cannot be opened now.
            Unavailable: the home cannot be written.
        """
        if self._index is not None and self._index.is_damaged:
            self._set_aside(self._index)
        if self._index is not None and not self._index.is_current():
            self.close()
        if self._index is None:
            try:
                if not self._in_memory:
                    self._home.create()
                self._index = Index(self._home, in_memory=self._in_memory)
            except OSError as error:
                raise Unavailable(f"the home {self._home.root} cannot be used: {error}") from error
            self._refresher = Refresher(self._home, self._index)
        return self._index

    def get_fresh(self, refresh: Refresh) -> Index:
        """Return the index after *refresh*.

        Raises:
            IndexUnavailable: it cannot be opened, or written, now.
            Unavailable: the home cannot be written.
        """
        index = self.get()
        assert self._refresher is not None
        refresh(self._refresher)
        return index

    def close(self) -> None:
        """Close the index, if it is open."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _set_aside(self, index: Index) -> None:
        """Move the damaged file away, unless another process has done so."""
        try:
            with file_lock(self._home.index.with_suffix(".lock"), wait_s=_LOCK_WAIT):
                if index.is_current():
                    set_aside(self._home, "it is damaged")
        except LockBusy:
            raise IndexUnavailable("the damaged index is being set aside by another process") from None
