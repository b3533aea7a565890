"""What Redis says about threads."""

from __future__ import annotations

import json
from pathlib import Path

from redis import Redis
from tests.nodes.items import append, new_thread, said

from livethread import open_store
from livethread.composition import open_queue_state
from livethread_config import Settings, names


async def test_a_thread_is_open_while_a_client_has_it_open(settings: Settings) -> None:
    async with open_queue_state(settings) as queue, open_store(settings) as store:
        thread_id = await new_thread(store)
        before = await queue.is_open(thread_id)
        await append(store, thread_id, said("hello"))

        assert (before, await queue.is_open(thread_id)) == (False, True)

    async with open_queue_state(settings) as queue:
        assert not await queue.is_open(thread_id)


async def test_parked_threads_come_with_the_reason(settings: Settings) -> None:
    with Redis.from_url(settings.client_url) as redis:
        detail = json.dumps({"reason": "No space left on device"})
        redis.hset(names.ShardKeys(settings.key_prefix, 0).parked, "some-thread", detail)

    async with open_queue_state(settings) as queue:
        assert await queue.parked() == {"some-thread": "No space left on device"}


async def test_without_redis_nothing_is_known_and_nothing_is_started(tmp_path: Path) -> None:
    for settings in (Settings(home=tmp_path / "home", redis_url=None), Settings(redis_url="redis://127.0.0.1:1")):
        async with open_queue_state(settings) as queue:
            assert (await queue.parked(), await queue.is_open("some-thread")) == (None, False)

    assert not (tmp_path / "home").exists()
