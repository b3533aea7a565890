"""The module for ``celery --app livethread_worker.entrypoint worker``; the only one that builds on import."""

from __future__ import annotations

from celery.signals import worker_process_init

from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.process import collect_garbage_rarely

app = create_app(Settings())
# Sent in each process of a pool, and nowhere else. Here, because these processes run nothing but livethread's tasks.
worker_process_init.connect(collect_garbage_rarely, weak=False)
