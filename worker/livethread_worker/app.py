"""The Celery application of the workers."""

from __future__ import annotations

from celery import Celery

from livethread.queued.broker import Broker
from livethread_config import Settings
from livethread_config.celery_app import deployment_app
from livethread_worker import tasks
from livethread_worker.logs import set_up_logs


def create_app(settings: Settings) -> Celery:
    """Return an application whose workers serve shards (`Serving`). Make one per process: Celery caches pools per app."""
    app = deployment_app("livethread", settings, Broker)
    app.remade_by = create_app, (settings,)
    app.conf.update(
        worker_consumer="livethread_worker.consumer:Consumer", worker_pool="livethread_worker.prefork:TaskPool"
    )
    set_up_logs(app, settings)
    tasks.register(app, settings)
    return app
