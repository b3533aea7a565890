"""The quarantine keeps everything that is removed from a home, even if it is unreadable."""

from __future__ import annotations

import os
import time
from pathlib import Path

from livethread_worker.store.files.home import FILE_MODE, Home, make_directory, other_form
from livethread_worker.store.files.replacement import move
from livethread_worker.store.files.sync import sync_directory


def keep(home: Home, name: str, content: bytes) -> Path:
    """Write *content* durably to a new quarantine file whose name begins with *name*."""
    path = free_path(home, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, FILE_MODE), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)
    return path


def move_away(home: Home, path: Path) -> Path:
    """Move the file *path* into the quarantine durably, and return its new path."""
    target = free_path(home, path.name)
    move(path, target)
    return target


def move_other_form_away(home: Home, path: Path) -> None:
    """Move the other form of the rollout *path* into the quarantine, if it exists.

    After a crash both forms hold the same lines. If another program left other lines, *path* wins.
    """
    other = other_form(path)
    if other.exists():
        move_away(home, other)


def free_path(home: Home, name: str) -> Path:
    """Return the path of a new quarantine file whose name begins with *name*."""
    make_directory(home.quarantine)
    return home.quarantine / f"{name}.{time.time_ns()}"
