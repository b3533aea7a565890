"""Runs a command that dies with its parent: ``python parent_death.py <parent pid> <lock file or -> <command…>``.

It is run by path with ``-I -S``, which takes ten milliseconds; so it imports only the standard library.

On Linux the kernel kills the command when the *thread* that started it ends (``PR_SET_PDEATHSIG``, kept across exec),
even by ``kill -9``. The signal is SIGKILL, because no process would be left to enforce a gentler one; Redis and the
workers keep their promises across it. On other platforms (macOS), the children of a supervisor killed by ``kill -9``
run on until you stop them. Then the home's next Redis waits for the old one's lock, and clients use the old one.

The command keeps the lock across exec and shares it with the children it forks; the kernel frees it with the last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NO_LOCK = "-"
EXIT_ORPHANED = 125
EXIT_CANNOT_RUN = 127


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends; exit now if it already has."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ImportError, OSError):  # a Python without ctypes: as on macOS
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(EXIT_ORPHANED)


def hold_lock(path: str) -> None:
    """Take the exclusive lock of *path*, which this process keeps until it ends, across exec. Waits indefinitely."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process holds {path}; waiting until it ends", flush=True)  # noqa: T201
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def main() -> None:
    """Prepare to die with the parent, take the lock, and become the command."""
    parent_pid, lock, *command = sys.argv[1:]
    die_with_parent(int(parent_pid))
    if lock != NO_LOCK:
        hold_lock(lock)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        print(f"cannot run {command[0]}: {error}", flush=True)  # noqa: T201
        sys.exit(EXIT_CANNOT_RUN)


if __name__ == "__main__":
    main()
