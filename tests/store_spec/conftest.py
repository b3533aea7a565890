"""The stores that must keep the contract, through the same fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from tests.nodes.stores import opened
from tests.store_spec import kinds

from livethread import InMemoryThreadStore, Settings, ThreadStore
from livethread_worker.store import LocalThreadStore


class OpenStore(Protocol):
    """Opens another store over the same threads, as another process would."""

    async def __call__(self) -> ThreadStore: ...


@pytest.fixture(params=kinds.STORES)
def kind(request: pytest.FixtureRequest) -> str:
    """Which store is tested; `EVERY_READER` and `SHARED` choose other ones."""
    return str(request.param)


@pytest.fixture
async def open_another(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[OpenStore]:
    if kind in {kinds.QUEUED, kinds.CELERY}:
        served: Settings = request.getfixturevalue("served")
        settings = served.model_copy(
            update={
                "max_item_bytes": kinds.MAX_ITEM_BYTES,
                "reads": "celery" if kind == kinds.CELERY else "local",
                "enqueue_timeout_s": 10.0,
                "flush_timeout_s": 10.0,
            }
        )
    else:
        settings = Settings(home=tmp_path / "home", redis_url=None, max_item_bytes=kinds.MAX_ITEM_BYTES)
    async with AsyncExitStack() as stack:

        async def open_one() -> ThreadStore:
            match kind:
                case kinds.MEMORY:
                    return InMemoryThreadStore(max_item_bytes=kinds.MAX_ITEM_BYTES)
                case kinds.LOCAL:
                    return await stack.enter_async_context(LocalThreadStore(settings))
                case kinds.FILES:
                    return await stack.enter_async_context(LocalThreadStore(settings, index=None))
                case kinds.QUEUED | kinds.CELERY:
                    return await stack.enter_async_context(opened(settings))
                case _:
                    raise ValueError(kind)

        yield open_one


@pytest.fixture
async def store(open_another: OpenStore) -> ThreadStore:
    return await open_another()


@pytest.fixture
async def second_store(store: ThreadStore, open_another: OpenStore) -> ThreadStore:
    """A second store over the same threads; a store in memory cannot have one (use `SHARED`)."""
    return await open_another()
