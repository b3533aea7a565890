"""What Redis says about its own state, read from any host."""

from __future__ import annotations

import pytest
from tests.nodes.processes import RedisServer

from livethread.queued.connection import connect
from livethread.queued.statistics import LAG_BOUNDS_S, LagHistogram, ShardStatistics, StatisticsReader
from livethread_config import Settings, names


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_a_deployment_in_which_nothing_has_happened(
    settings: Settings, redis_server: RedisServer, *, is_recorded: bool
) -> None:
    if is_recorded:
        redis_server.client.hset(
            names.deployment_key(settings.key_prefix), mapping={"wire": "1", "epochs": "[[0,1]]"}
        )
    redis = connect(settings)
    try:
        statistics = await StatisticsReader(redis, settings).read()
        waiting = await StatisticsReader(redis, settings).longest_waiting(10)
    finally:
        await redis.aclose()

    assert statistics.shards == (
        ShardStatistics(
            shard=0,
            home=None,
            oldest_unapplied_at=None,
            unapplied_tasks=0,
            waiting_threads=0,
            ready_threads=0,
            claimed_threads=0,
            retrying_threads=0,
            parked_threads=0,
            accepted={},
            applied=0,
            dropped=0,
            refused=0,
            duplicates=0,
            failures=0,
            parked_total=0,
            lag=LagHistogram((0,) * (len(LAG_BOUNDS_S) + 1), 0.0),
            drained_at=None,
            swept_at=None,
            doorbells=0,
        ),
    )
    assert statistics.workers == ()
    assert waiting == []
    assert bool(redis_server.client.exists(names.deployment_key(settings.key_prefix))) == is_recorded
