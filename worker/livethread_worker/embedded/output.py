"""The output of child processes: into log files, or line by line to a function."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

#: A log larger than this is replaced when its process starts.
MAX_LOG_BYTES: Final = 1_000_000
#: Last lines of a log that explain a failure.
TAIL_LINES: Final = 8


class Output(Protocol):
    """Receives the output of child processes, and what happens to them."""

    def open(self, name: str) -> int:
        """Return a file descriptor for *name*'s stdout and stderr; the supervisor closes it."""

    def note(self, name: str, event: str) -> None:
        """Record what happened to *name*."""

    def explain(self, name: str) -> str:
        """Return where to look after *name* failed, and its last lines; empty if the user has seen them."""

    def close(self) -> None:
        """Return when all output of the children is written."""


class LogFiles:
    """Writes the output of each child to ``<name>.log`` in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Return the log of *name*."""
        return self._folder / f"{name}.log"

    def open(self, name: str) -> int:
        """Return a descriptor that appends to *name*'s log."""
        path = self.path(name)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.old"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, name: str, event: str) -> None:
        """Append *event* to *name*'s own log."""
        with contextlib.suppress(OSError), self.path(name).open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} supervisor: {name} {event}\n")

    def explain(self, name: str) -> str:
        """Return the log's path and its last lines."""
        return explain_log(self.path(name))

    def close(self) -> None:
        """Do nothing: the children write to the files themselves."""


def explain_log(path: Path) -> str:
    """Return "see *path*" and its last lines."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return f"see {path}"
    return "\n  ".join([f"see {path}:", *lines])


class Lines:
    """Calls *write* with a child's name and each line it prints, without the line's end, from several threads.

    If *write* fails (a closed terminal), only that line is lost.
    """

    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write = write
        self._pumps: list[threading.Thread] = []

    def open(self, name: str) -> int:
        """Return the writing end of a pipe; its lines go to *write*."""
        reader, writer = os.pipe()
        pump = threading.Thread(target=self._pump, args=(name, reader), name=f"output of {name}", daemon=True)
        self._pumps = [p for p in self._pumps if p.is_alive()] + [pump]
        pump.start()
        return writer

    def note(self, name: str, event: str) -> None:
        """Write *event* among the lines of *name*."""
        with contextlib.suppress(OSError, ValueError):
            self._write(name, event)

    def explain(self, name: str) -> str:  # noqa: ARG002
        """Return nothing: the user has seen the lines."""
        return ""

    def close(self) -> None:
        """Wait briefly for the last lines; a process that inherited a pipe may keep it open."""
        for pump in self._pumps:
            pump.join(timeout=1.0)

    def _pump(self, name: str, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(OSError, ValueError):
                    self._write(name, line.rstrip("\n"))
