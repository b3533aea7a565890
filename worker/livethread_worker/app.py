"""The Celery application of the workers."""

from __future__ import annotations

from celery import Celery

from livethread.queued.broker import Broker
from livethread_config import Settings
from livethread_config.celery_settings import celery_settings
from livethread_worker import tasks
from livethread_worker.store.files.home import Home


def create_app(settings: Settings) -> Celery:
    """Return an application that serves the queues of all shards. Make one per process: Celery caches pools per app."""
    Home(settings.home).create()  # beat writes its schedule there as soon as it starts
    app = Celery("livethread", amqp=Broker)
    app.conf.update(celery_settings(settings), worker_consumer="livethread_worker.consumer:Consumer")
    tasks.register(app, settings)
    return app
