"""What Redis says about threads: which are parked, and which are open."""

from __future__ import annotations

from redis.exceptions import RedisError

from livethread.queued.mailboxes import Mailboxes
from livethread.queued.parked_threads import parked_reason


class RedisQueueState:
    """Asks Redis about threads, and changes nothing."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def parked(self) -> dict[str, str] | None:
        """Return the parked threads, each with the reason; None if Redis does not answer."""
        try:
            return {each.thread_id: parked_reason(each.detail) for each in await self._mailboxes.parked()}
        except (RedisError, OSError):
            return None

    async def is_open(self, thread_id: str) -> bool:
        """Whether a connected client has a thread open. False if Redis does not answer."""
        try:
            return await self._mailboxes.is_open(thread_id)
        except (RedisError, OSError):
            return False
