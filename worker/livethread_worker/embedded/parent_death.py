"""Become a command whose life is tied to its parent's: ``python parent_death.py <parent pid> <lock file or -> <command…>``.

Run by path, with ``-I -S``, so that it costs ten milliseconds: it may import the standard library alone.

On Linux the kernel kills the command as soon as the *thread* that started it ends (``PR_SET_PDEATHSIG``, kept
across exec), also by ``kill -9``. SIGKILL, because nobody would be left to see whether a gentler signal is obeyed;
Redis and the workers keep their promises across it. Elsewhere (macOS) nothing is tied: the children of a supervisor
that was killed by ``kill -9`` go on until they are stopped by hand; the home's next Redis then waits for the old one's
lock, and its clients use the old one.

The lock stays with the command across exec, and with the children it forks; the kernel frees it with the last of
them.
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
    """Arrange to be killed when the thread that forked this process ends; end at once if it already has."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ImportError, OSError):  # a Python built without ctypes: not tied, as on macOS
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(EXIT_ORPHANED)


def hold_lock(path: str) -> None:
    """Take the exclusive lock of *path* for the rest of this process, exec included; wait for it as long as needed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process holds {path}: waiting until it ends", flush=True)  # noqa: T201
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def main() -> None:
    """Tie, lock, exec."""
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
