"""Deployments to measure: an embedded Redis with the shipped configuration, and Celery worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from livethread import open_store
from livethread.queued.queued_store import QueuedThreadStore
from livethread_config import Settings, names
from livethread_config.celery_app import deployment_app
from livethread_worker.embedded.runtime import running
from livethread_worker.embedded.supervisor import Supervisor
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index


@dataclass(frozen=True, slots=True)
class Deployment:
    """A home with its Redis and its workers, and a store for session code."""

    settings: Settings
    store: QueuedThreadStore
    redis: Redis
    supervisor: Supervisor

    def calls(self, command: str) -> int:
        """Return how often Redis has run *command*."""
        stats: Any = self.redis.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))

    def server(self) -> str:
        """Return the name and version of the server."""
        info: Any = self.redis.info("server")
        name = info.get("server_name", "redis")
        return f"{name} {info.get(f'{name}_version', info['redis_version'])}"

    async def until_empty(self) -> None:
        """Wait until workers have deleted the last thread from the index."""
        with contextlib.closing(Index(Home(self.settings.home))) as index:
            while [*index.db.query("SELECT 1 FROM threads LIMIT 1")]:  # noqa: ASYNC110 - another process deletes the rows
                await asyncio.sleep(0.02)

    def celery_tasks(self) -> dict[str, int]:
        """Return how many Celery messages the workers have taken, by task."""
        with deployment_app("benchmark", self.settings) as app:
            replies: dict[str, Any] = app.control.inspect(timeout=2.0).stats() or {}
        totals: dict[str, int] = {}
        for reply in replies.values():
            for task, count in reply["total"].items():
                totals[task] = totals.get(task, 0) + count
        return {task: count for task, count in totals.items() if task == names.DRAIN_TASK}


@contextlib.asynccontextmanager
async def deployed(workers: int, home: Path | None = None) -> AsyncIterator[Deployment]:
    """Run a deployment with this number of *workers*, each one process; by default with a new home."""
    with tempfile.TemporaryDirectory(prefix="livethread-bench-") as folder:
        settings = Settings(home=home or Path(folder) / "home", redis_url=None)
        with running(settings, workers=workers, concurrency=1) as supervisor:
            async with open_store(settings) as store:
                with Redis.from_url(settings.client_url) as redis:
                    yield Deployment(settings, store, redis, supervisor)
