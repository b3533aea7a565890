"""The Lua scripts, called as client and worker call them: order, duplicates, gaps, bounds, claims."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
from redis import Redis
from redis.client import PubSub
from tests.nodes.processes import RedisServer
from tests.nodes.waiting import wait_until

from livethread import new_thread_id
from livethread.model import parse_time
from livethread.position import position_key
from livethread.queued.scripts import load_script
from livethread_config import Settings, names
from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

#: A time that Redis' clock has not reached.
FUTURE_MS = 9_999_999_999_999


@dataclass(frozen=True)
class Reply:
    ring: bool
    status: str
    last: int
    position: str
    tail: str
    #: How many of the tasks this call added.
    fresh: int


class Enqueuer:
    """Calls ``enqueue.lua`` as any client might."""

    def __init__(self, redis: Redis, settings: Settings, *, bound: int = 100) -> None:
        self.redis = redis
        self.keys = names.ShardKeys(settings.key_prefix, 0)
        self.bound = bound
        self.deployment = names.deployment_key(settings.key_prefix)
        redis.hset(self.deployment, "epochs", "[[0,1]]")
        self._script = redis.register_script(load_script("livethread.queued", "enqueue"))

    def __call__(
        self,
        thread_id: str,
        counters: Sequence[int],
        *,
        writer: str = "w1",
        floor: int = 0,
        new: bool = False,
        expected: str = "",
        key: str = "",
        delete: bool = False,
        pair: int | None = None,
        epoch: int | str = "",
    ) -> Reply:
        """Enqueue tasks with *counters*; task *pair* and the task after it are an append and its derived patch."""
        keys = self.keys
        shard = [keys.ready, keys.claims, keys.tokens, keys.parked, keys.bell, keys.drain, keys.wake, keys.deleted]
        shard += [keys.waiting, keys.stats, self.deployment]
        thread_keys = [
            keys.mailbox(thread_id),
            keys.writers(thread_id),
            keys.applied(thread_id),
            keys.idempotency_keys(thread_id),
        ]
        args: list[str | int] = [2000, 60, self.bound, "[[0,1]]", thread_id, writer, floor, epoch, len(counters)]
        for number, n in enumerate(counters):
            is_first, is_last = number == 0, number == len(counters) - 1
            kind = "create" if new and is_first else "delete" if delete and is_last else "pair" if n == pair else ""
            is_patch = pair is not None and n == pair + 1
            args += [n, kind, "" if is_patch else expected, "" if is_patch else key, TASK, line(n), ""]
        ring, [status, last, position, tail, fresh] = self._script(keys=shard + thread_keys, args=args)
        return Reply(bool(ring), status.decode(), last, position.decode(), tail.decode(), fresh)

    def stored(self, thread_id: str) -> list[tuple[str, str, int]]:
        """Return position, writer and counter of each entry of a mailbox."""
        entries: Any = self.redis.xrange(self.keys.mailbox(thread_id))
        return [(id_.decode(), fields[b"writer"].decode(), int(fields[b"n"])) for id_, fields in entries]

    def counters(self, thread_id: str) -> list[int]:
        return [n for _, _, n in self.stored(thread_id)]


TASK = json.dumps({"op": "append_items", "at": "2026-01-01T00:00:00Z"})


def line(n: int) -> str:
    return json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "type": "response_item", "payload": {"n": n}})


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


@pytest.fixture
def enqueue(redis: Redis, settings: Settings) -> Enqueuer:
    return Enqueuer(redis, settings)


@pytest.fixture
def mailbox(redis: Redis, settings: Settings) -> Mailbox:
    return Mailbox(redis, settings, 0)


@pytest.fixture
def thread_id() -> str:
    return new_thread_id()


def unpark(redis: Redis, settings: Settings, thread_id: str) -> bool:
    keys = names.ShardKeys(settings.key_prefix, 0)
    script = redis.register_script(load_script("livethread.queued", "unpark"))
    return bool(script(keys=[keys.ready, keys.parked, keys.waiting, keys.mailbox(thread_id)], args=[thread_id]))


def done(position: str | None) -> Outcome:
    return Outcome(OutcomeKind.DONE, position)


def listening(redis: Redis) -> PubSub:
    return redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call, no-any-return]  # redis-py


# -- enqueue -----------------------------------------------------------------------------------------------


def test_tasks_are_in_order_and_their_positions_grow(enqueue: Enqueuer, thread_id: str) -> None:
    first = enqueue(thread_id, [1, 2])
    second = enqueue(thread_id, [3])

    stored = enqueue.stored(thread_id)
    assert [(writer, n) for _, writer, n in stored] == [("w1", 1), ("w1", 2), ("w1", 3)]
    assert (first.status, first.last, first.position) == ("ok", 2, stored[1][0])
    assert (second.last, second.position, second.tail) == (3, stored[2][0], stored[2][0])
    positions = [position_key(position) for position, _, _ in stored]
    assert positions == sorted(set(positions))


def test_a_repeated_call_adds_nothing_and_returns_the_old_position(enqueue: Enqueuer, thread_id: str) -> None:
    first = enqueue(thread_id, [1, 2])

    again = enqueue(thread_id, [1, 2])

    assert (again.status, again.last, again.position) == ("ok", first.last, first.position)
    assert enqueue.counters(thread_id) == [1, 2]


def test_a_call_that_overlaps_an_earlier_one_adds_only_new_tasks(enqueue: Enqueuer, thread_id: str) -> None:
    enqueue(thread_id, [1, 2])

    reply = enqueue(thread_id, [2, 3])

    assert (reply.status, reply.last) == ("ok", 3)
    assert enqueue.counters(thread_id) == [1, 2, 3]


def test_a_repeated_call_returns_the_old_position_after_its_tasks_were_applied(
    enqueue: Enqueuer, mailbox: Mailbox, thread_id: str
) -> None:
    first = enqueue(thread_id, [1])
    _, claims = mailbox.claim()
    mailbox.settle(claims, {thread_id: done(first.position)})

    again = enqueue(thread_id, [1])

    assert (again.status, again.last, again.position) == ("ok", 1, first.position)
    assert enqueue.stored(thread_id) == []


def test_a_missing_task_is_a_gap_and_no_later_task_is_added(enqueue: Enqueuer, thread_id: str) -> None:
    enqueue(thread_id, [1])

    reply = enqueue(thread_id, [3, 4])

    assert (reply.status, reply.last) == ("gap", 1)
    assert enqueue.counters(thread_id) == [1]


def test_a_lost_counter_is_a_gap_unless_the_floor_covers_it(enqueue: Enqueuer, thread_id: str) -> None:
    unknown = enqueue(thread_id, [5], floor=2)
    known = enqueue(thread_id, [5], floor=4)

    assert (unknown.status, unknown.last) == ("gap", 2)
    assert (known.status, known.last) == ("ok", 5)
    assert enqueue.counters(thread_id) == [5]


def test_writers_have_their_own_counters_and_share_one_order(enqueue: Enqueuer, thread_id: str) -> None:
    enqueue(thread_id, [1], writer="a")
    enqueue(thread_id, [1, 2], writer="b")
    enqueue(thread_id, [2], writer="a")

    assert [(writer, n) for _, writer, n in enqueue.stored(thread_id)] == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]


def test_a_full_mailbox_accepts_tasks_again_after_a_drain(redis: Redis, settings: Settings, thread_id: str) -> None:
    enqueue, mailbox = Enqueuer(redis, settings, bound=2), Mailbox(redis, settings, 0)

    full = enqueue(thread_id, [1, 2, 3])
    still_full = enqueue(thread_id, [3])
    _, claims = mailbox.claim()
    mailbox.settle(claims, {thread_id: done(claims[0].entries[0].position)})
    recovered = enqueue(thread_id, [3])

    assert (full.status, full.last) == ("full", 2)
    assert (still_full.status, still_full.last) == ("full", 2)
    assert (recovered.status, recovered.last) == ("ok", 3)
    assert enqueue.counters(thread_id) == [2, 3]


def test_a_pair_is_accepted_whole_or_not_at_all(redis: Redis, settings: Settings, thread_id: str) -> None:
    enqueue = Enqueuer(redis, settings, bound=3)
    enqueue(thread_id, [1, 2])

    refused = enqueue(thread_id, [3, 4], pair=3)
    mailbox = enqueue.counters(thread_id)
    redis.xdel(enqueue.keys.mailbox(thread_id), enqueue.stored(thread_id)[0][0])
    accepted = enqueue(thread_id, [3, 4], pair=3)

    assert (refused.status, refused.last, refused.fresh, mailbox) == ("full", 2, 0, [1, 2])
    assert (accepted.status, accepted.last, accepted.fresh) == ("ok", 4, 2)
    assert enqueue.counters(thread_id) == [2, 3, 4]


def test_a_pair_has_consecutive_positions_and_the_second_becomes_the_last_one(
    enqueue: Enqueuer, thread_id: str
) -> None:
    first = enqueue(thread_id, [1])

    pair = enqueue(thread_id, [2, 3], pair=2, expected=first.position, key="k")

    (high, low), last = (position_key(position) for position, _, _ in enqueue.stored(thread_id)[1:])
    assert last == (high, low + 1)
    assert (pair.status, pair.position, pair.tail) == ("ok", f"{high}-{low + 1}", f"{high}-{low + 1}")
    assert enqueue(thread_id, [4], expected=pair.position).status == "ok"


@pytest.mark.parametrize("why", ["moved", "fenced", "deleted", "gap"])
def test_a_refused_append_and_its_derived_patch_are_both_refused(
    enqueue: Enqueuer, redis: Redis, thread_id: str, why: str
) -> None:
    enqueue(thread_id, [1])
    if why == "deleted":
        redis.zadd(enqueue.keys.deleted, {thread_id: 1})
    if why == "fenced":
        redis.hset(enqueue.keys.writers(thread_id), names.EPOCH, 7)
    first = 3 if why == "gap" else 2

    reply = enqueue(thread_id, [first, first + 1], pair=first, expected="1-1" if why == "moved" else "", epoch=6)

    assert (reply.status, reply.last, reply.fresh) == (why, 1, 0)
    assert enqueue.counters(thread_id) == [1]


def test_a_repeated_pair_is_not_added_again_though_the_mailbox_is_full(
    redis: Redis, settings: Settings, thread_id: str
) -> None:
    enqueue = Enqueuer(redis, settings, bound=2)
    first = enqueue(thread_id, [1, 2], pair=1)

    again = enqueue(thread_id, [1, 2], pair=1)

    assert (again.status, again.last, again.position, again.fresh) == ("ok", 2, first.position, 0)
    assert enqueue.counters(thread_id) == [1, 2]


def test_a_pair_that_lost_only_its_patch_is_completed(enqueue: Enqueuer, redis: Redis, thread_id: str) -> None:
    enqueue(thread_id, [1, 2], pair=1)
    mailbox, client = enqueue.keys.mailbox(thread_id), cast("Any", redis)
    (kept, fields), _ = client.xrange(mailbox)
    redis.delete(mailbox)  # a stream that merely dropped an entry would remember its id
    client.xadd(mailbox, fields, id=kept)
    client.hset(enqueue.keys.writers(thread_id), mapping={"w1": b"1 " + kept, "tail": kept})

    reply = enqueue(thread_id, [1, 2], pair=1)

    assert (reply.status, reply.last, reply.fresh) == ("ok", 2, 1)
    assert enqueue.counters(thread_id) == [1, 2]


def test_each_mailbox_has_its_own_bound(redis: Redis, settings: Settings, thread_id: str) -> None:
    enqueue = Enqueuer(redis, settings, bound=1)
    enqueue(thread_id, [1])

    assert enqueue(thread_id, [2]).status == "full"
    assert enqueue(new_thread_id(), [1]).status == "ok"


def test_an_expected_position_that_is_not_the_last_is_refused(enqueue: Enqueuer, thread_id: str) -> None:
    first = enqueue(thread_id, [1])
    second = enqueue(thread_id, [2], expected=first.position)

    moved = enqueue(thread_id, [1], writer="other", expected=first.position)

    assert second.status == "ok"
    assert (moved.status, moved.tail) == ("moved", second.position)
    assert enqueue.counters(thread_id) == [1, 2]


def test_an_expected_position_is_compared_with_the_last_applied_one(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    first = enqueue(thread_id, [1])
    _, claims = mailbox.claim()
    mailbox.settle(claims, {thread_id: done(first.position)})
    redis.delete(enqueue.keys.writers(thread_id))  # expired, as after days without use

    assert enqueue(thread_id, [2], floor=1, expected="1-1").status == "moved"
    assert enqueue(thread_id, [2], floor=1, expected=first.position).status == "ok"


def test_a_thread_with_tasks_of_another_writer_cannot_be_created(enqueue: Enqueuer, thread_id: str) -> None:
    mine = enqueue(thread_id, [1, 2], writer="a", new=True)

    other = enqueue(thread_id, [1], writer="b", new=True)
    again = enqueue(thread_id, [1, 2], writer="a", new=True)

    assert (mine.status, other.status, again.status) == ("ok", "exists", "ok")
    assert enqueue.counters(thread_id) == [1, 2]


def test_positions_continue_after_a_last_one_in_the_future(enqueue: Enqueuer, redis: Redis, thread_id: str) -> None:
    """Redis' clock was set back, which must not repeat a position."""
    redis.hset(enqueue.keys.writers(thread_id), "tail", f"{FUTURE_MS}-7")

    enqueue(thread_id, [1, 2])

    assert [position for position, _, _ in enqueue.stored(thread_id)] == [f"{FUTURE_MS}-8", f"{FUTURE_MS}-9"]


def test_positions_continue_after_the_applied_one_if_all_else_was_lost(
    enqueue: Enqueuer, redis: Redis, thread_id: str
) -> None:
    redis.set(enqueue.keys.applied(thread_id), f"{FUTURE_MS}-3")

    enqueue(thread_id, [1])

    assert [position for position, _, _ in enqueue.stored(thread_id)] == [f"{FUTURE_MS}-4"]


def test_positions_do_not_repeat_after_a_mailbox_was_emptied(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    redis.hset(enqueue.keys.writers(thread_id), "tail", f"{FUTURE_MS}-0")
    positions = []
    for n in range(1, 4):
        positions.append(enqueue(thread_id, [n]).position)
        _, claims = mailbox.claim()
        mailbox.settle(claims, {thread_id: done(positions[-1])})

    assert positions == [f"{FUTURE_MS}-{n}" for n in range(1, 4)]


def remembered(enqueue: Enqueuer, thread_id: str) -> set[str]:
    """Return the writers that Redis knows of a thread."""
    fields: Any = enqueue.redis.hkeys(enqueue.keys.writers(thread_id))
    return {field.decode() for field in fields} - {"tail", names.EPOCH}


def test_writers_that_were_silent_for_long_are_forgotten_when_new_ones_come(
    enqueue: Enqueuer, redis: Redis, thread_id: str
) -> None:
    """The script has a lifetime of 60 s; half of the silent writers have an unapplied task."""
    enqueue.bound = 1_000
    enqueue(thread_id, [1], writer="first")
    old = f"{int(time.time() * 1000) - 61_000}-0"
    for n in range(200):
        redis.hset(enqueue.keys.writers(thread_id), mapping={f"applied{n}": f"2 {old}", f"a:applied{n}": "2"})
        redis.hset(enqueue.keys.writers(thread_id), mapping={f"waiting{n}": f"2 {old}", f"a:waiting{n}": "1"})

    for n in range(300):
        enqueue(thread_id, [1], writer=f"new{n}")

    left = remembered(enqueue, thread_id)
    assert {f"waiting{n}" for n in range(200)} | {f"new{n}" for n in range(300)} | {"first"} < left
    assert sum(writer.startswith("applied") for writer in left) < 100
    assert all(writer[2:] in left for writer in left if writer.startswith("a:"))


def test_settling_does_not_bring_back_a_writer_that_its_client_closed(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1], writer="closed")
    reply = enqueue(thread_id, [1], writer="open")
    redis.hdel(enqueue.keys.writers(thread_id), "closed")
    _, claims = mailbox.claim()

    mailbox.settle(claims, {thread_id: done(reply.position)})

    assert remembered(enqueue, thread_id) == {"open", "a:open"}


def test_counters_expire_but_unapplied_tasks_do_not(enqueue: Enqueuer, redis: Redis, thread_id: str) -> None:
    enqueue(thread_id, [1])

    assert 0 < int(redis.ttl(enqueue.keys.writers(thread_id))) <= 60
    assert redis.ttl(enqueue.keys.mailbox(thread_id)) == -1
    assert redis.ttl(enqueue.keys.ready) == -1


# -- doorbells ---------------------------------------------------------------------------------------------


def test_one_doorbell_serves_every_ready_thread(enqueue: Enqueuer) -> None:
    rings = [enqueue(new_thread_id(), [1]).ring for _ in range(3)]

    assert rings == [True, False, False]


def test_no_doorbell_is_due_while_a_drain_is_at_work(enqueue: Enqueuer, mailbox: Mailbox, redis: Redis) -> None:
    mailbox.claim()

    assert enqueue(new_thread_id(), [1]).ring is False
    assert redis.exists(enqueue.keys.bell) == 0


def test_a_doorbell_is_due_after_the_drain_ended(enqueue: Enqueuer, mailbox: Mailbox) -> None:
    mailbox.claim()
    assert mailbox.rest()

    assert enqueue(new_thread_id(), [1]).ring is True


def test_a_doorbell_is_due_again_once_the_last_one_counts_as_lost(
    enqueue: Enqueuer, redis: Redis, thread_id: str
) -> None:
    assert enqueue(thread_id, [1]).ring is True
    assert 0 < int(redis.pttl(enqueue.keys.bell)) <= 2000
    redis.delete(enqueue.keys.bell)  # as after its two seconds

    assert enqueue(thread_id, [1]).ring is True  # a repeated call is enough


def test_a_doorbell_is_due_once_the_heartbeat_of_a_dead_drain_expires(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis
) -> None:
    mailbox.claim()
    assert 0 < int(redis.pttl(enqueue.keys.drain)) <= 1000
    redis.delete(enqueue.keys.drain)

    assert enqueue(new_thread_id(), [1]).ring is True


def test_a_lingering_drain_is_woken_once(enqueue: Enqueuer, mailbox: Mailbox, redis: Redis) -> None:
    mailbox.claim()

    enqueue(new_thread_id(), [1])
    enqueue(new_thread_id(), [1])

    assert redis.llen(enqueue.keys.wake) == 1
    assert mailbox.wait(0.01) is True
    assert mailbox.wait(0.01) is False


def test_a_drain_does_not_end_while_a_thread_is_ready(enqueue: Enqueuer, mailbox: Mailbox) -> None:
    mailbox.claim()
    enqueue(new_thread_id(), [1])

    assert mailbox.rest() is False


def test_a_drain_that_ends_leaves_another_drains_heartbeat(
    enqueue: Enqueuer, settings: Settings, redis: Redis
) -> None:
    first, second = Mailbox(redis, settings, 0), Mailbox(redis, settings, 0)
    first.claim()
    second.claim()

    first.rest()

    assert enqueue(new_thread_id(), [1]).ring is False


def test_a_claim_that_leaves_ready_threads_asks_for_a_doorbell(
    enqueue: Enqueuer, settings: Settings, redis: Redis
) -> None:
    for _ in range(3):
        enqueue(new_thread_id(), [1])
    mailbox = Mailbox(redis, settings.model_copy(update={"claim_threads": 2}), 0)

    ring, claims = mailbox.claim()
    ring_again, rest = mailbox.claim()

    assert (ring, len(claims), ring_again, len(rest)) == (True, 2, False, 1)


# -- claims ------------------------------------------------------------------------------------------------


def test_a_claimed_thread_is_not_claimed_again(
    enqueue: Enqueuer, mailbox: Mailbox, settings: Settings, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])

    _, [claim] = mailbox.claim()
    enqueue(thread_id, [2])
    _, others = Mailbox(redis, settings, 0).claim()

    assert (claim.thread_id, others) == (thread_id, [])


def test_tasks_enqueued_during_a_claim_are_claimed_after_it(
    enqueue: Enqueuer, mailbox: Mailbox, thread_id: str
) -> None:
    first = enqueue(thread_id, [1])
    _, claims = mailbox.claim()
    enqueue(thread_id, [2])

    mailbox.settle(claims, {thread_id: done(first.position)})

    assert enqueue.counters(thread_id) == [2]
    assert [claim.thread_id for claim in mailbox.claim()[1]] == [thread_id]


def test_a_settled_thread_is_queued_after_the_others(enqueue: Enqueuer, settings: Settings, redis: Redis) -> None:
    hot, cold = new_thread_id(), new_thread_id()
    mailbox = Mailbox(redis, settings.model_copy(update={"claim_threads": 1}), 0)
    first = enqueue(hot, [1])
    enqueue(hot, [2])
    enqueue(cold, [1])
    redis.zadd(enqueue.keys.ready, {hot: 1, cold: 2})

    _, claims = mailbox.claim()
    mailbox.settle(claims, {hot: done(first.position)})
    _, following = mailbox.claim()

    assert [claim.thread_id for claim in (*claims, *following)] == [hot, cold]


def test_an_expired_claim_is_returned_by_the_next_claim(
    enqueue: Enqueuer, settings: Settings, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    dead = Mailbox(redis, settings.model_copy(update={"claim_ttl_s": 0.001}), 0)
    dead.claim()
    alive = Mailbox(redis, settings, 0)

    claims = wait_until(lambda: alive.claim()[1], "the claim's return")

    assert [claim.thread_id for claim in claims] == [thread_id]


def test_an_expired_claim_is_returned_by_an_enqueue(
    enqueue: Enqueuer, settings: Settings, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    Mailbox(redis, settings.model_copy(update={"claim_ttl_s": 0.001}), 0).claim()
    redis.delete(enqueue.keys.drain, enqueue.keys.bell)

    wait_until(lambda: enqueue(thread_id, [1]).ring, "a doorbell")

    assert redis.zscore(enqueue.keys.claims, thread_id) is None
    assert redis.zscore(enqueue.keys.ready, thread_id) is not None


def test_the_sweep_returns_expired_claims_and_asks_for_a_doorbell_once(
    enqueue: Enqueuer, settings: Settings, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    Mailbox(redis, settings.model_copy(update={"claim_ttl_s": 0.001}), 0).claim()
    redis.delete(enqueue.keys.drain)

    wait_until(mailbox.sweep, "a doorbell")

    assert mailbox.sweep() is False  # one is pending
    assert [claim.thread_id for claim in mailbox.claim()[1]] == [thread_id]


def test_the_sweep_returns_claims_made_before_the_clock_was_set_back(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    """Otherwise a dead worker's threads would wait until the clock reaches that time again."""
    enqueue(thread_id, [1])
    mailbox.claim()
    redis.zincrby(enqueue.keys.claims, 60_000, thread_id)
    redis.delete(enqueue.keys.drain)

    assert mailbox.sweep() is False  # now it counts as expired

    wait_until(mailbox.sweep, "a doorbell")
    assert redis.zscore(enqueue.keys.claims, thread_id) is None


def test_the_sweep_leaves_valid_claims_and_does_not_ring_during_a_drain(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    mailbox.claim()
    enqueue(new_thread_id(), [1])

    assert mailbox.sweep() is False
    assert redis.zscore(enqueue.keys.claims, thread_id) is not None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(OutcomeKind.DONE, f"{FUTURE_MS}-0"),
        Outcome(OutcomeKind.LOCKED),
        Outcome(OutcomeKind.BUSY),
        Outcome(OutcomeKind.FAILED, reason="x"),
        Outcome(OutcomeKind.POISONED, None, "x"),
    ],
    ids=lambda outcome: outcome.kind,
)
def test_a_stale_token_changes_nothing(
    enqueue: Enqueuer, settings: Settings, redis: Redis, thread_id: str, outcome: Outcome
) -> None:
    """The worker was paused until its claim expired, and another worker holds the thread now."""
    enqueue(thread_id, [1, 2])
    paused = Mailbox(redis, settings.model_copy(update={"claim_ttl_s": 0.001}), 0)
    _, stale = paused.claim()
    wait_until(lambda: Mailbox(redis, settings, 0).claim()[1], "the claim's return")
    before = everything(redis, settings)

    settled = paused.settle(stale, {thread_id: outcome})

    assert settled == 0
    assert everything(redis, settings) == before


def everything(redis: Redis, settings: Settings) -> dict[bytes, Any]:
    """Return all Redis keys of the deployment and their values, without their times to live and the drain's heartbeat."""
    keys = redis.scan_iter(f"{settings.key_prefix}:*")
    return {key: redis.dump(key) for key in keys if not key.endswith(b":drain")}


def test_settling_trims_by_position_and_keeps_later_tasks(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1, 2, 3])
    positions = [position for position, _, _ in enqueue.stored(thread_id)]
    _, claims = mailbox.claim()

    mailbox.settle(claims, {thread_id: done(positions[1])})

    assert enqueue.counters(thread_id) == [3]
    applied: Any = redis.get(enqueue.keys.applied(thread_id))
    assert applied.decode() == positions[1]


def test_a_settled_thread_without_tasks_leaves_only_counts_and_keys_that_expire(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    reply = enqueue(thread_id, [1])
    _, claims = mailbox.claim()

    mailbox.settle(claims, {thread_id: done(reply.position)})
    mailbox.rest()

    left = {key.decode() for key in redis.scan_iter(f"{settings.key_prefix}:{{0}}:*")} - {enqueue.keys.stats}
    assert left == {enqueue.keys.looked, enqueue.keys.applied(thread_id), enqueue.keys.writers(thread_id)}
    assert all(int(redis.ttl(key)) > 0 for key in left)


def test_settling_publishes_an_acknowledgement(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    reply = enqueue(thread_id, [1])
    _, claims = mailbox.claim()
    with listening(redis) as heard:
        heard.subscribe(enqueue.keys.acks("w1"))

        mailbox.settle(claims, {thread_id: done(reply.position)})

        message = wait_until(lambda: heard.get_message(timeout=0.1), "the publication")
    assert message["data"].decode() == f"applied {thread_id} {reply.position} w1:1"


def test_each_client_gets_one_message_for_all_its_writers(enqueue: Enqueuer, mailbox: Mailbox, redis: Redis) -> None:
    first, second = sorted(new_thread_id() for _ in range(2))
    enqueue(first, [1], writer="c1.1")
    enqueue(first, [1], writer="c2.1")
    enqueue(second, [1, 2], writer="c1.2")
    _, claims = mailbox.claim()
    last = {claim.thread_id: claim.entries[-1].position for claim in claims}
    with listening(redis) as heard:
        heard.subscribe(enqueue.keys.acks("c1"), enqueue.keys.acks("c2"))

        mailbox.settle(claims, {thread_id: done(position) for thread_id, position in last.items()})

        messages = [wait_until(lambda: heard.get_message(timeout=0.1), "a publication") for _ in range(2)]
    received = {message["channel"].decode(): sorted(message["data"].decode().split("\n")) for message in messages}
    assert received == {
        enqueue.keys.acks("c1"): [f"applied {first} {last[first]} c1.1:1", f"applied {second} {last[second]} c1.2:2"],
        enqueue.keys.acks("c2"): [f"applied {first} {last[first]} c2.1:1"],
    }


# -- idempotency keys --------------------------------------------------------------------------------------


def test_an_append_with_a_repeated_idempotency_key_is_accepted(enqueue: Enqueuer, thread_id: str) -> None:
    first = enqueue(thread_id, [1], key="k")
    second = enqueue(thread_id, [1], writer="w2", key="k")

    assert (first.status, second.status, second.fresh) == ("ok", "ok", 1)
    assert [(writer, n) for _, writer, n in enqueue.stored(thread_id)] == [("w1", 1), ("w2", 1)]


def test_a_repeated_idempotency_key_makes_the_expected_position_irrelevant(enqueue: Enqueuer, thread_id: str) -> None:
    start = enqueue(thread_id, [1])
    enqueue(thread_id, [2], expected=start.position, key="k")

    repeated = enqueue(thread_id, [1], writer="w2", expected=start.position, key="k")
    other = enqueue(thread_id, [2], writer="w2", expected=start.position, key="other")
    without = enqueue(thread_id, [2], writer="w2", expected=start.position)

    assert [repeated.status, other.status, without.status] == ["ok", "moved", "moved"]


def test_the_idempotency_key_of_a_refused_append_is_not_kept(enqueue: Enqueuer, redis: Redis, thread_id: str) -> None:
    enqueue(thread_id, [1])

    refused = [enqueue(thread_id, [2], expected="1-1", key="k"), enqueue(thread_id, [7], key="k")]

    assert [reply.status for reply in refused] == ["moved", "gap"]
    assert not redis.exists(enqueue.keys.idempotency_keys(thread_id))


def test_a_thread_keeps_its_newest_thousand_idempotency_keys(
    redis: Redis, settings: Settings, thread_id: str
) -> None:
    enqueue = Enqueuer(redis, settings, bound=2_000)
    start = enqueue(thread_id, [1], key="0")
    redis.zadd(enqueue.keys.idempotency_keys(thread_id), {f"old {n}": n for n in range(1_500)})

    enqueue(thread_id, [2], key="new")

    assert redis.zcard(enqueue.keys.idempotency_keys(thread_id)) == 1_000
    outcomes = [
        enqueue(thread_id, [3 + n], expected=start.position, key=key).status
        for n, key in enumerate(["0", "new", "old 1499"])
    ]
    assert outcomes == ["ok", "ok", "ok"]
    assert enqueue(thread_id, [6], expected=start.position, key="old 1").status == "moved"


def test_idempotency_keys_expire_with_the_counters_and_are_deleted_with_the_thread(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    keys = enqueue.keys
    reply = enqueue(thread_id, [1], key="k")
    _, claims = mailbox.claim()
    mailbox.settle(claims, {thread_id: done(reply.position)})
    settled = redis.ttl(keys.idempotency_keys(thread_id)), redis.ttl(keys.writers(thread_id))
    deletion = enqueue(thread_id, [2], delete=True)
    _, claims = mailbox.claim()

    mailbox.settle(claims, {thread_id: Outcome(OutcomeKind.DELETED, deletion.position)})

    assert settled == (60, settings.writer_ttl_days * 86_400)  # as enqueue set it, and as settle set it
    assert not redis.exists(keys.idempotency_keys(thread_id), keys.writers(thread_id))


# -- fences ------------------------------------------------------------------------------------------------


def fence(redis: Redis, settings: Settings, thread_id: str) -> int:
    script = redis.register_script(load_script("livethread.queued", "fence"))
    keys = [names.ShardKeys(settings.key_prefix, 0).writers(thread_id), names.deployment_key(settings.key_prefix)]
    return int(script(keys=keys, args=[60, "[[0,1]]"]))


def test_a_writer_of_an_older_epoch_is_fenced(
    enqueue: Enqueuer, redis: Redis, settings: Settings, thread_id: str
) -> None:
    before = enqueue(thread_id, [1], epoch=0, new=True)
    epoch = fence(redis, settings, thread_id)

    older = enqueue(thread_id, [2, 3], epoch=0)
    newest = enqueue(thread_id, [1], writer="w2", epoch=epoch)
    without = enqueue(thread_id, [1], writer="w3")

    assert [reply.status for reply in (before, older, newest, without)] == ["ok", "fenced", "ok", "ok"]
    assert (older.last, older.fresh) == (1, 0)
    assert [writer for _, writer, _ in enqueue.stored(thread_id)] == ["w1", "w2", "w3"]


def test_a_fenced_writers_repeated_call_returns_its_accepted_position(
    enqueue: Enqueuer, redis: Redis, settings: Settings, thread_id: str
) -> None:
    first = enqueue(thread_id, [1], epoch=0)
    fence(redis, settings, thread_id)

    again = enqueue(thread_id, [1], epoch=0)

    assert (again.status, again.position) == ("ok", first.position)


def test_epochs_only_grow_even_after_redis_lost_them(redis: Redis, settings: Settings, thread_id: str) -> None:
    writers = names.ShardKeys(settings.key_prefix, 0).writers(thread_id)
    redis.hset(names.deployment_key(settings.key_prefix), "epochs", "[[0,1]]")
    seconds, micros = redis.time()
    epochs = [fence(redis, settings, thread_id) for _ in range(5)]
    redis.hset(writers, names.EPOCH, FUTURE_MS)

    ahead = fence(redis, settings, thread_id)
    redis.delete(writers)
    after_loss = fence(redis, settings, thread_id)

    assert epochs == sorted(set(epochs))
    assert epochs[0] >= seconds * 1000 + micros // 1000
    assert (ahead, after_loss >= epochs[-1] - 5) == (FUTURE_MS + 1, True)
    assert 0 < int(redis.ttl(writers)) <= 60


def test_a_lost_epoch_is_restored_by_its_writers_next_task(
    enqueue: Enqueuer, redis: Redis, settings: Settings, thread_id: str
) -> None:
    epoch = fence(redis, settings, thread_id)
    redis.delete(enqueue.keys.writers(thread_id))
    older = enqueue(thread_id, [1], epoch=0)  # not promised, but accepted until the newer writer comes back

    enqueue(thread_id, [1], writer="w2", epoch=epoch)

    assert (older.status, enqueue(thread_id, [2], epoch=0).status) == ("ok", "fenced")
    assert redis.hget(enqueue.keys.writers(thread_id), names.EPOCH) == str(epoch).encode()


def test_a_refused_task_stores_no_epoch(enqueue: Enqueuer, redis: Redis, thread_id: str) -> None:
    enqueue(thread_id, [1], epoch=5, expected="1-1")

    assert not redis.exists(enqueue.keys.writers(thread_id))


# -- parking -----------------------------------------------------------------------------------------------


def test_a_busy_thread_waits_without_counting_an_attempt(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    for _ in range(3):
        [claim] = wait_until(lambda: mailbox.claim()[1], "the thread")
        mailbox.settle([claim], {thread_id: Outcome(OutcomeKind.BUSY, reason="held")})
        redis.zadd(enqueue.keys.ready, {thread_id: 1})  # as after the wait

    [claim] = mailbox.claim()[1]
    assert claim.put_back.failures == 0


def test_a_failing_thread_is_retried_with_growing_delays_and_then_parked(
    enqueue: Enqueuer, settings: Settings, redis: Redis, thread_id: str
) -> None:
    mailbox = Mailbox(redis, settings.model_copy(update={"park_after_attempts": 3}), 0)
    enqueue(thread_id, [1])
    waits = []
    for attempt in range(3):
        [claim] = mailbox.claim()[1]
        assert claim.put_back.failures == attempt
        seconds, microseconds = redis.time()
        outcome = mailbox.judge(claim, Outcome(OutcomeKind.FAILED, reason="disk full"))
        mailbox.settle([claim], {thread_id: outcome})
        due: Any = redis.zscore(enqueue.keys.ready, thread_id)
        if due is not None:
            waits.append(due - (seconds * 1000 + microseconds // 1000))
            assert mailbox.claim()[1] == []  # not due yet
            redis.zadd(enqueue.keys.ready, {thread_id: 1})

    assert len(waits) == 2
    assert 200 <= waits[0] < 400 <= waits[1]
    assert why_parked(redis, enqueue, thread_id) == {"reason": "failed 3 times, last with disk full", "applied": None}
    assert enqueue.counters(thread_id) == [1]


def test_applying_a_task_resets_the_attempts(enqueue: Enqueuer, mailbox: Mailbox, redis: Redis) -> None:
    thread_id = new_thread_id()
    first = enqueue(thread_id, [1])
    enqueue(thread_id, [2])
    [claim] = mailbox.claim()[1]
    mailbox.settle([claim], {thread_id: Outcome(OutcomeKind.FAILED, reason="x")})
    redis.zadd(enqueue.keys.ready, {thread_id: 1})
    [claim] = mailbox.claim()[1]

    mailbox.settle([claim], {thread_id: done(first.position)})

    [again] = mailbox.claim()[1]
    assert (claim.put_back.failures, again.put_back.failures) == (1, 0)


def why_parked(redis: Redis, enqueue: Enqueuer, thread_id: str) -> dict[str, Any]:
    """Return the details of a parked thread without its time, which must be valid."""
    parked: Any = redis.hget(enqueue.keys.parked, thread_id)
    detail: dict[str, Any] = json.loads(parked)
    assert parse_time(detail.pop("parked_at")) is not None
    return detail


def park(mailbox: Mailbox, thread_id: str, applied: str | None = None) -> None:
    claims = mailbox.claim()[1]
    mailbox.settle(claims, {thread_id: Outcome(OutcomeKind.POISONED, applied, "no such file")})


def test_a_parked_thread_accepts_tasks_and_is_not_claimed(
    enqueue: Enqueuer, mailbox: Mailbox, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    park(mailbox, thread_id)

    reply = enqueue(thread_id, [2, 3])

    assert (reply.status, enqueue.counters(thread_id)) == ("ok", [1, 2, 3])
    assert mailbox.claim()[1] == []


def test_other_threads_go_on_while_one_is_parked(enqueue: Enqueuer, mailbox: Mailbox, thread_id: str) -> None:
    other = new_thread_id()
    enqueue(thread_id, [1])
    park(mailbox, thread_id)
    reply = enqueue(other, [1])

    claims = mailbox.claim()[1]
    mailbox.settle(claims, {other: done(reply.position)})

    assert [claim.thread_id for claim in claims] == [other]
    assert enqueue.stored(other) == []


def test_the_mailbox_of_a_parked_thread_is_bounded(redis: Redis, settings: Settings, thread_id: str) -> None:
    enqueue, mailbox = Enqueuer(redis, settings, bound=2), Mailbox(redis, settings, 0)
    enqueue(thread_id, [1])
    park(mailbox, thread_id)

    assert enqueue(thread_id, [2]).status == "ok"
    assert enqueue(thread_id, [3]).status == "full"


def test_tasks_before_the_poisoned_one_count_as_applied(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str
) -> None:
    first = enqueue(thread_id, [1])
    enqueue(thread_id, [2, 3])

    park(mailbox, thread_id, applied=first.position)

    assert enqueue.counters(thread_id) == [2, 3]
    assert why_parked(redis, enqueue, thread_id) == {"reason": "no such file", "applied": first.position}


def test_parking_is_published(enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, thread_id: str) -> None:
    enqueue(thread_id, [1])
    with listening(redis) as heard:
        heard.subscribe(enqueue.keys.acks("w1"))

        park(mailbox, thread_id)

        message = wait_until(lambda: heard.get_message(timeout=0.1), "the publication")
    what, thread, detail = message["data"].decode().split(" ", 2)
    assert (what, thread, json.loads(detail)["reason"]) == ("parked", thread_id, "no such file")


def test_an_unparked_thread_is_claimed_with_its_tasks_in_order(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    park(mailbox, thread_id)
    enqueue(thread_id, [2, 3])

    assert unpark(redis, settings, thread_id) is True

    assert [claim.thread_id for claim in mailbox.claim()[1]] == [thread_id]
    assert enqueue.counters(thread_id) == [1, 2, 3]


def test_a_thread_that_is_not_parked_cannot_be_unparked(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    enqueue(thread_id, [1])
    mailbox.claim()

    assert unpark(redis, settings, thread_id) is False
    assert redis.zscore(enqueue.keys.ready, thread_id) is None  # it is claimed


def test_a_sweep_does_not_wake_a_parked_thread(enqueue: Enqueuer, mailbox: Mailbox, thread_id: str) -> None:
    enqueue(thread_id, [1])
    park(mailbox, thread_id)
    mailbox.rest()

    mailbox.sweep()

    assert mailbox.claim()[1] == []


def test_a_claim_ends_before_a_malformed_entry_and_reports_it(
    enqueue: Enqueuer, mailbox: Mailbox, redis: Redis, settings: Settings, thread_id: str
) -> None:
    keys = enqueue.keys
    redis.xadd(keys.mailbox(thread_id), {"writer": "w", "n": 1, "task": TASK, "lines": line(1)}, id="1-1")
    redis.xadd(keys.mailbox(thread_id), {"writer": "w", "n": 2, "task": "{"}, id="1-2")
    redis.zadd(keys.ready, {thread_id: 1})

    [claim] = mailbox.claim()[1]

    assert [entry.n for entry in claim.entries] == [1]
    assert str(claim.malformed).startswith("the entry at 1-2 is not a task: InvalidRequest")


@pytest.mark.parametrize(
    ("fields", "n", "fault"),
    [
        ({"task": TASK, "lines": line(1), "n": 1, "writer": "w"}, 1, None),
        ({"writer": "w", "n": 2, "task": TASK, "lines": line(1), "note": "by hand"}, 2, None),
        ({"writer": "w", "n": 3, "task": TASK}, 3, None),
        ({"writer": "w", "n": 4}, None, "KeyError: b'task'"),
        ({"writer": "w"}, None, "KeyError: b'n'"),
        ({"writer": "w w", "n": 5, "task": TASK, "lines": ""}, None, "ValueError: its writer or counter is invalid"),
        ({"writer": "w", "n": "x", "task": TASK, "lines": ""}, None, "ValueError: invalid literal"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_entry_is_either_a_task_or_has_a_reason_why_not(
    enqueue: Enqueuer, mailbox: Mailbox, fields: dict[Any, Any], n: int | None, fault: str | None
) -> None:
    thread_id = new_thread_id()
    enqueue.redis.xadd(enqueue.keys.mailbox(thread_id), fields, id="1-1")
    enqueue.redis.zadd(enqueue.keys.ready, {thread_id: 1})

    [claim] = mailbox.claim()[1]

    assert [entry.n for entry in claim.entries] == ([n] if n else [])
    if fault:
        assert str(claim.malformed).startswith(f"the entry at 1-1 is not a task: {fault}")
        assert claim.malformed is not None
        assert claim.malformed.size == sum(len(str(value)) for value in fields.values())


def test_each_shard_has_its_own_redis_keys_in_one_slot() -> None:
    keys = names.ShardKeys("p", 3)
    thread_id = str(uuid.UUID(int=0))

    every = [keys.ready, keys.claims, keys.tokens, keys.attempts, keys.parked, keys.bell, keys.drain, keys.wake]
    every += [keys.mailbox(thread_id), keys.writers(thread_id), keys.applied(thread_id)]

    assert len(set(every)) == len(every)
    assert all(key.startswith("p:{3}:") for key in every)
