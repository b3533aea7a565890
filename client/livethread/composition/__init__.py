"""The composition root: builds stores and readers from settings. Only it joins client and worker.

Celery, redis and the worker's side are imported only when they are used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

from livethread.composition.connections import client_app, open_mailboxes, require_running, run_locally
from livethread.composition.readers import changes_of, reader_alone, reader_of_all_homes
from livethread.errors import InvalidRequest

if TYPE_CHECKING:
    from livethread.position import Position
    from livethread.queued.backlog import Backlog
    from livethread.queued.mailboxes import Mailboxes
    from livethread.queued.parked_threads import ParkedThreads
    from livethread.queued.queue_state import RedisQueueState
    from livethread.queued.queued_store import QueuedThreadStore
    from livethread.queued.shards import Shards
    from livethread.store import WatchingReader
    from livethread.types import ThreadFreshness
    from livethread_config import Settings


@asynccontextmanager
async def open_store(settings: Settings | None = None) -> AsyncIterator[QueuedThreadStore]:
    """Open the store that *settings* (by default ``LIVETHREAD_*``) describe, and close it at the end.

    Without a ``redis_url``, the store uses the embedded Redis and a worker of its home. It starts each if it does not
    run yet; both end with the last process that uses them.

    Raises:
        InvalidRequest: a variable ``LIVETHREAD_*`` has an invalid value, the deployment record contradicts the settings,
            or Redis cannot keep what it accepts, such as a cluster, an old version, or one that drops keys.
        Unavailable: Redis does not answer (unless ``require_redis`` is false), the embedded server cannot be started, or
            the home cannot be created.
    """
    from livethread.queued.queued_store import QueuedThreadStore

    settings = settings or _settings_of_environment()
    async with AsyncExitStack() as stack:
        if settings.is_embedded:
            await run_locally(stack, settings)
        app = client_app(stack, settings)
        mailboxes = open_mailboxes(stack, settings, app)
        deployment = await stack.enter_async_context(mailboxes.deployment)
        reader = await reader_of_all_homes(stack, settings, deployment, lambda _: app)
        changes = changes_of(stack, settings, deployment)
        yield await stack.enter_async_context(QueuedThreadStore(mailboxes, settings, reader, changes))


@asynccontextmanager
async def open_reader(settings: Settings | None = None) -> AsyncIterator[WatchingReader]:
    """Open the store that *settings* describe for reading. Starts neither Redis nor a worker.

    If *settings* name a home, or Redis is embedded, the reader reads the files itself; it asks the workers for threads of
    other homes. A read that must be fresh also asks Redis, and raises `Unavailable` if Redis does not run.

    Raises:
        InvalidRequest: a variable ``LIVETHREAD_*`` has an invalid value, or the deployment record contradicts the settings.
        Unavailable: Redis does not answer, and *settings* name no home.
    """
    from livethread.fresh_reader import FreshReader
    from livethread.opener import Opener
    from livethread.position import START

    settings = settings or _settings_of_environment()
    async with AsyncExitStack() as stack:
        reader, deployment = await reader_alone(stack, settings)

        @cache
        def mailboxes() -> Mailboxes:
            return open_mailboxes(stack, settings, client_app(stack, settings))

        async def backlog() -> Backlog:
            from livethread.queued.backlog import Backlog
            from livethread.queued.connection import redis_errors_translated

            with redis_errors_translated(settings):
                await mailboxes().deployment.look()
            return Backlog(mailboxes(), settings)

        async def catch_up(thread_id: str, demand: ThreadFreshness) -> Position:
            if not demand.is_demanding:
                return START
            return await (await backlog()).until_applied(thread_id, demand.at_least or START, fresh=demand.fresh)

        async def catch_up_with_all() -> None:
            await (await backlog()).until_all_applied()

        changes = changes_of(stack, settings, deployment)
        stack.push_async_callback(changes.aclose)
        opener = Opener("reader", "nothing was read")
        opener.enter_loop()
        stack.callback(opener.close)
        yield FreshReader(opener, reader, changes, catch_up, catch_up_with_all)


async def open_parked_threads(stack: AsyncExitStack, settings: Settings) -> ParkedThreads:
    """Return what is parked in *settings*' Redis; the connection, and an embedded server, stay up until *stack* closes.

    Raises:
        Unavailable: Redis does not answer.
    """
    from livethread.queued.connection import redis_errors_translated
    from livethread.queued.parked_threads import ParkedThreads

    await require_running(stack, settings)
    mailboxes = open_mailboxes(stack, settings, client_app(stack, settings), rings_to_the_end=True)
    with redis_errors_translated(settings):
        await mailboxes.deployment.look()
    return ParkedThreads(mailboxes)


async def open_shards(stack: AsyncExitStack, settings: Settings) -> Shards:
    """Return the shards of *settings*' deployment; the connection, and an embedded server, stay up until *stack* closes.

    Raises:
        Unavailable: Redis does not answer.
    """
    from livethread.queued.connection import connect, redis_errors_translated
    from livethread.queued.shards import Shards

    await require_running(stack, settings)
    stack.enter_context(redis_errors_translated(settings))
    redis = connect(settings)
    stack.push_async_callback(redis.aclose)
    return Shards(redis, settings)


@asynccontextmanager
async def open_queue_state(settings: Settings) -> AsyncIterator[RedisQueueState]:
    """Open what *settings*' Redis says about threads. Starts nothing, and needs no Redis before it is asked."""
    from livethread.queued.queue_state import RedisQueueState

    async with AsyncExitStack() as stack:
        mailboxes = open_mailboxes(stack, settings, client_app(stack, settings))
        await stack.enter_async_context(mailboxes.deployment)
        yield RedisQueueState(mailboxes)


def _settings_of_environment() -> Settings:
    from livethread_config import Settings
    from livethread_config.settings import explained

    try:
        return Settings()
    except ValueError as error:
        raise InvalidRequest(explained(error) or str(error)) from None
