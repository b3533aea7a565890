"""``livethread browse``: show threads in a web browser."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click

from livethread.composition import open_queue_state, open_reader
from livethread_config import Settings

if TYPE_CHECKING:
    from livethread.web.app import State

PORT: Final = 5556
#: Seconds that open pages have when the server stops; their streams would never end.
GRACE: Final = 1


@click.command("browse")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=lambda: os.environ.get("PORT", PORT),
    show_default=str(PORT),
    help="Port to listen on; $PORT if it is set.",
)
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="Also answer to this host name; may be repeated."
)
def command(host: str, port: int, names: tuple[str, ...]) -> None:
    """Show threads in a web browser: a list with search, and a page for each thread that updates by itself.

    Nothing can be changed there. Outside of this machine (--host) it asks for a token, which is in the address that it
    prints.
    """
    import uvicorn

    from livethread.web.app import create_app

    token = None if _is_loopback(host) else secrets.token_urlsafe()
    app = create_app(_opened(Settings()), token=token, names={host, *names})
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE
    )
    address = f"[{host}]" if ":" in host else host
    click.echo(f"Threads: http://{address}:{port}/{'' if token is None else f'?token={token}'}")
    uvicorn.Server(config).run()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[State]:
    async with open_reader(settings) as reader, open_queue_state(settings) as queue:
        yield {"reader": reader, "queue": queue, "place": str(settings.home)}
