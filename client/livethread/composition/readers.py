"""Readers of all homes: in this process, or through the workers; and what wakes the watchers of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from livethread.composition.connections import client_app
from livethread.composition.home import local_home, reads_locally
from livethread.errors import InvalidRequest

if TYPE_CHECKING:
    from celery import Celery

    from livethread.changes import Changes, Source
    from livethread.queued.deployment import DeploymentWatch
    from livethread.store import ThreadReader
    from livethread_config import Settings
    from livethread_config.deployment import Deployment, HomeIdentity

#: Longest time in which a watcher of a thread reads once without a hint: other programs' writes in homes elsewhere give none.
WATCH_INTERVAL: Final = 60.0  # seconds


async def reader_alone(stack: AsyncExitStack, settings: Settings) -> tuple[ThreadReader, DeploymentWatch | None]:
    """Return the reader of all homes for a process without a store, and the deployment; None if Redis is embedded."""
    is_local = reads_locally(settings)
    if is_local and settings.is_embedded:
        return await _local_reader(stack, settings), None
    from redis.exceptions import RedisError

    from livethread.queued.connection import connect, redis_errors_translated, require_redis
    from livethread.queued.deployment import DeploymentWatch

    redis = connect(settings)
    stack.push_async_callback(redis.aclose)
    deployment = DeploymentWatch(redis, settings)
    if is_local:
        with suppress(RedisError, OSError):  # among them TimeoutError
            async with asyncio.timeout(settings.connect_timeout_s):
                await deployment.look()
    else:
        await require_redis(settings)
        with redis_errors_translated(settings):
            await deployment.look()
    await stack.enter_async_context(deployment)
    reader = await reader_of_all_homes(stack, settings, deployment, lambda readers: client_app(readers, settings))
    return reader, deployment


async def reader_of_all_homes(
    stack: AsyncExitStack,
    settings: Settings,
    watch: DeploymentWatch,
    app_for: Callable[[AsyncExitStack], Celery],
) -> ThreadReader:
    """Return the reader of all homes; *app_for* returns the application to ask workers with."""
    local = await _local_reader(stack, settings) if reads_locally(settings) else None
    if local is not None and settings.is_embedded:
        return local
    from redis.exceptions import RedisError

    from livethread.queued.celery_reader import CeleryReader
    from livethread.queued.connection import connect
    from livethread.queued.merged_reader import MergedReader

    readers = await stack.enter_async_context(AsyncExitStack())
    recalled = _recalled_deployment(settings) if local is not None else None

    @cache
    def app() -> Celery:
        return app_for(readers)

    @cache
    def remote(shard: int) -> ThreadReader:
        # One connection pool for each: a home that does not answer keeps no read of another one waiting.
        redis, celery = connect(settings), app()
        readers.push_async_callback(redis.aclose)
        reader = CeleryReader(celery, redis, settings, watch, shard)
        readers.push_async_callback(reader.aclose)
        return reader

    def deployment() -> Deployment:
        return watch.current if watch.is_read or recalled is None else recalled

    async def refreshed() -> Deployment:
        with suppress(RedisError, OSError, InvalidRequest):
            async with asyncio.timeout(settings.connect_timeout_s):
                await watch.look()
        return deployment()

    return MergedReader(
        deployment,
        refreshed,
        remote,
        local=local,
        local_home=_local_home_once_served(settings),
        prefers_local=settings.reads == "local",
    )


async def _local_reader(stack: AsyncExitStack, settings: Settings) -> ThreadReader:
    from livethread_worker.store import LocalThreadStore

    local_home(settings)
    return await stack.enter_async_context(LocalThreadStore(settings))


def _local_home_once_served(settings: Settings) -> Callable[[], HomeIdentity | None]:
    known: HomeIdentity | None = None

    def find() -> HomeIdentity | None:
        nonlocal known
        known = known or local_home(settings)
        return known

    return find


def _recalled_deployment(settings: Settings) -> Deployment | None:
    """Return the deployment as a worker of the home last saw it, for as long as Redis does not answer."""
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.identity import recall_deployment

    return recall_deployment(Home(settings.home), local_home(settings))


def changes_of(stack: AsyncExitStack, settings: Settings, deployment: DeploymentWatch | None) -> Changes:
    """Return what wakes the watchers of threads: changes of the home on this host, and what workers publish."""
    from livethread.changes import Changes

    sources: list[Source] = []
    is_local = reads_locally(settings)
    if is_local:
        from livethread_worker.store.files.home import Home
        from livethread_worker.store.read.home_poller import home_source

        sources.append(home_source(Home(settings.home)))
    if deployment is not None:
        from livethread.queued.change_listener import ChangeListener
        from livethread.queued.connection import connect

        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        sources.append(ChangeListener(redis, deployment, settings.key_prefix).listen)
    is_whole = is_local and settings.is_embedded  # there is no other home
    return Changes(*sources, poll_interval=None if is_whole else WATCH_INTERVAL)
