"""Keeps child processes running: starts them in order, restarts those that crash, stops them in reverse.

No child outlives this process. On Linux the kernel kills a child when the thread that forked it ends (`parent_death`).
So one thread, the keeper, forks every child and ends after the last of them; an exception or ``kill -9`` leaves none.
Any thread may call any method; asyncio code uses ``to_thread``.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from livethread.errors import Unavailable
from livethread_worker.embedded import parent_death
from livethread_worker.embedded.output import Output

#: How often a starting child is asked whether it is ready.
PROBE_INTERVAL: Final = 0.02  # seconds

#: The delay before a restart doubles with each crash in a row, from the first to the last.
FIRST_RESTART_DELAY: Final = 0.5  # seconds
LAST_RESTART_DELAY: Final = 30.0  # seconds

#: A crash after a run this long is the first in a row.
STEADY_AFTER: Final = 60.0  # seconds

#: From SIGQUIT (Celery: stop now and requeue) to SIGKILL.
QUIT_GRACE: Final = 5.0  # seconds

#: How long to wait for a killed process. If it takes longer, the kernel holds it (a dead disk).
KILL_GRACE: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run one child."""

    #: Unique. The part before the dot is the kind; neighbours of one kind start and stop together.
    name: str
    command: Sequence[str]
    #: The complete environment.
    env: Mapping[str, str]
    #: Seconds from SIGTERM to SIGQUIT.
    grace_s: float = 10.0
    #: Whether the child with this pid is ready; called until it is. None: it is ready when it has started.
    ready: Callable[[int], bool] | None = None
    ready_timeout_s: float = 20.0
    cwd: Path | None = None
    #: A file whose lock the child holds while it runs; it waits for the lock before it starts.
    lock: Path | None = None

    @property
    def kind(self) -> str:
        """The name without its number: ``worker`` for ``worker.2``."""
        return self.name.partition(".")[0]


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
    """Return the delay before the restart after the last of *crashes* in a row."""
    return float(min(LAST_RESTART_DELAY, FIRST_RESTART_DELAY * 2 ** min(crashes - 1, 16)))


class Supervisor:
    """Runs the processes of *specs* until it is stopped. Not reusable.

    Each child has a session of its own, so a terminal's Ctrl-C reaches only this process, which stops the children in
    order. When a child's main process ends, the rest of its process group is killed.
    """

    def __init__(self, specs: Sequence[ProcessSpec], output: Output) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._output = output
        # Reentrant: a signal handler may call `request_stop` while another method holds the lock.
        self._changed = threading.Condition(threading.RLock())
        #: Orders to the keeper: stop every child, and do not wait for them. Set once, under the condition.
        self._must_stop = self._must_hurry = False
        #: The keeper's answer to `start`.
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._keeper = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> bool:
        """Start every process in order; return True when all are ready, or False if `request_stop` came first.

        Raises:
            Unavailable: a process ended or was not ready in time; the others are stopped again.
        """
        self._keeper.start()
        try:
            self._started.wait()
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            self.wait()
            raise self._failure
        return not self._must_stop

    def stop(self) -> None:
        """Stop every process, the last one first, and return when all have ended.

        A second Ctrl-C, which interrupts the wait, kills the remaining ones.
        """
        self.request_stop()
        try:
            self.wait()
        except BaseException:
            self.request_stop()
            self.wait()
            raise

    def request_stop(self) -> None:
        """Begin to stop, and return at once. A second call kills what still runs. Safe in a signal handler."""
        with self._changed:
            self._must_hurry = self._must_stop
            self._must_stop = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until every process has ended, after `request_stop` or a failed start."""
        self._keeper.join()

    def pids(self) -> dict[str, int]:
        """Return the pid of each running process, by name."""
        with self._changed:
            return {child.spec.name: child.pid for child in self._children if child.pid is not None}

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Send *signum* to the main process of *name* and return its pid. If the process ends, it is restarted.

        Raises:
            KeyError: *name* is not running.
        """
        with self._changed:
            pid = self.pids()[name]
            os.kill(pid, signum)
            return pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ── the keeper's thread ──────────────────────────────────────────────────────────────────────────────────

    def _keep(self) -> None:
        try:
            self._start_all()
            self._started.set()
            self._restart_crashed()
        except BaseException as error:  # noqa: BLE001 - `start` raises it
            self._failure = error
        finally:
            self._stop_all()
            self._output.close()
            self._started.set()

    def _start_all(self) -> None:
        for children in _by_kind(self._children):
            for child in children:
                self._spawn(child)
            for child in children:
                self._await_ready(child)
            if self._must_stop:
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
                if self._must_stop:
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
            while not self._must_stop:
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
        except OSError as error:  # such as too many processes, or too little memory
            child.note_exit(parent_death.EXIT_CANNOT_RUN)
            self._output.note(child.spec.name, f"could not be started: {error}")

    def _stop_all(self) -> None:
        with self._changed:
            self._must_stop = True
        for children in _by_kind(self._children[::-1]):
            self._stop_together(children)

    def _stop_together(self, children: list[_Child]) -> None:
        grace_s = max(child.spec.grace_s for child in children)
        if self._signal(children, signal.SIGTERM, grace_s):
            return
        if self._must_hurry or not self._signal(children, signal.SIGQUIT, QUIT_GRACE):
            self._kill_groups(children)

    def _signal(self, children: list[_Child], signum: signal.Signals, grace_s: float) -> bool:
        """Send *signum* to the main processes only, and return whether all end within *grace_s*."""
        with self._changed:
            for child in children:
                if child.pid is not None:
                    self._output.note(child.spec.name, f"gets {signum.name}")
                    os.kill(child.pid, signum)
            self._changed.wait_for(lambda: self._must_hurry or _all_gone(children), grace_s)
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
    """Wait until *process* ends. Keep its pid taken if the platform can: its group is signalled afterwards."""
    if hasattr(os, "waitid"):  # on macOS since Python 3.13
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _kill_group(pid: int) -> None:
    # macOS raises PermissionError if only the dead main process is left in the group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe(returncode: int | None) -> str:
    if returncode is None or returncode >= 0:
        return f"exit code {returncode}"
    return signal.Signals(-returncode).name
