"""Signal handlers by which a worker cooperates with its supervisor; ``celery worker --include`` loads them."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import worker_ready

from livethread_config import Settings
from livethread_worker.embedded import processes


# Any: Celery's signals pass arbitrary keywords.
def _tell_ready(sender: Any, **_: Any) -> None:
    name = sender.hostname.partition("@")[0]
    # The worker's entry point read the same environment, which its supervisor set.
    file = processes.ready_file(Settings(), name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(str(os.getpid()), encoding="ascii")


worker_ready.connect(_tell_ready)
