"""A thread's metadata as its lines say it: one way for what workers append, what is read again, and stores in memory."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from livethread.item_observer import ItemObserver, patch_of
from livethread.metadata import StoredThread, ThreadMetadataPatch

#: Fields that the first item to set them decides; every other is decided by the last.
FIRST_OBSERVED: Final = frozenset({"preview", "title", "first_user_message", "cwd"})


class ObservedThread:
    """A thread that takes in its lines, and the patches that somebody asks for, in their order.

    What lines say is applied together, by `finish`, since most say the same fields again.
    """

    def __init__(self, thread: StoredThread, settled: set[str]) -> None:
        """Continue where *thread* stands.

        Of `FIRST_OBSERVED`, somebody asked for those that are *settled*, which `patch` adds to.
        """
        self._thread = thread
        self._settled = settled
        self._observer = ItemObserver.of(thread)
        self._observer.settle(settled)
        self._changes: dict[str, Any] = {}

    def observe(self, kind: str, payload: Any, at: datetime) -> None:
        """Take in a line of type *kind*, and when it says that it was written."""
        # To say anew what a thread is, is no happening in it.
        if not self.is_own_meta(kind, payload) and at > (self._changes.get("updated_at") or self._thread.updated_at):
            self._changes["updated_at"] = at
        self._observer.add(self._changes, kind, payload, at)

    def is_own_meta(self, kind: str, payload: Any) -> bool:
        """Whether a line of type *kind* says what the thread is."""
        return self._observer.is_own_meta(kind, payload)

    def patch(self, patch: ThreadMetadataPatch) -> StoredThread:
        """Apply what somebody asks for, literally, and return the thread as it is then.

        It holds against what lines before it say, and, of what the first line decides, against all that come.
        """
        self._thread = self.finish().patched(patch)
        self._settled |= patch.changes().keys() & FIRST_OBSERVED
        self._observer.settle(self._settled)
        return self._thread

    def archive(self, archived_at: datetime | None) -> StoredThread:
        """Note when the thread was archived, or that it is active, and return it as it is then."""
        self._thread = self.finish().with_valid({"archived_at": archived_at})
        return self._thread

    def finish(self) -> StoredThread:
        """Return the thread with all that it was told."""
        changes, self._changes = self._changes, {}
        if changes.keys() == {"updated_at"}:  # as most often
            self._thread = self._thread.with_valid(changes)
        elif changes:
            self._thread = self._thread.patched(patch_of(changes))
        return self._thread
