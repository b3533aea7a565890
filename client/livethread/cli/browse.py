"""``livethread browse``: show threads in a web browser."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from typing import Final

import click

from livethread.cli.listening import host_option, listening_errors_translated, port_option, url
from livethread.cli.place import deployment, place_of_reads
from livethread.composition import open_queue_state, open_reader
from livethread_config import Settings
from livethread_config.addresses import is_loopback

PORT: Final = 5556
#: Seconds that answers have to end when the server stops.
GRACE: Final = 2


@click.command("browse")
@host_option
@port_option(PORT)
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="Also answer to this host name; may be repeated."
)
def command(host: str, port: int, names: tuple[str, ...]) -> None:
    """Show threads in a web browser: a list with search, and a page for each thread that updates by itself.

    Nothing can be changed there. Outside of this machine (--host) it asks for a token, which is in the address that it
    prints.
    """
    # uvicorn stops on a signal, and then lets the handler that it found have it, too.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: sys.exit(0))
    asyncio.run(_serve(host, port, names))


async def _serve(host: str, port: int, names: tuple[str, ...]) -> None:
    import uvicorn

    from livethread.status.collector import open_status
    from livethread.web.app import create_app

    settings = Settings()
    token = None if is_loopback(host) else secrets.token_urlsafe()
    async with (
        open_reader(settings) as reader,
        open_queue_state(settings) as queue,
        open_status(settings, deployment(settings)) as status,
    ):
        place = place_of_reads(settings)
        app = create_app(
            reader, queue, status, place=place, flower=settings.flower_url, token=token, names={host, *names}
        )
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE)
        with _listener(host, port) as listener:
            query = "" if token is None else f"?token={token}"
            click.echo(f"Threads: {url(host, listener.getsockname()[1])}{query}")
            server = uvicorn.Server(config)
            app.state.is_stopping = lambda: server.should_exit  # open pages would never end their streams
            await server.serve(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    with listening_errors_translated(host, port):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
