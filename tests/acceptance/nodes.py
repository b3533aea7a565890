"""pytest-celery's nodes as local processes: clusters, kill, restart and logs without Docker.

pytest-celery wraps containers of Docker's client, but uses little of them. `ProcessAsContainer` provides that part for a
`ChildProcess`; the node classes override what only a container has.
"""

from __future__ import annotations

import signal
import uuid
from pathlib import Path
from typing import Any

from pytest_celery import CeleryWorkerContainer, RedisContainer  # type: ignore[import-untyped]  # it has no types
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process

from livethread_config import Settings

#: How long a process may take to start: others may start with it, on a busy machine.
STARTING = 120.0  # seconds


class ProcessAsContainer:
    """The part of ``docker.models.containers.Container`` that pytest-celery uses, for a process."""

    def __init__(self, process: ChildProcess, ready: str) -> None:
        self.id = uuid.uuid4().hex
        self.name = process.name
        self.process = process
        self._ready = ready

    @property
    def status(self) -> str:
        return "running" if self.process.is_running else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """One network and no published port, so that pytest-celery waits only for the log."""
        env = [f"{name}={value}" for name, value in self.process.env.items()]
        return {
            "Config": {"Hostname": self.name, "Env": env},
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {"host": {"IPAddress": "127.0.0.1"}}, "Ports": {}},
        }

    def reload(self) -> None:
        """Do nothing: properties are always up to date."""

    def logs(self) -> bytes:
        return self.process.logs().encode()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal as to a container: SIGKILL to all processes, any other one to the main process."""
        number = _number(signal)
        if number == _number("SIGKILL"):
            self.process.kill()
        else:
            self.process.signal(number)

    def start(self) -> None:
        """Start, and wait until the process is ready; the log of an earlier run does not count."""
        before = len(self.process.logs())
        self.process.start()
        self.process.wait_for_log(self._ready, before, STARTING)

    def restart(self, timeout: float = 10) -> None:
        self.process.stop()
        self.start()


def _number(name: str | int) -> int:
    if isinstance(name, int):
        return name
    return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])


class ProcessRedis(RedisContainer):  # type: ignore[misc]  # pytest-celery has no types
    """The broker: the shipped configuration on a unix socket; Celery and redis-py spell its URL differently."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(ProcessAsContainer(server.process, ""))
        self.server = server

    @property
    def url(self) -> str:
        return self.server.settings.redis.for_kombu

    @property
    def host_url(self) -> str:
        return self.url

    @property
    def port(self) -> int:
        return 0

    @property
    def ready_prompt(self) -> str:
        return ""


class ProcessWorker(CeleryWorkerContainer):  # type: ignore[misc]  # pytest-celery has no types
    """A worker with the documented command, or with another *app*."""

    def __init__(self, settings: Settings, folder: Path, name: str, *options: str, **app: str) -> None:
        self.process = worker_process(settings, folder, name, *options, **app)
        super().__init__(ProcessAsContainer(self.process, READY))

    @property
    def ready_prompt(self) -> str:
        return READY

    def start(self) -> None:
        self._container.start()
