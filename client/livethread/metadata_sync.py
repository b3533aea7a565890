"""Keeps a live thread's metadata in step with what is appended to it.

Stores receive raw history and literal patches; this is where the one becomes the other, above every store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livethread.item_observer import ItemObserver, patch_of_append
from livethread.metadata import ThreadMetadataPatch
from livethread.observed import FIRST_OBSERVED
from livethread.types import END, START, position_key

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
    #: Of that append. Only the store learns whether it was a repetition, and what to make of the patch then.
    idempotency_key: str | None = None


class ThreadMetadataSync:
    """Observes appended items and says when which patch is due.

    A patch is handed over once. One whose sending failed is given back, and goes out with the next.
    """

    def __init__(self, observer: ItemObserver, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._monotonic = monotonic
        #: What has been observed and not handed over, by where it stands: of several writers the position decides,
        #: so facts of one place never go out as those of another.
        self._facts: list[ObservedUpdate] = []
        #: That of the last append observed, in the thread's order.
        self._position: Position = START
        self._position_key = position_key(START)
        #: When the latest happened that is not reported; None where nothing did.
        self._updated_at: datetime | None = None
        self._touched_at: float | None = None

    @classmethod
    def for_create(cls, params: CreateThreadParams) -> ThreadMetadataSync:
        """Return the sync of a new thread. What its `session_meta` says is stored with its creation."""
        return cls(ItemObserver(params.thread_id, cwd_seen=bool(params.cwd)))

    @classmethod
    def for_resume(cls, thread: StoredThread) -> ThreadMetadataSync:
        """Return the sync of a reopened thread, from what is stored of it: its history is not read."""
        return cls(ItemObserver.of(thread))

    def observe_appended_items(
        self,
        items: Sequence[RolloutItem],
        times: Sequence[datetime],
        position: Position,
        idempotency_key: str | None = None,
    ) -> list[ObservedUpdate]:
        """Take in *items*, accepted at *position*, each with the time of its line; hand over the patches that are due.

        Facts are due at once. A mere touch of ``updated_at`` within `TOUCH_INTERVAL` of the last one stays
        pending until a fact, a later touch, or a flush takes it along. Items of an append with a key may count for
        nothing: they are observed by themselves, and what they say is due at once, with nothing of other appends.
        """
        if idempotency_key is not None:
            self._add(self._alone(items, times), position, idempotency_key)
            return self.take_pending()
        facts = self._observer.observe(zip(items, times, strict=True))
        if facts is not None:
            self._add(facts, position)
        self._touch(items, times)
        if (key := position_key(position)) > self._position_key:
            self._position, self._position_key = position, key
        if not self._facts and self._touched_recently():
            return []
        return self.take_pending()

    def observe_late_items(
        self, items: Sequence[RolloutItem], times: Sequence[datetime], idempotency_key: str | None = None
    ) -> None:
        """Take in *items* that will be accepted nobody knows where; they stay pending.

        Of what the first item decides they count as the last, of everything else as the first: so they set what
        nobody else has set. With a key the store finds where they landed.
        """
        if idempotency_key is not None:
            self._add(self._alone(items, times), START, idempotency_key)
            return
        facts = self._observer.observe(zip(items, times, strict=True))
        self._touch(items, times)
        if facts is None:
            return
        changes = facts.changes()
        for names, position in ((changes.keys() & FIRST_OBSERVED, END), (changes.keys() - FIRST_OBSERVED, START)):
            if names:
                self._add(ThreadMetadataPatch(**{name: changes[name] for name in names}), position)

    def take_pending(self) -> list[ObservedUpdate]:
        """Hand over the patches that are still to be sent."""
        updates, self._facts = self._facts, []
        if self._updated_at is None:
            return updates
        touch = ObservedUpdate(ThreadMetadataPatch(updated_at=self._updated_at), self._position)
        self._updated_at, self._touched_at = None, self._monotonic()
        if updates and (updates[-1].observed_from, updates[-1].idempotency_key) == (touch.observed_from, None):
            return [*updates[:-1], ObservedUpdate(updates[-1].patch.merge(touch.patch), touch.observed_from)]
        return [*updates, touch]

    def give_back(self, updates: Sequence[ObservedUpdate]) -> None:
        """Take back patches that could not be sent; they go out with the next."""
        for update in updates:
            if update.idempotency_key is not None:
                self._add(update.patch, update.observed_from, update.idempotency_key)
                continue
            facts = {name: value for name, value in update.patch.changes().items() if name != "updated_at"}
            if facts:
                self._add(ThreadMetadataPatch(**facts), update.observed_from)
            if update.patch.updated_at is not None:
                self._advance(update.patch.updated_at)
        self._touched_at = None

    def _alone(self, items: Sequence[RolloutItem], times: Sequence[datetime]) -> ThreadMetadataPatch:
        return patch_of_append(self._observer.thread_id, zip(items, times, strict=True))

    def _add(self, facts: ThreadMetadataPatch, position: Position, idempotency_key: str | None = None) -> None:
        for number, known in enumerate(self._facts):
            if (known.observed_from, known.idempotency_key) == (position, idempotency_key):
                self._facts[number] = ObservedUpdate(known.patch.merge(facts), position, idempotency_key)
                return
        self._facts.append(ObservedUpdate(facts, position, idempotency_key))
        self._facts.sort(key=lambda update: position_key(update.observed_from))

    def _touch(self, items: Sequence[RolloutItem], times: Sequence[datetime]) -> None:
        """Take in when something happened; to say anew what a thread is, is no happening in it."""
        for item, at in zip(items, times, strict=True):
            if not self._observer.is_own_meta(item):
                self._advance(at)

    def _advance(self, at: datetime) -> None:
        self._updated_at = at if self._updated_at is None else max(self._updated_at, at)

    def _touched_recently(self) -> bool:
        return self._touched_at is not None and self._monotonic() - self._touched_at < TOUCH_INTERVAL
