"""A worker's access to the mailboxes of one shard."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redis import Redis

from livethread import errors, types
from livethread.model import format_time, utc_now
from livethread.ordered_tasks import MailboxEntry, OrderedTask
from livethread.position import position_key
from livethread.queued.put_back import PutBack
from livethread.queued.scripts import BELL_TTL_MS, load_script
from livethread_config import Settings, names
from livethread_config.deployment import HomeIdentity, home_field
from livethread_worker.store.files.scan import MAX_COUNTER
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

#: ms without a claim after which a drain counts as gone, so that the next enqueue rings.
DRAIN_TTL_MS: Final = 1_000

#: Maximum number of one thread's tasks in a claim; a hot thread then goes to the end of the queue.
TASKS_PER_THREAD: Final = 500

#: Approximate bytes of lines in a claim.
CLAIM_BYTES: Final = 16 * 1024 * 1024

#: After the main budgets are spent: how many more ready threads to check, how many tasks count as few, and the
#: budgets for all threads with few tasks.
LOOK_AHEAD: Final = 1_000
FEW_TASKS: Final = 16
FEW_TASKS_IN_ALL: Final = 500
FEW_TASKS_BYTES: Final = 4 * 1024 * 1024

#: ms before a busy thread may be claimed again.
BUSY_WAIT_MS: Final = 200

#: First and longest wait, in ms, before a thread may be claimed again after a failed attempt; each failure doubles it.
RETRY_FIRST_MS: Final = 200
RETRY_LONGEST_MS: Final = 10_000

#: How often workers look for cold rollouts to compress.
COMPRESS_INTERVAL: Final = 3_600  # seconds

#: Maximum length, in Redis, of the reason why a thread was put back.
REASON_CHARACTERS: Final = 500

_WRITER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Malformed:
    """A mailbox entry that is not a task."""

    position: str
    #: Bytes of its fields.
    size: int
    fault: str

    def __str__(self) -> str:
        return f"the entry at {self.position} is not a task: {self.fault}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Tasks of one thread that this drain holds."""

    thread_id: str
    put_back: PutBack
    entries: list[MailboxEntry]
    #: The entry after these if it is malformed; later entries were not read.
    malformed: Malformed | None = None

    def is_put_back_again(self, outcome: Outcome) -> bool:
        """Whether *outcome* puts the thread back for the same reason as the last one did."""
        return self.put_back.reason == _short(outcome.reason)

    def applied(self, outcome: Outcome) -> list[MailboxEntry]:
        """Return the entries up to the position of *outcome*."""
        if outcome.position is None:
            return []
        if self.entries and self.entries[-1].position == outcome.position:
            return self.entries
        last = position_key(outcome.position)
        return [entry for entry in self.entries if position_key(entry.position) <= last]

    def stopped_at(self, outcome: Outcome) -> MailboxEntry | Malformed | None:
        """Return the first entry that *outcome* leaves in the mailbox, as far as this claim knows it."""
        return next(iter(self.entries[len(self.applied(outcome)) :]), self.malformed)


class Mailbox:
    """One drain's access to a shard. Its claims expire if it does not settle them.

    With a *home*, it claims and settles only while the deployment record says that this home serves the shard.
    """

    def __init__(self, redis: Redis, settings: Settings, shard: int, home: HomeIdentity | None = None) -> None:
        self.shard = shard
        self._redis = redis
        self._settings = settings
        self._keys = names.ShardKeys(settings.key_prefix, shard)
        #: Name of the shard's Celery queue.
        self.queue = names.queue_name(settings.key_prefix, shard)
        self._deployment = names.deployment_key(settings.key_prefix)
        self._home_args = ["", "", "", ""] if home is None else [home_field(shard), home.id, home.inode, home.text]
        self._token = uuid.uuid4().hex
        self._is_first = True
        scripts = (load_script("livethread_worker.drain", name) for name in ("claim", "settle", "rest", "sweep"))
        self._claim, self._settle, self._rest, self._sweep = map(redis.register_script, scripts)

    def disconnect(self) -> None:
        """Close idle connections: they may lead to a former master. Later calls open new ones."""
        self._redis.connection_pool.disconnect(inuse_connections=False)

    def claim(self) -> tuple[bool, list[Claim]]:
        """Take ready threads; also return whether more are ready and a doorbell must be rung.

        Raises:
            ResponseError: another home serves the shard.
        """
        keys = self._keys
        shard_keys = [
            keys.ready,
            keys.claims,
            keys.tokens,
            keys.attempts,
            keys.parked,
            keys.bell,
            keys.drain,
            keys.looked,
            keys.waiting,
        ]
        ring, *threads = self._claim(
            keys=[*shard_keys, self._deployment],
            args=[
                self._token,
                int(self._settings.claim_ttl_s * 1000),
                self._settings.claim_threads,
                self._settings.claim_tasks,
                TASKS_PER_THREAD,
                DRAIN_TTL_MS,
                BELL_TTL_MS,
                keys.thread_prefix,
                int(self._is_first),
                CLAIM_BYTES,
                LOOK_AHEAD,
                FEW_TASKS,
                FEW_TASKS_IN_ALL,
                FEW_TASKS_BYTES,
                *self._home_args,
            ],
        )
        self._is_first = False
        return bool(ring), [_claim(*thread) for thread in threads]

    def judge(self, claim: Claim, outcome: Outcome) -> Outcome:
        """Return *outcome*, or a poisoned one if the claim failed too often or ends before a malformed entry."""
        attempts = claim.put_back.failures + 1
        if outcome.kind is OutcomeKind.FAILED and attempts >= self._settings.park_after_attempts:
            reason = f"failed {attempts} times, last with {outcome.reason}"
            return Outcome(OutcomeKind.POISONED, outcome.position, reason)
        if outcome.kind is OutcomeKind.DONE and claim.malformed is not None:
            return Outcome(OutcomeKind.POISONED, outcome.position, str(claim.malformed))
        return outcome

    def settle(self, claims: list[Claim], outcomes: Mapping[str, Outcome]) -> int:
        """Settle *claims* and return how many of them this drain still held."""
        keys = self._keys
        script_keys = [keys.ready, keys.claims, keys.tokens, keys.attempts, keys.parked, self._deployment]
        script_keys += [keys.waiting, keys.stats]
        keep_s = self._settings.writer_ttl_days * 86_400
        args: list[Any] = [self._token, keep_s, keys.thread_prefix, *self._home_args[:3]]
        for claim in claims:
            outcome = outcomes[claim.thread_id]
            script_keys += [
                keys.mailbox(claim.thread_id),
                keys.applied(claim.thread_id),
                keys.writers(claim.thread_id),
                keys.idempotency_keys(claim.thread_id),
            ]
            applied = claim.applied(outcome)
            times = Counter(entry.position.partition("-")[0] for entry in applied)
            counters = {entry.writer: entry.n for entry in applied}  # keeps each writer's last counter
            args += [claim.thread_id, outcome.position or "", *self._script_outcome(claim, outcome)]
            args += [" ".join(f"{ms}:{tasks}" for ms, tasks in times.items()), len(counters)]
            args += [field for pair in counters.items() for field in pair]
        return int(self._settle(keys=script_keys, args=args))

    def rest(self) -> bool:
        """End this drain and return True, unless a thread is ready."""
        return not self._rest(keys=[self._keys.ready, self._keys.drain], args=[self._token, 0])

    def wait(self, seconds: float) -> bool:
        """Wait for an enqueue; return whether there was one."""
        return self._redis.blpop([self._keys.wake], timeout=seconds) is not None

    def hand_over(self) -> None:
        """End this drain even if threads are ready; `sweep` then returns whether to ring."""
        self._rest(keys=[self._keys.ready, self._keys.drain], args=[self._token, 1])

    def sweep(self, served_by: HomeIdentity | None = None) -> bool:
        """Make threads with expired claims ready; return whether a doorbell must be rung.

        *served_by* says that a worker of that home serves the shard.
        """
        keys = self._keys
        script_keys = [
            keys.ready,
            keys.claims,
            keys.tokens,
            keys.bell,
            keys.drain,
            keys.deleted,
            keys.swept,
            keys.served,
        ]
        ring, _ = self._sweep(
            keys=[*script_keys, keys.waiting, keys.stats, keys.parked],
            args=[
                BELL_TTL_MS,
                self._settings.writer_ttl_days * 86_400,
                int(self._settings.claim_ttl_s * 1000),
                "" if served_by is None else served_by.sign,
                keys.thread_prefix,
            ],
        )
        return bool(ring)

    def count(self) -> tuple[int, int]:
        """Return how many threads wait, and how many are parked."""
        pipeline: Any = self._redis.pipeline(transaction=False)
        waiting, parked = pipeline.zcard(self._keys.waiting).hlen(self._keys.parked).execute()
        return waiting, parked

    def reserve_compression(self) -> bool:
        """Reserve this interval's search for cold rollouts; return False if a worker has it already."""
        return self._redis.set(self._keys.compressed, "1", nx=True, ex=COMPRESS_INTERVAL) is not None

    @staticmethod
    def _script_outcome(claim: Claim, outcome: Outcome) -> tuple[str, str]:
        """Return the outcome and its detail as ``settle.lua`` expects them."""
        match outcome.kind:
            case OutcomeKind.DONE:
                return "done", ""
            case OutcomeKind.DELETED:
                return "deleted", ""
            case OutcomeKind.LOCKED | OutcomeKind.BUSY:
                return "later", f"{BUSY_WAIT_MS} {_short(outcome.reason)}"
            case OutcomeKind.FAILED:
                wait_ms = min(RETRY_FIRST_MS * 2**claim.put_back.failures, RETRY_LONGEST_MS)
                return "failed", f"{wait_ms} {_short(outcome.reason)}"
            case OutcomeKind.POISONED:
                detail = {"reason": outcome.reason, "applied": outcome.position, "parked_at": format_time(utc_now())}
                return "parked", json.dumps(detail)


def _short(reason: str) -> str:
    """Return *reason* on one line, shortened, without characters that cannot be encoded."""
    return " ".join(reason[:REASON_CHARACTERS].split()).encode(errors="replace").decode()


def _claim(thread: bytes, put_back: bytes, entries: list[list[Any]]) -> Claim:
    valid: list[MailboxEntry] = []
    malformed = None
    for position, *content in entries:
        try:
            _require_thread_id(thread)
            valid.append(_entry(position, _fields(content)))
        except (errors.InvalidRequest, KeyError, ValueError) as error:
            size = sum(map(len, content if len(content) > 1 else content[0][1::2]))
            malformed = Malformed(position.decode(), size, f"{type(error).__name__}: {error}")
            break
    return Claim(thread.decode(errors="replace"), PutBack.parse(put_back), valid, malformed)


@lru_cache(maxsize=4096)
def _require_thread_id(thread: bytes) -> None:
    """Check that *thread* is a thread id.

    Raises:
        InvalidRequest: it is not a thread id.
        ValueError: it is not UTF-8.
    """
    types.ArchiveThreadParams(thread_id=thread.decode())


def _fields(content: list[Any]) -> Sequence[bytes]:
    """Return writer, counter, task, lines and, if there is one, the traceparent of an entry from ``claim.lua``.

    Raises:
        KeyError: a field is missing.
        ValueError: the list does not consist of pairs.
    """
    if len(content) > 1:
        return content
    pairs = content[0]
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return (
        fields[b"writer"],
        fields[b"n"],
        fields[b"task"],
        fields.get(b"lines", b""),
        fields.get(b"traceparent", b""),
    )


def _entry(position: bytes, fields: Sequence[bytes]) -> MailboxEntry:
    """Return a mailbox entry after checking it: other programs can write anything to Redis.

    Raises:
        ValueError: its writer or counter is invalid.
        InvalidRequest: its task is invalid.
    """
    writer, n, task, lines, *traceparent = fields
    name, counter = writer.decode(), int(n)
    if _WRITER.fullmatch(name) is None or not 0 < counter < MAX_COUNTER:
        raise ValueError("its writer or counter is invalid")
    return MailboxEntry(position.decode(), name, counter, OrderedTask.from_wire(task, lines), *traceparent)
