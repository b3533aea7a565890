"""Child processes that end with the tests: a private Redis, and real Celery workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from redis import Redis
from tests.nodes.waiting import DEADLINE, wait_until

from livethread_config import Settings
from livethread_worker.embedded import parent_death
from livethread_worker.embedded.processes import settings_env
from livethread_worker.embedded.redis_server import answers, find_server, prepare_directories, server_command


class ChildProcess:
    """A command in its own process group; the kernel kills it if the tests are killed."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path, name: str) -> None:
        # -I -S: start fast, without the project's modules.
        self.command = [
            sys.executable,
            "-I",
            "-S",
            parent_death.__file__,
            str(os.getpid()),
            parent_death.NO_LOCK,
            *command,
        ]
        self.env = dict(env)
        self.folder = folder
        self.name = name
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running
        with self.log.open("ab") as log:  # kept across restarts
            self._process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Send a signal to the main process alone."""
        if self.is_running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9`` of the main process and all its children."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)

    def stop(self) -> None:
        """Terminate the process; kill it if that takes too long."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEADLINE)
        self.kill()

    def logs(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text: str, after: int = 0, deadline: float = DEADLINE) -> None:
        """Wait until the log contains *text* after its first *after* characters."""

        def is_logged() -> bool:
            assert self.is_running, f"{self.name} ended with {self.returncode}:\n{self.logs()[-3000:]}"
            return text in self.logs()[after:]

        wait_until(is_logged, f"{text!r} in the log of {self.name}", deadline)


class RedisServer:
    """A private Redis with the shipped configuration, on a Unix socket with a short path."""

    def __init__(self, *options: str) -> None:
        find_server(Settings(redis_url=None))  # raises if Redis is not installed, before a folder is created
        self.folder = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
        self.settings = Settings(home=self.folder, redis_url=None, connect_timeout_s=5.0)
        prepare_directories(self.settings)
        command = [*server_command(self.settings), *options]
        self.process = ChildProcess(command, settings_env(self.settings), self.folder, "redis")
        self.client = Redis.from_url(self.url)

    @property
    def url(self) -> str:
        return self.settings.client_url

    def start(self) -> Self:
        self.process.start()
        wait_until(lambda: answers(self.settings), "an answer from Redis")
        return self

    def kill(self) -> None:
        """``kill -9``: only the append-only file survives."""
        self.process.kill()

    def pause(self) -> None:
        """Suspend the server; its connections stay open and unanswered."""
        self.process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.signal(signal.SIGCONT)

    def replicate(self, master: RedisServer) -> None:
        """Become a replica of *master*, which has a port."""
        self.client.replicaof("127.0.0.1", str(master.client.config_get("port")["port"]))

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that no program uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def worker_process(
    settings: Settings, folder: Path, name: str, *options: str, app: str = "livethread_worker.entrypoint"
) -> ChildProcess:
    """Return a worker that is not yet started; it uses the documented command, without ``-Q``, outside the checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-P", "-m", "celery", "--app", app, "worker"),
        *("--hostname", f"{name}@%h", "--concurrency", "2", "--loglevel", "INFO"),
        # Workers need nothing from each other, and mingle takes a second.
        *("--without-mingle", "--without-gossip", *options),
    ]
    return ChildProcess(command, settings_env(settings), folder, name)


#: What Celery logs once a worker consumes its queues.
READY = " ready."
