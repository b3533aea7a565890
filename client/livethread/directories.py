"""Compares working directories as paths, as codex does: by what they lead to, or by their parts if they are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Final

#: How long it is remembered what a path leads to.
REMEMBERED_FOR: Final = 10.0  # seconds


def same_directory(paths: Collection[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path is one of the directories *paths*.

    Symlinks are followed on this host. A relative path equals only other relative ones.
    """
    now = int(time.monotonic() / REMEMBERED_FOR)
    wanted = {_identity(os.path.normpath(path) if path.startswith("/") else path, now) for path in paths}
    return lambda path: _identity(path, now) in wanted


@lru_cache(maxsize=10_000)
def _identity(path: str, _now: int) -> str:
    """Return the same text for all spellings of a directory."""
    try:
        if path.startswith("/") and os.path.exists(path):  # noqa: PTH110 - a Path takes four times as long
            return os.path.realpath(path)
    except ValueError:  # it holds a NUL
        pass
    parts = "/".join(part for part in path.split("/") if part not in {"", "."})
    return f"/{parts}" if path.startswith("/") else parts or path
