"""Appends items: their lines, search text and turns, and ``updated_at``. Their metadata comes as a patch of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from livethread.errors import InvalidRequest
from livethread.metadata_state import is_activity
from livethread.metadata_sync import ThreadMetadataSync
from livethread.model import parse_time
from livethread.ordered_tasks import AppendItems, MailboxEntry
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.lines import KEY_FIELD, decode_line
from livethread_worker.store.write.thread_work import Line, ThreadWork

#: Fields that only the store adds to a line.
_STORE_FIELDS: Final = frozenset({"seq", "position", "ordinal", KEY_FIELD})


def append_items(work: ThreadWork, entry: MailboxEntry, done: int) -> Sequence[Line]:
    """Plan an append; one that repeats an idempotency key leaves no line.

    Raises:
        InvalidRequest: a line holds no item, or has no time.
        ThreadNotFound: there is no thread.
    """
    header, metadata = entry.task.header, work.metadata()
    assert isinstance(header, AppendItems)
    if not entry.task.lines:
        raise InvalidRequest("an append_items has no lines")
    idempotency_key = header.idempotency_key
    if idempotency_key is not None and idempotency_key in work.state.idempotency_keys and not done:
        return ()
    items = [_require_item(line) for line in entry.task.lines]
    if idempotency_key is not None:
        work.state.idempotency_keys.add(idempotency_key)
    for item, at in items[done:]:
        if is_activity(item["type"]):
            metadata.touch(at)
    if done:
        _derive_rest(work, items[done:])
    else:
        work.appended = entry.writer, entry.n
    return [
        Line(line, item, is_meta=_is_own_meta(item, work.state.thread_id), idempotency_key=idempotency_key)
        for line, (item, _) in zip(entry.task.lines, items, strict=True)
    ]


def _derive_rest(work: ThreadWork, items: Sequence[tuple[dict[str, Any], datetime]]) -> None:
    """Derive the metadata of the rest of a half-written append, as reading the whole rollout would.

    The metadata of its first lines was derived when they were read, before whatever another program wrote after them.
    """
    sync = ThreadMetadataSync.for_stored(work.metadata().thread)
    for item, at in items:
        sync.add(item["type"], item["payload"], at)
    if update := sync.take():
        work.metadata().update(update, is_explicit=False)


def _is_own_meta(item: dict[str, Any], thread_id: str) -> bool:
    payload = item["payload"]
    return item["type"] == "session_meta" and isinstance(payload, dict) and payload.get("id") == thread_id


def _require_item(line: bytes) -> tuple[dict[str, Any], datetime]:
    """Return the item that an append's *line* holds, and its time."""
    value = decode_line(line)
    if value is None or not isinstance(value.get("type"), str) or "payload" not in value:
        raise InvalidRequest("a line of an append_items holds no item")
    if not _STORE_FIELDS.isdisjoint(value) or value["type"] == THREAD_METADATA_TYPE:
        raise InvalidRequest("a line of an append_items has a field or a type that only the store may write")
    at = parse_time(value.get("timestamp"))
    if at is None:  # each reader of the rollout would have to guess it
        raise InvalidRequest("a line of an append_items has no timestamp")
    return value, at
