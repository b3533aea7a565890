"""The shipped worker, with fault points at which a test can kill its processes.

A file with the name of a point arms it, in the folder that ``FAULT_POINTS`` names. The process that reaches the point
renames the file and kills itself with SIGKILL. On SIGUSR2, a process logs where its threads are.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.entrypoint import app
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.sync import Syncing
from livethread_worker.store.index import Index

__all__ = ["app"]

faulthandler.register(signal.SIGUSR2)

FOLDER = Path(os.environ["FAULT_POINTS"])

#: The fault points, in the order in which a worker reaches them.
POINTS = ("after_claim", "half_write", "after_write", "after_sync", "after_commit", "before_settle", "after_settle")


def _take(point: str) -> bool:
    """Disarm *point*, so that only one process dies; return whether it was armed."""
    try:
        (FOLDER / point).rename(FOLDER / f"{point}.reached")
    except FileNotFoundError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _may_die(owner: Any, name: str, *, before: str | None = None, after: str | None = None) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before and _take(before):
            _die()
        result = method(*args, **kwargs)
        if after and _take(after):
            _die()
        return result

    setattr(owner, name, wrapped)


_append = RolloutRecorder.append


def _append_half(self: RolloutRecorder, lines: bytes) -> None:
    if len(lines) > 1 and _take("half_write"):
        os.pwrite(self.file.fileno(), lines[: len(lines) * 2 // 3], self.size)
        _die()
    _append(self, lines)
    if lines and _take("after_write"):
        _die()


RolloutRecorder.append = _append_half  # type: ignore[method-assign]
_may_die(Syncing, "wait", after="after_sync")
_may_die(Index, "commit", after="after_commit")
_may_die(Mailbox, "claim", after="after_claim")
_may_die(Mailbox, "settle", before="before_settle", after="after_settle")
