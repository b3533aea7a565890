"""What a shard's `waiting` and `stats` must say, from its mailboxes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from redis import Redis

from livethread_config.names import ShardKeys


def true_counts(redis: Redis, keys: ShardKeys, thread_ids: Collection[str]) -> dict[str, int]:
    """Check the shard's ``waiting`` and its number of unapplied tasks, and return the other counts that are not 0."""
    questions: Any = redis.pipeline()
    questions.zrange(keys.waiting, 0, -1, withscores=True)
    questions.hgetall(keys.stats)
    questions.hkeys(keys.parked)
    for thread_id in thread_ids:
        questions.xlen(keys.mailbox(thread_id))
        questions.xrange(keys.mailbox(thread_id), count=1)
    waiting, stats, parked, *mailboxes = questions.execute()
    heads = {
        thread_id.encode(): float(first[0][0].partition(b"-")[0])
        for thread_id, first in zip(thread_ids, mailboxes[1::2], strict=True)
        if first and thread_id.encode() not in parked
    }
    assert dict(waiting) == heads, "`waiting` is wrong"
    counts = {field.decode(): int(count) for field, count in stats.items()}
    accepted, applied = (sum(n for name, n in counts.items() if name.startswith(of)) for of in ("accepted:", "lag:"))
    unapplied = accepted - applied - counts.get("dropped", 0) - counts.get("lost", 0)
    assert unapplied == sum(mailboxes[::2]), "the number of unapplied tasks is wrong"
    return {name: n for name, n in counts.items() if n and name not in {"lost", "counted_at"}}
