"""What happens to threads, told to whoever subscribes.

Every event is also a structured log line with ids and sizes, never contents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

from livethread.types import Position

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ThreadInitialized:
    """A thread was opened by this process: created, or resumed."""

    action: ClassVar[str] = "thread_initialized"

    thread_id: str
    #: Who started the thread: the plain label, as in `CreateThreadParams.thread_source`.
    thread_source: str | None
    resumed: bool


@dataclass(frozen=True, slots=True)
class ItemsAppended:
    """Items were accepted, in order; with an idempotency key perhaps as a repetition that changes nothing."""

    action: ClassVar[str] = "items_appended"

    thread_id: str
    position: Position
    items: int
    #: Bytes of the encoded lines.
    size: int


@dataclass(frozen=True, slots=True)
class MetadataUpdated:
    """A metadata patch was accepted, in order."""

    action: ClassVar[str] = "metadata_updated"

    thread_id: str
    position: Position
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TasksApplied:
    """Everything up to *position* is durable, or somebody dropped it from a parked thread.

    A worker may be quicker than the answer to the append: its `ItemsAppended` may come behind.
    """

    action: ClassVar[str] = "tasks_applied"

    thread_id: str
    position: Position


@dataclass(frozen=True, slots=True)
class ThreadParkedEvent:
    """A task of the thread cannot be applied; the thread waits."""

    action: ClassVar[str] = "thread_parked"

    thread_id: str
    reason: str


ThreadEvent = ThreadInitialized | ItemsAppended | MetadataUpdated | TasksApplied | ThreadParkedEvent

#: Frequent events are debug lines, rare ones are worth a line in production.
_LEVELS: dict[type[ThreadEvent], int] = {
    ThreadInitialized: logging.INFO,
    ItemsAppended: logging.DEBUG,
    MetadataUpdated: logging.DEBUG,
    TasksApplied: logging.DEBUG,
    ThreadParkedEvent: logging.ERROR,
}


class Observers:
    """The subscribers of one store."""

    def __init__(self) -> None:
        self._subscribers: dict[object, Callable[[ThreadEvent], None]] = {}

    def subscribe(self, subscriber: Callable[[ThreadEvent], None]) -> Callable[[], None]:
        """Call *subscriber* with every event from now on; return the function that ends it.

        Subscribers run in the event loop and must not block. One that raises is logged, and disturbs nobody.
        """
        key = object()
        self._subscribers[key] = subscriber
        return lambda: self._subscribers.pop(key, None) and None

    def wants(self, kind: type[ThreadEvent]) -> bool:
        """Whether anybody hears of events of that *kind*: of those that there are thousands of, none is made for nobody."""
        return bool(self._subscribers) or logger.isEnabledFor(_LEVELS[kind])

    def emit(self, event: ThreadEvent) -> None:
        """Log *event* and hand it to every subscriber."""
        level = _LEVELS[type(event)]
        if logger.isEnabledFor(level):
            logger.log(level, event.action, extra={"action": event.action, **asdict(event)})
        for subscriber in tuple(self._subscribers.values()):
            try:
                subscriber(event)
            except Exception:
                logger.exception("thread observer failed", extra={"action": event.action})
