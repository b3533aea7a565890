"""All files of a file system, forced to the disk by one call, where that is as good as one for each and harms nobody.

``fdatasync`` of a hundred rollouts is up to a hundred commits of the file system's journal; ``syncfs`` is one. PostgreSQL
has it for many files too (``recovery_init_sync_method``), and its documentation names what to look out for: the call
writes out what other programs wrote as well, and before Linux 5.8 it did not tell of every error.
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

#: File systems whose ``syncfs`` is known to end with a flush of the disk's cache. Of those in user space it need not be
#: true, and for btrfs it is more work than a few files.
_KNOWN: Final = frozenset({"ext4", "xfs"})

#: Linux tells of the errors since this version.
_FIRST_LINUX: Final = (5, 8)

#: kB that wait to be written, by whatever program: with more, the files are forced one by one.
_MOST_DIRTY: Final = 64 * 1024

_DIRTY: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB", re.MULTILINE)


def is_cheap_to_sync(descriptor: int) -> bool:
    """Whether `sync_filesystem` does for the files beside *descriptor*'s what ``fdatasync`` would, and soon."""
    with suppress(OSError):  # nobody says: /proc may be hidden
        return _is_known(os.fstat(descriptor).st_dev) and _dirty() <= _MOST_DIRTY
    return False


def sync_filesystem(descriptor: int) -> None:
    """Force what was written to the file system of *descriptor* to the disk: data, lengths and names.

    Raises:
        OSError: something that was written since *descriptor* was opened could not be; ``fdatasync`` tells what.
    """
    if _syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


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
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return None


def _dirty() -> int:
    """Return how many kB wait to be written, or are being written."""
    with open("/proc/meminfo", "rb", buffering=0) as file:  # noqa: PTH123 - a Path takes longer than the rest
        return sum(map(int, _DIRTY.findall(file.read(4096))))
