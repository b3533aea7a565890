"""`RolloutRecorder`: the one writer of rollout files, of already canonical lines only."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from livethread_worker.store.home import FILE_MODE, make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

#: macOS has no fdatasync.
_datasync: Final = getattr(os, "fdatasync", os.fsync)


class RolloutRecorder:
    """An open rollout, whose thread's lock the caller holds.

    Writes go to the committed length, all lines of a batch in one call, so that a crash leaves a prefix.
    """

    def __init__(self, path: Path, file: BinaryIO, *, is_new: bool) -> None:
        self.path = path
        self.file = file
        #: Whether the file was made just now, and nothing of it was forced to the disk yet.
        self.is_new = is_new
        #: Length of the file, in bytes, as far as it is good.
        self.size = os.fstat(file.fileno()).st_size

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, create: bool = False) -> Iterator[RolloutRecorder]:
        """Open *path* for appending.

        Raises:
            FileNotFoundError: there is no such rollout, and it is not to be created.
        """
        if create:
            make_directory(path.parent)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        is_new = create and not path.exists()
        with open(os.open(path, flags, FILE_MODE), "r+b", buffering=0) as file:  # noqa: PTH123 - a descriptor
            yield cls(path, file, is_new=is_new)

    def append(self, lines: bytes) -> None:
        """Write *lines* behind the last good one; on an error the file is cut back to what it was.

        Raises:
            OSError: the disk is full, or the like; nothing of *lines* counts as written.
        """
        start = self.size
        view = memoryview(lines)
        try:
            while view:
                written = os.pwrite(self.file.fileno(), view, self.size)
                view = view[written:]
                self.size += written
        except OSError:
            self.size = start
            with suppress(OSError):
                self.cut()
            raise

    def cut(self) -> None:
        """Cut the file to the good length."""
        os.ftruncate(self.file.fileno(), self.size)

    def sync(self) -> None:
        """Force what was written to the disk, and a new file's name with it."""
        _datasync(self.file.fileno())
        if self.is_new:
            sync_directories(self.path.parent)
            self.is_new = False


def sync_directories(folder: Path) -> None:
    """Force the names of *folder* and of its dated parents to the disk."""
    for path in (folder, *folder.parents[:3]):
        sync_directory(path)


def sync_directory(path: Path) -> None:
    """Force the names in *path* to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(target: Path, source: int) -> Iterator[BinaryIO]:
    """Give a file that becomes *target* at the end of the block, with the times of *source*, durably.

    Where the block fails, *target* is as it was.
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


def unfinished(target: Path) -> Path:
    """Return where the file that is to replace *target* is made; a crash leaves it there."""
    return target.with_name(f".{target.name}.new")


def copy_times(source: int, target: int) -> None:
    """Give the file *target* the times of *source*; both are descriptors."""
    stat = os.fstat(source)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
