"""All files of a file system, forced to the disk by one call, where that is as good as one for each and harms nobody.

``fdatasync`` of a hundred rollouts is up to a hundred commits of the file system's journal; ``syncfs`` is one. PostgreSQL
has it for many files too (``recovery_init_sync_method``), and its documentation names what to look out for: the call
writes out what other programs wrote as well, and older kernels did not tell of every error.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

#: File systems whose ``syncfs`` is known to write all that ``fsync`` does. Of those in user space it need not be true, and
#: for btrfs it is more work than a few files.
_KNOWN: Final = frozenset({"ext4", "xfs"})

#: Since 5.8 Linux tells of pages that could not be written, and since 5.17 of a journal that could not.
_FIRST_LINUX: Final = (5, 17)

#: kB that wait to be written, by whatever program: with more, the files are forced one by one.
_MOST_DIRTY: Final = 64 * 1024

#: Field of a line of ``mountinfo``.
_DEVICE: Final = 2

_DIRTY: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB", re.MULTILINE)


def is_cheap_to_sync(descriptor: int) -> bool:
    """Whether `sync_filesystem` does for the files beside *descriptor*'s what ``fdatasync`` would, and soon."""
    with suppress(OSError, ValueError, LookupError):  # nobody says: /proc may be hidden, or be another's
        return _is_known(os.fstat(descriptor).st_dev) and _dirty() <= _MOST_DIRTY
    return False


def sync_filesystem(descriptor: int) -> None:
    """Force what was written to the file system of *descriptor*, a file, to the disk: data, lengths and names.

    Raises:
        OSError: something that was written since *descriptor* was opened could not be; ``fdatasync`` tells what. What was
            written before may have failed, and another call have been told.
    """
    if _syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # Flushes the disk's cache once more: without a journal, ext4 writes inodes behind its own flush.
    os.fdatasync(descriptor)


def _syncfs(descriptor: int) -> int:
    """Call the C library: Python has none of its own."""
    return int(_libc().syncfs(descriptor))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _is_known(device: int) -> bool:
    """Whether *device* holds a file system whose ``syncfs`` can be relied on."""
    if sys.platform != "linux" or not hasattr(_libc(), "syncfs"):
        return False
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= _FIRST_LINUX and _type_of(device) in _KNOWN


def _type_of(device: int) -> str | None:
    """Return the type of the file system on *device* (proc(5), ``mountinfo``); None where none is mounted from it."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    # The kernel escapes spaces and line feeds in names, and nothing else that Python would split text at.
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > _DEVICE and fields[_DEVICE] == number:
            return fields[fields.index(b"-") + 1].decode(errors="replace")
    return None


def _dirty() -> int:
    """Return how many kB wait to be written, or are being written.

    Raises:
        ValueError: it is not said.
    """
    with open("/proc/meminfo", "rb", buffering=0) as file:  # noqa: PTH123 - a Path takes longer than the rest
        dirty, writeback = _DIRTY.findall(file.read(4096))
    return int(dirty) + int(writeback)
