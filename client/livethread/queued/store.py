"""`QueuedThreadStore`: every change is an ordered task in Redis; workers apply it.

`append_items` returns when Redis holds the task, as durable as Redis' append-only file is set to be;
`flush_thread` returns when it is fsynced in the rollout and committed in the index.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from livethread.errors import Conflict, InvalidRequest, ThreadNotFound, ThreadParked, Unavailable
from livethread.model import parse_time, utc_now
from livethread.observers import ItemsAppended, MetadataUpdated, Observers, TasksApplied, ThreadParkedEvent
from livethread.queued.applied import AppliedListener
from livethread.queued.outbox import Outbox, wait_accepted, without_password
from livethread.queued.writer import Writer
from livethread.rollout_item import encode_line
from livethread.session_meta import session_meta
from livethread.tasks import (
    AppendItems,
    ArchiveThread,
    CreateThread,
    DeleteThread,
    OrderedTask,
    UnarchiveThread,
    UpdateThreadMetadata,
)
from livethread.types import (
    START,
    ReadThreadParams,
    Receipt,
    position_key,
)
from livethread_config import names

if TYPE_CHECKING:
    from types import TracebackType

    from livethread.metadata import StoredThread, StoredThreadHistory
    from livethread.queued.doorbell import Doorbell
    from livethread.queued.writer import Submission
    from livethread.store import ThreadReader
    from livethread.tasks import TaskHeader
    from livethread.types import (
        AppendThreadItemsParams,
        ArchiveThreadParams,
        CreateThreadParams,
        DeleteThreadParams,
        DiscardThreadParams,
        FlushThreadParams,
        ItemPage,
        ListItemsParams,
        ListThreadsParams,
        ListTurnsParams,
        LoadThreadHistoryParams,
        PersistThreadParams,
        Position,
        ReadThreadByRolloutPathParams,
        ResumeThreadParams,
        SearchThreadsParams,
        ShutdownThreadParams,
        ThreadPage,
        ThreadSearchPage,
        TurnPage,
        UpdateThreadMetadataParams,
    )
    from livethread_config import Settings

logger = logging.getLogger(__name__)

#: Waits for a publication before Redis is asked instead: the first, and the longest.
ASK_FIRST: Final = 0.02  # seconds
ASK_LONGEST: Final = 1.0  # seconds


@dataclass(slots=True)
class _OpenThread:
    """A thread that is open in this store."""

    writer: Writer
    #: How many times it was opened and not yet closed.
    handles: int = 1
    #: The task that creates it, until it is submitted: creation is lazy.
    creation: OrderedTask | None = None


def connect(settings: Settings) -> Redis:
    """Return a client of *settings*' Redis that reports a failure at once: the outbox does the retrying."""
    return Redis.from_url(
        settings.client_url,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=5.0,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
    )


class QueuedThreadStore:
    """A thread store whose changes are applied by workers, in one order per thread and exactly once.

    Use as an async context manager, from one event loop. `open_store` builds one from settings.
    """

    def __init__(self, redis: Redis, settings: Settings, reader: ThreadReader, doorbell: Doorbell) -> None:
        self._redis = redis
        self._settings = settings
        self._reader = reader
        self._doorbell = doorbell
        self._observers = Observers()
        self._outbox = Outbox(redis, settings, doorbell.ring)
        self._applied = AppliedListener(redis, self._on_message)
        self._open: dict[str, _OpenThread] = {}

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            await self._redis.ping()
            await self._applied.start()
        except (RedisError, OSError) as error:
            await self._redis.aclose()
            raise _no_redis(self._settings, error) from error
        self._outbox.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._outbox.stop()
        await self._applied.stop()
        await self._doorbell.close()
        await self._redis.aclose()

    @property
    def observers(self) -> Observers:
        """Where this store reports what happens to its threads."""
        return self._observers

    # -- opening and closing -------------------------------------------------------------------------------

    async def create_thread(self, params: CreateThreadParams) -> None:
        """Open a new thread; nothing reaches Redis before its first task."""
        # An id that was made for this thread is new; one that was given may not be.
        is_given = "thread_id" in params.model_fields_set
        if params.thread_id in self._open or (is_given and await self._exists(params.thread_id)):
            raise Conflict(f"thread {params.thread_id} exists; resume it instead")
        opened = await self._open_thread(params.thread_id)
        header = CreateThread(at=params.created_at, session_meta=session_meta(params))
        opened.creation = OrderedTask(header)

    async def resume_thread(self, params: ResumeThreadParams) -> StoredThread:
        """Open an existing thread, after what its mailbox holds now is applied."""
        await self._wait_until_settled(params.thread_id)
        thread = await self._reader.read_thread(
            ReadThreadParams(thread_id=params.thread_id, include_archived=params.include_archived)
        )
        await self._open_thread(params.thread_id)
        return thread

    async def persist_thread(self, params: PersistThreadParams) -> None:
        """Enqueue the creation of a thread that has no item yet, and wait until it is accepted."""
        opened = self._opened(params.thread_id)
        creation = self._submit_creation(opened)
        if creation is not None:
            self._outbox.send(opened.writer)
            await self._accepted(opened, creation)

    async def flush_thread(self, params: FlushThreadParams) -> None:
        """Wait until everything accepted from this store is durable."""
        await self._flush(self._opened(params.thread_id).writer, params.timeout_s)

    async def shutdown_thread(self, params: ShutdownThreadParams) -> None:
        """Flush and close the writer."""
        opened = self._opened(params.thread_id)
        await self._flush(opened.writer, params.timeout_s)
        await self._close_thread(opened)

    async def discard_thread(self, params: DiscardThreadParams) -> None:
        """Close the writer without waiting; what Redis holds is applied all the same."""
        opened = self._open.get(params.thread_id)
        if opened is None:
            return
        if opened.handles == 1:
            self._outbox.forget(opened.writer)
            opened.writer.refuse_all(ThreadNotFound(params.thread_id, "it was discarded"))
        await self._close_thread(opened)

    # -- changes -------------------------------------------------------------------------------------------

    async def append_items(self, params: AppendThreadItemsParams) -> Receipt:
        """Enqueue the items as one task."""
        opened = self._opened(params.thread_id)
        now = utc_now()
        limit = self._settings.max_item_bytes
        lines = tuple(encode_line(item, parse_time(item.timestamp) or now, max_bytes=limit) for item in params.items)
        if not lines:
            raise InvalidRequest("an append needs at least one item")
        task = OrderedTask(AppendItems(at=now), lines)
        position = await self._enqueue(opened, task, params.expected_position)
        self._observers.emit(ItemsAppended(params.thread_id, position, len(lines), task.size))
        return Receipt(thread_id=params.thread_id, position=position)

    async def update_thread_metadata(self, params: UpdateThreadMetadataParams) -> Receipt:
        """Enqueue the patch as one task."""
        header = UpdateThreadMetadata(at=utc_now(), patch=params.patch, observed_from=params.observed_from)
        receipt = await self._change(params.thread_id, header, include_archived=params.include_archived)
        self._observers.emit(MetadataUpdated(params.thread_id, receipt.position, tuple(params.patch.changes())))
        return receipt

    async def archive_thread(self, params: ArchiveThreadParams) -> Receipt:
        """Enqueue the archiving as one task."""
        return await self._change(params.thread_id, ArchiveThread(at=utc_now()))

    async def unarchive_thread(self, params: ArchiveThreadParams) -> Receipt:
        """Enqueue the unarchiving as one task."""
        return await self._change(params.thread_id, UnarchiveThread(at=utc_now()))

    async def delete_thread(self, params: DeleteThreadParams) -> Receipt:
        """Enqueue the deletion as one task; from now on Redis refuses every other of the thread."""
        return await self._change(params.thread_id, DeleteThread(at=utc_now()))

    # -- reads ---------------------------------------------------------------------------------------------

    async def load_history(self, params: LoadThreadHistoryParams) -> StoredThreadHistory:
        """Read the items, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.load_history(params)

    async def read_thread(self, params: ReadThreadParams) -> StoredThread:
        """Read the thread, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.read_thread(params)

    async def read_thread_by_rollout_path(self, params: ReadThreadByRolloutPathParams) -> StoredThread:
        """Read the thread whose rollout this is."""
        return await self._reader.read_thread_by_rollout_path(params)

    async def list_threads(self, params: ListThreadsParams) -> ThreadPage:
        """List threads as they stand."""
        return await self._reader.list_threads(params)

    async def search_threads(self, params: SearchThreadsParams) -> ThreadSearchPage:
        """Search threads as they stand."""
        return await self._reader.search_threads(params)

    async def list_turns(self, params: ListTurnsParams) -> TurnPage:
        """List turns, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.list_turns(params)

    async def list_items(self, params: ListItemsParams) -> ItemPage:
        """List items, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.list_items(params)

    # -- submitting ----------------------------------------------------------------------------------------

    def _opened(self, thread_id: str) -> _OpenThread:
        opened = self._open.get(thread_id)
        if opened is None:
            raise ThreadNotFound(thread_id, "it is not open in this store; create or resume it first")
        return opened

    async def _enqueue(self, opened: _OpenThread, task: OrderedTask, expected: Position | None = None) -> Position:
        """Submit *task*, behind the thread's creation where that is due, and return its position."""
        creation = self._submit_creation(opened)
        submission = opened.writer.submit(task, expected)
        self._outbox.send(opened.writer)
        if creation is not None:
            await self._accepted(opened, creation)
        return await self._accepted(opened, submission)

    async def _change(self, thread_id: str, header: TaskHeader, *, include_archived: bool = True) -> Receipt:
        """Enqueue a task of a thread, open or not."""
        opened = self._open.get(thread_id)
        if opened is None:
            await self._require_stored(thread_id, include_archived=include_archived)
            opened = _OpenThread(Writer(thread_id))
        position = await self._enqueue(opened, OrderedTask(header))
        return Receipt(thread_id=thread_id, position=position)

    @staticmethod
    def _submit_creation(opened: _OpenThread) -> Submission | None:
        creation, opened.creation = opened.creation, None
        return opened.writer.submit(creation) if creation is not None else None

    async def _accepted(self, opened: _OpenThread, submission: Submission) -> Position:
        try:
            return await wait_accepted(opened.writer, submission)
        except (Conflict, asyncio.CancelledError):
            if submission.task.header.op == "create_thread" and not opened.writer.last_accepted:
                opened.creation = submission.task
            raise

    # -- waiting -------------------------------------------------------------------------------------------

    async def _flush(self, writer: Writer, timeout_s: float | None) -> None:
        limit = timeout_s or self._settings.flush_timeout_s
        marker = writer.marker
        failure: Exception | None = None
        try:
            async with asyncio.timeout(limit):
                wait = ASK_FIRST
                while not writer.is_applied_up_to(marker):
                    if writer.parked is not None:
                        raise ThreadParked(writer.thread_id, writer.parked)
                    writer.changed.clear()
                    try:
                        async with asyncio.timeout(wait):
                            await writer.changed.wait()
                    except TimeoutError:
                        failure = await self._ask(writer)
                        wait = min(wait * 2, ASK_LONGEST)
        except TimeoutError:
            raise _not_applied(writer.thread_id, limit, failure, self._settings) from failure

    async def _ask(self, writer: Writer) -> Exception | None:
        """Ask Redis how far *writer*'s thread is, and offer the last task again; return why it does not answer.

        Offering is harmless where Redis has the task; where Redis lost it, or a doorbell was lost, this is
        what gets things going again.
        """
        keys = self._keys(writer.thread_id)
        try:
            applied = await self._redis.get(keys.applied(writer.thread_id))
            parked = await self._redis.hget(keys.parked, writer.thread_id)
        except (RedisError, OSError) as error:
            return error
        if applied is not None:
            self._note_applied(writer, _text(applied))
        if parked is not None:
            self._note_parked(writer, _text(parked))
        elif writer.unapplied and not writer.queue:
            writer.rewind(writer.unapplied[-1].n - 1)
            self._outbox.send(writer)
        return None

    async def _wait_for_own(self, thread_id: str) -> None:
        opened = self._open.get(thread_id)
        if opened is not None and opened.writer.has_outstanding:
            await self._flush(opened.writer, None)

    async def _wait_until_settled(self, thread_id: str) -> None:
        """Wait until what stands in the thread's mailbox now is applied, or the thread is parked."""
        keys = self._keys(thread_id)
        try:
            tail = await self._redis.hget(keys.writers(thread_id), "tail")
            if tail is None:
                return
            async with asyncio.timeout(self._settings.flush_timeout_s):
                wait = ASK_FIRST
                while True:
                    applied = await self._redis.get(keys.applied(thread_id)) or START
                    if position_key(_text(applied)) >= position_key(_text(tail)):
                        return
                    if await self._redis.hexists(keys.parked, thread_id):
                        return
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, ASK_LONGEST)
        except (RedisError, OSError) as error:
            raise _no_redis(self._settings, error) from error
        except TimeoutError:
            raise _not_applied(thread_id, self._settings.flush_timeout_s, None, self._settings) from None

    async def _require_stored(self, thread_id: str, *, include_archived: bool) -> None:
        await self._wait_until_settled(thread_id)
        await self._reader.read_thread(ReadThreadParams(thread_id=thread_id, include_archived=include_archived))

    async def _exists(self, thread_id: str) -> bool:
        try:
            await self._require_stored(thread_id, include_archived=True)
        except ThreadNotFound:
            return False
        return True

    # -- what the workers say ------------------------------------------------------------------------------

    def _on_message(self, channel: str, message: str) -> None:
        opened = self._open.get(channel.rpartition(":")[2])
        if opened is None:
            return
        what, _, detail = message.partition(" ")
        if what == "applied":
            self._note_applied(opened.writer, detail)
        elif what == "parked":
            self._note_parked(opened.writer, detail)

    def _note_applied(self, writer: Writer, position: Position) -> None:
        advanced = position_key(position) > position_key(writer.applied)
        writer.note_applied(position)
        if advanced:
            self._observers.emit(TasksApplied(writer.thread_id, position))

    def _note_parked(self, writer: Writer, detail: str) -> None:
        reason = _parked_reason(detail)
        if writer.parked != reason:
            writer.note_parked(reason)
            self._observers.emit(ThreadParkedEvent(writer.thread_id, reason))

    # -- open threads --------------------------------------------------------------------------------------

    def _keys(self, thread_id: str) -> names.ShardKeys:
        return names.ShardKeys(self._settings.key_prefix, names.shard_of(thread_id, self._settings.shards))

    async def _open_thread(self, thread_id: str) -> _OpenThread:
        """Open the thread once more; handles of one thread in one store share its writer."""
        opened = self._open.get(thread_id)
        if opened is not None:
            opened.handles += 1
            return opened
        opened = self._open[thread_id] = _OpenThread(Writer(thread_id))
        await self._applied.subscribe(self._keys(thread_id).applied(thread_id))
        return opened

    async def _close_thread(self, opened: _OpenThread) -> None:
        opened.handles -= 1
        if opened.handles:
            return
        thread_id = opened.writer.thread_id
        self._open.pop(thread_id, None)
        await self._applied.unsubscribe(self._keys(thread_id).applied(thread_id))


def _no_redis(settings: Settings, error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis at {without_password(settings.client_url)} does not answer ({error}). "
        "Start it, correct LIVETHREAD_REDIS_URL, or unset it to use an embedded server"
    )


def _not_applied(thread_id: str, limit: float, failure: Exception | None, settings: Settings) -> Unavailable:
    cause = (
        f"Redis at {without_password(settings.client_url)} does not answer ({failure})"
        if failure
        else "is a worker running (celery --app livethread_worker.entrypoint worker)?"
    )
    return Unavailable(
        f"the tasks of thread {thread_id} were not applied within {limit:g} s; they are kept, in order, and nothing "
        f"is lost: {cause}. Flush again to wait on"
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _parked_reason(detail: str) -> str:
    try:
        parsed: Any = json.loads(detail)
    except ValueError:
        return detail
    return str(parsed.get("reason", parsed)) if isinstance(parsed, dict) else str(parsed)
