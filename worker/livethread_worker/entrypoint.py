"""The module for ``celery --app livethread_worker.entrypoint worker``; the only one that builds on import."""

from __future__ import annotations

from livethread_config import Settings
from livethread_worker.app import create_app

app = create_app(Settings())
