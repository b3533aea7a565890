"""Cold rollouts: ``.jsonl.zst``, read in place, and made plain again before anything is appended.

Both changes write a new file beside the old one, force it to the disk, rename it, and only then remove the old
one. A crash leaves the old file, or both of the same lines, of which the plain one counts, as for codex.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from livethread.errors import Internal, InvalidRequest
from livethread_worker.store.files.home import is_compressed, other_form
from livethread_worker.store.files.replacement import copy_times, replacing
from livethread_worker.store.files.sync import sync_directory

#: Rollouts are text that repeats itself: a higher level takes far longer for a few per cent.
_LEVEL: Final = 9
#: As far back as any zstd may look: what others compressed with ``--long`` is read too.
_MAX_WINDOW_BYTES: Final = 2**31
_READ_BYTES: Final = 256 * 1024
#: Compressed bytes that are decompressed at once: they may come to 32,000 times as many.
_COMPRESSED_READ_BYTES: Final = 2 * 1024

#: What to do about a damaged rollout.
_REMEDY: Final = "livethread doctor --fix restores what is readable, and keeps the damaged file in the quarantine"


@contextmanager
def open_rollout(path: Path) -> Iterator[BinaryIO]:
    """Open *path* for reading; of a compressed rollout, its lines in a file that is gone with the block.

    Where it has been compressed or decompressed since somebody looked, the other form is opened. The file's time of
    change is that of the rollout. To decompress costs the whole rollout, however little is read.

    Raises:
        FileNotFoundError: there is no such rollout.
        InvalidRequest: it is a symlink, which may lead anywhere, or no file.
        Internal: it is compressed, and damaged.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_opened(path))
        except FileNotFoundError:
            path = other_form(path)
            file = stack.enter_context(_opened(path))
        if not is_compressed(path):
            yield file
            return
        with tempfile.TemporaryFile() as plain:
            _decompress(path, file, plain)
            plain.flush()
            copy_times(file.fileno(), plain.fileno())
            plain.seek(0)
            yield plain


def compress(path: Path) -> Path:
    """Replace the plain rollout *path* by a compressed one, and return its path. The caller holds the thread's lock.

    Raises:
        OSError: it cannot be written; the plain rollout stays.
        Internal: what was compressed does not read back; the plain rollout stays.
    """
    target = other_form(path)
    with _opened(path) as plain, replacing(target, plain.fileno()) as file:
        zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).copy_stream(plain, file)
        file.seek(0)
        plain.seek(0)
        with tempfile.TemporaryFile() as copy:
            _decompress(path, file, copy)
            copy.seek(0)
            if not _are_equal(plain, copy):
                raise Internal(f"{path.name} does not read back from its compressed form; it stays as it is")
    path.unlink()
    sync_directory(path.parent)
    return target


def decompress(path: Path) -> Path:
    """Replace the compressed rollout *path* by a plain one, and return its path. The caller holds the thread's lock.

    Raises:
        FileExistsError: there is a plain one, which counts; both stay.
        OSError: it cannot be written; the compressed rollout stays.
        Internal: it is damaged; it stays.
    """
    target = other_form(path)
    if target.exists():
        raise FileExistsError(f"{target.name} is there already, beside {path.name}")
    with _opened(path) as file, replacing(target, file.fileno()) as plain:
        _decompress(path, file, plain)
    path.unlink()
    sync_directory(path.parent)
    return target


def copy_rollout(source: Path, target: Path, first: bytes = b"") -> None:
    """Make *target*, of the same form, of the bytes of *source* behind the lines *first*, with its times.

    The caller holds the thread's lock. A crash leaves nothing, or all of it.

    Raises:
        InvalidRequest: the source is a symlink, or no file.
        OSError: it cannot be read, or the target cannot be written.
    """
    with _opened(source) as file, replacing(target, file.fileno()) as copy:
        # Frames may follow each other: theirs stays as it is.
        copy.write(zstandard.compress(first, _LEVEL) if first and is_compressed(source) else first)
        shutil.copyfileobj(file, copy, _READ_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    # O_NONBLOCK: a FIFO without a writer would hold up whoever opens it, for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidRequest(f"{path.name} is a symlink, which leads out of what is ours") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(f"{path.name} is no file: a folder, a FIFO or the like")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        yield file


def salvage(path: Path) -> Path | None:
    """Write what can still be read of the damaged compressed rollout *path* beside it, plain; return its path, if any.

    The caller holds the thread's lock, and moves the damaged one away.
    """
    target = other_form(path)
    with _opened(path) as file, replacing(target, file.fileno()) as plain:
        with suppress(Internal):
            _decompress(path, file, plain)
        length = plain.tell()
    if length:
        return target
    target.unlink()
    return None


def _decompress(path: Path, source: BinaryIO, target: BinaryIO) -> None:
    """Write what *source* holds, in however many frames, to *target*.

    Raises:
        Internal: it is damaged, or cut short.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    is_within = False
    try:
        while chunk := source.read(_COMPRESSED_READ_BYTES):
            while chunk:
                is_within = True
                target.write(frame.decompress(chunk))
                chunk = b""
                if frame.eof:
                    chunk, is_within = frame.unused_data, False
                    frame = decompressor.decompressobj()
    except zstandard.ZstdError as error:
        raise Internal(f"{path.name} is damaged ({error}); {_REMEDY}") from None
    if is_within:
        raise Internal(f"{path.name} is cut short; {_REMEDY}")


def _are_equal(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        left, right = one.read(_READ_BYTES), other.read(_READ_BYTES)
        if left != right:
            return False
        if not left:
            return True
