"""Keeps a live thread's metadata in step with what is appended to it.

Stores receive raw history and literal patches; this is where the one becomes the other, above every store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livethread.item_observer import ItemObserver
from livethread.metadata import ThreadMetadataPatch

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
        self._updated_at = updated_at
        self._monotonic = monotonic
        self._pending: ObservedUpdate | None = None
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
        self._updated_at = max(self._updated_at, *times)
        pending = self._pending.patch if self._pending else ThreadMetadataPatch()
        has_facts = not facts.is_empty() or bool(pending.model_fields_set - {"updated_at"})
        patch = pending.merge(facts).merge(ThreadMetadataPatch(updated_at=self._updated_at))
        self._generation += 1
        self._pending = ObservedUpdate(patch, position, self._generation)
        if not has_facts and self._touched_recently():
            return None
        return self._pending

    def pending(self) -> ObservedUpdate | None:
        """Return the patch that has not been sent yet, if any."""
        return self._pending

    def mark_applied(self, update: ObservedUpdate) -> None:
        """Forget *update*, unless more has been observed since it was taken."""
        if self._pending is not None and self._pending.generation == update.generation:
            self._pending = None
        self._touched_at = self._monotonic()

    def _touched_recently(self) -> bool:
        return self._touched_at is not None and self._monotonic() - self._touched_at < TOUCH_INTERVAL
