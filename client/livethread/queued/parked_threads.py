"""Parked threads, as a user sees them and decides about them: list, retry, drop.

Methods raise `RedisError` or `OSError` if Redis does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any, Final

from livethread.errors import Conflict, ThreadNotFound
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.parking import ParkedThread, WaitingEntry
from livethread.queued.scripts import load_script
from livethread_config import names

#: Entries of a mailbox that one call reads.
PAGE: Final = 100


class ParkedThreads:
    """The parked threads of all shards."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._redis = mailboxes.redis
        self._unpark, self._drop = (
            self._redis.register_script(load_script("livethread.queued", name)) for name in ("unpark", "drop")
        )

    async def all(self) -> list[ParkedThread]:
        """Return all parked threads, sorted by id."""
        found = []
        for of in self._shards():
            parked = await self._redis.hgetall(of.parked)
            found += [
                ParkedThread(thread.decode(errors="replace"), of.shard, detail) for thread, detail in parked.items()
            ]
        return sorted(found, key=lambda parked: parked.thread_id)

    async def require(self, thread_id: str) -> ParkedThread:
        """Return the parked thread, whichever shard holds it: another program may have put it into the wrong one.

        Raises:
            ThreadNotFound: it is not parked.
        """
        for of in self._shards():
            if (detail := await self._redis.hget(of.parked, thread_id)) is not None:
                return ParkedThread(thread_id, of.shard, detail)
        raise ThreadNotFound(thread_id, "it is not parked")

    async def entries(self, parked: ParkedThread) -> AsyncIterator[WaitingEntry]:
        """Yield the entries of a parked thread's mailbox in order, beginning with the one that stopped it."""
        mailbox, start = self._mailboxes.shard(parked.shard).mailbox(parked.thread_id), "-"
        while page := await self._redis.xrange(mailbox, min=start, count=PAGE):
            for position, fields in page:
                yield WaitingEntry(position.decode(), fields)
            start = f"({page[-1][0].decode()}"

    async def unpark(self, parked: ParkedThread) -> bool:
        """Let workers try a thread again, from the task that stopped it; return whether it was still parked."""
        of, thread_id = self._mailboxes.shard(parked.shard), parked.thread_id
        was_parked = bool(await self._unpark([of.ready, of.parked, of.waiting, of.mailbox(thread_id)], [thread_id]))
        if was_parked:
            await self._mailboxes.poke(thread_id)
        return was_parked

    async def drop(self, parked: ParkedThread, entries: list[WaitingEntry]) -> None:
        """Remove *entries*, the first of the mailbox, and let workers continue with the next.

        The entries count as applied: no flush waits for them, and their writers' later tasks are accepted. Dropping
        a deletion opens the thread again.

        Raises:
            Conflict: the thread was retried, or its mailbox changed, after *parked* and *entries* were read; nothing
                is dropped.
        """
        of, thread_id = self._mailboxes.shard(parked.shard), parked.thread_id
        counters: dict[str, int] = {}
        for entry in entries:
            if entry.counter is not None:
                writer, n = entry.counter
                counters[writer] = max(n, counters.get(writer, 0))
        keys = [of.ready, of.parked, of.deleted, *of.thread_keys(thread_id), of.waiting, of.stats]
        args: list[Any] = [thread_id, parked.detail, self._mailboxes.writer_ttl_s, of.acks_prefix, len(entries)]
        args += [entry.position for entry in entries]
        if not await self._drop(keys, args + list(chain.from_iterable(counters.items()))):
            raise Conflict(f"thread {thread_id} is no longer parked at {entries[0].position}; nothing was dropped")
        await self._mailboxes.poke(thread_id)

    def _shards(self) -> Iterator[names.ShardKeys]:
        return map(self._mailboxes.shard, self._mailboxes.deployment.current.shards)
