"""`RolloutRecorder`: the one writer of rollout files, of already canonical lines only."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from typing import TYPE_CHECKING, Final, Self

from livethread_worker.store.home import FILE_MODE, make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
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

    def __init__(self, path: Path, file: FileIO, *, is_new: bool, is_named: bool) -> None:
        self.path = path
        self.file = file
        #: Whether the file was made just now.
        self.is_new = is_new
        #: Whether its name is known to be on the disk: a crash may have come right behind its making.
        self.is_named = is_named
        #: Length of the file, in bytes, as far as it is good.
        self.size = os.fstat(file.fileno()).st_size
        #: Where what was appended last begins.
        self.appended_from = self.size

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
        return cls(path, FileIO(os.open(path, flags, FILE_MODE), "r+b"), is_new=is_new, is_named=not create)

    def append(self, lines: bytes) -> None:
        """Write *lines* behind the last good one; on an error the file is cut back to what it was.

        Raises:
            OSError: the disk is full, or the like; nothing of *lines* counts as written.
        """
        self.appended_from = start = self.size
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

    def take_back(self) -> None:
        """Cut off what was appended last, which could not be forced to the disk: it is to be written again.

        After such an error the kernel takes the pages for written, and the next ``fdatasync`` says nothing more of them.
        """
        self.size = self.appended_from
        with suppress(OSError):
            self.cut()

    def sync(self) -> None:
        """Force what was written to the disk, and a new file's name with it."""
        if error := Syncing([self]).wait()[0]:
            raise error


class Syncing:
    """What *recorders* wrote, and new files' names with it, on its way to the disk; a single one's is there at once.

    They stay open until `wait` has returned.
    """

    def __init__(self, recorders: Sequence[RolloutRecorder]) -> None:
        self._recorders = recorders
        self._errors: list[OSError | None] = [None] * len(recorders)
        self._under_way: list[Future[None]] = []
        shares = list(range(min(len(recorders), SYNCED_AT_ONCE)))
        # One call for each thread of the pool: to hand over each file takes more CPU time than to write it.
        with suppress(RuntimeError):  # the interpreter ends, or the machine has no thread left
            while len(recorders) > 1 and shares:
                self._under_way.append(_sync_pool().submit(self._sync_share, shares[-1]))
                shares.pop()
            if self._under_way and not all(recorder.is_named for recorder in recorders):
                self._under_way.append(_sync_pool().submit(self._sync_names, tuple(self._under_way)))
        for first in shares:  # a single file is not worth a hand-over
            self._sync_share(first)
        if not self._under_way:
            self._sync_names()

    def is_done_within(self, seconds: float) -> bool:
        """Whether it is done after so long."""
        return not wait(self._under_way, seconds).not_done

    def wait(self) -> list[OSError | None]:
        """Return each recorder's error, once all is done."""
        for share in self._under_way:
            share.result()
        self._sync_names()  # where no thread was to be had
        return self._errors

    def _sync_names(self, shares: Sequence[Future[None]] = ()) -> None:
        """Force the names of new files to the disk, once *shares* are done; of those that are there, nothing is done."""
        wait(shares)
        _sync_new_names(self._recorders, self._errors)

    def _sync_share(self, first: int) -> None:
        for number in range(first, len(self._recorders), SYNCED_AT_ONCE):
            self._errors[number] = _sync_data(self._recorders[number])


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
        if not recorder.is_named:
            new.setdefault(recorder.path.parent, []).append(number)
    for folder, numbers in new.items():
        try:
            sync_directories(folder)
        except OSError as error:
            for number in numbers:
                errors[number] = errors[number] or error
        else:
            for number in numbers:
                recorders[number].is_named = True


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
