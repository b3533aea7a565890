"""Compressed rollouts, ``.jsonl.zst``: read in place, and decompressed before anything is appended.

Each form is on disk under its own name before the other is removed. A crash leaves the old file, or both with the same
lines; then the plain one wins, as in codex.

Users rename files. If the suffix of a rollout does not fit its content, the content counts, and the file gets the right
name before anything is appended.
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
from livethread_worker.store.files import replacement, scan, sync
from livethread_worker.store.files.home import is_compressed, other_form

#: Higher levels take far longer to save a few percent.
_LEVEL: Final = 9
#: The largest window of zstd, which reads files made with ``--long``.
_MAX_WINDOW_BYTES: Final = 2**31
_READ_BYTES: Final = 256 * 1024
#: Compressed bytes per step: they may decompress to 32,000 times as many.
_COMPRESSED_READ_BYTES: Final = 2 * 1024

#: How a zstd frame begins, and how lines begin, without and with a byte order mark.
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LINES: Final = (b"{", b"\xef\xbb\xbf{")

#: What to do about a damaged rollout.
_REMEDY: Final = "livethread doctor --fix restores what is readable, and keeps the damaged file in the quarantine"


@contextmanager
def open_rollout(path: Path) -> Iterator[BinaryIO]:
    """Open *path* for reading, or its other form if *path* is gone; decompress it to a temporary file.

    The temporary file has the rollout's modification time. Decompression always reads the whole rollout.

    Raises:
        FileNotFoundError: neither form exists.
        InvalidRequest: it is a symlink, or not a regular file.
        Internal: it is compressed and damaged.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open(path))
        except FileNotFoundError:
            path = other_form(path)
            file = stack.enter_context(_open(path))
        if not holds_zstd(path, file.fileno()):
            yield file
            return
        with tempfile.TemporaryFile() as plain:
            _decompress(path, file, plain)
            plain.flush()
            replacement.copy_times(file.fileno(), plain.fileno())
            plain.seek(0)
            yield plain


def holds_zstd(path: Path, descriptor: int) -> bool:
    """Return whether the content of the rollout *path* is compressed; if the content does not show it, the name decides."""
    head = os.pread(descriptor, len(_ZSTD), 0)
    return not head.startswith(_LINES) if is_compressed(path) else head == _ZSTD


def right_name(path: Path) -> Path:
    """Return *path* with the suffix that fits the rollout's content.

    Raises:
        InvalidRequest: it is a symlink, or not a regular file.
        OSError: it cannot be opened.
    """
    with _open(path) as file:
        return path if holds_zstd(path, file.fileno()) == is_compressed(path) else other_form(path)


def compress(path: Path) -> Path:
    """Replace the plain rollout *path* with a compressed one, and return its path. The caller holds the thread's lock.

    Raises:
        OSError: it cannot be written; the plain rollout stays.
        Internal: the compressed form does not decompress to the same lines; the plain rollout stays.
    """
    target = other_form(path)
    with _open(path) as plain, replacement.replacing(target, plain.fileno()) as file:
        zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).copy_stream(plain, file)
        file.seek(0)
        with tempfile.TemporaryFile() as copy:
            _decompress(path, file, copy)
            length = max(plain.seek(0, os.SEEK_END), copy.seek(0, os.SEEK_END))
            if scan.common_length(plain, copy) != length:
                raise Internal(f"{path.name} does not decompress to the same lines; the plain rollout is kept")
    path.unlink()
    sync.sync_directory(path.parent)
    return target


def decompress(path: Path) -> Path:
    """Replace the compressed rollout *path* with a plain one, and return its path. The caller holds the thread's lock.

    The name need not tell that it is compressed.

    Raises:
        FileExistsError: there is a plain rollout already; both stay.
        OSError: it cannot be written; the compressed rollout stays.
        Internal: it is damaged; it stays.
    """
    target = other_form(path) if is_compressed(path) else path
    if target != path and target.exists():
        raise FileExistsError(f"{target.name} exists already; it and {path.name} are kept")
    with _open(path) as file, replacement.replacing(target, file.fileno()) as plain:
        if holds_zstd(path, file.fileno()):
            _decompress(path, file, plain)
        else:
            shutil.copyfileobj(file, plain, _READ_BYTES)
    if target != path:
        path.unlink()
        sync.sync_directory(path.parent)
    return target


def plain_form(path: Path) -> Path:
    """Return the plain form of the rollout *path*; decompress or rename it if necessary, see `decompress`."""
    is_plain = not is_compressed(path) and right_name(path) == path
    return path if is_plain else decompress(path)


def copy_rollout(source: Path, target: Path, first: bytes = b"") -> None:
    """Write the lines *first* and a copy of *source* to *target*, whose suffix fits it, with the times of *source*.

    The caller holds the thread's lock. A crash leaves the whole copy or nothing.

    Raises:
        InvalidRequest: the source is a symlink, or not a regular file.
        OSError: the source cannot be read, or the target cannot be written.
    """
    with _open(source) as file, replacement.replacing(target, file.fileno()) as copy:
        # zstd frames can be concatenated, so the source's need not be decompressed.
        copy.write(zstandard.compress(first, _LEVEL) if first and is_compressed(target) else first)
        shutil.copyfileobj(file, copy, _READ_BYTES)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    # O_NONBLOCK: opening a FIFO would wait for a writer, maybe forever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidRequest(f"{path.name} is a symlink, which may lead out of the home") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(f"{path.name} is not a regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        yield file


def salvage(path: Path) -> Path | None:
    """Write the readable start of the damaged compressed rollout *path* to its plain form; return that, or None.

    The caller holds the thread's lock, and moves the damaged rollout away.
    """
    target = other_form(path)
    with _open(path) as file, replacement.replacing(target, file.fileno()) as plain:
        with suppress(Internal):
            _decompress(path, file, plain)
        length = plain.tell()
    if length:
        return target
    target.unlink()
    return None


def _decompress(path: Path, source: BinaryIO, target: BinaryIO) -> None:
    """Write the decompressed frames of *source* to *target*.

    Raises:
        Internal: it is damaged or truncated.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    is_in_frame = False
    try:
        while chunk := source.read(_COMPRESSED_READ_BYTES):
            while chunk:
                is_in_frame = True
                target.write(frame.decompress(chunk))
                chunk = b""
                if frame.eof:
                    chunk, is_in_frame = frame.unused_data, False
                    frame = decompressor.decompressobj()
    except zstandard.ZstdError as error:
        raise Internal(f"{path.name} is damaged ({error}); {_REMEDY}") from None
    if is_in_frame:
        raise Internal(f"{path.name} is truncated; {_REMEDY}")
