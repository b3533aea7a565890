"""`RolloutRecorder`: the one writer of rollout files, of already canonical lines only."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from typing import TYPE_CHECKING, Final, Self

from livethread_worker.store.home import FILE_MODE, make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

#: macOS has no fdatasync.
_datasync: Final = getattr(os, "fdatasync", os.fsync)

#: Files that are forced to the disk at once: the disk takes several in hardly more time than one.
SYNCED_AT_ONCE: Final = 8


class RolloutRecorder:
    """An open rollout, whose thread's lock the caller holds.

    Writes go to the committed length, all lines of a batch in one call, so that a crash leaves a prefix.
    """

    def __init__(self, path: Path, file: FileIO, *, is_new: bool) -> None:
        self.path = path
        self.file = file
        #: Whether the file was made just now, and its name may not be on the disk yet.
        self.is_new = is_new
        #: Length of the file, in bytes, as far as it is good.
        self.size = os.fstat(file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open *path* for appending; the recorder closes it at the end of its block.

        Raises:
            FileNotFoundError: there is no such rollout, and it is not to be created.
        """
        if create:
            make_directory(path.parent)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        is_new = create and not path.exists()
        return cls(path, FileIO(os.open(path, flags, FILE_MODE), "r+b"), is_new=is_new)

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
        if error := begin_sync([self])()[0]:
            raise error


def begin_sync(recorders: Sequence[RolloutRecorder]) -> Callable[[], list[OSError | None]]:
    """Begin to force what was written by *recorders* to the disk, and new files' names with it.

    Return what waits until it is done, and returns each one's error. The recorders stay open until then.
    """
    errors: list[OSError | None] = [None] * len(recorders)

    def sync_share(first: int) -> None:
        for number in range(first, len(recorders), SYNCED_AT_ONCE):
            errors[number] = _sync_data(recorders[number])

    # One call for each thread of the pool: to hand over each file takes more CPU time than to write it.
    shares = [_sync_pool().submit(sync_share, first) for first in range(min(len(recorders), SYNCED_AT_ONCE))]

    @cache
    def wait() -> list[OSError | None]:
        for share in shares:
            share.result()
        _sync_new_names(recorders, errors)
        return errors

    return wait


@cache
def _sync_pool() -> ThreadPoolExecutor:
    """Return the process' pool: to start its threads for each batch took longer than to hand them their shares."""
    return ThreadPoolExecutor(SYNCED_AT_ONCE, thread_name_prefix="sync")


# A forked child has the pool, and none of its threads.
os.register_at_fork(after_in_child=_sync_pool.cache_clear)


def _sync_new_names(recorders: Sequence[RolloutRecorder], errors: list[OSError | None]) -> None:
    """Force the names of new files to the disk, each folder once."""
    new: dict[Path, list[int]] = {}
    for number, recorder in enumerate(recorders):
        if recorder.is_new:
            new.setdefault(recorder.path.parent, []).append(number)
    for folder, numbers in new.items():
        try:
            sync_directories(folder)
        except OSError as error:
            for number in numbers:
                errors[number] = errors[number] or error
        else:
            for number in numbers:
                recorders[number].is_new = False


def _sync_data(recorder: RolloutRecorder) -> OSError | None:
    try:
        _datasync(recorder.file.fileno())
    except OSError as error:
        return error
    return None


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
