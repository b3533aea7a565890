"""The module for ``celery --app livethread_worker.entrypoint worker``; the only one that builds on import."""

from __future__ import annotations

from celery.signals import worker_process_init

from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.process import collect_garbage_rarely

app = create_app(Settings())
# Celery sends this signal only in the processes of a pool. Here, they run nothing but livethread's tasks.
worker_process_init.connect(collect_garbage_rarely, weak=False)
