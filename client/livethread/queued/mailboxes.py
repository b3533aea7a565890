"""The mailboxes as a client uses them: their Redis keys, script calls and commands.

Methods raise `RedisError` or `OSError` if Redis does not answer, and leave retries to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from livethread.errors import ThreadParked
from livethread.position import START, Position
from livethread.queued.connection import CONNECTIONS, ScriptConnection, check_server
from livethread.queued.delay import Circumstances, circumstances
from livethread.queued.deployment import DeploymentWatch
from livethread.queued.doorbell import Doorbell
from livethread.queued.outage import NOT_THE_MASTER
from livethread.queued.parking import Parking
from livethread.queued.scripts import BELL_TTL_MS, load_script
from livethread.queued.writer import Place, Submission, Writer
from livethread_config import Settings, names

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

#: Maximum number of concurrent queries: each takes one of a limited number of connections.
QUESTIONS: Final = CONNECTIONS // 4

#: How scripts begin their refusal of a caller that knows other shard epochs.
_OTHER_EPOCHS: Final = "EPOCHS "

#: How ``enqueue.lua`` names tasks that change whether a thread exists.
_KINDS: Final = {"create_thread": "create", "delete_thread": "delete"}

#: Writers, each with the numbered submissions to send for it.
Batch = list[tuple[Writer, list[Submission]]]


class Misplaced(Exception):
    """A thread belongs to another shard than the caller thought: the deployment has a new shard epoch."""


class Reply(NamedTuple):
    """The outcome for one writer's tasks; see ``enqueue.lua``."""

    status: str
    #: Counter and position of the writer's last accepted task.
    last: int
    position: Position
    #: The thread's last position.
    tail: Position
    #: How many tasks this call accepted.
    fresh: int


class ThreadBacklog(NamedTuple):
    """How far workers are with a thread; see ``backlog.lua``."""

    #: Positions of its first unapplied task, of its last task, and of its last applied one, as far as Redis knows them.
    head: Position | None
    tail: Position | None
    applied: Position | None
    #: Why the thread is parked.
    parked: str | None
    #: Whether its deletion was accepted.
    is_deleted: bool

    @property
    def applied_up_to(self) -> Position:
        """The position up to which everything is applied."""
        return (None if self.head else self.tail) or self.applied or START


class _Shard(NamedTuple):
    keys: names.ShardKeys
    #: The first keys of ``enqueue.lua``.
    head: tuple[str, ...]
    sender: ScriptConnection


class Mailboxes:
    """The mailboxes of all shards. Rings the doorbell whenever Redis says that one is due."""

    def __init__(self, redis: Redis, settings: Settings, doorbell: Doorbell) -> None:
        self.redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self.deployment = DeploymentWatch(redis, settings)
        self._doorbell = doorbell
        self._prefix = settings.key_prefix
        self.writer_ttl_s = settings.writer_ttl_days * 86_400
        self._enqueue, self._fence, self._backlog = (
            redis.register_script(load_script("livethread.queued", name)) for name in ("enqueue", "fence", "backlog")
        )
        self._shards: dict[int, _Shard] = {}
        self._limits: tuple[int, ...] = (BELL_TTL_MS, self.writer_ttl_s, settings.mailbox_max_tasks)
        self._questions = asyncio.Semaphore(QUESTIONS)
        self._pubsubs: list[PubSub] = []

    def shard(self, number: int) -> names.ShardKeys:
        """Return the keys of a shard."""
        return self._shard(number).keys

    def _shard(self, number: int) -> _Shard:
        if number not in self._shards:
            of = names.ShardKeys(self._prefix, number)
            head = (
                of.ready,
                of.claims,
                of.tokens,
                of.parked,
                of.bell,
                of.drain,
                of.wake,
                of.deleted,
                of.waiting,
                of.stats,
            )
            sender = ScriptConnection(self.redis, self._enqueue)
            self._shards[number] = _Shard(of, (*head, names.deployment_key(self._prefix)), sender)
        return self._shards[number]

    def place(self, thread_id: str) -> Place:
        """Return the thread's shard and keys."""
        of = self._keys_of(thread_id)
        return Place(of.shard, of.thread_keys(thread_id), self.deployment.current.epochs)

    def is_placed(self, writer: Writer) -> bool:
        """Whether the writer's place is the one that the newest known shard epochs say."""
        return writer.place.epochs is self.deployment.current.epochs

    async def check_server(self) -> None:
        """Check that Redis answers, can keep our promises, and holds the record of this deployment.

        Raises:
            InvalidRequest: it cannot, or the record contradicts the settings or this release.
        """
        await check_server(self.redis, self._settings)
        await self.deployment.refresh()

    async def disconnect(self) -> None:
        """Close the connections on which tasks are sent."""
        for shard in self._shards.values():
            await shard.sender.disconnect()

    # -- enqueuing -----------------------------------------------------------------------------------------

    async def enqueue(self, shard: int, batch: Batch) -> list[Reply]:
        """Offer *batch* to *shard*; repeating the call is safe. A shard takes one call at a time.

        Raises:
            Misplaced: Redis has accepted nothing, because a writer's thread belongs to another shard.
            InvalidRequest: likewise, because Redis holds the record of another deployment.
        """
        sender, keys, args = self._shard(shard).sender, list(self._shard(shard).head), list[Any]()
        for writer, submissions in batch:
            keys += writer.place.keys
            first = submissions[0]
            epoch = "" if writer.epoch is None or first.is_promised else writer.epoch
            args += (writer.thread_id, writer.id, writer.floor, epoch, submissions[-1].last - first.n + 1)
            for submission in submissions:
                task, patch, expected = submission.task, submission.patch, submission.expected or ""
                kind = _KINDS.get(task.op, "") if patch is None else "pair"
                if submission.is_repeated:  # its conditions held when Redis first accepted it
                    kind, expected = "" if kind == "create" else kind, ""
                args += (
                    submission.n,
                    kind,
                    expected,
                    task.key or "",
                    task.header,
                    task.lines,
                    submission.traceparent,
                )
                if patch is not None:
                    args += (submission.last, "", "", "", patch.header, patch.lines, "")
        async with self._leaving_replicas():
            while True:
                if self._is_misplaced(shard, batch):
                    raise Misplaced
                try:  # with the epochs that were just checked: nothing is awaited in between
                    ring, *replies = await sender.call(keys, [*self._head_args(), *args])
                except ResponseError as error:
                    await self._learn_epochs(error)
                else:
                    break
        if ring:
            self._doorbell.ring(shard)
        return [
            Reply(status.decode(), last, position.decode(), tail.decode(), fresh)
            for status, last, position, tail, fresh in replies
        ]

    async def accepted(self, writer: Writer) -> tuple[int, Position] | None:
        """Return counter and position of the writer's last accepted task; None if Redis knows of none."""
        record = await self.redis.hget(self._keys_of(writer.thread_id).writers(writer.thread_id), writer.id)
        if record is None:
            return None
        n, _, position = record.decode().partition(" ")
        return int(n), position

    async def poke(self, thread_id: str) -> None:
        """Make the thread ready if it has tasks, and ring if a doorbell is due."""
        place = self.place(thread_id)
        keys, args = [*self._shard(place.shard).head, *place.keys], [*self._head_args(), thread_id, "", 0, "", 0]
        try:
            ring, _ = await self._ask(self._enqueue, keys, args)
        except ResponseError as error:
            await self._learn_epochs(error)
            await self.poke(thread_id)
        else:
            if ring:
                self._doorbell.ring(place.shard)

    # -- queries -------------------------------------------------------------------------------------------

    async def fence(self, thread_id: str) -> int:
        """Begin a new epoch, which fences the thread's earlier writers, and return it."""
        keys = [self._keys_of(thread_id).writers(thread_id), names.deployment_key(self._prefix)]
        try:
            return int(await self._ask(self._fence, keys, [self.writer_ttl_s, self.deployment.current.epochs.text]))
        except ResponseError as error:
            await self._learn_epochs(error)
            return await self.fence(thread_id)

    async def epoch(self, thread_id: str) -> int:
        """Return the thread's newest epoch."""
        return int(await self._ask(self.redis.hget, self._keys_of(thread_id).writers(thread_id), names.EPOCH) or 0)

    async def backlogs(self, thread_ids: Collection[str]) -> dict[str, ThreadBacklog]:
        """Return how far workers are with each of the threads, in one call for each shard."""
        epochs = self.deployment.current.epochs.text
        by_shard: dict[int, list[str]] = {}
        for thread_id in thread_ids:
            by_shard.setdefault(self._keys_of(thread_id).shard, []).append(thread_id)
        found: dict[str, ThreadBacklog] = {}
        for shard, asked in by_shard.items():
            of = self.shard(shard)
            keys = [of.parked, of.deleted, names.deployment_key(self._prefix)]
            for thread_id in asked:
                keys += of.mailbox(thread_id), of.writers(thread_id), of.applied(thread_id)
            try:
                replies = await self._ask(self._backlog, keys, [epochs, *asked])
            except ResponseError as error:
                await self._learn_epochs(error)
                return await self.backlogs(thread_ids)
            found |= {id_: _thread_backlog(*reply) for id_, reply in zip(asked, replies, strict=True)}
        return found

    async def waiting_threads(self) -> list[str]:
        """Return every thread that has unapplied tasks, about in the order in which workers take them.

        Raises:
            ThreadParked: one is parked.
        """
        found: list[str] = []
        for of in map(self.shard, (await self.deployment.look()).shards):
            # At one instant: threads move between the two sets.
            async with self._questions, self._leaving_replicas(), self.redis.pipeline() as questions:
                questions.zrange(of.ready, 0, -1)
                questions.zrange(of.claims, 0, -1)
                questions.hrandfield(of.parked, 1, withvalues=True)
                ready, claimed, parked = await questions.execute()
            if parked:
                raise ThreadParked(parked[0].decode(), Parking.parse(parked[1]).reason)
            found += [thread.decode() for thread in (*claimed, *ready)]
        return found

    async def progress(self, writer: Writer) -> tuple[tuple[int, Position] | None, Parking | None]:
        """Return how far workers are with the writer's tasks.

        That is the last applied counter with the thread's last applied position, if both are known; and why the
        thread is parked, if it is.
        """
        of, thread_id = self._keys_of(writer.thread_id), writer.thread_id
        async with (
            self._questions,
            self._leaving_replicas(),
            self.redis.pipeline(transaction=False) as questions,
        ):
            questions.hget(of.writers(thread_id), f"a:{writer.id}")
            questions.get(of.applied(thread_id))
            questions.hget(of.parked, thread_id)
            n, position, detail = await questions.execute()
        applied = None if n is None or position is None else (int(n), position.decode())
        return applied, None if detail is None else Parking.parse(detail)

    async def circumstances(self, thread_id: str) -> Circumstances:
        """Return what Redis knows about why the thread's tasks wait."""
        async with self._questions:
            return await circumstances(self.redis, self._prefix, self._keys_of(thread_id).shard, thread_id)

    async def is_open(self, thread_id: str) -> bool:
        """Whether a connected client has the thread open: it sent tasks of the thread, and did not sign off."""
        of = self._keys_of(thread_id)
        fields = [field.decode() for field in await self._ask(self.redis.hkeys, of.writers(thread_id))]
        clients = {writer.partition(".")[0] for writer in fields if ":" not in writer and writer != "tail"}
        if not clients:
            return False
        listeners = await self._ask(self.redis.pubsub_numsub, *map(of.acks, clients))
        return any(count for _, count in listeners)

    async def sign_off(self, writers: Iterable[Writer]) -> None:
        """Forget *writers*, which have ended: nothing of them will be sent.

        If a call that was sent earlier arrives later, workers still recognize its tasks by their counters.
        """
        async with self._questions, self.redis.pipeline(transaction=False) as commands:
            for writer in writers:
                key = self._keys_of(writer.thread_id).writers(writer.thread_id)
                commands.hdel(key, writer.id, f"a:{writer.id}")
            await commands.execute()

    # -- acknowledgements ----------------------------------------------------------------------------------

    def pubsub(self) -> PubSub:
        """Return a connection that can subscribe."""
        pubsub: PubSub = self.redis.pubsub(ignore_subscribe_messages=True)
        self._pubsubs.append(pubsub)
        return pubsub

    def ack_channels(self, client: str) -> list[str]:
        """Return the channels, one per shard, on which workers acknowledge the client's tasks."""
        return [self.shard(number).acks(client) for number in self.deployment.current.shards]

    def _is_misplaced(self, shard: int, batch: Batch) -> bool:
        """Whether a writer's thread belongs to another shard than *shard*, or its place is in another."""
        epochs = self.deployment.current.epochs
        for writer, _ in batch:
            place = writer.place
            if place.shard != shard or (
                place.epochs is not epochs and self._keys_of(writer.thread_id).shard != shard
            ):
                return True
        return False

    def _keys_of(self, thread_id: str) -> names.ShardKeys:
        return self.shard(self.deployment.current.shard_of(thread_id))

    def _head_args(self) -> tuple[int | str, ...]:
        return *self._limits, self.deployment.current.epochs.text

    async def _learn_epochs(self, error: ResponseError) -> None:
        """Read the record if a script refused a call for its shard epochs; raise any other error."""
        if not str(error).startswith(_OTHER_EPOCHS):
            raise error
        await self.deployment.refresh()

    async def _ask(self, question: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async with self._questions, self._leaving_replicas():
            return await question(*args)

    @asynccontextmanager
    async def _leaving_replicas(self) -> AsyncIterator[None]:
        """Drop all connections if Redis replies that it is not the master: the same address may lead to the master.

        A failover, or a proxy, may leave connections to the former master open.
        """
        try:
            yield
        except NOT_THE_MASTER:
            await self.redis.connection_pool.disconnect(inuse_connections=False)
            for pubsub in self._pubsubs:
                if pubsub.connection is not None:
                    await pubsub.connection.disconnect()
            raise


def _thread_backlog(head: bytes, tail: bytes, applied: bytes, parked: bytes, is_deleted: int) -> ThreadBacklog:
    return ThreadBacklog(
        head.decode() or None,
        tail.decode() or None,
        applied.decode() or None,
        Parking.parse(parked).reason if parked else None,
        bool(is_deleted),
    )
