"""A store in memory with pages over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.nodes.statuses import facts

from livethread import CreateThreadParams, InMemoryThreadStore, LiveThread, RolloutItem
from livethread.status.facts import Facts
from livethread.status.status import Status
from livethread.web.app import create_app


@dataclass
class Queue:
    """What Redis would say."""

    is_away: bool = False
    parked_threads: dict[str, str] = field(default_factory=dict)
    open_threads: set[str] = field(default_factory=set)

    async def parked(self) -> dict[str, str] | None:
        return None if self.is_away else self.parked_threads

    async def is_open(self, thread_id: str) -> bool:
        return thread_id in self.open_threads


@dataclass
class Deployment:
    """What a status would find."""

    facts: Facts = field(default_factory=facts)

    async def read(self) -> Status:
        return Status.of(self.facts)


async def written(store: InMemoryThreadStore, *items: RolloutItem, **params: Any) -> str:
    """Write a thread, and return its id."""
    thread = await LiveThread.create(store, CreateThreadParams(**params))
    await thread.append_items(items)
    await thread.shutdown()
    return thread.thread_id


@pytest.fixture
def store() -> InMemoryThreadStore:
    return InMemoryThreadStore()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def deployment() -> Deployment:
    return Deployment()


@pytest.fixture
def write(store: InMemoryThreadStore) -> Callable[..., str]:
    return lambda *items, **params: asyncio.run(written(store, *items, **params))


@pytest.fixture
def client(store: InMemoryThreadStore, queue: Queue, deployment: Deployment) -> TestClient:
    app = create_app(store, queue, deployment, place="/somewhere", flower="http://127.0.0.1:5555/")
    return TestClient(app, base_url="http://localhost")
