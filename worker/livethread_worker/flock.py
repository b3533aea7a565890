"""BSD ``flock``, as codex uses it. The kernel frees a lock with the last process that holds it."""

from __future__ import annotations

import fcntl
import time
from typing import Final

#: How often a busy lock is tried again.
RETRY_INTERVAL: Final = 0.01  # seconds


def flock(descriptor: int, *, shared: bool = False, wait_s: float | None = 0.0) -> bool:
    """Lock the open file *descriptor*, exclusively unless *shared*, and return whether it is locked now.

    Waits up to *wait_s* seconds if another process holds the lock, or indefinitely if that is None.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait_s is None:
        fcntl.flock(descriptor, operation)
        return True
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(RETRY_INTERVAL)
        else:
            return True
