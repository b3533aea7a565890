"""Keeps a home's index open, whatever happens to its file: deleted, replaced, damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livethread.errors import Unavailable
from livethread_worker.store.index.index import Index, IndexUnavailable, set_aside
from livethread_worker.store.locking import LockBusy, file_lock

if TYPE_CHECKING:
    from livethread_worker.store.home import Home

#: How long another process may be busy with setting the same index aside.
_LOCK_WAIT = 5.0  # seconds


class IndexHandle:
    """Opens the index on first use, and again where its file is another one, or is damaged."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._index: Index | None = None

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
                self._home.create()
                self._index = Index(self._home)
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
            with file_lock(self._home.index.with_suffix(".lock"), wait_s=_LOCK_WAIT):
                if index.is_current():
                    set_aside(self._home)
        except LockBusy:
            raise IndexUnavailable("the damaged index is being set aside by another process") from None
