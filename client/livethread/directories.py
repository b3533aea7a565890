"""Compares working directories as codex does: by device and inode, or by the parts of the path if it leads nowhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Final

#: How long `same_directory` remembers the identity of a path.
REMEMBERED_FOR: Final = 10.0  # seconds

#: What all spellings of a directory share: device and inode, or parts.
Identity = tuple[int, int] | str


def identity(path: str) -> Identity:
    """Return a value that all spellings of a directory share. Symlinks are followed on this host."""
    try:
        if path.startswith("/"):
            stat = os.stat(path)  # noqa: PTH116 - a Path takes four times as long
            return stat.st_dev, stat.st_ino
    except (OSError, ValueError):  # it is gone, or is not a path
        pass
    parts = "/".join(part for part in path.split("/") if part not in {"", "."})
    return f"/{parts}" if path.startswith("/") else parts or path


def identities(paths: Collection[str]) -> set[Identity]:
    """Return the identities of the directories *paths* of a filter. A relative path equals only other relative ones."""
    return {identity(os.path.normpath(path) if path.startswith("/") else path) for path in paths}


def same_directory(paths: Collection[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path is one of the directories *paths*."""
    now = int(time.monotonic() / REMEMBERED_FOR)
    wanted = identities(paths)
    return lambda path: _remembered(path, now) in wanted


@lru_cache(maxsize=10_000)
def _remembered(path: str, _now: int) -> Identity:
    return identity(path)
