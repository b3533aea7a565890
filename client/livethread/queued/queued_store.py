"""`QueuedThreadStore`: every change is an ordered task in Redis; workers apply it.

`append_items` returns when Redis holds the task, as durable as Redis' append-only file is set to be;
`flush_thread` returns when it is fsynced in the rollout and committed in the index.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from livethread import ordered_tasks, types
from livethread.changes import Changes
from livethread.errors import NOTHING_STORED, Conflict, InvalidRequest, ThreadNotFound, Unavailable
from livethread.fresh_reader import FreshReader, shown_from
from livethread.metadata import MetadataUpdate, StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import utc_now
from livethread.observers import EventAt, ItemsAppended, MetadataUpdated, Observers
from livethread.open_threads import OpenThreads
from livethread.opener import Opener, checking
from livethread.ordered_tasks import EncodedTask, OrderedTask
from livethread.position import START, Position
from livethread.queued.acknowledgements import Acknowledgements
from livethread.queued.admission import Admission, Check
from livethread.queued.connection import no_redis, redis_errors_translated
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.outage import explain
from livethread.queued.outbox import Outbox
from livethread.queued.progress import ProgressWatch
from livethread.queued.writer import Budget, Submission, Writer
from livethread.rollout.lines import encode_items
from livethread.rollout.session_meta import session_meta
from livethread.several_threads import archive_each, delete_each
from livethread.store import ThreadReader
from livethread.thread_id import new_thread_id
from livethread_config import Settings, names

logger = logging.getLogger(__name__)


@checking(Opener.require_loop)
class QueuedThreadStore:
    """A thread store whose changes are applied by workers, in one order per thread and exactly once.

    Use as an async context manager, from one event loop. `open_store` builds one from settings.
    """

    def __init__(self, mailboxes: Mailboxes, settings: Settings, reader: ThreadReader, changes: Changes) -> None:
        self._opener = Opener()
        self._mailboxes = mailboxes
        self._settings = settings
        self._reader = reader
        self._changes = changes
        self._observers = Observers()
        #: Identifies this store for good; the ids of its writers begin with it.
        self._client = uuid.uuid4().hex[:12]
        #: When the last writer was opened, in ms; each has a later time.
        self._opened_at = 0
        self._budget = Budget(settings.outbox_max_bytes)
        self._threads: OpenThreads[Writer] = OpenThreads()
        self._outbox = Outbox(mailboxes, settings)
        self._progress = ProgressWatch(mailboxes, settings, self._outbox, self._threads)
        self._reads = FreshReader(
            self._opener, reader, changes, self._progress.catch_up, self._progress.backlog.until_all_applied
        )
        self._admission = Admission(settings, self._budget, self._outbox, self._progress)
        self._acknowledgements = Acknowledgements(
            mailboxes, self._client, self._threads, self._outbox, self._progress
        )

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            InvalidRequest: Redis cannot keep what it accepts, such as a cluster, an old version, or one that drops keys.
            Unavailable: Redis does not answer, and the settings require that it does.
        """
        self._opener.enter_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._mailboxes.check_server()
                await self._acknowledgements.connect()
        except (RedisError, OSError) as error:
            if self._settings.require_redis:
                raise no_redis(self._settings, error) from None
            logger.warning(
                "opened without Redis, which %s",
                explain(error),
                extra={"action": "open", "error": type(error).__name__},
            )
        self._acknowledgements.start()
        self._outbox.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opener.close()
        await self._changes.aclose()
        await self._outbox.stop()
        self._admission.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._sign_off(*self._threads.values())
        await self._acknowledgements.stop()

    @property
    def observers(self) -> Observers:
        """Receives the events of this store's threads."""
        return self._observers

    # -- opening and closing -------------------------------------------------------------------------------

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread; nothing reaches Redis before its first task."""
        source = params.forked_from_id
        needs_source = params.history_base is not None or params.attached_thread
        if needs_source and source and not self._share_a_home(params.thread_id, source):
            raise InvalidRequest(
                "the fork's id is in a shard of another home than its source; use the one of prepare_fork"
            )
        # Encode now, to refuse at once what cannot be stored.
        creation = OrderedTask(
            ordered_tasks.CreateThread(at=params.created_at, session_meta=session_meta(params))
        ).encode()
        # A generated id is new; one that the caller chose may not be.
        thread_id, is_chosen = params.thread_id, "thread_id" in params.model_fields_set
        exists = thread_id not in self._threads and is_chosen and await self._exists(thread_id)
        if exists or thread_id in self._threads:
            raise Conflict(f"thread {thread_id} exists; resume it instead")
        # Redis learns the epoch with the first task. Every later one is higher.
        self._open(thread_id, epoch=int(params.exclusive)).creation = creation

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread after workers have applied its mailbox."""
        thread = await self._read_when_empty(params.thread_id, include_archived=params.include_archived)
        begin_or_read = self._mailboxes.fence if params.exclusive else self._mailboxes.epoch
        with redis_errors_translated(self._settings):
            epoch = await begin_or_read(params.thread_id)
        if params.exclusive:  # other writers may have had tasks accepted before the fence
            thread = await self._read_when_empty(params.thread_id, include_archived=params.include_archived)
        self._open(params.thread_id, epoch=epoch)
        return thread

    async def persist_thread(self, params: types.PersistThreadParams) -> None:
        """Enqueue the creation of a thread that has no item yet, and wait until it is accepted."""
        writer = self._threads.require(params.thread_id)
        if (creation := await self._admission.submit(writer, None)) is not None:
            await asyncio.shield(creation.accepted)

    async def flush_thread(self, params: types.FlushThreadParams) -> None:
        """Wait until everything accepted from this store is durable."""
        await self._progress.flush(self._threads.require(params.thread_id), params.timeout_s)

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        """Flush and close the writer."""
        await self.flush_thread(params)
        if (writer := self._close(params.thread_id)) is not None and not writer.has_outstanding:
            await self._sign_off(writer)

    async def discard_thread(self, params: types.DiscardThreadParams) -> None:
        """Close the writer without waiting; tasks that Redis holds are still applied."""
        if (writer := self._close(params.thread_id)) is not None:
            self._outbox.forget(writer)
            writer.drop_all(ThreadNotFound(params.thread_id, "it was discarded"))
            await self._sign_off(writer)

    # -- changes -------------------------------------------------------------------------------------------

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Enqueue the items as one task, with the patch derived from them right after it.

        Cancelling the call ends the wait; the tasks stay on their way.
        """
        thread_id, update = params.thread_id, params.metadata
        writer = self._threads.require(thread_id)
        lines = encode_items(params.items, params.appended_at, max_bytes=self._settings.max_item_bytes)
        task = ordered_tasks.encode_append(params.appended_at, lines, params.idempotency_key)
        size = len(task.lines) - (len(lines) - 1)  # without the line feeds between them
        submission = Submission(
            task,
            params.expected_position,
            None if update is None else _encode_derived(update, params.appended_at),
        )
        if self._observers.wants(ItemsAppended):  # else nor the event of the patch
            submission.event = partial(ItemsAppended, thread_id, items=len(lines), size=size)
            submission.patch_event = None if update is None else MetadataUpdated.at(thread_id, update)
        del params, lines, update  # their bytes are in memory once while the task waits
        try:
            position = await self._submit(writer, submission)
        except Conflict as conflict:
            if conflict.last_position is not None:  # the next read includes the tasks that the caller missed
                self._progress.remember(thread_id, conflict.last_position)
            raise
        return types.Receipt(thread_id=thread_id, position=position)

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Enqueue the patch as one task.

        The store keeps no copy of tasks for threads that are not open: they are as durable as Redis makes them.
        """
        header = ordered_tasks.UpdateThreadMetadata.of(params, at=utc_now())
        event = MetadataUpdated.at(params.thread_id, params)
        return await self._change(params.thread_id, header, event, include_archived=params.include_archived)

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Enqueue an archive task."""
        return await self._change(params.thread_id, ordered_tasks.ArchiveThread(at=utc_now()))

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Enqueue an unarchive task."""
        return await self._change(params.thread_id, ordered_tasks.UnarchiveThread(at=utc_now()))

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Enqueue the deletion as one task; Redis refuses all later tasks of the thread."""
        request = types.ReadThreadParams(thread_id=params.thread_id, is_deletable=True)

        async def check() -> None:
            # A worker refuses the task, too, but parks the thread then. An open thread may not be stored yet.
            with suppress(ThreadNotFound, Unavailable):
                await self._reader.read_thread(request)

        return await self._change(params.thread_id, ordered_tasks.DeleteThread(at=utc_now()), check=check)

    async def archive_threads(self, params: types.ArchiveThreadsParams) -> types.ThreadResults:
        """Enqueue one task for each thread, together."""
        return await archive_each(
            params.thread_ids, lambda id_: self.archive_thread(types.ArchiveThreadParams(thread_id=id_))
        )

    async def delete_threads(self, params: types.DeleteThreadsParams) -> types.ThreadResults:
        """Enqueue one task for each thread, together."""
        return await delete_each(
            params.thread_ids,
            lambda id_: self.delete_thread(types.DeleteThreadParams(thread_id=id_)),
            self._progress.catch_up,
        )

    # -- reads ---------------------------------------------------------------------------------------------

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Read the items."""
        return await self._reads.load_history(params)

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Read the end of the rollout."""
        return await self._reads.load_latest_model_context(params)

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Find the thread."""
        return await self._reads.find_thread_by_name(params)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Read the thread."""
        return await self._reads.read_thread(params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Read the thread of a rollout."""
        return await self._reads.read_thread_by_rollout_path(params)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """List threads."""
        return await self._reads.list_threads(params)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Search threads."""
        return await self._reads.search_threads(params)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Search a thread."""
        return await self._reads.search_occurrences(params)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """List turns."""
        page = await self._reads.list_turns(params.model_copy(update={"is_open": True}))
        is_over = all(turn.status is not types.StoredTurnStatus.IN_PROGRESS for turn in page.turns)
        if is_over or params.is_open or await self._is_open(params.thread_id):
            return page
        return await self._reads.list_turns(params)  # which knows of programs that do without Redis

    async def _is_open(self, thread_id: str) -> bool:
        """Whether this store or another connected one has a thread open."""
        if thread_id in self._threads:
            return True
        try:
            return await self._mailboxes.is_open(thread_id)
        except (RedisError, OSError):
            return False

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """List items."""
        return await self._reads.list_items(params)

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Follow a thread."""
        return self._reads.watch_thread(params)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork begins with, after everything that is in the source's mailbox now is applied."""
        await self._until_empty(params.thread_id)
        fork = await self._reader.prepare_fork(params)
        while not self._share_a_home(fork.fork_id, params.thread_id):
            fork = fork.model_copy(update={"fork_id": new_thread_id()})
        return fork

    def _share_a_home(self, *thread_ids: str) -> bool:
        deployment = self._mailboxes.deployment.current
        shards = {deployment.shard_of(thread_id) for thread_id in thread_ids}
        return len(shards) == 1 or len({deployment.home_of.get(shard, shard) for shard in shards}) == 1

    # -- submitting ----------------------------------------------------------------------------------------

    async def _submit(self, writer: Writer, submission: Submission, check: Check | None = None) -> Position:
        """Have *submission* sent and return the position of its last task once Redis holds it; first, *check*."""
        await self._admission.submit(writer, submission, check)
        try:
            return await submission.accepted
        except asyncio.CancelledError as error:
            # The submission is promised now, and outlives its caller, unless Redis has no room for it.
            if writer.withdraw(submission):
                error.add_note(NOTHING_STORED)
            raise

    async def _change(
        self,
        thread_id: str,
        header: ordered_tasks.TaskHeader,
        event: EventAt | None = None,
        *,
        include_archived: bool = True,
        check: Check | None = None,
    ) -> types.Receipt:
        """Enqueue a task of a thread, open or not."""
        writer = self._threads.get(thread_id)
        if writer is None:
            await self._read_when_empty(thread_id, include_archived=include_archived)
            writer = self._new_writer(thread_id, keeps_accepted=False)
        position = await self._submit(writer, Submission(OrderedTask(header).encode(), event=event), check)
        if thread_id not in self._threads:
            self._progress.remember(thread_id, position)
            await self._sign_off(writer)
        return types.Receipt(thread_id=thread_id, position=position)

    # -- open threads --------------------------------------------------------------------------------------

    def _open(self, thread_id: str, *, epoch: int) -> Writer:
        writer = self._threads.open(thread_id, lambda: self._new_writer(thread_id))
        writer.raise_epoch(epoch)
        return writer

    def _close(self, thread_id: str) -> Writer | None:
        """Close one handle; return the thread's writer if it was the last."""
        writer = self._threads.get(thread_id)
        if writer is None or not self._threads.close(thread_id):
            return None
        if writer.unapplied:
            self._progress.remember(thread_id, writer.unapplied[-1].position)
        writer.close()
        return writer

    async def _sign_off(self, *writers: Writer) -> None:
        """Have Redis forget writers that have ended; if it does not answer, it forgets them in some days."""
        with suppress(RedisError, OSError):
            await self._mailboxes.sign_off(writers)

    def _new_writer(self, thread_id: str, *, keeps_accepted: bool = True) -> Writer:
        self._opened_at = max(time.time_ns() // 1_000_000, self._opened_at + 1)
        return Writer(
            thread_id,
            names.writer_id(self._client, self._opened_at),
            self._mailboxes.place(thread_id),
            self._budget,
            self._observers,
            max_tasks=self._settings.mailbox_max_tasks,
            keeps_accepted=keeps_accepted,
        )

    async def _read_when_empty(self, thread_id: str, *, include_archived: bool) -> StoredThread:
        applied = await self._until_empty(thread_id)
        params = types.ReadThreadParams(thread_id=thread_id, include_archived=include_archived)
        return shown_from(await self._reader.read_thread(params), applied)

    async def _until_empty(self, thread_id: str) -> Position:
        """Wait until everything now in the thread's mailbox is applied, or the thread is parked."""
        return await self._progress.backlog.until_applied(thread_id, START, fresh=True, may_be_parked=True)

    async def _exists(self, thread_id: str) -> bool:
        try:
            await self._read_when_empty(thread_id, include_archived=True)
        except ThreadNotFound:
            return False
        return True


def _encode_derived(update: MetadataUpdate, at: datetime) -> EncodedTask | None:
    """Return the task that follows an append; None if the patch is empty."""
    if update.patch.is_empty():
        return None
    return OrderedTask(ordered_tasks.UpdateThreadMetadata.of(update, at=at, derived=True)).encode()
