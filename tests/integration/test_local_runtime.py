"""The local runtime with a real Redis and real workers: processes start it, share it, and it always ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nodes.waiting import wait_until

from livethread.errors import Unavailable
from livethread_config import Settings
from livethread_worker.embedded.processes import settings_env
from livethread_worker.embedded.redis_server import answers, find_server, prepare_directories
from livethread_worker.embedded.runtime import running, use_local_runtime
from livethread_worker.embedded.runtime_locks import read_state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds a home's processes in /proc")

DEADLINE = 30.0  # seconds
USER = textwrap.dedent("""
    import sys
    from livethread_config import Settings
    from livethread_worker.embedded.runtime import use_local_runtime
    with use_local_runtime(Settings()):
        print("in", flush=True)
        sys.stdin.read()
""")


def processes_of(settings: Settings) -> set[int]:
    """Return the processes that were started for the home."""
    marks = [f"LIVETHREAD_HOME={settings.home}".encode(), str(settings.embedded_socket).encode()]
    return {pid for pid, words in all_processes() if any(mark in words for mark in marks)}


def all_processes() -> Iterator[tuple[int, bytes]]:
    """Yield each process with its command line and environment; a server overwrites both with its title."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()


def servers_of(settings: Settings) -> set[int]:
    return {pid for pid, words in all_processes() if f"unixsocket:{settings.embedded_socket}".encode() in words}


class User:
    """A process that uses the runtime until `leave` or `kill`."""

    def __init__(self, settings: Settings) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER],
            env=settings_env(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_entered(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "in\n"

    def leave(self) -> None:
        self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=tmp_path / "home", redis_url=None)
    yield settings
    left = processes_of(settings)
    for pid in left:
        subprocess.run(["kill", "-9", str(pid)], check=False)
    assert left == set()


def runner_pid(settings: Settings) -> int:
    state = read_state(settings)
    assert state is not None
    return state.pid


def test_processes_share_one_runner_that_ends_with_the_last(settings: Settings) -> None:
    """Both race to start it; one is killed, the other leaves in order."""
    first, second = User(settings), User(settings)
    first.wait_entered()
    second.wait_entered()
    runner = runner_pid(settings)
    servers = servers_of(settings)

    first.kill()
    still_served = answers(settings) and runner_pid(settings) == runner
    second.leave()

    assert len(servers) == 1
    assert still_served
    assert processes_of(settings) == set()


def test_a_killed_runner_is_replaced_and_a_runner_without_users_ends(settings: Settings) -> None:
    user = User(settings)
    user.wait_entered()
    killed = runner_pid(settings)

    subprocess.run(["kill", "-9", str(killed)], check=True)
    wait_until(lambda: (state := read_state(settings)) is not None and state.ready and state.pid != killed)
    served_again = answers(settings)
    user.kill()

    assert served_again
    wait_until(lambda: processes_of(settings) == set())


def test_a_process_with_its_own_workers_serves_others_and_restarts_children(tmp_path: Path) -> None:
    """The home's path is too long for a socket."""
    settings = Settings(home=tmp_path / ("long" * 20), redis_url=None)
    with running(settings, workers=2, concurrency=1) as supervisor:
        before = supervisor.pids()
        with use_local_runtime(settings):
            state = read_state(settings)
        killed = supervisor.kill("worker.2", signal.SIGKILL)
        wait_until(lambda: supervisor.pids().get("worker.2", killed) != killed)
        after = supervisor.pids()

    assert state is not None
    assert (state.kind, state.ready) == ("own", True)
    assert sorted(before) == ["redis", "worker.1", "worker.2"]
    assert (before["redis"], before["worker.1"]) == (after["redis"], after["worker.1"])
    assert processes_of(settings) == set()
    settings.embedded_socket.parent.rmdir()


def test_a_server_that_does_not_start_is_reported_with_its_log(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho failed to start; exit 1\n")
    broken.chmod(0o755)
    settings = settings.model_copy(update={"redis_server": broken})

    with pytest.raises(Unavailable) as failure, use_local_runtime(settings):
        pass

    assert "redis ended with exit code 1" in str(failure.value)
    assert str(settings.own_dir / "run" / "redis.log") in str(failure.value)
    assert "failed to start" in str(failure.value)


def test_a_configured_server_that_cannot_be_executed_is_named(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="LIVETHREAD_REDIS_SERVER: /no/such/server"):
        find_server(settings.model_copy(update={"redis_server": Path("/no/such/server")}))


def test_the_servers_folders_are_accessible_to_their_owner_only(settings: Settings) -> None:
    (settings.own_dir / "run").mkdir(parents=True, mode=0o755)

    prepare_directories(settings)

    folders = [settings.own_dir / "run", settings.own_dir / "redis"]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700, 0o700]
