"""Receives acknowledgements: workers publish which tasks of a client are durable, and which threads are parked.

Publications may be lost, so `ProgressWatch` asks Redis as well.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from redis.exceptions import RedisError

from livethread.open_threads import OpenThreads
from livethread.position import position_key
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.outage import Outage
from livethread.queued.outbox import Outbox
from livethread.queued.parking import Parking
from livethread.queued.progress import ProgressWatch
from livethread.queued.writer import Writer

logger = logging.getLogger(__name__)

#: Wait before listening again after the connection broke.
RETRY_INTERVAL: Final = 0.5  # seconds


class Acknowledgements:
    """Subscribes to one client's channels, and subscribes again whenever the connection breaks."""

    def __init__(
        self, mailboxes: Mailboxes, client: str, threads: OpenThreads[Writer], outbox: Outbox, progress: ProgressWatch
    ) -> None:
        self._pubsub = mailboxes.pubsub()
        self._mailboxes = mailboxes
        self._client = client
        self._threads = threads
        self._outbox = outbox
        self._progress = progress
        self._is_connected = False
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect.

        Raises:
            RedisError: Redis does not answer.
        """
        await self._pubsub.subscribe(*self._mailboxes.ack_channels(self._client))
        self._is_connected = True

    async def _subscribe_to_more(self) -> None:
        if self._is_connected:
            with suppress(RedisError, OSError):  # then `_listen` connects again, and each flush asks
                await self.connect()

    def start(self) -> None:
        """Start listening; if `connect` failed, as soon as Redis answers."""
        self._mailboxes.deployment.on_more_shards(self._subscribe_to_more)
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Stop listening."""
        # redis-py can swallow a cancellation that arrives together with a message.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RETRY_INTERVAL)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated

    async def _listen(self) -> None:
        outage = Outage(logger, "listen")
        while True:
            try:
                if not self._is_connected:
                    await self.connect()
                    await self._progress.ask_all()  # publications were lost meanwhile
                async for message in self._pubsub.listen():
                    outage.end()
                    self._take(message["data"])
            except (RedisError, OSError) as error:
                self._is_connected = False
                outage.begin(error, "each flush asks for acknowledgements instead")
                await asyncio.sleep(RETRY_INTERVAL)

    def _take(self, message: bytes) -> None:
        """Process a message from ``settle.lua`` or ``drop.lua``: one line per writer."""
        self._progress.note_publication()
        for line in message.split(b"\n"):
            try:
                self._take_line(line)
            except ValueError as error:  # any program can publish; later lines must still count
                logger.warning("skipped a malformed acknowledgement: %s", error, extra={"action": "listen"})

    def _take_line(self, line: bytes) -> None:
        what, thread_id, detail = line.split(b" ", 2)
        writer = self._threads.get(thread_id.decode())
        if writer is None:
            return
        if what == b"parked":
            writer.note_parked(Parking.parse(detail))
        elif what == b"applied":
            position, counter = detail.decode().split(" ")
            id_, n = counter.split(":")
            position_key(position)
            if writer.queue:
                self._outbox.send(writer)  # there is room again
            if id_ == writer.id:
                writer.note_applied(int(n), position)
                if writer.parked is not None:
                    writer.note_parked(None)
