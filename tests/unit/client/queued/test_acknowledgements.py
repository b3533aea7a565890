"""What a store learns from publications, including those that no worker sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from tests.nodes.processes import RedisServer
from tests.nodes.waiting import eventually
from tests.unit.client.queued.faulty_mailboxes import Bell, FaultyMailboxes, queue

from livethread.open_threads import OpenThreads
from livethread.ordered_tasks import AppendItems, OrderedTask
from livethread.queued.acknowledgements import Acknowledgements
from livethread.queued.connection import connect
from livethread.queued.progress import ProgressWatch
from livethread.queued.writer import Writer
from livethread_config import Settings

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
THREAD = "019a93b9-f380-7600-98ff-940e6b99603a"


@pytest.fixture
async def mailboxes(redis_server: RedisServer, settings: Settings) -> AsyncIterator[FaultyMailboxes]:
    redis = connect(settings)
    yield FaultyMailboxes(redis, redis_server.client, settings, Bell())
    await redis.aclose()


@pytest.fixture
async def writer(mailboxes: FaultyMailboxes, settings: Settings) -> AsyncIterator[Writer]:
    """A writer with two accepted tasks and a client that listens to publications."""
    threads: OpenThreads[Writer] = OpenThreads()
    writer = threads.open(THREAD, lambda: mailboxes.new_writer(THREAD))
    progress = ProgressWatch(mailboxes, settings, mailboxes.outbox, threads)
    client = writer.id.partition(".")[0]
    acknowledgements = Acknowledgements(mailboxes, client, threads, mailboxes.outbox, progress)
    await acknowledgements.connect()
    acknowledgements.start()
    for _ in range(2):
        queue(writer, OrderedTask(AppendItems(at=AT), (b"x",)).encode())
    writer.take(2)
    writer.accept(2, "7-1", 2)
    yield writer
    await acknowledgements.stop()


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"applied",
        b"\xff\xff \xff \xff",
        f"applied {THREAD}".encode(),
        f"applied {THREAD} 7-1".encode(),
        f"applied {THREAD} 7-1 WRITER".encode(),
        f"applied {THREAD} 7-1 WRITER:many".encode(),
        f"applied {THREAD} soon WRITER:2".encode(),
        b"applied " + THREAD.encode() + b" 7-1 \xff:2",
    ],
)
async def test_a_malformed_publication_is_logged_and_the_next_is_processed(
    writer: Writer, mailboxes: FaultyMailboxes, caplog: pytest.LogCaptureFixture, malformed: bytes
) -> None:
    mailboxes.publish(writer, malformed.replace(b"WRITER", writer.id.encode()))
    mailboxes.publish(writer, f"applied {THREAD} 7-0 {writer.id}:1".encode())

    await eventually(lambda: writer.floor == 1, "the second publication")

    assert (writer.applied, writer.has_outstanding) == ("7-0", True)
    assert "skipped a malformed acknowledgement: " in caplog.text


async def test_a_malformed_line_does_not_stop_the_other_lines_of_its_publication(
    writer: Writer, mailboxes: FaultyMailboxes
) -> None:
    lines = [f"applied {THREAD} 7-1", f"applied {THREAD} 7-1 {writer.id}:2"]

    mailboxes.publish(writer, "\n".join(lines).encode())

    await eventually(lambda: not writer.has_outstanding, "the second line")


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (b'{"reason": "disk full"}', "disk full"),
        (b"by hand: because", "by hand: because"),
        (b"[" * 100_000, "[" * 100_000),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
    ids=["worker's", "text", "deep", "bytes"],
)
async def test_a_parked_thread_has_a_reason_in_whatever_form_it_was_published(
    writer: Writer, mailboxes: FaultyMailboxes, detail: bytes, reason: str
) -> None:
    mailboxes.publish(writer, b"parked " + THREAD.encode() + b" " + detail)

    await eventually(lambda: writer.parked, "the publication")

    assert writer.parked == reason
