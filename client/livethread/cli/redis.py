"""``livethread redis``: the embedded server in the foreground, for a process runner such as honcho."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import click

from livethread_config import Settings


@click.command(name="redis")
def command() -> None:
    """Run the embedded Redis of LIVETHREAD_HOME in the foreground.

    With LIVETHREAD_REDIS_URL set there is nothing to run; this then waits for SIGTERM, since a process runner takes a
    process that ends for one that failed.
    """
    settings = Settings()
    if settings.is_embedded:
        _become_server(settings)
    else:
        click.echo("LIVETHREAD_REDIS_URL is set: no embedded Redis to run; waiting for a signal")
        _wait_for_signal()


def _become_server(settings: Settings) -> None:
    from livethread_worker.embedded.parent_death import hold_lock
    from livethread_worker.embedded.redis_server import prepare_directories, server_command, server_lock

    argv = server_command(settings)
    prepare_directories(settings)
    click.echo(f"embedded Redis on {settings.embedded_socket}")
    hold_lock(str(server_lock(settings)))
    os.execv(argv[0], argv)  # noqa: S606 - the server takes this process's place, and its signals


def _wait_for_signal() -> None:
    ended = threading.Event()

    def end(_signum: int, _frame: FrameType | None) -> None:
        # From a thread of its own: this handler may interrupt `wait` while that holds the event's lock.
        threading.Thread(target=ended.set).start()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    ended.wait()
