"""The order in which threads with many and with few tasks are claimed."""

from __future__ import annotations

import itertools
import json
import logging
import time
from types import SimpleNamespace

import pytest
from redis import Redis
from tests.nodes.processes import RedisServer
from tests.nodes.workers import HandWorker

from livethread import new_thread_id
from livethread.queued.outage import Outage
from livethread_config import Settings, names
from livethread_worker.drain import drain as drain_module
from livethread_worker.drain import mailbox as mailbox_module
from livethread_worker.drain.drain import Drain
from livethread_worker.drain.mailbox import FEW_TASKS, TASKS_PER_THREAD, Claim, Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

TASK = json.dumps({"op": "append_items", "at": "2026-01-01T00:00:00Z"})
LINE = json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "type": "event_msg", "payload": {}})


class Backlog:
    """Mailboxes filled without a worker, and a worker that claims and settles without applying."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings
        self.keys = names.ShardKeys(settings.key_prefix, 0)
        self.mailbox = Mailbox(self.redis, settings, 0)
        self._scores = itertools.count(1)

    def thread(self, tasks: int, line: str = LINE) -> str:
        """Return a thread with *tasks* tasks that became ready after all others."""
        thread_id = new_thread_id()
        with self.redis.pipeline(transaction=False) as pipeline:
            for n in range(1, tasks + 1):
                fields = {"writer": "w", "n": n, "task": TASK, "lines": line}
                pipeline.xadd(self.keys.mailbox(thread_id), fields, id=f"1-{n}")  # type: ignore[arg-type]  # invariant
            pipeline.zadd(self.keys.ready, {thread_id: next(self._scores)})
            pipeline.execute()
        return thread_id

    def claim(self) -> dict[str, int]:
        """Claim and settle once; return how many tasks were claimed, by thread."""
        claims = self.mailbox.claim()[1]
        self.mailbox.settle(claims, {claim.thread_id: self.done(claim) for claim in claims})
        return {claim.thread_id: len(claim.entries) for claim in claims}

    def claims_until(self, thread_id: str) -> int:
        """Return in which claim the thread is claimed."""
        return next(number for number in itertools.count(1) if thread_id in self.claim())

    @staticmethod
    def done(claim: Claim) -> Outcome:
        return Outcome(OutcomeKind.DONE, claim.entries[-1].position)


@pytest.fixture
def backlog(redis_server: RedisServer, settings: Settings) -> Backlog:
    return Backlog(redis_server.client, settings)


def test_threads_are_claimed_together_with_a_hot_thread(backlog: Backlog) -> None:
    hot = backlog.thread(5_000)
    others = [backlog.thread(100) for _ in range(10)]

    claimed = backlog.claim()

    assert claimed == {hot: TASKS_PER_THREAD, **dict.fromkeys(others, 100)}


def test_a_hot_thread_is_queued_again_after_the_others(redis_server: RedisServer, settings: Settings) -> None:
    backlog = Backlog(redis_server.client, settings.model_copy(update={"claim_tasks": TASKS_PER_THREAD}))
    hot = backlog.thread(5_000)
    others = [backlog.thread(100) for _ in range(10)]

    claims = [backlog.claim() for _ in range(4)]

    assert claims == [
        {hot: TASKS_PER_THREAD},
        dict.fromkeys(others[:5], 100),
        dict.fromkeys(others[5:], 100),
        {hot: TASKS_PER_THREAD},
    ]


def test_a_thread_that_becomes_ready_during_a_claim_precedes_the_claimed_one(backlog: Backlog) -> None:
    hot = backlog.thread(5_000)
    claims = backlog.mailbox.claim()[1]
    other = backlog.thread(600)

    backlog.mailbox.settle(claims, {hot: Outcome(OutcomeKind.DONE, claims[0].entries[-1].position)})

    assert list(backlog.claim()) == [other, hot]


def test_a_thread_with_few_tasks_does_not_wait_for_hundreds_of_hot_threads(
    redis_server: RedisServer, settings: Settings
) -> None:
    """Four hot threads use up a claim; in plain order, the last thread would come in the 65th claim."""
    backlog = Backlog(redis_server.client, settings.model_copy(update={"claim_tasks": 240}))
    hot = [backlog.thread(60) for _ in range(256)]
    cold = backlog.thread(FEW_TASKS)

    claimed = backlog.claim()

    assert claimed == {**dict.fromkeys(hot[:4], 60), cold: FEW_TASKS}


def test_threads_with_few_tasks_do_not_hold_up_hot_threads(redis_server: RedisServer, settings: Settings) -> None:
    """Each claim serves the oldest threads, however many threads with few tasks come."""
    backlog = Backlog(redis_server.client, settings.model_copy(update={"claim_tasks": 240}))
    hot = [backlog.thread(600) for _ in range(3)]
    served = dict.fromkeys(hot, 0)

    for _ in range(30):
        for _ in range(100):
            backlog.thread(1)
        for thread_id, count in backlog.claim().items():
            if thread_id in served:
                served[thread_id] += count

    assert list(served.values()) == [600] * 3


def test_hot_threads_are_claimed_in_order(redis_server: RedisServer, settings: Settings) -> None:
    backlog = Backlog(redis_server.client, settings.model_copy(update={"claim_tasks": 240}))
    hot = [backlog.thread(240) for _ in range(20)]

    claimed = [next(iter(backlog.claim())) for _ in range(20)]

    assert claimed == hot


@pytest.mark.parametrize("count", [1, 5])
def test_threads_are_claimed_together_with_threads_of_large_items(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(mailbox_module, "CLAIM_BYTES", 100_000)
    large = [backlog.thread(20, line=json.dumps({**json.loads(LINE), "payload": "x" * 60_000})) for _ in range(count)]
    cold = backlog.thread(2)

    claimed = backlog.claim()

    assert claimed == {large[0]: 2, cold: 2}


def test_threads_with_few_tasks_do_not_exceed_a_claims_limits(redis_server: RedisServer, settings: Settings) -> None:
    backlog = Backlog(redis_server.client, settings.model_copy(update={"claim_tasks": 240, "claim_threads": 8}))
    hot = [backlog.thread(240) for _ in range(2)]
    for _ in range(30):
        backlog.thread(3)

    claimed = backlog.claim()

    assert next(iter(claimed)) == hot[0]
    assert len(claimed) == 8
    assert set(list(claimed.values())[1:]) == {3}


class Clock:
    """A monotonic clock that advances whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.3
        return self.now


@pytest.mark.parametrize(("shards", "batches"), [(1, 10), (2, 3)])
def test_a_drain_of_one_of_several_shards_ends_early_for_the_others(
    hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch, shards: int, batches: int
) -> None:
    """A worker process drains one shard at a time; with a single shard, no other drain waits."""
    settings = hand_worker.settings.model_copy(update={"claim_tasks": 10})
    backlog = Backlog(hand_worker.redis, settings)
    backlog.thread(100)
    rung: list[int] = []
    drain = Drain(
        backlog.mailbox,
        hand_worker.home,
        hand_worker.index,
        settings,
        ring=lambda: rung.append(0),
        reads_wait=lambda: False,
        events=TaskEvents(None, 0),
        outage=Outage(logging.getLogger(__name__), "drain"),
        serves_others=shards > 1,
    )
    monkeypatch.setattr(drain, "_apply", lambda claims: {each.thread_id: backlog.done(each) for each in claims})
    monkeypatch.setattr(drain_module, "time", SimpleNamespace(monotonic=Clock(), time=time.time))

    counts = drain.run()

    assert counts["batches"] == batches
    assert rung == [0] * (shards - 1)
    assert backlog.redis.exists(backlog.keys.drain) == 0
