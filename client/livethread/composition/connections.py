"""What openers connect to: Celery, Redis with its mailboxes, and the embedded Redis with its worker."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, AsyncExitStack
from typing import TYPE_CHECKING

from livethread.composition.home import has_worker_extra
from livethread.errors import Unavailable

if TYPE_CHECKING:
    from celery import Celery

    from livethread.queued.mailboxes import Mailboxes
    from livethread_config import Settings


def client_app(stack: AsyncExitStack, settings: Settings) -> Celery:
    """Return the Celery application of a client, until *stack* closes."""
    from livethread.queued.broker import Broker
    from livethread_config.celery_app import deployment_app

    app = deployment_app("livethread.client", settings, Broker)
    stack.callback(app.close)
    return app


def open_mailboxes(
    stack: AsyncExitStack, settings: Settings, app: Celery, *, rings_to_the_end: bool = False
) -> Mailboxes:
    """Return the mailboxes, whose connections stay open until *stack* closes.

    With *rings_to_the_end*, the end waits until the doorbells that are due were rung.
    """
    from livethread.queued.connection import connect
    from livethread.queued.doorbell import Doorbell
    from livethread.queued.mailboxes import Mailboxes

    redis, doorbell = connect(settings), Doorbell(app, settings)
    stack.push_async_callback(redis.aclose)
    stack.callback(doorbell.close, wait=rings_to_the_end)
    return Mailboxes(redis, settings, doorbell)


async def require_running(stack: AsyncExitStack, settings: Settings) -> None:
    """Start an embedded Redis, which stays up until *stack* closes, and check that Redis answers.

    Raises:
        Unavailable: it does not.
    """
    from livethread.queued.connection import require_redis

    if settings.is_embedded:
        await run_locally(stack, settings)
    await require_redis(settings)


async def run_locally(stack: AsyncExitStack, settings: Settings) -> None:
    """Run the embedded Redis and a worker of the home until *stack* closes.

    Raises:
        Unavailable: the worker extra is missing, or the server cannot be started.
    """
    if not has_worker_extra():
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
