"""The composition root: builds stores and readers from settings. Only it joins client and worker.

Celery, redis and the worker's side are imported only when they are used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from livethread.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from celery import Celery

    from livethread.changes import Changes, Source
    from livethread.position import Position
    from livethread.queued.backlog import Backlog
    from livethread.queued.deployment import DeploymentWatch
    from livethread.queued.mailboxes import Mailboxes
    from livethread.queued.parked_threads import ParkedThreads
    from livethread.queued.queue_state import RedisQueueState
    from livethread.queued.queued_store import QueuedThreadStore
    from livethread.queued.shards import Shards
    from livethread.store import ThreadReader, WatchingReader
    from livethread.types import ThreadFreshness
    from livethread_config import Settings
    from livethread_config.deployment import Deployment, HomeIdentity

#: Longest time in which a watcher of a thread reads once without a hint: other programs' writes in homes elsewhere give none.
WATCH_INTERVAL: Final = 60.0  # seconds


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
            await _run_locally(stack, settings)
        app = _client_app(stack, settings)
        mailboxes = _mailboxes(stack, settings, app)
        deployment = await stack.enter_async_context(mailboxes.deployment)
        reader = await _reader(stack, settings, deployment, lambda _: app)
        changes = _changes(stack, settings, deployment)
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
    from livethread.position import START

    settings = settings or _settings_of_environment()
    async with AsyncExitStack() as stack:
        reader, deployment = await _reader_alone(stack, settings)

        @cache
        def mailboxes() -> Mailboxes:
            return _mailboxes(stack, settings, _client_app(stack, settings))

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

        changes = _changes(stack, settings, deployment)
        stack.push_async_callback(changes.aclose)
        yield FreshReader(reader, changes, catch_up, catch_up_with_all)


async def _reader_alone(stack: AsyncExitStack, settings: Settings) -> tuple[ThreadReader, DeploymentWatch | None]:
    """Return the reader of all homes for a process without a store, and the deployment; None if Redis is embedded."""
    is_local = _reads_locally(settings)
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
    reader = await _reader(stack, settings, deployment, lambda readers: _client_app(readers, settings))
    return reader, deployment


def _changes(stack: AsyncExitStack, settings: Settings, deployment: DeploymentWatch | None) -> Changes:
    """Return what wakes the watchers of threads: changes of the home on this host, and what workers publish."""
    from livethread.changes import Changes

    sources: list[Source] = []
    is_local = _reads_locally(settings)
    if is_local:
        from livethread_worker.store.files.home import Home
        from livethread_worker.store.read.home_poller import HomePoller

        sources.append(HomePoller(Home(settings.home)).poll)
    if deployment is not None:
        from livethread.queued.change_listener import ChangeListener
        from livethread.queued.connection import connect

        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        sources.append(ChangeListener(redis, deployment, settings.key_prefix).listen)
    is_whole = is_local and settings.is_embedded  # there is no other home
    return Changes(*sources, poll_interval=None if is_whole else WATCH_INTERVAL)


async def open_parked_threads(stack: AsyncExitStack, settings: Settings) -> ParkedThreads:
    """Return what is parked in *settings*' Redis; the connection, and an embedded server, stay up until *stack* closes.

    Raises:
        Unavailable: Redis does not answer.
    """
    from livethread.queued.connection import redis_errors_translated, require_redis
    from livethread.queued.parked_threads import ParkedThreads

    if settings.is_embedded:
        await _run_locally(stack, settings)
    await require_redis(settings)
    mailboxes = _mailboxes(stack, settings, _client_app(stack, settings), rings_to_the_end=True)
    with redis_errors_translated(settings):
        await mailboxes.deployment.look()
    return ParkedThreads(mailboxes)


async def open_shards(stack: AsyncExitStack, settings: Settings) -> Shards:
    """Return the shards of *settings*' deployment; the connection, and an embedded server, stay up until *stack* closes.

    Raises:
        Unavailable: Redis does not answer.
    """
    from livethread.queued.connection import connect, redis_errors_translated, require_redis
    from livethread.queued.shards import Shards

    if settings.is_embedded:
        await _run_locally(stack, settings)
    await require_redis(settings)
    stack.enter_context(redis_errors_translated(settings))
    redis = connect(settings)
    stack.push_async_callback(redis.aclose)
    return Shards(redis, settings)


@asynccontextmanager
async def open_queue_state(settings: Settings) -> AsyncIterator[RedisQueueState]:
    """Open what *settings*' Redis says about threads. Starts nothing, and needs no Redis before it is asked."""
    from livethread.queued.queue_state import RedisQueueState

    async with AsyncExitStack() as stack:
        mailboxes = _mailboxes(stack, settings, _client_app(stack, settings))
        await stack.enter_async_context(mailboxes.deployment)
        yield RedisQueueState(mailboxes)


def _settings_of_environment() -> Settings:
    from livethread_config import Settings
    from livethread_config.settings import explained

    try:
        return Settings()
    except ValueError as error:
        raise InvalidRequest(explained(error) or str(error)) from None


def _client_app(stack: AsyncExitStack, settings: Settings) -> Celery:
    from livethread.queued.broker import Broker
    from livethread_config.celery_app import deployment_app

    app = deployment_app("livethread.client", settings, Broker)
    stack.callback(app.close)
    return app


async def _run_locally(stack: AsyncExitStack, settings: Settings) -> None:
    if not _has_worker_extra():
        raise Unavailable(
            "LIVETHREAD_REDIS_URL is not set, and the embedded Redis needs the worker extra: "
            "set LIVETHREAD_REDIS_URL, or run pip install 'livethread[worker]'"
        )
    from livethread_worker.embedded.runtime import use_local_runtime

    runtime = use_local_runtime(settings)
    # Registered before it is entered: if this is cancelled meanwhile, the stack still leaves it.
    entering = asyncio.ensure_future(asyncio.to_thread(runtime.__enter__))
    stack.push_async_callback(_leave, runtime, entering)
    await asyncio.shield(entering)


async def _leave(runtime: AbstractContextManager[None], entering: asyncio.Future[None]) -> None:
    await asyncio.wait([entering])
    if entering.exception() is None:
        await asyncio.to_thread(runtime.__exit__, None, None, None)


def _mailboxes(
    stack: AsyncExitStack, settings: Settings, app: Celery, *, rings_to_the_end: bool = False
) -> Mailboxes:
    from livethread.queued.connection import connect
    from livethread.queued.doorbell import Doorbell
    from livethread.queued.mailboxes import Mailboxes

    redis, doorbell = connect(settings), Doorbell(app, settings)
    stack.push_async_callback(redis.aclose)
    stack.callback(doorbell.close, wait=rings_to_the_end)
    return Mailboxes(redis, settings, doorbell)


async def _reader(
    stack: AsyncExitStack,
    settings: Settings,
    watch: DeploymentWatch,
    client_app: Callable[[AsyncExitStack], Celery],
) -> ThreadReader:
    """Return the reader of all homes; *client_app* returns the application to ask workers with."""
    local = await _local_reader(stack, settings) if _reads_locally(settings) else None
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
        return client_app(readers)

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


def local_home(settings: Settings) -> HomeIdentity | None:
    """Return the home that this process reads and may write; None if it reads none, or no worker has served it yet.

    Raises:
        InvalidRequest: the home belongs to a deployment with another prefix.
    """
    if not has_home(settings):
        return None
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.identity import find_identity

    try:
        return find_identity(Home(settings.home), settings.key_prefix)
    except OSError:  # reading the home says more
        return None


def new_home(settings: Settings) -> HomeIdentity:
    """Return the home of this host that is to serve a shard; it gets an identity if it has none.

    Raises:
        InvalidRequest: ``LIVETHREAD_HOME`` is not set, the worker extra is missing, or Redis is embedded.
        Unavailable: the home cannot be created.
    """
    if settings.is_embedded or "home" not in settings.model_fields_set or not _has_worker_extra():
        raise InvalidRequest(
            "a shard is moved to the home LIVETHREAD_HOME of this host, in the deployment LIVETHREAD_REDIS_URL: set both, "
            "and install the worker extra (pip install 'livethread[worker]')"
        )
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.identity import identify

    try:
        return identify(Home(settings.home), settings.key_prefix)
    except OSError as error:
        raise Unavailable(f"the home {settings.home} cannot be used: {error}") from error


def _reads_locally(settings: Settings) -> bool:
    """Whether to read the home on this host: ``auto`` does if a home is set or Redis is embedded."""
    if settings.reads != "auto":
        return settings.reads == "local"
    return _has_worker_extra() and (settings.is_embedded or "home" in settings.model_fields_set)


def has_home(settings: Settings) -> bool:
    """Whether this process may write to the workers' home: it is on this host, and the worker extra is installed."""
    return _has_worker_extra() and _reads_locally(settings)


def _has_worker_extra() -> bool:
    return find_spec("livethread_worker") is not None and find_spec("sqlite_utils") is not None
