"""What ``celery --app livethread_worker.entrypoint worker`` loads; the only module that builds on import."""

from __future__ import annotations

from livethread_config import Settings
from livethread_worker.app import create_app

app = create_app(Settings())
