"""Syncs all files of a file system to disk with one call, if that is as safe as one per file, and cheap.

``fdatasync`` of a hundred rollouts may commit the file system's journal a hundred times, ``syncfs`` once. PostgreSQL
uses it, too (``recovery_init_sync_method``), and documents its drawbacks: the call also writes the data of other
programs, and older kernels did not report every error.
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

#: File systems whose ``syncfs`` writes all that ``fsync`` does. File systems in user space may not, and for btrfs the
#: call takes longer than a few files.
_RELIABLE_FILE_SYSTEMS: Final = frozenset({"ext4", "xfs"})

#: Linux reports failed pages since 5.8, and a failed journal since 5.17.
_FIRST_LINUX: Final = (5, 17)

#: If more than this many kB wait to be written, by any program, files are synced one by one.
_MAX_DIRTY: Final = 64 * 1024

#: Index of the device number in a line of ``mountinfo``.
_DEVICE: Final = 2

_DIRTY: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB", re.MULTILINE)


def is_cheap_to_sync(descriptor: int) -> bool:
    """Return whether `sync_filesystem` is fast, and as safe as ``fdatasync``, on the file system of *descriptor*."""
    with suppress(OSError, ValueError, LookupError):  # /proc may be hidden, or not Linux's own
        return _is_reliable(os.fstat(descriptor).st_dev) and _dirty() <= _MAX_DIRTY
    return False


def sync_filesystem(descriptor: int) -> None:
    """Sync the file system of the file *descriptor* to disk: data, lengths and names.

    Raises:
        OSError: a write since *descriptor* was opened failed; ``fdatasync`` reports of which file. Failures of earlier
            writes may have been reported to another call.
    """
    if _syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # Flush the disk's cache again: without a journal, ext4 writes inodes after its own flush.
    os.fdatasync(descriptor)


def _syncfs(descriptor: int) -> int:
    """Call the C library, since Python has no ``os.syncfs``."""
    return int(_libc().syncfs(descriptor))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _is_reliable(device: int) -> bool:
    """Return whether ``syncfs`` is reliable on this kernel and the file system of *device*."""
    if sys.platform != "linux" or not hasattr(_libc(), "syncfs"):
        return False
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version is None or (int(version[1]), int(version[2])) < _FIRST_LINUX:
        return False
    return _type_of(device) in _RELIABLE_FILE_SYSTEMS


def _type_of(device: int) -> str | None:
    """Return the type of the file system on *device* (proc(5), ``mountinfo``); None if it is not mounted."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    # Split at b"\n" and b" ", which the kernel escapes in names; it does not escape all that `splitlines` splits at.
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > _DEVICE and fields[_DEVICE] == number:
            return fields[fields.index(b"-") + 1].decode(errors="replace")
    return None


def _dirty() -> int:
    """Return how many kB wait to be written or are being written.

    Raises:
        ValueError: ``/proc/meminfo`` lacks a value.
    """
    with open("/proc/meminfo", "rb", buffering=0) as file:  # noqa: PTH123 - a Path takes longer than the rest
        dirty, writeback = _DIRTY.findall(file.read(4096))
    return int(dirty) + int(writeback)
