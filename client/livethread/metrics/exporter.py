"""The exporter's pages: ``/metrics`` and ``/health``."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from livethread.errors import ThreadStoreError, Unavailable
from livethread.metrics.families import families, redis_up

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from livethread.metrics.reading import Reading

logger = logging.getLogger(__name__)

TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
PATHS: Final = "/metrics: for Prometheus\n/health: whether Redis answers"
#: How long a connection may take to send its request.
REQUEST_TIMEOUT: Final = 10.0  # seconds


def create_app(read: Callable[[], Reading]) -> WSGIApplication:
    """Return the application; *read* is called for each request, and raises `Unavailable` if Redis does not answer."""
    registry = CollectorRegistry()
    registry.register(_ReadingCollector(read))
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            match environ["PATH_INFO"]:
                case "/metrics":
                    return metrics(environ, start_response)
                case "/health":
                    read()
                    status, text = "200 OK", "Redis answers"
                case "/":
                    status, text = "200 OK", PATHS
                case _:
                    status, text = "404 Not Found", PATHS
        except Unavailable as error:
            status, text = "503 Service Unavailable", str(error)
        except ThreadStoreError as error:  # Redis holds another deployment
            logger.exception("the metrics could not be read", exc_info=error)
            status, text = "500 Internal Server Error", str(error)
        start_response(status, [TEXT])
        return [f"{text}\n".encode()]

    return app


def listen(host: str, port: int, app: WSGIApplication) -> WSGIServer:
    """Return a server of *app* that listens, with a thread for each request."""
    return make_server(host, port, app, _Server6 if ":" in host else ThreadingWSGIServer, _Handler)


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log no requests: one comes every few seconds."""


class _ReadingCollector(Collector):
    """Reads when it is scraped. If Redis is away, only that is known: older values would look like present ones."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Return nothing; otherwise registering would read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read, and yield each family."""
        try:
            reading = self._read()
        except Unavailable:
            yield redis_up(answers=False)
        else:
            yield redis_up(answers=True)
            yield from families(reading)
