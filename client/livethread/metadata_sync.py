"""Keeps a live thread's metadata in step with what is appended to it.

Stores receive raw history and literal patches; this is where the one becomes the other, above every store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livethread.item_observer import ItemObserver
from livethread.metadata import ThreadMetadataPatch
from livethread.types import START

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from livethread.metadata import StoredThread
    from livethread.rollout_item import RolloutItem
    from livethread.types import CreateThreadParams, Position

#: An append from which nothing but ``updated_at`` follows is reported at most this often (as in codex).
TOUCH_INTERVAL: Final = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class ObservedUpdate:
    """A patch to send, and the append it was last observed from."""

    patch: ThreadMetadataPatch
    observed_from: Position
    generation: int


class ThreadMetadataSync:
    """Observes appended items and says when which patch is due.

    A patch stays pending until `mark_applied`, so that one whose sending failed goes out with the next.
    """

    def __init__(
        self, observer: ItemObserver, updated_at: datetime, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._monotonic = monotonic
        #: What has been observed and not yet sent: facts, the time of the last line, and where it stands.
        self._facts: ThreadMetadataPatch | None = None
        self._updated_at = updated_at
        self._position: Position = START
        self._is_pending = False
        #: Counts what is observed, so that a patch under way is not taken for a later one.
        self._generation = 0
        self._touched_at: float | None = None

    @classmethod
    def for_create(cls, params: CreateThreadParams) -> ThreadMetadataSync:
        """Return the sync of a new thread. What its `session_meta` says is stored with its creation."""
        return cls(ItemObserver(params.thread_id, cwd_seen=bool(params.cwd)), params.created_at)

    @classmethod
    def for_resume(cls, thread: StoredThread) -> ThreadMetadataSync:
        """Return the sync of a reopened thread, from what is stored of it: its history is not read."""
        return cls(ItemObserver.of(thread), thread.updated_at)

    def observe_appended_items(
        self, items: Sequence[RolloutItem], times: Sequence[datetime], position: Position
    ) -> ObservedUpdate | None:
        """Take in *items*, accepted at *position*, each with the time of its line; return the patch that is due.

        Facts are due at once. A mere touch of ``updated_at`` within `TOUCH_INTERVAL` of the last one stays
        pending until a fact, a later touch, or a flush takes it along.
        """
        facts = self._observer.observe(zip(items, times, strict=True))
        if facts is not None:
            self._facts = self._facts.merge(facts) if self._facts else facts
        self._updated_at = max(self._updated_at, *times)
        self._position = position
        self._is_pending = True
        self._generation += 1
        if self._facts is None and self._touched_recently():
            return None
        return self.pending()

    def pending(self) -> ObservedUpdate | None:
        """Return the patch that has not been sent yet, if any."""
        if not self._is_pending:
            return None
        touch = ThreadMetadataPatch(updated_at=self._updated_at)
        patch = self._facts.merge(touch) if self._facts else touch
        return ObservedUpdate(patch, self._position, self._generation)

    def mark_applied(self, update: ObservedUpdate) -> None:
        """Forget *update*, unless more has been observed since it was taken."""
        if self._generation == update.generation:
            self._facts, self._is_pending = None, False
        self._touched_at = self._monotonic()

    def _touched_recently(self) -> bool:
        return self._touched_at is not None and self._monotonic() - self._touched_at < TOUCH_INTERVAL
