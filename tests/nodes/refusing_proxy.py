"""A proxy in front of Redis that has Redis answer chosen commands with an error reply."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from tests.nodes.processes import RedisServer
from tests.nodes.proxy import CHUNK, RedisProxy, _Link

#: Redis runs this script instead and so replies in order; the proxy inserts no reply.
ERROR = b"return redis.error_reply(ARGV[1])"


class RefusingProxy(RedisProxy):
    """Passes commands on, counts them by name, and has Redis refuse those that a test names."""

    def __init__(self, server: RedisServer, name: str) -> None:
        super().__init__(server, name)
        #: How often each command was sent.
        self.sent: Counter[str] = Counter()
        #: How often each was refused.
        self.refused: Counter[str] = Counter()
        self._commands: Collection[str] = ()
        self._reply = b""
        #: Set whenever a command was refused.
        self.has_refused = threading.Event()

    @contextmanager
    def refusing(self, reply: str, commands: Collection[str]) -> Iterator[None]:
        """Answer *commands* with the error *reply* during the block."""
        self.refused.clear()
        self.has_refused.clear()
        self._reply, self._commands = reply.encode(), commands
        try:
            yield
        finally:
            self._commands = ()

    async def _pass_requests(self, link: _Link, from_client: asyncio.StreamReader) -> None:
        waiting = b""
        with contextlib.suppress(OSError):
            while chunk := await from_client.read(CHUNK):
                waiting += chunk
                while (end := _end_of_command(waiting)) is not None:
                    link.to_redis.write(self._judge(waiting[:end]))
                    waiting = waiting[end:]
                await link.to_redis.drain()

    def _judge(self, command: bytes) -> bytes:
        """Return *command*, or the one that Redis runs instead."""
        name = command.split(b"\r\n", 3)[2].decode().upper()
        self.sent[name] += 1
        if name not in self._commands:
            return command
        self.refused[name] += 1
        self.has_refused.set()
        return _encode(b"EVAL", ERROR, b"0", self._reply)


def _end_of_command(data: bytes) -> int | None:
    """Return where the first command of *data* ends; None if it is incomplete."""
    line = data.find(b"\r\n")
    if line < 0:
        return None
    end = line + 2
    for _ in range(int(data[1:line])):
        line = data.find(b"\r\n", end)
        if line < 0:
            return None
        end = line + 2 + int(data[end + 1 : line]) + 2
    return end if end <= len(data) else None


def _encode(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
