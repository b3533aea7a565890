"""``livethread metrics``: export metrics to Prometheus."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import click

from livethread.cli.listening import host_option, listening_errors_translated, port_option, url

PORT: Final = 5557


@click.command("metrics")
@host_option
@port_option(PORT)
def command(host: str, port: int) -> None:
    """Export metrics to Prometheus: /metrics, and /health, which says whether Redis answers.

    One exporter shows the whole deployment. To see the disk of each home, run one on each home's host. It asks for no
    password, and shows only numbers: no thread ids, no contents.
    """
    asyncio.run(_serve(host, port))


async def _serve(host: str, port: int) -> None:
    from livethread.metrics.exporter import create_app, listen
    from livethread.metrics.reading import MetricsReader, Reading
    from livethread.queued.connection import connect
    from livethread_config import Settings

    settings, loop = Settings(), asyncio.get_running_loop()
    async with connect(settings) as redis:
        reader = MetricsReader(redis, settings)

        def read() -> Reading:  # in a thread of the server
            return asyncio.run_coroutine_threadsafe(reader.read(), loop).result()

        with listening_errors_translated(host, port):
            server = listen(host, port, create_app(read))
        with server:
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signum, server.shutdown)
            click.echo(f"Metrics: {url(host, server.server_port)}metrics")
            await asyncio.to_thread(server.serve_forever)
