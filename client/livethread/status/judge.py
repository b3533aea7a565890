"""Which sentences are true of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from livethread.queued.statistics import DeploymentStatistics, ShardStatistics, WaitingThread
from livethread.status.facts import Facts
from livethread.status.findings import Finding, Sentence, State
from livethread.units import counted, duration, size

#: Beyond this age of a task, workers are behind.
BEHIND: Final = 5.0  # seconds
#: A worker looks for ready threads at least this often while any wait: retries are 10 s apart, sweeps 2 s.
UNLOOKED: Final = 15.0  # seconds
#: Share of Redis' memory from which it is nearly full.
NEARLY_FULL: Final = 0.9
#: Free bytes at which a disk is full, and nearly full; the latter is at most that share of the disk.
FULL_DISK: Final = 1024**2
NEARLY_FULL_DISK: Final = 1024**3
NEARLY_FULL_SHARE: Final = 0.05
#: Characters of a reason in a sentence.
REASON: Final = 200
#: Workers or shards that a sentence names.
LISTED: Final = 4

#: How the operating system and SQLite say that a disk is full.
_FULL: Final = ("No space left on device", "Disk quota exceeded", "database or disk is full")

_ORDER: Final = {sentence: n for n, sentence in enumerate(Sentence)}


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return the findings, worst first; if there are none, only that all is well."""
    found = sorted(_found(facts), key=lambda finding: _ORDER[finding.sentence])
    stuck = any(finding.sentence.state is State.STUCK for finding in found)
    found = [f for f in found if not (stuck and f.sentence is Sentence.BEHIND)]  # what is stuck is behind, too
    return tuple(found) or (Finding(Sentence.WELL),)


def _found(facts: Facts) -> Iterator[Finding]:
    if facts.silence is not None:
        yield facts.silence
    if facts.redis is not None:
        yield from _redis(facts)
    yield from _disk(facts)
    if facts.statistics is not None:
        yield from _workers(facts, facts.statistics)
        yield from _threads(facts, facts.statistics)


def _redis(facts: Facts) -> Iterator[Finding]:
    redis = facts.redis
    assert redis is not None
    if redis.refusal:
        yield Finding(Sentence.REDIS_READ_ONLY, redis.refusal)
    if redis.max_bytes is not None and redis.used_bytes >= NEARLY_FULL * redis.max_bytes:
        is_full = redis.used_bytes >= redis.max_bytes
        detail = f"{size(redis.used_bytes)} of {size(redis.max_bytes)}"
        yield Finding(Sentence.REDIS_FULL if is_full else Sentence.REDIS_NEARLY_FULL, detail)
    if redis.max_bytes is not None and redis.may_evict:
        yield Finding(Sentence.EVICTION)
    if not redis.has_append_only_file:
        yield Finding(Sentence.NO_PERSISTENCE)


def _disk(facts: Facts) -> Iterator[Finding]:
    home = facts.home
    # Not of parked threads: the disk may have room by now.
    failed = next((thread for thread in facts.longest if not thread.is_parked and _lacks_space(thread)), None)
    if home is not None and home.free_bytes < FULL_DISK:
        yield Finding(Sentence.DISK_FULL, f"{size(home.free_bytes)} free at {home.path}")
    elif failed is not None:
        yield Finding(Sentence.DISK_FULL, _about(facts, failed))
    elif home is not None and home.free_bytes < min(NEARLY_FULL_DISK, NEARLY_FULL_SHARE * home.size_bytes):
        yield Finding(Sentence.DISK_NEARLY_FULL, f"{size(home.free_bytes)} free at {home.path}")


def _workers(facts: Facts, statistics: DeploymentStatistics) -> Iterator[Finding]:
    live = [worker for worker in statistics.workers if worker.is_live]
    lost = [worker for worker in statistics.workers if not worker.is_live]
    last_seen = [f"{worker.name} was seen {duration(facts.age(worker.seen_at))} ago" for worker in lost]
    if not live:
        yield Finding(Sentence.NO_WORKER, _listed([_backlog(facts), *last_seen]))
        return
    if lost:
        yield Finding(Sentence.LOST_WORKER, _listed(last_seen))
    served = {shard for worker in live for shard in worker.shards}
    # A shard without a home may just have been added: it matters once a task waits there.
    unserved = [s for s in statistics.shards if s.shard not in served and (s.home or s.unapplied_tasks)]
    if unserved:
        homes = [f"shard {s.shard}, {s.home or 'which has no home yet'}{_waiting(s)}" for s in unserved]
        yield Finding(Sentence.UNSERVED_SHARD, _listed(homes))
    unanswered = [shard for shard in statistics.shards if shard.shard in served and _is_unanswered(facts, shard)]
    if unanswered:
        yield Finding(Sentence.UNANSWERED_DOORBELLS, _listed([_unlooked(facts, shard) for shard in unanswered]))


def _is_unanswered(facts: Facts, shard: ShardStatistics) -> bool:
    is_old = shard.oldest_unapplied_at is not None and facts.age(shard.oldest_unapplied_at) > UNLOOKED
    return is_old and (shard.looked_at is None or facts.age(shard.looked_at) > UNLOOKED)


def _unlooked(facts: Facts, shard: ShardStatistics) -> str:
    looked = "ever looked" if shard.looked_at is None else "looked"
    since = "" if shard.looked_at is None else f" for {duration(facts.age(shard.looked_at))}"
    messages = counted(shard.doorbells, "message")
    return f"no worker has {looked} for tasks of shard {shard.shard}{since}, and its queue holds {messages}"


def _threads(facts: Facts, statistics: DeploymentStatistics) -> Iterator[Finding]:
    if parked := sum(shard.parked_threads for shard in statistics.shards):
        first = next((_about(facts, thread) for thread in facts.longest if thread.is_parked), "")
        of_many = f"{parked:,}" + (f", such as {first}" if first else "")
        yield Finding(Sentence.PARKED, first if parked == 1 and first else of_many)
    waiting = [thread for thread in facts.longest if not thread.is_parked]
    retried = [t for t in waiting if t.reason and facts.age(t.since) > BEHIND]
    if retried and not _lacks_space(retried[0]):
        yield Finding(Sentence.RETRIED, _about(facts, retried[0]))
    if (facts.oldest_s or 0) > BEHIND and not (waiting and all(thread.reason for thread in waiting)):
        clears = facts.clears_in_s
        yield Finding(Sentence.BEHIND, _backlog(facts) + (f", cleared in {duration(clears)}" if clears else ""))


def _lacks_space(thread: WaitingThread) -> bool:
    return any(text in (thread.reason or "") for text in _FULL)


def _listed(texts: list[str]) -> str:
    more = [f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else []
    return "; ".join(texts[:LISTED] + more)


def _about(facts: Facts, thread: WaitingThread) -> str:
    tried = f", {counted(thread.failures, 'failed attempt')}" if thread.failures else ""
    reason = " ".join((thread.reason or "").split())
    cut = reason if len(reason) <= REASON else f"{reason[:REASON]}…"
    return f"thread {thread.thread_id} for {duration(facts.age(thread.since))}{tried}: {cut}"


def _backlog(facts: Facts) -> str:
    if facts.oldest_s is None:
        parked = f"{counted(facts.unapplied, 'unapplied task')} of parked threads"
        return parked if facts.unapplied else "nothing waits"
    return f"{counted(facts.unapplied, 'unapplied task')}, the oldest for {duration(facts.oldest_s)}"


def _waiting(shard: ShardStatistics) -> str:
    return f": {counted(shard.unapplied_tasks, 'unapplied task')}" if shard.unapplied_tasks else ""
