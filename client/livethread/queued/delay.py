"""Asks Redis why a thread's tasks are not applied yet, or why a read waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from livethread.queued.put_back import PutBack
from livethread.units import counted
from livethread_config import names

#: A worker that looked for work, or swept, within this time counts as running.
RECENT_S: Final = 60.0

#: What to ask if no worker seems to run.
START_ONE: Final = "Is a worker running (celery --app livethread_worker.entrypoint worker)?"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What Redis knows about a thread and its shard. Times are in seconds since 1970, by Redis' clock."""

    shard: int
    #: The shard's queue of doorbells.
    queue: str
    now: float
    #: When a worker last looked for ready threads of the shard; None: never.
    looked_at: float | None
    #: When a worker, of this shard or of another, last swept the shard.
    swept_at: float | None
    #: Whether a drain is at work on the shard.
    is_draining: bool
    #: Number of the shard's ready threads.
    ready: int
    #: Number of messages that no worker has taken from the queue.
    messages: int
    #: When the claim on the thread expires, if a worker holds it.
    claimed_until: float | None
    #: Why a worker put the thread back, and how many attempts in a row have failed.
    put_back: str
    failed: int

    def cause(self) -> str:
        """Return why the thread's tasks wait, as a sentence or two for people."""
        if self.put_back:
            attempts = f" ({self.failed} failed attempts so far)" if self.failed else ""
            return f"A worker put the thread back{attempts}: {self.put_back}"
        if self.claimed_until is not None and self.claimed_until >= self.now:
            return f"A worker holds the thread's claim until {_time(self.claimed_until)}, unless it settles earlier."
        if self.is_draining:
            return f"A worker is at work on shard {self.shard}, which has {counted(self.ready, 'ready thread')}."
        since = (
            f"No worker has looked for tasks of shard {self.shard} since {_time(self.looked_at)}. "
            if self.looked_at is not None
            else f"No worker has ever looked for tasks of shard {self.shard}. "
        )
        return f"{since}{self._of_the_queue()}"

    def cause_of_read(self) -> str:
        """Return why no worker takes a read of the shard, as a sentence or two for people."""
        if self.is_draining:
            return f"A worker is at work on shard {self.shard}."
        return self._of_the_queue()

    def _of_the_queue(self) -> str:
        messages = ""
        if self.messages:
            messages = f"{counted(self.messages, 'message')} {'wait' if self.messages > 1 else 'waits'} in the queue {self.queue}. "
        if self.swept_at is None or self.swept_at < self.now - RECENT_S:
            return f"{messages}{START_ONE}"
        return (
            f"{messages}A worker swept at {_time(self.swept_at)}. If it still runs: "
            f"does one on the host of the shard's home serve the queue {self.queue}?"
        )


async def circumstances(redis: Any, prefix: str, shard: int, thread_id: str = "") -> Circumstances:
    """Return what *redis* knows about a shard, and about a thread of it.

    Raises:
        RedisError, OSError: it does not answer.
    """
    of, queue = names.ShardKeys(prefix, shard), names.queue_name(prefix, shard)
    async with redis.pipeline(transaction=False) as questions:
        questions.time()
        questions.mget(of.looked, of.swept)
        questions.exists(of.drain)
        questions.zcard(of.ready)
        questions.llen(names.celery_key_prefix(prefix) + queue)
        questions.zscore(of.claims, thread_id)
        questions.hget(of.attempts, thread_id)
        (
            (seconds, micros),
            (looked, swept),
            is_draining,
            ready,
            messages,
            claimed,
            attempts,
        ) = await questions.execute()
    failed, put_back = PutBack.parse(attempts)
    return Circumstances(
        shard=shard,
        queue=queue,
        now=seconds + micros / 1_000_000,
        looked_at=None if looked is None else int(looked) / 1000,
        swept_at=None if swept is None else int(swept) / 1000,
        is_draining=bool(is_draining),
        ready=ready,
        messages=messages,
        claimed_until=None if claimed is None else claimed / 1000,
        put_back=put_back,
        failed=failed,
    )


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
