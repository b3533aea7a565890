"""What the store in memory holds of one thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.metadata_state import MetadataState
from livethread.position import START, Position, position_key
from livethread.rollout.lines import decode_line, items_of


@dataclass(slots=True)
class Stored:
    """A stored thread, with its lines."""

    thread: StoredThread
    lines: list[bytes]
    position: Position = START
    #: Position and time of the task that set the name.
    named: tuple[Position, datetime | None] = (START, None)
    #: First-wins fields that a caller set explicitly.
    explicit_fields: set[str] = field(default_factory=set)
    #: The thread whose lines it shares, if it is a fork.
    base_id: str | None = None
    #: Idempotency keys that are taken.
    idempotency_keys: set[str] = field(default_factory=set)

    #: Position of the task of each line; inherited lines keep theirs.
    positions: list[Position] = field(default_factory=list)

    def after(self, place: int | Position) -> int:
        """Return the number of the first line after an ordinal, or after the tasks up to a position."""
        if isinstance(place, int):
            return min(place + 1, len(self.lines))
        shown = [position_key(each) <= position_key(place) for each in self.positions]
        return len(shown) - shown[::-1].index(True) if any(shown) else 0

    def shown(self) -> StoredThread:
        """Return the thread with its position."""
        return self.thread.model_copy(update={"position": self.position})

    def metadata(self) -> MetadataState:
        """Return the metadata as a state that updates change."""
        return MetadataState(self.thread, self.explicit_fields)

    def history(self) -> StoredThreadHistory:
        """Return the items."""
        records = ({**(decode_line(line) or {}), "ordinal": n} for n, line in enumerate(self.lines))
        return StoredThreadHistory(self.thread.thread_id, items_of(records), self.position)
