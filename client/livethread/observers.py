"""Events of threads, and the observers that receive them.

Every event is also a structured log line with ids and sizes, never contents.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import orjson

from livethread.metadata import MetadataUpdate, StoredThread
from livethread.model import format_time, utc_now
from livethread.position import Position
from livethread.rollout.session_meta import own_version
from livethread.types import CreateThreadParams

logger = logging.getLogger(__name__)


class InitializationMode(StrEnum):
    """How a thread was opened."""

    NEW = "new"
    FORKED = "forked"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class ThreadInitialized:
    """A thread has started in this process: its guard committed, or its first change was accepted.

    Emitted once per handle, and not for a start that is discarded before a change is accepted.
    """

    action: ClassVar[str] = "thread_initialized"

    thread_id: str
    session_id: str | None
    mode: InitializationMode
    #: Who started the thread: the plain label, as in `CreateThreadParams.thread_source`.
    thread_source: str | None
    source: str | dict[str, Any]
    #: The kind of sub-agent, such as ``review`` or ``thread_spawn``; None if *source* names none.
    subagent_source: str | None
    parent_thread_id: str | None
    forked_from_id: str | None
    #: None until an item names it.
    model: str | None
    #: Whether the session does not intend to keep the thread; None if unknown.
    ephemeral: bool | None
    created_at: datetime
    client_name: str
    client_version: str

    @classmethod
    def of_new(cls, params: CreateThreadParams) -> Self:
        """Return the event of a new or forked thread."""
        return cls(
            thread_id=params.thread_id,
            session_id=params.session_id or params.thread_id,
            mode=InitializationMode.FORKED if params.forked_from_id else InitializationMode.NEW,
            thread_source=params.thread_source,
            source=params.source,
            subagent_source=subagent_label(params.source),
            parent_thread_id=params.parent_thread_id,
            forked_from_id=params.forked_from_id,
            model=None,
            ephemeral=params.ephemeral,
            created_at=params.created_at,
            client_name=params.originator,
            client_version=params.cli_version or own_version(),
        )

    @classmethod
    def of_resumed(cls, thread: StoredThread) -> Self:
        """Return the event of a reopened thread."""
        return cls(
            thread_id=thread.thread_id,
            session_id=thread.session_id,
            mode=InitializationMode.RESUMED,
            thread_source=thread.thread_source,
            source=thread.source,
            subagent_source=subagent_label(thread.source),
            parent_thread_id=thread.parent_thread_id,
            forked_from_id=thread.forked_from_id,
            model=thread.model,
            ephemeral=None,
            created_at=thread.created_at,
            client_name=thread.originator,
            client_version=thread.cli_version,
        )


def subagent_label(source: str | dict[str, Any]) -> str | None:
    """Return the label of a sub-agent's *source*: ``{"subagent": "review"}``, ``{"subagent": {"thread_spawn": …}}``."""
    kind = source.get("subagent") if isinstance(source, dict) else None
    if isinstance(kind, dict) and len(kind) == 1:
        label, detail = next(iter(kind.items()))
        return detail if label == "other" and isinstance(detail, str) else label
    return kind if isinstance(kind, str) else None


@dataclass(frozen=True, slots=True)
class ItemsAppended:
    """Items were accepted, in order. With an idempotency key they may repeat an append, and change nothing."""

    action: ClassVar[str] = "items_appended"

    thread_id: str
    position: Position
    items: int
    #: Bytes of the encoded lines.
    size: int


@dataclass(frozen=True, slots=True)
class MetadataUpdated:
    """An explicit or a derived patch was accepted, in order."""

    action: ClassVar[str] = "metadata_updated"

    thread_id: str
    position: Position
    fields: tuple[str, ...]

    @classmethod
    def of(cls, thread_id: str, position: Position, update: MetadataUpdate) -> Self:
        """Return the event of *update*."""
        return cls(thread_id, position, tuple(update.patch.changes()))

    @classmethod
    def at(cls, thread_id: str, update: MetadataUpdate) -> EventAt:
        """Return what makes the event of *update*, without the update's values."""
        return partial(cls, thread_id, fields=tuple(update.patch.changes()))


@dataclass(frozen=True, slots=True)
class TasksApplied:
    """Everything up to *position* is durable, or was dropped from a parked thread.

    If a worker is faster than Redis' answer, this event precedes the append's `ItemsAppended`.
    """

    action: ClassVar[str] = "tasks_applied"

    thread_id: str
    position: Position


@dataclass(frozen=True, slots=True)
class ThreadParkedEvent:
    """A task of the thread cannot be applied; the thread waits. A store emits it once for each time it is parked."""

    action: ClassVar[str] = "thread_parked"

    thread_id: str
    reason: str
    #: When a worker parked the thread; None if it was parked by hand.
    parked_at: datetime | None = None


ThreadEvent = ThreadInitialized | ItemsAppended | MetadataUpdated | TasksApplied | ThreadParkedEvent

#: Makes the event of a task once its position is known.
EventAt = Callable[[Position], ThreadEvent]

#: Log levels: production sees only the rare events.
_LEVELS: dict[type[ThreadEvent], int] = {
    ThreadInitialized: logging.INFO,
    ItemsAppended: logging.DEBUG,
    MetadataUpdated: logging.DEBUG,
    TasksApplied: logging.DEBUG,
    ThreadParkedEvent: logging.ERROR,
}

#: Number of threads whose last parking is remembered.
PARKINGS_KNOWN: Final = 10_000


class Observers:
    """The observers of one store: functions that receive its events."""

    def __init__(self) -> None:
        self._observers: dict[object, Callable[[ThreadEvent], None]] = {}
        #: Thread -> its last parking: several handles and messages report the same one.
        self._parkings: dict[str, ThreadParkedEvent] = {}

    def subscribe(self, observer: Callable[[ThreadEvent], None]) -> Callable[[], None]:
        """Call *observer* with every event from now on; return the function that ends the subscription.

        Observers run in the event loop and must not block. An observer's error is logged; the others are still called.
        """
        subscription = object()
        self._observers[subscription] = observer
        return lambda: self._observers.pop(subscription, None) and None

    def wants(self, kind: type[ThreadEvent]) -> bool:
        """Whether any observer or log receives events of this *kind*. If not, callers need not make them."""
        return bool(self._observers) or logger.isEnabledFor(_LEVELS[kind])

    def emit(self, event: ThreadEvent) -> None:
        """Log *event* and pass it to every observer, unless it is the parking that was last reported of its thread."""
        if isinstance(event, ThreadParkedEvent) and not self._is_new(event):
            return
        level = _LEVELS[type(event)]
        if logger.isEnabledFor(level):
            extra = {"action": event.action, **asdict(event)}
            logger.log(level, "%s, thread %s: %s", event.action, event.thread_id, _detail(event), extra=extra)
        for observer in tuple(self._observers.values()):
            try:
                observer(event)
            except Exception:
                logger.exception(
                    "an observer of thread %s failed at %s",
                    event.thread_id,
                    event.action,
                    extra={"action": event.action, "thread_id": event.thread_id},
                )

    def _is_new(self, parking: ThreadParkedEvent) -> bool:
        known = self._parkings.pop(parking.thread_id, None)
        self._parkings[parking.thread_id] = parking
        if len(self._parkings) > PARKINGS_KNOWN:
            del self._parkings[next(iter(self._parkings))]
        return parking != known


def _detail(event: ThreadEvent) -> str:
    match event:
        case ThreadInitialized():
            return event.mode
        case ItemsAppended():
            return f"{event.items} items, {event.size} bytes, at {event.position}"
        case MetadataUpdated():
            return f"{', '.join(event.fields)}, at {event.position}"
        case TasksApplied():
            return f"up to {event.position}"
        case ThreadParkedEvent():
            return event.reason


class JsonLinesObserver:
    """Appends each event to a file as one line of JSON: ``at``, ``event`` and the event's fields.

    Events hold ids and sizes, never contents. One unbuffered write per line lets several processes share a file.

        with JsonLinesObserver("events.jsonl") as observer:
            store.observers.subscribe(observer)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open *path* for appending; create it if it is missing.

        Raises:
            OSError: *path* cannot be opened.
        """
        self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - stays open as long as the observer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, event: ThreadEvent) -> None:
        """Append *event*."""
        record = {"at": format_time(utc_now()), "event": event.action, **asdict(event)}
        try:
            line = orjson.dumps(record, option=orjson.OPT_UTC_Z)
        except TypeError:  # an integer beyond 64 bits in a source
            line = json.dumps(record, ensure_ascii=False, default=format_time).encode()
        self._file.write(line + b"\n")

    def close(self) -> None:
        """Close the file. Later events are lost, and logged as observer failures."""
        self._file.close()
