"""What the commands that serve pages have in common: where they listen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from livethread.errors import Unavailable

host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


def port_option(default: int) -> Callable[[Any], Any]:  # Any: click's decorators take functions and commands
    """Return the option ``--port``."""
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=lambda: os.environ.get("PORT", default),
        show_default=str(default),
        help="Port to listen on; $PORT if it is set.",
    )


@contextmanager
def listening_errors_translated(host: str, port: int) -> Iterator[None]:
    """Raise `Unavailable` if the address cannot be listened on."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{host}, port {port}: {error.strerror}; --port names another port") from None


def url(host: str, port: int) -> str:
    """Return the address of the pages."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
