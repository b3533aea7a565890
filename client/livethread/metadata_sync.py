"""Keeps a live thread's metadata in step with what is appended to it.

Stores receive raw history and literal patches; this is where the one becomes the other, above every store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livethread.item_observer import ItemObserver
from livethread.metadata import ThreadMetadataPatch
from livethread.types import START, position_key

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


class ThreadMetadataSync:
    """Observes appended items and says when which patch is due.

    A patch is handed over once. One whose sending failed is given back, and goes out with the next.
    """

    def __init__(
        self, observer: ItemObserver, updated_at: datetime, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._monotonic = monotonic
        #: What has been observed and not handed over: facts, and where the last of them stands.
        self._facts: ThreadMetadataPatch | None = None
        self._position: Position = START
        self._updated_at = updated_at
        self._is_pending = False
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
        """Take in *items*, accepted at *position*, each with the time of its line; hand over the patch that is due.

        Facts are due at once. A mere touch of ``updated_at`` within `TOUCH_INTERVAL` of the last one stays
        pending until a fact, a later touch, or a flush takes it along.
        """
        facts = self._observer.observe(zip(items, times, strict=True))
        if facts is not None:
            self._facts = self._facts.merge(facts) if self._facts else facts
        self._updated_at = max(self._updated_at, *times)
        self._position = max(self._position, position, key=position_key)
        self._is_pending = True
        if self._facts is None and self._touched_recently():
            return None
        return self.take_pending()

    def take_pending(self) -> ObservedUpdate | None:
        """Hand over the patch that is still to be sent, if any."""
        if not self._is_pending:
            return None
        touch = ThreadMetadataPatch(updated_at=self._updated_at)
        patch = self._facts.merge(touch) if self._facts else touch
        self._facts, self._is_pending = None, False
        self._touched_at = self._monotonic()
        return ObservedUpdate(patch, self._position)

    def give_back(self, update: ObservedUpdate) -> None:
        """Take back a patch that could not be sent; what was observed since counts over it."""
        self._facts = update.patch.merge(self._facts) if self._facts else update.patch
        self._is_pending = True
        self._touched_at = None

    def _touched_recently(self) -> bool:
        return self._touched_at is not None and self._monotonic() - self._touched_at < TOUCH_INTERVAL
