"""``livethread redis``: run the embedded server in the foreground, for a process runner such as honcho."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from livethread_config import Settings


@click.command(name="redis")
def command() -> None:
    """Run the embedded Redis of LIVETHREAD_HOME in the foreground.

    If LIVETHREAD_REDIS_URL is set, there is no server to run. Then this only waits for SIGTERM, because a process
    runner treats a process that ends as failed.
    """
    from livethread_config import Settings

    settings = Settings()
    if settings.is_embedded:
        _become_server(settings)
    else:
        click.echo("LIVETHREAD_REDIS_URL is set, so there is no embedded Redis to run; waiting for a signal")
        _wait_for_signal()


def _become_server(settings: Settings) -> None:
    from livethread_worker.embedded.parent_death import hold_lock
    from livethread_worker.embedded.redis_server import prepare_directories, server_command, server_lock

    argv = server_command(settings)
    prepare_directories(settings)
    click.echo(f"embedded Redis on {settings.embedded_socket}")
    hold_lock(str(server_lock(settings)))
    os.execv(argv[0], argv)  # noqa: S606 - the server replaces this process and gets its signals


def _wait_for_signal() -> None:
    ended = threading.Event()

    def end(_signum: int, _frame: FrameType | None) -> None:
        # In a thread: this handler may interrupt `wait` while it holds the event's lock.
        threading.Thread(target=ended.set).start()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    ended.wait()
