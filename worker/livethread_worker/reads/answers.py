"""Answers reads: an answer is a list in Redis whose pieces the caller removes as it receives them.

A caller that gives up removes the read and its answer. If the caller dies, Redis drops both: the answer within
`ANSWER_TTL`, the read when its time is over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from redis import Redis

from livethread import errors
from livethread.position import START, Position
from livethread.queued.outage import NOT_THE_MASTER
from livethread.queued.scripts import load_script
from livethread_config import Settings, names

#: Maximum size of a piece of an answer, and maximum number of pieces in Redis that the caller has not received yet.
PIECE_BYTES: Final = 1024 * 1024
PIECES: Final = 4

#: How long Redis keeps pieces that the caller does not receive.
ANSWER_TTL: Final = 10.0  # seconds

#: How long a worker waits for the caller to receive a piece before it drops the answer; shorter than `ANSWER_TTL`.
PATIENCE: Final = 5.0  # seconds

#: How often a worker looks whether the caller has received a piece.
ROOM_INTERVAL: Final = 0.005  # seconds


class Answer(NamedTuple):
    """What a read found."""

    body: bytes
    #: Where the next page begins, if the read has pages.
    next: int | None = None
    #: The position that such a page shows.
    position: Position = START


class Answers:
    """A worker's access to the reads of all shards."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._prefix = settings.key_prefix
        self._take, self._answer = (
            redis.register_script(load_script("livethread_worker.reads", name)) for name in ("take", "answer")
        )

    def are_waiting(self, shards: Iterable[int]) -> bool:
        """Whether a read of *shards* waits for a worker."""
        return bool(self._redis.exists(*(names.ShardKeys(self._prefix, shard).reads for shard in shards)))

    def answer(self, shard: int, read: str, worker: str, find: Callable[[], Answer]) -> None:
        """Send the caller of *read* what *find* returns, or the error that it raises; that error is raised here, too.

        Does nothing if the caller no longer waits, or another worker has taken the read.
        """
        of = names.ShardKeys(self._prefix, shard)
        if not self._is_taken(of, read, worker):
            return
        try:
            answer = find()
        except Exception as error:
            self._send(of, read, _encode_error(error))
            raise
        header = {"size": len(answer.body), "next": answer.next, "position": answer.position}
        self._send(of, read, json.dumps(header).encode() + b"\n", answer.body)

    def _is_taken(self, of: names.ShardKeys, read: str, worker: str) -> bool:
        """Take the read; on a new connection if this one leads to a former master, since no drain may come and drop it."""
        keys, args = [of.reads, of.read(read)], [read, worker]
        try:
            return bool(self._take(keys=keys, args=args))
        except NOT_THE_MASTER:
            self._redis.connection_pool.disconnect(inuse_connections=False)
            return bool(self._take(keys=keys, args=args))

    def _send(self, of: names.ShardKeys, read: str, header: bytes, body: bytes = b"") -> None:
        """Send *header* and *body*, as fast as the caller receives them; drop them if it does not."""
        keys = [of.read(read), of.answer(read)]
        for piece, is_last in _pieces(header, body):
            args: list[Any] = [piece, int(ANSWER_TTL * 1000), PIECES, int(is_last)]
            give_up_at = time.monotonic() + PATIENCE
            while (status := self._answer(keys=keys, args=args)) == b"full" and time.monotonic() < give_up_at:
                time.sleep(ROOM_INTERVAL)
            if status == b"full":
                self._redis.delete(*keys)
            if status != b"ok":
                return


def _pieces(header: bytes, body: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield each piece and whether it is the last; the first one begins with the header."""
    for start in range(0, max(len(body), 1), PIECE_BYTES):
        end = start + PIECE_BYTES
        piece = body[start:end]
        yield (header + piece if start == 0 else piece), end >= len(body)


def _encode_error(error: Exception) -> bytes:
    if not isinstance(error, errors.ThreadStoreError):
        error = errors.Internal(f"the read failed in the worker; see its log: {type(error).__name__}: {error}")
    return json.dumps({"error": type(error).__name__, "args": error.args}).encode() + b"\n"
