"""``livethread up``: run the processes of a Procfile on this machine until a signal stops them."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import click

from livethread.errors import InvalidRequest, Unavailable
from livethread.extras import EXTRAS
from livethread_config import Settings
from livethread_config.settings_file import variable_of
from livethread_worker.embedded.supervisor import ProcessSpec, Supervisor

#: ``name: command``, as in honcho and Heroku.
PROCFILE_LINE: Final = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
#: A command with any of these needs the shell. Any other command replaces the shell, so that it gets the signals.
SHELL_SYNTAX: Final = re.compile(r"[;&|<>()`\n]")
#: The Procfile's line for the embedded server, which `up` starts by itself.
REDIS_COMMAND: Final = "livethread redis"
LOCALHOST: Final = "127.0.0.1"
#: Kinds of processes that serve pages -> the extra that they need, and the port, or the next free one.
PAGES: Final = {"browse": ("web", 5556), "metrics": ("metrics", 5557), "flower": ("flower", 5555)}
PORTS_TRIED: Final = 20
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: From SIGTERM to SIGQUIT, for all but workers (theirs is in `processes`).
GRACE: Final = 10.0  # seconds
COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
NAME_WIDTH: Final = 9


@click.command(name="up")
@click.option(
    "--procfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run this Procfile instead of livethread's own.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of worker processes."
)
def command(procfile: Path | None, workers: int) -> None:
    """Run Redis, workers, Flower, the pages of threads and the metrics on this machine.

    Redis is the embedded one unless LIVETHREAD_REDIS_URL is set. A process that crashes is restarted. Ctrl-C stops all
    processes in reverse order and lets workers finish; a second Ctrl-C kills them.
    """
    from livethread_worker.embedded.deployment_files import deployment_root
    from livethread_worker.embedded.redis_server import prepare_directories, run_dir
    from livethread_worker.embedded.runtime_locks import FileLock

    settings = Settings()
    prepare_directories(settings)
    with ExitStack() as stack:
        if not stack.enter_context(FileLock(run_dir(settings) / "up.lock")).take():
            raise Unavailable(f"livethread up is already running for {settings.home}")
        ports = {kind: str(_reserve_port(first, stack)) for kind, (_, first) in PAGES.items()}
        ports["flower"] = os.environ.get("PORT") or ports["flower"]
        _run(settings, _specs(settings, procfile or deployment_root() / "Procfile", workers, ports))


def _run(settings: Settings, specs: Sequence[ProcessSpec]) -> None:
    from livethread_worker.embedded.output import Lines
    from livethread_worker.embedded.runtime import RunnerClaim

    say = _Printer()
    supervisor = Supervisor(specs, Lines(say))
    _stop_on_signals(supervisor)
    say("up", f"home {settings.home}")
    with ExitStack() as stack:
        # Without a worker here, clients must start their own.
        has_worker = any(spec.kind == "worker" for spec in specs)
        claim = stack.enter_context(RunnerClaim(settings)) if has_worker else None
        if supervisor.start():
            if claim is not None:
                claim.set_ready()
            for spec in specs:
                if spec.kind in PAGES:
                    say("up", f"{spec.kind}: http://{LOCALHOST}:{spec.env['PORT']}")
            say("up", "all processes are running; Ctrl-C stops them")
        supervisor.wait()
    say("up", "stopped")


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(*_: object) -> None:
        # In a thread: this handler may interrupt a print while another thread waits for it with the supervisor's lock.
        threading.Thread(target=supervisor.request_stop).start()

    for signum in STOP_SIGNALS:
        signal.signal(signum, stop)


def _specs(settings: Settings, procfile: Path, workers: int, ports: dict[str, str]) -> list[ProcessSpec]:
    from livethread_worker.embedded.processes import redis_spec

    specs = [redis_spec(settings)] if settings.is_embedded else []
    for kind, line in read_procfile(procfile):
        if line == REDIS_COMMAND:
            continue
        extra, _ = PAGES.get(kind, ("", 0))
        if not all(map(importlib.util.find_spec, EXTRAS.get(extra, ()))):
            click.echo(f"{kind} is left out; to get it, run: pip install 'livethread[{extra}]'")
            continue
        names = [f"{kind}.{number}" for number in range(1, workers + 1)] if kind == "worker" else [kind]
        specs += [_spec(settings, name, line, procfile.absolute().parent) for name in names]
    if settings.flower_url is None and any(spec.kind == "flower" for spec in specs):
        flower = {variable_of("flower_url"): f"http://{LOCALHOST}:{ports['flower']}/"}
        specs = [replace(s, env={**s.env, **flower}) if s.kind == "browse" else s for s in specs]
    return [replace(s, env={**s.env, "PORT": ports[s.kind]}) if s.kind in ports else s for s in specs]


def read_procfile(path: Path) -> list[tuple[str, str]]:
    """Return the (name, command) pairs of the Procfile *path*, in its order.

    Raises:
        InvalidRequest: a line is not empty, a comment or ``name: command``, or repeats a name.
    """
    pairs: list[tuple[str, str]] = []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = PROCFILE_LINE.fullmatch(line)
        if match is None or match[1] in dict(pairs):
            raise InvalidRequest(f"{path}:{number}: expected 'name: command', with a name of its own")
        pairs.append((match[1], match[2]))
    return pairs


def _spec(settings: Settings, name: str, line: str, folder: Path) -> ProcessSpec:
    from livethread_worker.embedded.processes import (
        WORKER_GRACE,
        WORKER_READY_TIMEOUT,
        WORKER_SIGNALS,
        is_worker_ready,
        settings_env,
    )

    env = settings_env(settings) | {"HONCHO_PROCESS_NAME": name, "PYTHONUNBUFFERED": "1"}
    # The user may call `livethread` by its path, with no virtual environment active.
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", os.defpath)])
    spec = ProcessSpec(name=name, command=["sh", "-c", _shell_line(line)], env=env, grace_s=GRACE, cwd=folder)
    if spec.kind != "worker":
        return spec
    # Without that module a worker does not report that it is ready, so `up` does not wait for it.
    ready = partial(is_worker_ready, settings, name) if WORKER_SIGNALS in line else None
    return replace(
        spec, grace_s=WORKER_GRACE + settings.drain_max_s, ready=ready, ready_timeout_s=WORKER_READY_TIMEOUT
    )


def _shell_line(line: str) -> str:
    """Return *line* so that the shell expands its variables, then is replaced by it (``env``: it may begin with A=b)."""
    return line if SHELL_SYNTAX.search(line) or line.startswith("exec ") else f"exec env {line}"


def _reserve_port(first: int, stack: ExitStack) -> int:
    """Return the first free port from *first* on, and reserve it until *stack* closes.

    Flower listens only seconds later. The UDP port of the same number, otherwise unused, reserves it for this `up`.
    """
    for port in range(first, first + PORTS_TRIED):
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOCALHOST, port))
            reservation.bind((LOCALHOST, port))
            stack.enter_context(reservation)
            return port
        reservation.close()
    raise Unavailable(f"ports {first} to {first + PORTS_TRIED - 1} are in use; set PORT to a free port for Flower")


class _Printer:
    """Prints lines with the time and the name of their process, each name in its own colour."""

    def __init__(self) -> None:
        self._next_colour: Iterator[str] = cycle(COLOURS)
        self._colours = {"up": "white"}

    def __call__(self, name: str, line: str) -> None:
        colour = self._colours.setdefault(name, "") or next(self._next_colour)
        self._colours[name] = colour
        prefix = click.style(f"{time.strftime('%H:%M:%S')} {name:{NAME_WIDTH}}|", fg=colour)
        # One write per line, because several threads print.
        click.echo(f"{prefix} {line}\n", nl=False)
        sys.stdout.flush()
