"""Parked threads: what stopped them, what waits behind it, and what somebody decides about it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from livethread.errors import Conflict, InvalidRequest, ThreadNotFound
from livethread.ordered_tasks import OrderedTask
from livethread.queued.scripts import load_script
from livethread_config import Settings, names

#: Entries that are read in one call.
PAGE: Final = 100

#: Above every counter that a task can have.
_MAX_COUNTER: Final = 2**53


@dataclass(frozen=True, slots=True)
class ParkedThread:
    """A thread that waits for somebody's decision."""

    thread_id: str
    keys: names.ShardKeys
    #: What Redis holds of it: JSON.
    detail: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return its id, and what is known of why it is parked."""
        try:
            detail: Any = json.loads(self.detail)
        except ValueError:
            detail = {"reason": self.detail.decode(errors="replace")}
        known = {"reason": "", "applied": None, "parked_at": None}
        return {"thread_id": self.thread_id, **known, **(detail if isinstance(detail, dict) else {"reason": detail})}


@dataclass(frozen=True, slots=True)
class WaitingEntry:
    """An entry of a parked thread's mailbox: a task, or whatever somebody put there."""

    position: str
    fields: dict[bytes, bytes]

    @property
    def task(self) -> OrderedTask | None:
        """The task that it holds, where it holds one."""
        try:
            return OrderedTask.from_wire(self.fields[b"task"], self.fields.get(b"lines", b""))
        except (InvalidRequest, KeyError):
            return None

    @property
    def counter(self) -> tuple[str, int] | None:
        """Writer and counter, where it says them."""
        writer, n = self.fields.get(b"writer", b""), self.fields.get(b"n", b"")
        if re.fullmatch(rb"[A-Za-z0-9_.-]{1,64}", writer) and re.fullmatch(rb"[0-9]{1,16}", n):
            return (writer.decode(), int(n)) if 0 < int(n) < _MAX_COUNTER else None
        return None

    @property
    def size(self) -> int:
        """Bytes of its fields."""
        return sum(map(len, self.fields.values()))

    def as_dict(self) -> dict[str, Any]:
        """Return what can be said of it without telling what it holds."""
        writer, n = self.counter or (None, None)
        said: dict[str, Any] = {"position": self.position, "writer": writer, "n": n, "op": None, "bytes": self.size}
        if (task := self.task) is not None:
            said |= {"op": task.header.op, "at": task.header.at.isoformat(), "items": len(task.lines)}
        return said

    def contents(self) -> dict[str, Any]:
        """Return its fields, whole: text, or ``{"base64": …}`` of what is none."""
        return {name.decode(errors="replace"): _readable(value) for name, value in self.fields.items()}


class ParkedThreads:
    """The parked threads of a deployment."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether answers are bytes; ours are
        self._settings = settings
        self._drop = redis.register_script(load_script("livethread.queued", "drop"))
        self._keys = [names.ShardKeys(settings.key_prefix, shard) for shard in range(settings.shards)]

    async def all(self) -> list[ParkedThread]:
        """Return all, sorted by their ids."""
        found = []
        for keys in self._keys:
            parked = await self._redis.hgetall(keys.parked)
            found += [ParkedThread(thread.decode(), keys, detail) for thread, detail in parked.items()]
        return sorted(found, key=lambda parked: parked.thread_id)

    async def require(self, thread_id: str) -> ParkedThread:
        """Return the parked thread *thread_id*, in whichever shard it stands: others may have put it there.

        Raises:
            ThreadNotFound: it is not parked.
        """
        for keys in self._keys:
            if (detail := await self._redis.hget(keys.parked, thread_id)) is not None:
                return ParkedThread(thread_id, keys, detail)
        raise ThreadNotFound(thread_id, "it is not parked")

    async def waiting(self, parked: ParkedThread) -> AsyncIterator[WaitingEntry]:
        """Yield what stands in its mailbox, in order; at the first it stopped."""
        start = "-"
        while page := await self._redis.xrange(parked.keys.mailbox(parked.thread_id), min=start, count=PAGE):
            for position, fields in page:
                yield WaitingEntry(position.decode(), fields)
            start = f"({page[-1][0].decode()}"

    async def drop(self, parked: ParkedThread, entries: list[WaitingEntry]) -> None:
        """Remove *entries*, the first of its mailbox, and let workers go on behind them.

        They count as applied: nobody waits for them, and their writers' later tasks are taken. A dropped deletion
        opens the thread again.

        Raises:
            Conflict: the thread was retried, or its mailbox changed, since *parked* and *entries* were read; nothing
                is dropped.
        """
        keys, thread_id = parked.keys, parked.thread_id
        counters = _last_counters(entries)
        dropped = await self._drop(
            keys=[
                keys.ready,
                keys.parked,
                keys.deleted,
                keys.mailbox(thread_id),
                keys.writers(thread_id),
                keys.applied(thread_id),
                keys.keys(thread_id),
            ],
            args=[
                thread_id,
                parked.detail,
                self._settings.writer_ttl_days * 86_400,
                keys.told_prefix,
                len(entries),
                *(entry.position for entry in entries),
                *(field for pair in counters.items() for field in pair),
            ],
        )
        if not dropped:
            raise Conflict(f"thread {thread_id} is no longer parked at {entries[0].position}; nothing was dropped")


def _last_counters(entries: Iterable[WaitingEntry]) -> dict[str, int]:
    last: dict[str, int] = {}
    for entry in entries:
        if entry.counter is not None:
            writer, n = entry.counter
            last[writer] = max(n, last.get(writer, 0))
    return last


def _readable(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
