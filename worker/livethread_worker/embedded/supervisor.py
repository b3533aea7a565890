"""Keep child processes running: start them in order, restart what crashes, stop in reverse, leave none behind.

One thread, the keeper, forks every child and ends after the last of them: on Linux a child is killed when the thread
that forked it ends (see `parent_death`), so neither an exception nor a ``kill -9`` of this process leaves a child alive.
All methods may be called from any thread; none needs the main one, so asyncio code calls them by ``to_thread``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

from livethread.errors import Unavailable
from livethread_worker.embedded import parent_death

PROBE_INTERVAL: Final = 0.02  # seconds
FIRST_RESTART_DELAY: Final = 0.5  # seconds
LAST_RESTART_DELAY: Final = 30.0  # seconds
#: A child that ran this long has not "crashed again": its delay starts anew.
STEADY_AFTER: Final = 60.0  # seconds
#: Seconds between SIGQUIT (Celery: stop now, requeue) and SIGKILL.
QUIT_GRACE: Final = 5.0  # seconds
#: Seconds until a killed process must be gone; beyond it the kernel holds it (a dead disk).
KILL_GRACE: Final = 10.0  # seconds
MAX_LOG_BYTES: Final = 1_000_000
TAIL_LINES: Final = 8


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run one child."""

    #: Unique; what precedes a dot is its kind. Neighbours of one kind start, and stop, together.
    name: str
    command: Sequence[str]
    #: The complete environment.
    env: Mapping[str, str]
    #: Seconds from SIGTERM to SIGQUIT.
    grace_s: float = 10.0
    #: Whether the child with this pid serves; asked only while its start is awaited. None: it does once started.
    ready: Callable[[int], bool] | None = None
    ready_timeout_s: float = 20.0
    cwd: Path | None = None
    #: A file that the child locks before it runs and while it lives; a second one waits for it.
    lock: Path | None = None

    @property
    def kind(self) -> str:
        """What it is, without which one: ``worker`` of ``worker.2``."""
        return self.name.partition(".")[0]


class Output(Protocol):
    """Where the children's output, and what befalls them, goes."""

    def open(self, name: str) -> int:
        """Return a file descriptor for *name*'s stdout and stderr; the supervisor closes it."""

    def note(self, name: str, event: str) -> None:
        """Record what happened to *name*."""

    def explain(self, name: str) -> str:
        """Return where to look after *name* failed, and its last words; empty if they were seen already."""

    def close(self) -> None:
        """Return when everything that the children wrote is out."""


class LogFiles:
    """Output into ``<name>.log`` in *folder*, which is cut when it grows beyond a bound."""

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
    """Return "see *path*" and the last lines of it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return f"see {path}"
    return "\n  ".join([f"see {path}:", *lines])


class Lines:
    """Output handed to *write* as (name, line), without the line's end; calls come from several threads.

    A *write* that fails (a closed terminal) loses its line and stops nobody.
    """

    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write = write
        self._pumps: list[threading.Thread] = []

    def open(self, name: str) -> int:
        """Return the writing end of a pipe whose lines are passed on."""
        reader, writer = os.pipe()
        pump = threading.Thread(target=self._pump, args=(name, reader), name=f"output of {name}", daemon=True)
        self._pumps = [p for p in self._pumps if p.is_alive()] + [pump]
        pump.start()
        return writer

    def note(self, name: str, event: str) -> None:
        """Pass *event* on among the lines of *name*."""
        with contextlib.suppress(OSError, ValueError):
            self._write(name, event)

    def explain(self, name: str) -> str:  # noqa: ARG002
        """Return nothing: the lines were passed on."""
        return ""

    def close(self) -> None:
        """Wait for the last lines, but not for a stranger who inherited a pipe."""
        for pump in self._pumps:
            pump.join(timeout=1.0)

    def _pump(self, name: str, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(OSError, ValueError):
                    self._write(name, line.rstrip("\n"))


@dataclass(slots=True, eq=False)
class _Child:
    spec: ProcessSpec
    pid: int | None = None
    returncode: int | None = None
    started_at: float = 0.0
    crashes: int = 0
    restart_at: float | None = None

    def note_exit(self, returncode: int) -> None:
        now = time.monotonic()
        self.pid, self.returncode = None, returncode
        self.crashes = 1 if now - self.started_at >= STEADY_AFTER else self.crashes + 1
        self.restart_at = now + restart_delay_s(self.crashes)


def restart_delay_s(crashes: int) -> float:
    """Return how long to wait before a restart after so many *crashes* in a row (1: the first)."""
    return float(min(LAST_RESTART_DELAY, FIRST_RESTART_DELAY * 2 ** min(crashes - 1, 16)))


@dataclass(slots=True)
class _Orders:
    """What the keeper was told; only ever set, under the supervisor's condition."""

    stop: bool = False
    hurry: bool = False
    started: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None


class Supervisor:
    """Runs the processes of *specs* until stopped; used once.

    Children run in sessions of their own: a terminal's Ctrl-C reaches this process alone, which then stops them in
    order. Whatever a child's main process leaves in its group is killed when that process ends.
    """

    def __init__(self, specs: Sequence[ProcessSpec], output: Output) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._output = output
        # Reentrant: `request_stop` may run in a signal handler, in the midst of another method.
        self._changed = threading.Condition(threading.RLock())
        self._orders = _Orders()
        self._keeper = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> bool:
        """Start every process in order; return True when all are ready, False if told to stop before.

        Raises:
            Unavailable: one ended, or did not get ready in time; the others are stopped again.

        """
        self._keeper.start()
        try:
            self._orders.started.wait()
        except BaseException:
            self.stop()
            raise
        if self._orders.failure is not None:
            self.wait()
            raise self._orders.failure
        return not self._orders.stop

    def stop(self) -> None:
        """Stop every process, the last one first, and return when all are gone.

        An interrupt while this waits, a second Ctrl-C, kills what is left instead of waiting for it.
        """
        self.request_stop()
        try:
            self.wait()
        except BaseException:
            self.request_stop()
            self.wait()
            raise

    def request_stop(self) -> None:
        """Begin to stop, and return at once; called again: kill what is left. Safe in a signal handler."""
        with self._changed:
            self._orders.hurry = self._orders.stop
            self._orders.stop = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when every process is gone: after `request_stop` or a failed start."""
        self._keeper.join()

    def pids(self) -> dict[str, int]:
        """Return the pid of each process that runs just now, by name."""
        with self._changed:
            return {child.spec.name: child.pid for child in self._children if child.pid is not None}

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Send *signum* to the main process of *name*, which is restarted if it ends; return its pid.

        Raises:
            KeyError: *name* does not run just now.

        """
        with self._changed:
            pid = self.pids()[name]
            os.kill(pid, signum)
            return pid

    def __enter__(self) -> Self:
        """Start; see `start`."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; see `stop`."""
        self.stop()

    # ── the keeper's thread ──────────────────────────────────────────────────────────────────────────────────

    def _keep(self) -> None:
        try:
            self._start_all()
            self._orders.started.set()
            self._restart_crashed()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits in `start`
            self._orders.failure = error
        finally:
            self._stop_all()
            self._output.close()
            self._orders.started.set()

    def _start_all(self) -> None:
        for children in _by_kind(self._children):
            for child in children:
                self._spawn(child)
            for child in children:
                self._await_ready(child)
            if self._orders.stop:
                return

    def _spawn(self, child: _Child) -> None:
        spec = child.spec
        output = self._output.open(spec.name)
        shim = [
            sys.executable,
            "-I",
            "-S",
            parent_death.__file__,
            str(os.getpid()),
            str(spec.lock or parent_death.NO_LOCK),
        ]
        with self._changed:
            try:
                process = subprocess.Popen(
                    [*shim, *spec.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=spec.env,
                    cwd=spec.cwd,
                    start_new_session=True,
                )
            finally:
                os.close(output)
            child.pid, child.started_at, child.restart_at = process.pid, time.monotonic(), None
        self._output.note(spec.name, f"started (pid {process.pid})")
        waiter = threading.Thread(target=self._await_exit, args=(child, process), daemon=True)
        waiter.start()

    def _await_ready(self, child: _Child) -> None:
        spec, pid = child.spec, child.pid
        deadline = time.monotonic() + spec.ready_timeout_s
        while spec.ready is not None and not (pid is not None and spec.ready(pid)):
            with self._changed:
                if self._orders.stop:
                    return
                if child.pid is None:
                    raise self._failed(child, f"ended with {_describe(child.returncode)} before it was ready")
                if time.monotonic() >= deadline:
                    raise self._failed(child, f"was not ready within {spec.ready_timeout_s:g} s")
                self._changed.wait(PROBE_INTERVAL)

    def _failed(self, child: _Child, what: str) -> Unavailable:
        hint = self._output.explain(child.spec.name)
        return Unavailable(f"{child.spec.name} {what}" + (f"; {hint}" if hint else ""))

    def _restart_crashed(self) -> None:
        with self._changed:
            while not self._orders.stop:
                now = time.monotonic()
                planned = [child for child in self._children if child.restart_at is not None]
                for child in planned:
                    if child.restart_at is not None and child.restart_at <= now:
                        self._respawn(child)
                delays = [child.restart_at - now for child in planned if child.restart_at is not None]
                self._changed.wait(min(delays, default=None))

    def _respawn(self, child: _Child) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # out of processes or memory, for now
            child.note_exit(parent_death.EXIT_CANNOT_RUN)
            self._output.note(child.spec.name, f"cannot be started: {error}")

    def _stop_all(self) -> None:
        with self._changed:
            self._orders.stop = True
        for children in _by_kind(self._children[::-1]):
            self._stop_together(children)

    def _stop_together(self, children: list[_Child]) -> None:
        grace_s = max(child.spec.grace_s for child in children)
        if self._signal(children, signal.SIGTERM, grace_s):
            return
        if self._orders.hurry or not self._signal(children, signal.SIGQUIT, QUIT_GRACE):
            self._kill_groups(children)

    def _signal(self, children: list[_Child], signum: signal.Signals, grace_s: float) -> bool:
        """Send *signum* to the main processes alone and return whether all are gone within *grace_s*."""
        with self._changed:
            for child in children:
                if child.pid is not None:
                    self._output.note(child.spec.name, f"gets {signum.name}")
                    os.kill(child.pid, signum)
            self._changed.wait_for(lambda: self._orders.hurry or _all_gone(children), grace_s)
            return _all_gone(children)

    def _kill_groups(self, children: list[_Child]) -> None:
        with self._changed:
            for child in children:
                if child.pid is not None:
                    self._output.note(child.spec.name, "gets SIGKILL")
                    _kill_group(child.pid)
            self._changed.wait_for(lambda: _all_gone(children), KILL_GRACE)

    # ── a waiter's thread, one for each running child ────────────────────────────────────────────────────────

    def _await_exit(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        _wait_unreaped(process)
        with self._changed:
            _kill_group(process.pid)
            child.note_exit(process.wait())
            self._changed.notify_all()
            self._output.note(child.spec.name, f"ended with {_describe(child.returncode)}")


def _by_kind(children: list[_Child]) -> Iterator[list[_Child]]:
    for _, group in itertools.groupby(children, key=lambda child: child.spec.kind):
        yield list(group)


def _all_gone(children: list[_Child]) -> bool:
    return all(child.pid is None for child in children)


def _wait_unreaped(process: subprocess.Popen[bytes]) -> None:
    """Wait until *process* ends, and leave its pid taken, where that can be: its group is signalled afterwards."""
    if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _kill_group(pid: int) -> None:
    # PermissionError: macOS, where only the dead main process is left in the group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe(returncode: int | None) -> str:
    if returncode is None or returncode >= 0:
        return f"exit code {returncode}"
    return signal.Signals(-returncode).name
