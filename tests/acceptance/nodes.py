"""pytest-celery's nodes as processes of this host: its clusters, kill, restart and logs without Docker.

pytest-celery wraps objects of Docker's client. What it asks of them is little; `ProcessAsContainer` answers that
for a `ChildProcess`, and the node classes below override what only a container has.
"""

from __future__ import annotations

import signal
import uuid
from pathlib import Path
from typing import Any

from pytest_celery import CeleryWorkerContainer, RedisContainer  # type: ignore[import-untyped]  # it has no types
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process

from livethread_config import Settings


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
        """One network and no published port: nothing more to wait for than the log."""
        env = [f"{name}={value}" for name, value in self.process.env.items()]
        return {
            "Config": {"Hostname": self.name, "Env": env},
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {"host": {"IPAddress": "127.0.0.1"}}, "Ports": {}},
        }

    def reload(self) -> None:
        """Every property is looked up when it is asked for."""

    def logs(self) -> bytes:
        return self.process.logs().encode()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """SIGKILL ends all of a container, any other signal goes to its main process: so here."""
        number = _number(signal)
        if number == _number("SIGKILL"):
            self.process.kill()
        else:
            self.process.signal(number)

    def start(self) -> None:
        """Start, and return when it serves; the log of an earlier life does not count."""
        before = len(self.process.logs())
        self.process.start()
        self.process.wait_for_log(self._ready, before)

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
        return self.server.settings.broker_url

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
    """A worker of ours, by the documented command, or one that loads another *app*."""

    def __init__(self, settings: Settings, folder: Path, name: str, *options: str, **app: str) -> None:
        self.process = worker_process(settings, folder, name, *options, **app)
        super().__init__(ProcessAsContainer(self.process, READY))

    @property
    def ready_prompt(self) -> str:
        return READY

    def start(self) -> None:
        self._container.start()
