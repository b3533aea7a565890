"""``livethread up``: run the Procfile's processes on this machine, in order, until told to stop."""

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
from livethread_config import Settings
from livethread_worker.embedded.supervisor import ProcessSpec, Supervisor

#: ``name: command``, as honcho and Heroku read it.
PROCFILE_LINE: Final = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
#: A command with these is left to the shell; any other replaces the shell, and so gets its signals.
SHELL_SYNTAX: Final = re.compile(r"[;&|<>()`\n]")
#: The Procfile's line for the embedded server, which this command runs by itself.
REDIS_COMMAND: Final = "livethread redis"
LOCALHOST: Final = "127.0.0.1"
FLOWER_PORT: Final = 5555
PORTS_TRIED: Final = 20
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds until SIGQUIT for what is no worker (workers have their own, see `processes`).
GRACE: Final = 10.0  # seconds
COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
NAME_WIDTH: Final = 9


@click.command(name="up")
@click.option("--procfile", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Instead of ours.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Worker processes.")
def command(procfile: Path | None, workers: int) -> None:
    """Run Redis, workers, beat and Flower on this machine.

    Redis is the embedded one unless LIVETHREAD_REDIS_URL is set. What crashes is restarted. Ctrl-C stops everything
    in reverse order and lets workers finish; a second one kills them.
    """
    from livethread_worker.embedded.deployment_files import deployment_root
    from livethread_worker.embedded.redis_server import prepare_directories, run_dir
    from livethread_worker.embedded.runtime_locks import FileLock

    settings = Settings()
    prepare_directories(settings)
    with ExitStack() as stack:
        if not stack.enter_context(FileLock(run_dir(settings) / "up.lock")).take():
            raise Unavailable(f"livethread up runs already for {settings.home}")
        flower_port = os.environ.get("PORT") or str(_reserve_port(FLOWER_PORT, stack))
        _run(settings, _specs(settings, procfile or deployment_root() / "Procfile", workers, flower_port))


def _run(settings: Settings, specs: Sequence[ProcessSpec]) -> None:
    from livethread_worker.embedded.output import Lines
    from livethread_worker.embedded.runtime import RunnerClaim

    say = _Printer()
    supervisor = Supervisor(specs, Lines(say))
    _stop_on_signals(supervisor)
    say("up", f"home {settings.home}")
    with ExitStack() as stack:
        # With no worker of ours, clients must go on to start their own.
        has_worker = any(spec.kind == "worker" for spec in specs)
        claim = stack.enter_context(RunnerClaim(settings)) if has_worker else None
        if supervisor.start():
            if claim is not None:
                claim.set_ready()
            _welcome(specs, say)
        supervisor.wait()
    say("up", "stopped")


def _welcome(specs: Sequence[ProcessSpec], say: _Printer) -> None:
    for spec in specs:
        if spec.kind == "flower":
            say("up", f"Flower: http://{LOCALHOST}:{spec.env['PORT']}")
    say("up", "everything runs; Ctrl-C stops it")


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(*_: object) -> None:
        # In a thread: this handler may have interrupted a print that the supervisor's lock waits for.
        threading.Thread(target=supervisor.request_stop).start()

    for signum in STOP_SIGNALS:
        signal.signal(signum, stop)


def _specs(settings: Settings, procfile: Path, workers: int, flower_port: str) -> list[ProcessSpec]:
    from livethread_worker.embedded.processes import redis_spec

    specs = [redis_spec(settings)] if settings.is_embedded else []
    for kind, line in read_procfile(procfile):
        if line == REDIS_COMMAND:
            continue
        if re.search(r"\bflower\b", line) and importlib.util.find_spec("flower") is None:
            click.echo("Flower is not installed, so it is left out: pip install 'livethread[flower]'")
            continue
        names = [f"{kind}.{number}" for number in range(1, workers + 1)] if kind == "worker" else [kind]
        specs += [_spec(settings, name, line, procfile.absolute().parent) for name in names]
    return [replace(s, env={**s.env, "PORT": flower_port}) if s.kind == "flower" else s for s in specs]


def read_procfile(path: Path) -> list[tuple[str, str]]:
    """Return the (name, command) pairs of the Procfile *path*, in its order.

    Raises:
        InvalidRequest: a line is neither empty, a comment, nor ``name: command``; or a name comes twice.

    """
    pairs: list[tuple[str, str]] = []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = PROCFILE_LINE.fullmatch(line)
        if match is None or match[1] in dict(pairs):
            raise InvalidRequest(f"{path}:{number}: expected a new name and a command, 'name: command'")
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
    from livethread_worker.embedded.supervisor import ProcessSpec

    env = settings_env(settings) | {"HONCHO_PROCESS_NAME": name, "PYTHONUNBUFFERED": "1"}
    # `livethread` may be run by its path, with no virtual environment activated.
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", os.defpath)])
    spec = ProcessSpec(name=name, command=["sh", "-c", _shell_line(line)], env=env, grace_s=GRACE, cwd=folder)
    if spec.kind != "worker":
        return spec
    # A line without that module says nothing when its worker is ready, and is not waited for.
    ready = partial(is_worker_ready, settings, name) if WORKER_SIGNALS in line else None
    return replace(
        spec, grace_s=WORKER_GRACE + settings.drain_max_s, ready=ready, ready_timeout_s=WORKER_READY_TIMEOUT
    )


def _shell_line(line: str) -> str:
    """Return *line* so that the shell expands its variables, then gives way to it (``env``: it may begin with A=b)."""
    return line if SHELL_SYNTAX.search(line) or line.startswith("exec ") else f"exec env {line}"


def _reserve_port(first: int, stack: ExitStack) -> int:
    """Return the first port, from *first* on, that is free and not reserved by another `up` until *stack* ends.

    Flower listens only seconds later. The UDP port of the same number, which nobody uses, is the reservation.
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
    raise Unavailable(f"no free port for Flower from {first} on; set PORT")


class _Printer:
    """Prints lines with the time and the name of who wrote them, a colour for each name."""

    def __init__(self) -> None:
        self._next_colour: Iterator[str] = cycle(COLOURS)
        self._colours = {"up": "white"}

    def __call__(self, name: str, line: str) -> None:
        colour = self._colours.setdefault(name, "") or next(self._next_colour)
        self._colours[name] = colour
        prefix = click.style(f"{time.strftime('%H:%M:%S')} {name:{NAME_WIDTH}}|", fg=colour)
        # One write for one line: several threads print.
        click.echo(f"{prefix} {line}\n", nl=False)
        sys.stdout.flush()
