"""The module for ``celery --app livethread_worker.entrypoint worker``; the only one that builds on import."""

from __future__ import annotations

from celery import Celery
from celery.signals import worker_process_init

from livethread import extras
from livethread_config import Settings
from livethread_config.settings import explained

try:
    from livethread_worker.app import create_app
    from livethread_worker.process import collect_garbage_rarely
except ModuleNotFoundError as error:
    if (remedy := extras.explained(error)) is None:
        raise
    raise SystemExit(f"livethread: {remedy}") from None


def _create_app() -> Celery:
    try:
        return create_app(Settings())
    except ValueError as error:
        if (reason := explained(error)) is None:
            raise
        raise SystemExit(f"livethread: {reason}") from None


app = _create_app()
# Celery sends this signal only in the processes of a pool. Here, they run nothing but livethread's tasks.
worker_process_init.connect(collect_garbage_rarely, weak=False)
