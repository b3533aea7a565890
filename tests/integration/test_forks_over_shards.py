"""A fork shares lines of its source's home, and so belongs to the source's shard."""

from __future__ import annotations

import pytest
from tests.nodes.stores import opened
from tests.unit.worker import paginated
from tests.unit.worker.builders import thread_id

from livethread import CreateThreadParams, InvalidRequest, PrepareForkParams, Settings
from livethread_config.names import shard_of
from livethread_worker.store.files.home import Home

SHARDS = 8


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_a_fork_gets_an_id_of_its_sources_shard(settings: Settings, n: int) -> None:
    source = thread_id(n)
    paginated.begin(Home(settings.home), source).turn("t1", "question", "answer")

    async with opened(settings.model_copy(update={"shards": SHARDS, "reads": "local"})) as store:
        forks = [await store.prepare_fork(PrepareForkParams(thread_id=source)) for _ in range(4)]
        elsewhere = next(
            id_ for id_ in map(thread_id, range(10, 100)) if shard_of(id_, SHARDS) != shard_of(source, SHARDS)
        )
        params = {"forked_from_id": source, "history_mode": "paginated", "history_base": forks[0].history_base}

        assert {shard_of(fork.fork_id, SHARDS) for fork in forks} == {shard_of(source, SHARDS)}
        with pytest.raises(InvalidRequest, match="another home"):
            await store.create_thread(CreateThreadParams.model_validate({"thread_id": elsewhere} | params))
        await store.create_thread(CreateThreadParams.model_validate({"thread_id": forks[0].fork_id} | params))
