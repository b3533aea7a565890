"""A thread's metadata while tasks, or the lines of a rollout, change it in order."""

from __future__ import annotations

from datetime import datetime

from livethread.metadata import FIRST_WINS, MetadataUpdate, StoredThread


def is_activity(line_type: str) -> bool:
    """Whether a line of this type advances ``updated_at``: restating ``session_meta`` does not."""
    return line_type != "session_meta"


class MetadataState:
    """Applies updates to a thread."""

    def __init__(self, thread: StoredThread, explicit_fields: set[str]) -> None:
        """Continue with *thread*. *explicit_fields*, the first-wins fields that a caller set, grow with each update."""
        self._thread = thread
        self._explicit_fields = explicit_fields
        self._updated_at = thread.updated_at

    @property
    def thread(self) -> StoredThread:
        """The thread, up to date."""
        if self._updated_at is not self._thread.updated_at:
            self._thread = self._thread.model_copy(update={"updated_at": self._updated_at})
        return self._thread

    def touch(self, at: datetime) -> None:
        """Advance ``updated_at`` to *at*, the time of a line; never set it back."""
        self._updated_at = max(self._updated_at, at)

    def update(self, update: MetadataUpdate, *, is_explicit: bool) -> StoredThread:
        """Apply an explicit or a derived patch, and return the thread."""
        patch = update.effect_on(self.thread, self._explicit_fields)
        self._set(self.thread.patched(patch))
        if is_explicit:
            self._explicit_fields |= patch.model_fields_set & FIRST_WINS
        return self._thread

    def archive(self, archived_at: datetime | None) -> StoredThread:
        """Set when the thread was archived (None: it is active), and return it."""
        self._set(self.thread.model_copy(update={"archived_at": archived_at}))
        return self._thread

    def _set(self, thread: StoredThread) -> None:
        self._thread = thread
        self._updated_at = thread.updated_at
