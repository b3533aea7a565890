"""The mailboxes of one shard, as a worker sees them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redis import Redis

from livethread.errors import InvalidRequest
from livethread.model import format_time, utc_now
from livethread.ordered_tasks import MailboxEntry, OrderedTask
from livethread.queued.scripts import BELL_TTL_MS, load_script
from livethread.types import ArchiveThreadParams, position_key
from livethread_config import Settings, names
from livethread_worker.store.files.scan import MAX_COUNTER
from livethread_worker.store.write.batch import Outcome, OutcomeKind

#: ms after which a drain that claimed nothing counts as gone, so that the next enqueue rings.
DRAIN_TTL_MS: Final = 1_000

#: Most tasks of one thread that one claim takes: a hot thread goes behind the others after them.
TASKS_PER_THREAD: Final = 500

#: Bytes of lines that one claim takes, about.
CLAIM_BYTES: Final = 16 * 1024 * 1024

#: Where those budgets are spent: threads that are looked at behind those taken, the most tasks of one that has few,
#: and what is taken of all such threads.
LOOK_AHEAD: Final = 1_000
FEW_TASKS: Final = 16
FEW_TASKS_IN_ALL: Final = 500
FEW_TASKS_BYTES: Final = 4 * 1024 * 1024

#: Wait before a busy thread, or one whose task failed, may be claimed again: the first, and the longest.
BUSY_WAIT_MS: Final = 200
RETRY_FIRST_MS: Final = 200
RETRY_LONGEST_MS: Final = 10_000


_WRITER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Malformed:
    """An entry of a mailbox that is no task."""

    position: str
    #: Bytes of its fields.
    size: int
    fault: str

    def __str__(self) -> str:
        return f"the entry at {self.position} is no task: {self.fault}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Tasks of one thread that this drain holds."""

    thread_id: str
    #: Failed attempts in a row at the first of them.
    attempts: int
    entries: list[MailboxEntry]
    #: The entry behind them, where it is no task; what follows it was not read.
    malformed: Malformed | None = None

    def applied(self, outcome: Outcome) -> list[MailboxEntry]:
        """Return the entries that are applied by *outcome*: those up to its position."""
        if outcome.position is None:
            return []
        if self.entries and self.entries[-1].position == outcome.position:
            return self.entries
        last = position_key(outcome.position)
        return [entry for entry in self.entries if position_key(entry.position) <= last]


class Mailbox:
    """One drain's hold on a shard. Its token dies with it: claims that it leaves behind expire."""

    def __init__(self, redis: Redis, settings: Settings, shard: int) -> None:
        self._redis = redis
        self._settings = settings
        self._keys = names.ShardKeys(settings.key_prefix, shard)
        self._token = uuid.uuid4().hex
        self._is_first = True
        scripts = (load_script("livethread_worker.drain", name) for name in ("claim", "settle", "rest"))
        self._claim, self._settle, self._rest = map(redis.register_script, scripts)
        self._sweep = redis.register_script(load_script("livethread_worker.drain", "sweep"))

    def claim(self) -> tuple[bool, list[Claim]]:
        """Take ready threads; also say whether a doorbell must be rung because more are ready."""
        keys = self._keys
        ring, *threads = self._claim(
            keys=[keys.ready, keys.claims, keys.tokens, keys.attempts, keys.parked, keys.bell, keys.drain],
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
            ],
        )
        self._is_first = False
        return bool(ring), [_claim(*thread) for thread in threads]

    def judge(self, claim: Claim, outcome: Outcome) -> Outcome:
        """Return what becomes of *claim*: what failed too often, or is followed by no task, is poisoned."""
        attempts = claim.attempts + 1
        if outcome.kind is OutcomeKind.FAILED and attempts >= self._settings.park_after_attempts:
            reason = f"failed {attempts} times, last with {outcome.reason}"
            return Outcome(OutcomeKind.POISONED, outcome.position, reason)
        if outcome.kind is OutcomeKind.DONE and claim.malformed is not None:
            return Outcome(OutcomeKind.POISONED, outcome.position, str(claim.malformed))
        return outcome

    def settle(self, claims: list[Claim], outcomes: Mapping[str, Outcome]) -> int:
        """Finish *claims* and return how many of them still were ours."""
        keys = self._keys
        script_keys = [keys.ready, keys.claims, keys.tokens, keys.attempts, keys.parked]
        args: list[Any] = [self._token, self._settings.writer_ttl_days * 86_400, keys.acks_prefix]
        for claim in claims:
            outcome = self.judge(claim, outcomes[claim.thread_id])
            script_keys += [
                keys.mailbox(claim.thread_id),
                keys.applied(claim.thread_id),
                keys.writers(claim.thread_id),
                keys.idempotency_keys(claim.thread_id),
            ]
            applied = {entry.writer: entry.n for entry in claim.applied(outcome)}  # the last one of each writer
            args += [claim.thread_id, outcome.position or "", *self._verdict(claim, outcome), len(applied)]
            args += [field for pair in applied.items() for field in pair]
        return int(self._settle(keys=script_keys, args=args))

    def rest(self) -> bool:
        """End this drain and return True, unless work became due in the meantime."""
        return not self._rest(keys=[self._keys.ready, self._keys.drain], args=[self._token, 0])

    def wait(self, seconds: float) -> bool:
        """Wait until something is enqueued; return whether it was."""
        return self._redis.blpop([self._keys.wake], timeout=seconds) is not None

    def hand_over(self) -> None:
        """End this drain though there may be work; `sweep` then says whether to ring."""
        self._rest(keys=[self._keys.ready, self._keys.drain], args=[self._token, 1])

    def sweep(self) -> bool:
        """Return expired claims to ready; return whether a doorbell must be rung."""
        keys = self._keys
        ring, _ = self._sweep(
            keys=[keys.ready, keys.claims, keys.tokens, keys.bell, keys.drain, keys.deleted],
            args=[BELL_TTL_MS, self._settings.writer_ttl_days * 86_400, int(self._settings.claim_ttl_s * 1000)],
        )
        return bool(ring)

    @staticmethod
    def _verdict(claim: Claim, outcome: Outcome) -> tuple[str, str | int]:
        """Say what settling does with the thread: ``settle.lua``'s outcome and detail."""
        match outcome.kind:
            case OutcomeKind.DONE:
                return "done", ""
            case OutcomeKind.DELETED:
                return "deleted", ""
            case OutcomeKind.LOCKED | OutcomeKind.BUSY:
                return "later", BUSY_WAIT_MS
            case OutcomeKind.FAILED:
                return "failed", min(RETRY_FIRST_MS * 2**claim.attempts, RETRY_LONGEST_MS)
            case OutcomeKind.POISONED:
                detail = {"reason": outcome.reason, "applied": outcome.position, "parked_at": format_time(utc_now())}
                return "parked", json.dumps(detail)


def _claim(thread: bytes, attempts: bytes, entries: list[list[Any]]) -> Claim:
    taken: list[MailboxEntry] = []
    malformed = None
    for position, *told in entries:
        try:
            _require_thread_id(thread)
            taken.append(_entry(position, *_fields(told)))
        except (InvalidRequest, KeyError, ValueError) as error:
            size = sum(map(len, told if len(told) > 1 else told[0][1::2]))
            malformed = Malformed(position.decode(), size, f"{type(error).__name__}: {error}")
            break
    return Claim(thread.decode(errors="replace"), int(attempts), taken, malformed)


@lru_cache(maxsize=4096)
def _require_thread_id(thread: bytes) -> None:
    """Return where *thread* is the id of one.

    Raises:
        InvalidRequest: it is none.
        ValueError: it is no text.
    """
    ArchiveThreadParams(thread_id=thread.decode())


def _fields(told: list[Any]) -> Sequence[bytes]:
    """Return writer, counter, task and lines as ``claim.lua`` tells them: bare, or among whatever somebody put there.

    Raises:
        KeyError: a field is missing.
        ValueError: the fields are none.
    """
    if len(told) > 1:
        return told
    pairs = told[0]
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return fields[b"writer"], fields[b"n"], fields[b"task"], fields.get(b"lines", b"")


def _entry(position: bytes, writer: bytes, n: bytes, task: bytes, lines: bytes) -> MailboxEntry:
    """Return the task that a mailbox entry holds; whoever can write to Redis can put anything there.

    Raises:
        ValueError: its writer or counter is none.
        InvalidRequest: its task is none.
    """
    name, counter = writer.decode(), int(n)
    if _WRITER.fullmatch(name) is None or not 0 < counter < MAX_COUNTER:
        raise ValueError("its writer or counter is none")
    return MailboxEntry(position.decode(), name, counter, OrderedTask.from_wire(task, lines))
