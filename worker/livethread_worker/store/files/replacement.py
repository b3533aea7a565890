"""Replaces files durably: the new file is complete on disk before it takes the old one's name."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from livethread_worker.store.files.home import FILE_MODE
from livethread_worker.store.files.sync import sync_directory


@contextmanager
def replacing(target: Path, source: int) -> Iterator[BinaryIO]:
    """Yield a file that durably replaces *target* at the end of the block, with the times of *source*.

    If the block fails, *target* is unchanged.
    """
    new = unfinished(target)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(new, flags, FILE_MODE), "r+b") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            copy_times(source, file.fileno())
            os.fsync(file.fileno())
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def move(path: Path, target: Path) -> None:
    """Move the file *path* durably, even to another file system; a crash may leave both."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with path.open("rb") as file, replacing(target, file.fileno()) as copy:
            shutil.copyfileobj(file, copy)
        path.unlink()
    sync_directory(target.parent)
    sync_directory(path.parent)


def unfinished(target: Path) -> Path:
    """Return the path of the file that will replace *target*; a crash may leave it."""
    return target.with_name(f".{target.name}.new")


def copy_times(source: int, target: int) -> None:
    """Copy the times of *source* to *target*; both are descriptors."""
    stat = os.fstat(source)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
