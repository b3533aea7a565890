"""What Redis says about threads: which are parked, and which are open."""

from __future__ import annotations

from redis.exceptions import RedisError

from livethread.errors import InvalidRequest
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.parked_threads import ParkedThreads
from livethread.queued.parking import Parking

#: Redis does not answer, or holds another deployment.
_UNKNOWN = (RedisError, OSError, InvalidRequest)


class RedisQueueState:
    """Asks Redis about threads, and changes none."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._parked_threads = ParkedThreads(mailboxes)

    async def parked(self) -> dict[str, str] | None:
        """Return the parked threads, each with the reason; None if Redis does not answer."""
        try:
            await self._learn_shards()
            return {each.thread_id: Parking.parse(each.detail).reason for each in await self._parked_threads.all()}
        except _UNKNOWN:
            return None

    async def is_open(self, thread_id: str) -> bool:
        """Whether a connected client has a thread open. False if Redis does not answer."""
        try:
            await self._learn_shards()
            return await self._mailboxes.is_open(thread_id)
        except _UNKNOWN:
            return False

    async def _learn_shards(self) -> None:
        if not self._mailboxes.deployment.is_read:  # later changes are read regularly
            await self._mailboxes.deployment.look()
