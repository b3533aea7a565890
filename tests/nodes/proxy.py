"""A proxy for Redis that delays replies, or cuts connections at the worst moment.

It runs in its own thread, so that blocking clients and workers can use it as well as the test's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.nodes.processes import RedisServer

#: Limit of each operation of the proxy.
DEADLINE = 5.0  # seconds
CHUNK = 64 * 1024  # bytes


@dataclass(slots=True)
class _Cut:
    """A pending cut, in the middle of the reply to a request that contains *to*."""

    to: bytes
    after: int
    #: Set once the connection is cut.
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection and the matching connection to Redis."""

    to_client: asyncio.StreamWriter
    to_redis: asyncio.StreamWriter
    #: The end of the last chunk, since a cut's text may span two chunks.
    seen: bytes = b""
    #: The cut of the next reply, and how many bytes of that reply have passed.
    cut: _Cut | None = None
    passed: int = 0

    def close(self) -> None:
        if self.to_client.get_extra_info("ssl_object") is None:
            self.to_client.close()
        else:
            self.to_client.transport.abort()  # closing would wait for the client
        self.to_redis.close()


class RedisProxy:
    """Passes requests and replies between clients and *server*, with the faults that a test sets.

    Use as a context manager. The server may die and come back; until then, new connections are closed at once.
    """

    def __init__(self, server: RedisServer, name: str = "proxy", tls: ssl.SSLContext | None = None) -> None:
        self._upstream = _path_of(server)
        self._path = server.folder / f"{name}.sock"
        self._tls = tls
        self.url = f"unix://{self._path}?db=0"  # without TLS; with it, use `port`
        #: Seconds by which each reply is delayed.
        self.delay_s = 0.0
        self._cuts: list[_Cut] = []
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def port(self) -> int:
        """The TCP port of a proxy with TLS."""
        return int(self._server.sockets[0].getsockname()[1])

    def lead_to(self, server: RedisServer) -> None:
        """Connect new clients to *server*; open connections stay as they are."""
        self._upstream = _path_of(server)

    def cut_all(self) -> None:
        """Cut all connections; clients may connect again."""
        self._run(self._cut_all())

    def cut_reply(self, after: int, to: bytes = b"") -> threading.Event:
        """Cut the connection after *after* bytes of the reply to the next request that contains *to*.

        Return an event that is set once the connection is cut. Several cuts apply in the order of their calls.
        """
        cut = _Cut(to, after)
        self._loop.call_soon_threadsafe(self._cuts.append, cut)
        return cut.done

    def swallow_reply(self, to: bytes = b"") -> threading.Event:
        """Let Redis execute the next request that contains *to*, drop the reply and cut the connection."""
        return self.cut_reply(0, to)

    def _run(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE)

    async def _listen(self) -> None:
        if self._tls is None:
            self._server: asyncio.Server = await asyncio.start_unix_server(self._serve, self._path)
        else:
            # A client may end the handshake because it does not trust the certificate.
            self._loop.set_exception_handler(lambda *_: None)
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)

    async def _cut_all(self) -> None:
        for link in tuple(self._links):
            link.close()

    async def _end(self) -> None:
        self._server.close()
        await self._cut_all()
        # The tasks end with their connections. Do not cancel them: Python 3.11 logs an error for that.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            to_client.close()
            return
        link = _Link(to_client, to_redis)
        self._links.add(link)
        ways = [
            asyncio.ensure_future(self._pass_requests(link, from_client)),
            asyncio.ensure_future(self._pass_replies(link, from_redis)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_requests(self, link: _Link, from_client: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while chunk := await from_client.read(CHUNK):
                self._arm(link, chunk)
                link.to_redis.write(chunk)
                await link.to_redis.drain()

    async def _pass_replies(self, link: _Link, from_redis: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while chunk := await from_redis.read(CHUNK):
                await asyncio.sleep(self.delay_s)
                if link.cut is not None and link.passed + len(chunk) >= link.cut.after:
                    link.to_client.write(chunk[: link.cut.after - link.passed])
                    await link.to_client.drain()
                    link.close()
                    link.cut.done.set()
                    return
                link.passed += len(chunk)
                link.to_client.write(chunk)
                await link.to_client.drain()

    def _arm(self, link: _Link, chunk: bytes) -> None:
        """Take the first pending cut that matches this request."""
        seen = link.seen + chunk
        for cut in self._cuts if link.cut is None else ():
            if cut.to in seen:
                self._cuts.remove(cut)
                link.cut, link.passed = cut, 0
                break
        longest = max((len(cut.to) for cut in self._cuts), default=0)
        link.seen = seen[-(longest - 1) :] if longest > 1 else b""


def _path_of(server: RedisServer) -> str:
    return server.url.removeprefix("unix://").partition("?")[0]
