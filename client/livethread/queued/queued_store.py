"""`QueuedThreadStore`: every change is an ordered task in Redis; workers apply it.

`append_items` returns when Redis holds the task, as durable as Redis' append-only file is set to be;
`flush_thread` returns when it is fsynced in the rollout and committed in the index.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import uuid
from types import TracebackType
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from livethread import types
from livethread.errors import NOTHING_STORED, Conflict, ThreadNotFound
from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.model import utc_now
from livethread.observers import ItemsAppended, MetadataUpdated, Observers, TasksApplied, ThreadParkedEvent
from livethread.open_threads import OpenThreads
from livethread.ordered_tasks import (
    ArchiveThread,
    CreateThread,
    DeleteThread,
    EncodedTask,
    OrderedTask,
    TaskHeader,
    UnarchiveThread,
    UpdateThreadMetadata,
    encode_append,
)
from livethread.queued.acknowledgements import AppliedListener
from livethread.queued.admission import Admission
from livethread.queued.connection import no_redis
from livethread.queued.doorbell import Doorbell
from livethread.queued.opened import Attempt, OpenThread
from livethread.queued.outbox import Outbox
from livethread.queued.waiting import Waiter
from livethread.queued.writer import Budget, Submission, Writer
from livethread.rollout.item import encode_items
from livethread.rollout.session_meta import session_meta
from livethread.store import ThreadReader
from livethread_config import Settings, names

logger = logging.getLogger(__name__)

#: Threads of which a read still waits for a position; of older ones it is long applied.
COLD_THREADS: Final = 10_000

#: How the name of a rollout ends.
THREAD_ID_AT_END: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.jsonl(?:\.zst)?$")


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
        self._keys = [names.ShardKeys(settings.key_prefix, shard) for shard in range(settings.shards)]
        #: Names this store, for good; its writers are numbered.
        self._client = uuid.uuid4().hex[:16]
        self._writers = itertools.count()
        channels = [keys.told(self._client) for keys in self._keys]
        self._applied = AppliedListener(redis, channels, self._on_message, self._ask_all)
        self._waiter = Waiter(
            redis,
            settings,
            self._outbox,
            self._keys_of,
            note_applied=self._note_applied,
            note_parked=self._note_parked,
        )
        self._open: OpenThreads[OpenThread] = OpenThreads()
        self._budget = Budget(settings.outbox_max_bytes)
        self._admission = Admission(settings, self._budget, self._ask_all)
        #: Positions that a read still waits for: of the last change of a thread that is not open, and of what others did to
        #: one where another position was expected.
        self._cold: dict[str, types.Position] = {}

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            Unavailable: Redis does not answer, and the settings require that it does.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._redis.ping()
                await self._applied.connect()
        except (RedisError, OSError) as error:
            if self._settings.require_redis:
                await self._redis.aclose()
                raise no_redis(self._settings, error) from None
            logger.warning("opened without Redis", extra={"action": "open", "error": type(error).__name__})
        self._applied.start()
        self._outbox.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._outbox.stop()
        self._admission.stop()
        await self._applied.stop()
        self._doorbell.close()
        await self._redis.aclose()

    @property
    def observers(self) -> Observers:
        """Where this store reports what happens to its threads."""
        return self._observers

    # -- opening and closing -------------------------------------------------------------------------------

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread; nothing reaches Redis before its first task."""
        # What cannot be stored is refused now, not with the first append.
        creation = OrderedTask(CreateThread(at=params.created_at, session_meta=session_meta(params))).encode()
        # An id that was made for this thread is new; one that was given may not be.
        is_given = "thread_id" in params.model_fields_set
        if params.thread_id in self._open or (is_given and await self._exists(params.thread_id)):
            raise Conflict(f"thread {params.thread_id} exists; resume it instead")
        if params.thread_id in self._open:  # created while we asked
            raise Conflict(f"thread {params.thread_id} exists; resume it instead")
        # Redis learns the epoch with the first task. Any later one is higher.
        self._open_thread(params.thread_id, epoch=int(params.exclusive)).creation = creation

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread, after what its mailbox holds now is applied."""
        thread = await self._read_settled(params)
        epoch = await self._waiter.epoch(params.thread_id, is_new=params.exclusive)
        if params.exclusive:  # what others had accepted until then is the last of theirs
            thread = await self._read_settled(params)
        self._open_thread(params.thread_id, epoch=epoch)
        return thread

    async def persist_thread(self, params: types.PersistThreadParams) -> None:
        """Enqueue the creation of a thread that has no item yet, and wait until it is accepted."""
        opened = self._open.require(params.thread_id)

        def submit(deadline: float) -> Submission | None:
            self._submit_creation(opened, deadline)
            return opened.creating

        creating = await self._admission.submit(opened.writer, submit)
        self._outbox.send(opened.writer)
        if creating is not None:
            await asyncio.shield(creating.accepted)

    async def flush_thread(self, params: types.FlushThreadParams) -> None:
        """Wait until everything accepted from this store is durable."""
        await self._waiter.flush(self._open.require(params.thread_id).writer, params.timeout_s)

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        """Flush and close the writer."""
        opened = self._open.require(params.thread_id)
        await self._waiter.flush(opened.writer, params.timeout_s)
        self._close_thread(params.thread_id)

    async def discard_thread(self, params: types.DiscardThreadParams) -> None:
        """Close the writer without waiting; what Redis holds is applied all the same."""
        opened = self._open.get(params.thread_id)
        if opened is None:
            return
        if self._open.is_last(params.thread_id):
            self._outbox.forget(opened.writer)
            opened.writer.drop_all(ThreadNotFound(params.thread_id, "it was discarded"))
        self._close_thread(params.thread_id)

    # -- changes -------------------------------------------------------------------------------------------

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Enqueue the items as one task. Who cancels the call stops waiting; the task stays on its way."""
        thread_id, expected = params.thread_id, params.expected_position
        opened = self._open.require(thread_id)
        lines = encode_items(params.items, params.appended_at, max_bytes=self._settings.max_item_bytes)
        task = encode_append(params.appended_at, lines, params.idempotency_key)
        count, update = len(lines), params.metadata
        patch = UpdateThreadMetadata.of(update, at=params.appended_at, derived=True) if update else None
        del params, lines  # what waits for its answer is in memory once
        try:
            position = await self._enqueue(opened, task, expected)
        except Conflict as conflict:
            if conflict.last_position is not None:  # whoever reads again is to see what was not expected
                self._remember(thread_id, conflict.last_position)
            raise
        if self._observers.wants(ItemsAppended):
            size = len(task.lines) - (count - 1)  # without the line feeds between them
            self._observers.emit(ItemsAppended(thread_id, position, count, size))
        if update is not None and patch is not None:
            position = await self._enqueue(opened, OrderedTask(patch).encode())
            self._observers.emit(MetadataUpdated.of(thread_id, position, update))
        return types.Receipt(thread_id=thread_id, position=position)

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Enqueue the patch as one task.

        Of a thread that is not open, the store keeps no copy: the patch is as durable as Redis makes it.
        """
        header = UpdateThreadMetadata.of(params, at=utc_now())
        receipt = await self._change(params.thread_id, header, include_archived=params.include_archived)
        self._observers.emit(MetadataUpdated.of(params.thread_id, receipt.position, params))
        return receipt

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Enqueue the archiving as one task."""
        return await self._change(params.thread_id, ArchiveThread(at=utc_now()))

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Enqueue the unarchiving as one task."""
        return await self._change(params.thread_id, UnarchiveThread(at=utc_now()))

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Enqueue the deletion as one task; from now on Redis refuses every other of the thread."""
        return await self._change(params.thread_id, DeleteThread(at=utc_now()))

    # -- reads ---------------------------------------------------------------------------------------------

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Read the items, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.load_history(params)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Read the thread, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.read_thread(params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Read the thread whose rollout this is, after this store's own tasks are applied."""
        if named := THREAD_ID_AT_END.search(params.rollout_path):
            await self._wait_for_own(named[1])
        return await self._reader.read_thread_by_rollout_path(params)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """List threads as they stand."""
        return await self._reader.list_threads(params)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Search threads as they stand."""
        return await self._reader.search_threads(params)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """List turns, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.list_turns(params)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """List items, after this store's own tasks are applied."""
        await self._wait_for_own(params.thread_id)
        return await self._reader.list_items(params)

    # -- submitting ----------------------------------------------------------------------------------------

    async def _enqueue(
        self, opened: OpenThread, task: EncodedTask, expected: types.Position | None = None
    ) -> types.Position:
        """Submit *task*, behind the thread's creation where that is due, and return its position."""
        submission = await self._admission.submit(
            opened.writer, Attempt(opened, task, expected, self._submit_creation)
        )
        self._outbox.send(opened.writer)
        try:
            return await submission.accepted
        except asyncio.CancelledError as error:
            # The submission outlives whoever waited for it: it is promised now. Only what Redis has no room for is not.
            if opened.writer.withdraw(submission):
                error.add_note(NOTHING_STORED)
            raise

    async def _change(self, thread_id: str, header: TaskHeader, *, include_archived: bool = True) -> types.Receipt:
        """Enqueue a task of a thread, open or not."""
        opened = self._open.get(thread_id)
        if opened is None:
            await self._require_stored(thread_id, include_archived=include_archived)
            opened = OpenThread(self._new_writer(thread_id))
            opened.writer.close()
        position = await self._enqueue(opened, OrderedTask(header).encode())
        if thread_id not in self._open:
            self._remember(thread_id, position)
        return types.Receipt(thread_id=thread_id, position=position)

    def _submit_creation(self, opened: OpenThread, deadline: float) -> bool:
        """Submit the creation where it is neither accepted nor on its way; return whether it was.

        A refused one is submitted again.
        """
        if opened.creation is None:
            return False
        if opened.creating is None or opened.creating.is_refused:
            opened.creating = opened.writer.submit(opened.creation, deadline=deadline)
            if deadline:  # what stands behind it may have to wait until it is applied
                self._outbox.send(opened.writer)
            return True
        if opened.creating.n and opened.creating.n <= opened.writer.last_accepted:
            opened.creation = opened.creating = None
        return False

    def _remember(self, thread_id: str, position: types.Position) -> None:
        """Have the next read of a thread wait for *position*; of the latest threads only."""
        self._cold[thread_id] = max(position, self._cold.get(thread_id, types.START), key=types.position_key)
        if len(self._cold) > COLD_THREADS:
            del self._cold[next(iter(self._cold))]

    def _new_writer(self, thread_id: str) -> Writer:
        id_ = f"{self._client}.{next(self._writers)}"
        return Writer(thread_id, self._budget, self._settings.mailbox_max_tasks, id_, self._tell_applied)

    # -- waiting -------------------------------------------------------------------------------------------

    async def _ask_all(self, first: Writer | None = None) -> None:
        """Ask Redis what is applied of the tasks that this store keeps; of *first* at first."""
        writers = [opened.writer for opened in self._open.values() if opened.writer is not first]
        for writer in (first, *writers) if first else writers:
            if writer.unapplied and await self._waiter.ask(writer) is not None:
                return  # Redis does not answer

    async def _wait_for_own(self, thread_id: str) -> None:
        """Wait until what this store had accepted for the thread is applied."""
        opened = self._open.get(thread_id)
        if opened is not None and opened.writer.has_outstanding:
            await self._waiter.flush(opened.writer, None)
        if (position := self._cold.get(thread_id)) is not None:
            await self._waiter.until_applied(thread_id, position)
            if self._cold.get(thread_id) == position:  # and no later one was noted meanwhile
                del self._cold[thread_id]

    async def _read_settled(self, params: types.ResumeThreadParams) -> StoredThread:
        await self._waiter.until_settled(params.thread_id)
        return await self._reader.read_thread(
            types.ReadThreadParams(thread_id=params.thread_id, include_archived=params.include_archived)
        )

    async def _require_stored(self, thread_id: str, *, include_archived: bool) -> None:
        await self._waiter.until_settled(thread_id)
        await self._reader.read_thread(types.ReadThreadParams(thread_id=thread_id, include_archived=include_archived))

    async def _exists(self, thread_id: str) -> bool:
        try:
            await self._require_stored(thread_id, include_archived=True)
        except ThreadNotFound:
            return False
        return True

    # -- what the workers say ------------------------------------------------------------------------------

    def _on_message(self, message: str) -> None:
        """Take in what ``settle.lua`` and ``drop.lua`` tell, a line for each writer."""
        self._waiter.note_heard()
        for line in message.split("\n"):
            what, _, told = line.partition(" ")
            thread_id, _, detail = told.partition(" ")
            opened = self._open.get(thread_id)
            if opened is None:
                continue
            if what == "parked":
                self._note_parked(opened.writer, detail)
            elif what == "applied":
                if opened.writer.queue:
                    self._outbox.send(opened.writer)  # there is room again
                position, _, counter = detail.partition(" ")
                writer, _, n = counter.partition(":")
                if writer == opened.writer.id:
                    self._note_applied(opened.writer, int(n), position)

    def _note_applied(self, writer: Writer, n: int, position: types.Position) -> None:
        writer.note_applied(n, position)
        if writer.parked is not None:
            writer.note_parked(None)

    def _tell_applied(self, writer: Writer) -> None:
        if self._observers.wants(TasksApplied):
            self._observers.emit(TasksApplied(writer.thread_id, writer.applied))

    def _note_parked(self, writer: Writer, detail: str | None) -> None:
        reason = None if detail is None else _parked_reason(detail)
        if writer.parked != reason:
            writer.note_parked(reason)
            if reason is not None:
                self._observers.emit(ThreadParkedEvent(writer.thread_id, reason))

    # -- open threads --------------------------------------------------------------------------------------

    def _keys_of(self, thread_id: str) -> names.ShardKeys:
        return self._keys[names.shard_of(thread_id, len(self._keys))]

    def _open_thread(self, thread_id: str, *, epoch: int) -> OpenThread:
        """Open the thread once more; handles of one thread in one store share its writer, and so its epoch."""
        opened = self._open.open(thread_id, lambda: OpenThread(self._new_writer(thread_id)))
        opened.writer.epoch = max(opened.writer.epoch or 0, epoch)
        return opened

    def _close_thread(self, thread_id: str) -> None:
        opened = self._open.get(thread_id)
        if opened is not None and self._open.close(thread_id):
            if opened.writer.unapplied:
                self._remember(thread_id, opened.writer.unapplied[-1].position)
            opened.is_closed = True
            opened.writer.close()


def _parked_reason(detail: str) -> str:
    try:
        parsed: Any = json.loads(detail)
    except ValueError:
        return detail
    return str(parsed.get("reason", parsed)) if isinstance(parsed, dict) else str(parsed)
