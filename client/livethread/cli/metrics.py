"""``livethread metrics``: export metrics to Prometheus."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

import click

PORT: Final = 5557


@click.command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=lambda: os.environ.get("PORT", PORT),
    show_default=str(PORT),
    help="Port to listen on; $PORT if it is set.",
)
def command(host: str, port: int) -> None:
    """Export metrics to Prometheus: /metrics, and /health, which says whether Redis answers.

    One exporter shows the whole deployment. Run one on each host of a home to see that home's disk, too. It asks for no
    password and shows numbers alone, no thread.
    """
    asyncio.run(_serve(host, port))


async def _serve(host: str, port: int) -> None:
    from livethread.composition import has_home
    from livethread.metrics.exporter import create_app, listen
    from livethread.metrics.reading import MetricsReader, Reading
    from livethread.queued.connection import connect
    from livethread_config import Settings

    settings, loop = Settings(), asyncio.get_running_loop()
    async with connect(settings) as redis:
        reader = MetricsReader(redis, settings, has_home=has_home(settings))

        def read() -> Reading:  # in a thread of the server
            return asyncio.run_coroutine_threadsafe(reader.read(), loop).result()

        with listen(host, port, create_app(read)) as server:
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signum, server.shutdown)
            address = f"[{host}]" if ":" in host else host
            click.echo(f"Metrics: http://{address}:{server.server_port}/metrics")
            await asyncio.to_thread(server.serve_forever)
