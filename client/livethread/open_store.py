"""`open_store`: builds the queued store from settings. A composition root: it may join client and worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

from celery import Celery
from pydantic import ValidationError

from livethread.errors import InvalidRequest, Unavailable
from livethread.queued import QueuedThreadStore
from livethread.queued.celery_reader import CeleryReader
from livethread.queued.connection import connect, require_redis
from livethread.queued.doorbell import Doorbell
from livethread.queued.mailboxes import Mailboxes
from livethread.store import ThreadReader
from livethread_config import Settings
from livethread_config.celery_settings import celery_settings
from livethread_config.settings import explained


@asynccontextmanager
async def open_store(settings: Settings | None = None) -> AsyncIterator[QueuedThreadStore]:
    """Open the store that *settings* (by default ``LIVETHREAD_*``) describe, and close it at the end.

    Without a ``redis_url`` an embedded server is used, started where none runs for the home; where no worker
    of the home runs either, one worker process is. Both end with the last process that uses them.

    Raises:
        InvalidRequest: a variable ``LIVETHREAD_*`` is no setting of its kind.
        Unavailable: Redis does not answer (unless ``require_redis`` is false), no embedded server can be started, or the
            home cannot be made.
    """
    settings = settings or _settings_of_environment()
    async with AsyncExitStack() as stack:
        if settings.is_embedded:
            await _run_locally(stack, settings)
        app = _client_app(stack, settings)
        reader = await _reader(stack, app, settings)
        redis, doorbell = connect(settings), Doorbell(app, settings)
        stack.push_async_callback(redis.aclose)
        stack.callback(doorbell.close)
        mailboxes = Mailboxes(redis, settings, doorbell)
        yield await stack.enter_async_context(QueuedThreadStore(mailboxes, settings, reader))


@asynccontextmanager
async def open_reader(settings: Settings | None = None) -> AsyncIterator[ThreadReader]:
    """Open what reads the store that *settings* describe, and starts nothing: no Redis, no worker.

    A home that is given, or an embedded deployment's, is read itself; any other is asked for over Celery.

    Raises:
        InvalidRequest: a variable ``LIVETHREAD_*`` is no setting of its kind.
        Unavailable: Redis does not answer.
    """
    settings = settings or _settings_of_environment()
    async with AsyncExitStack() as stack:
        if not _reads_locally(settings):
            await require_redis(settings)
        yield await _reader(stack, _client_app(stack, settings), settings)


async def open_mailboxes(stack: AsyncExitStack, settings: Settings) -> Mailboxes:
    """Return the mailboxes in *settings*' Redis, for as long as *stack* is open; an embedded one is run meanwhile.

    Raises:
        Unavailable: Redis does not answer.
    """
    if settings.is_embedded:
        await _run_locally(stack, settings)
    await require_redis(settings)
    redis = connect(settings)
    stack.push_async_callback(redis.aclose)
    doorbell = Doorbell(_client_app(stack, settings), settings)
    stack.callback(doorbell.close, wait=True)
    return Mailboxes(redis, settings, doorbell)


def _settings_of_environment() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidRequest(explained(error)) from None


def _client_app(stack: AsyncExitStack, settings: Settings) -> Celery:
    app = Celery("livethread.client", set_as_current=False)
    app.conf.update(celery_settings(settings))
    stack.callback(app.close)
    return app


async def _run_locally(stack: AsyncExitStack, settings: Settings) -> None:
    if not _has_worker_extra():
        raise Unavailable(
            "no LIVETHREAD_REDIS_URL is set, and the embedded server needs the worker extra: "
            "set it, or pip install 'livethread[worker]'"
        )
    from livethread_worker.embedded.runtime import use_local_runtime

    runtime = use_local_runtime(settings)
    # Registered first: cancelled on the way in, it is left as soon as it is entered.
    entering = asyncio.ensure_future(asyncio.to_thread(runtime.__enter__))
    stack.push_async_callback(_leave, runtime, entering)
    await asyncio.shield(entering)


async def _leave(runtime: AbstractContextManager[None], entering: asyncio.Future[None]) -> None:
    await asyncio.wait([entering])
    if entering.exception() is None:
        await asyncio.to_thread(runtime.__exit__, None, None, None)


async def _reader(stack: AsyncExitStack, app: Celery, settings: Settings) -> ThreadReader:
    if not _reads_locally(settings):
        reader = CeleryReader(app, settings)
        stack.callback(reader.close)
        return reader
    from livethread_worker.store import LocalThreadStore

    return await stack.enter_async_context(LocalThreadStore(settings))


def _reads_locally(settings: Settings) -> bool:
    """Whether the workers' home is on this host: so it is taken to be where it is given, or Redis is embedded."""
    if settings.reads != "auto":
        return settings.reads == "local"
    return _has_worker_extra() and (settings.is_embedded or "home" in settings.model_fields_set)


def has_home(settings: Settings) -> bool:
    """Whether the home that *settings* name may be written here: it is the workers', and their code is at hand."""
    return _has_worker_extra() and _reads_locally(settings)


def _has_worker_extra() -> bool:
    return find_spec("livethread_worker") is not None and find_spec("sqlite_utils") is not None
