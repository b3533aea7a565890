"""What a worker does for the supervisor that runs it; loaded by ``celery worker --include``."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import beat_embedded_init, worker_ready

from livethread_config import Settings
from livethread_worker.embedded import parent_death
from livethread_worker.embedded.processes import ready_file


# Any: Celery's signals pass whatever their sender has, as keywords.
def _tell_ready(sender: Any, **_: Any) -> None:
    name = sender.hostname.partition("@")[0]
    # The environment is where this worker's entry point, and thus its supervisor, had the settings from.
    file = ready_file(Settings(), name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(str(os.getpid()), encoding="ascii")


def _tie_beat(**_: Any) -> None:
    # Celery ties its pool processes to the worker's main process, but not the beat it embeds: that would sweep on for
    # ever after a kill -9 of the worker.
    parent_death.die_with_parent(os.getppid())


worker_ready.connect(_tell_ready)
beat_embedded_init.connect(_tie_beat)
