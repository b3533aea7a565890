"""`LocalThreadStore`: files and index in this process; no Redis, no workers.

Every change is the same task that a worker applies, and is durable when the operation returns. Every read is one call of
`LocalReader`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

from livethread import errors, ordered_tasks, types
from livethread.changes import Changes
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import utc_now
from livethread.observers import EventAt, ItemsAppended, MetadataUpdated, Observers, TasksApplied
from livethread.open_threads import OpenThreads
from livethread.opener import Opener, checking
from livethread.ordered_tasks import OrderedTask
from livethread.position import Position, require_position
from livethread.rollout.lines import encode_items
from livethread.rollout.session_meta import session_meta
from livethread.several_threads import archive_each, delete_each
from livethread.watching import watch
from livethread_config import Settings
from livethread_worker.store.files import Home, locks
from livethread_worker.store.files.open_threads import OpenThreadsFile
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.read.home_poller import home_source
from livethread_worker.store.read.reader import LocalReader, as_unavailable
from livethread_worker.store.upkeep.index_handle import IndexHandle
from livethread_worker.store.upkeep.rebuild import complete_once
from livethread_worker.store.write.local_writer import LOCK_WAIT, LocalWriter
from livethread_worker.store.write.outcome import OutcomeKind


class _Shown(Protocol):
    @property
    def position(self) -> Position: ...


T = TypeVar("T")
ShownT = TypeVar("ShownT", bound=_Shown)

#: How often an operation is tried while the index cannot be used; each attempt waits for it.
ATTEMPTS = 3


@checking(Opener.require_open)
class LocalThreadStore:
    """A thread store over one home. Operations run one at a time, in the order in which they are called.

    With ``index=None`` it makes and uses no index file: the first listing or search reads every rollout into memory. The
    same happens while the index file cannot be used; changes then wait for it. Reads need only a readable home.

    A read shows everything in the home, so it is always fresh. What waits in Redis for workers is not in the home.
    """

    def __init__(self, settings: Settings | None = None, *, index: Literal["sqlite"] | None = "sqlite") -> None:
        self._opener = Opener()
        self._settings = settings or Settings()
        self._home = Home(self._settings.home)
        self._handle = IndexHandle(self._home, in_memory=index is None)
        self._missing = IndexHandle(self._home, in_memory=True)
        self._reader = LocalReader(self._home, self._index_to_read)
        self._is_synced = self._settings.sync == "fdatasync"
        self._observers = Observers()
        self._changes = Changes(home_source(self._home))
        self._open: OpenThreads[LocalWriter] = OpenThreads()
        self._open_file = OpenThreadsFile(self._home)
        # One thread of its own: files and SQLite block, and its queue is the order of the operations.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-local")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the index; what was appended is durable already."""
        if self._opener.is_closed:
            return
        self._opener.close()
        await self._changes.aclose()
        await self._run(self._handle.close)
        await self._run(self._missing.close)
        await self._run(self._reader.close)
        await self._run(self._open_file.close)
        self._executor.shutdown(wait=False)

    @property
    def observers(self) -> Observers:
        """Where this store reports what happens to its threads."""
        return self._observers

    # -- opening and closing -------------------------------------------------------------------------------

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread; no file and no row before its first task."""
        creation = OrderedTask(ordered_tasks.CreateThread(at=params.created_at, session_meta=session_meta(params)))
        creation.to_wire()  # what cannot be stored is refused now, not with the first append
        is_given = "thread_id" in params.model_fields_set
        if params.thread_id in self._open or (is_given and await self._exists(params.thread_id)):
            raise errors.Conflict(f"thread {params.thread_id} exists; resume it instead")
        self._open_thread(params.thread_id, epoch=int(params.exclusive)).creation = creation

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread. Its epoch is in the index: without one no writer in another store is fenced."""
        wanted = types.ReadThreadParams(thread_id=params.thread_id, include_archived=params.include_archived)
        thread, epoch = await self._run(
            lambda: (self._reader.read_thread(wanted), self._reader.epoch(params.thread_id))
        )
        if params.exclusive:
            epoch = await self._run(lambda: self._fence_now(params.thread_id))
            thread = await self.read_thread(wanted)  # with everything that others had applied by then
        self._open_thread(params.thread_id, epoch=epoch)
        return thread

    async def persist_thread(self, params: types.PersistThreadParams) -> None:
        """Create the rollout of a thread that has no item yet."""
        writer = self._open.require(params.thread_id)
        if writer.creation is not None:
            await self._apply(writer, [])

    async def flush_thread(self, params: types.FlushThreadParams) -> None:
        """Return once the operations under way are done: each is durable by itself."""
        self._open.require(params.thread_id)
        await self._run(lambda: None)

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        """Close the writer."""
        await self.flush_thread(params)
        await self._close_thread(params.thread_id)

    async def discard_thread(self, params: types.DiscardThreadParams) -> None:
        """Close the writer; a thread without an item leaves nothing."""
        await self._close_thread(params.thread_id)

    # -- changes -------------------------------------------------------------------------------------------

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Append the items, and apply the patch derived from them: durable on return."""
        thread_id, writer = params.thread_id, self._open.require(params.thread_id)
        lines = encode_items(params.items, params.appended_at, max_bytes=self._settings.max_item_bytes)
        append = OrderedTask(
            ordered_tasks.AppendItems(at=params.appended_at, idempotency_key=params.idempotency_key), lines
        )
        tasks = [append]
        events: list[EventAt] = [partial(ItemsAppended, thread_id, items=len(lines), size=append.size)]
        if (update := params.metadata) is not None:
            tasks.append(
                OrderedTask(ordered_tasks.UpdateThreadMetadata.of(update, at=params.appended_at, derived=True))
            )
            events.append(MetadataUpdated.at(thread_id, update))
        positions = await self._apply(writer, tasks, params.expected_position, events)
        return types.Receipt(thread_id=thread_id, position=positions[-1])

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Apply the patch: durable on return."""
        header = ordered_tasks.UpdateThreadMetadata.of(params, at=utc_now())
        event = MetadataUpdated.at(params.thread_id, params)
        return await self._change(params.thread_id, header, [event], include_archived=params.include_archived)

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Move the rollout to the archived ones."""
        return await self._change(params.thread_id, ordered_tasks.ArchiveThread(at=utc_now()))

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Move the rollout back."""
        return await self._change(params.thread_id, ordered_tasks.UnarchiveThread(at=utc_now()))

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Remove rollout, names, row and search text."""
        opened = self._open.get(params.thread_id)
        if opened is None or opened.creation is None:
            await self.read_thread(types.ReadThreadParams(thread_id=params.thread_id, is_deletable=True))
        return await self._change(params.thread_id, ordered_tasks.DeleteThread(at=utc_now()))

    async def archive_threads(self, params: types.ArchiveThreadsParams) -> types.ThreadResults:
        """Archive each thread."""
        return await archive_each(
            params.thread_ids, lambda id_: self.archive_thread(types.ArchiveThreadParams(thread_id=id_))
        )

    async def delete_threads(self, params: types.DeleteThreadsParams) -> types.ThreadResults:
        """Delete each thread."""
        return await delete_each(
            params.thread_ids, lambda id_: self.delete_thread(types.DeleteThreadParams(thread_id=id_))
        )

    # -- reads ---------------------------------------------------------------------------------------------

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread."""
        return await self._shown(params.thread_id, params.at_least, lambda: self._reader.load_history(params))

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of a thread's latest model context, from the end of its rollout."""
        return await self._shown(
            params.thread_id, params.at_least, lambda: self._reader.load_latest_model_context(params)
        )

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread with a name."""
        return await self._run(lambda: self._reader.find_thread_by_name(params))

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return await self._shown(params.thread_id, params.at_least, lambda: self._reader.read_thread(params))

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path."""
        thread = await self._run(lambda: self._reader.read_thread_by_rollout_path(params))
        require_position(thread.thread_id, thread.position, params.at_least)
        return thread

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of the listing."""
        return await self._run(lambda: self._reader.list_threads(params))

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that contain a text."""
        return await self._run(lambda: self._reader.search_threads(params))

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the occurrences of a term in a thread's messages."""
        return await self._shown(params.thread_id, params.at_least, lambda: self._reader.search_occurrences(params))

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        is_open = params.is_open or params.thread_id in self._open
        known = params.model_copy(update={"is_open": is_open})
        return await self._shown(params.thread_id, params.at_least, lambda: self._reader.list_turns(known))

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return await self._shown(params.thread_id, params.at_least, lambda: self._reader.list_items(params))

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Follow a thread."""
        return watch(self._changes, params, self.list_items, self.list_items)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return await self._run(lambda: self._reader.prepare_fork(params))

    # -- inside --------------------------------------------------------------------------------------------

    async def _run(self, operation: Callable[[], T]) -> T:
        """Run *operation* on the store's own thread, after all that was called before."""

        def run() -> T:
            with as_unavailable():
                return operation()

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    async def _shown(self, thread_id: str, at_least: Position | None, read: Callable[[], ShownT]) -> ShownT:
        """Return what *read* shows of a thread.

        Raises:
            Conflict: it is not known to reach *at_least*.
        """
        result = await self._run(read)
        require_position(thread_id, result.position, at_least)
        return result

    def _index(self) -> Index:
        """Return the index; one that has not read every rollout yet reads them first."""
        index = self._handle.get()
        if not index.in_memory:
            complete_once(self._home, index)
        return index

    def _index_to_read(self) -> Index:
        """Return the index; without a home, an empty one in memory: a read creates no home."""
        return self._index() if self._home.root.is_dir() else self._missing.get()

    async def _apply(
        self,
        writer: LocalWriter,
        tasks: Sequence[OrderedTask],
        expected: Position | None = None,
        events: Sequence[EventAt] = (),
    ) -> list[Position]:
        """Apply *tasks*, with the thread's creation before them if that is due, and return their positions.

        *events* are those of the tasks. They are emitted even if the caller no longer waits.
        """

        def report(positions: list[Position]) -> None:
            self._changes.note(writer.thread_id)
            for event, position in zip(events, positions, strict=False):
                self._observers.emit(event(position))
            if tasks:
                self._observers.emit(TasksApplied(writer.thread_id, positions[-1]))

        def apply() -> list[Position]:
            for _ in range(ATTEMPTS):
                index = self._index()
                if index.in_memory:  # it made no folders
                    self._home.create()
                outcome, positions = writer.try_to_apply(self._home, index, tasks, expected, sync=self._is_synced)
                if outcome.kind is not OutcomeKind.BUSY:
                    break
            with suppress(IndexUnavailable):
                index.maintain()
            writer.finish(outcome, len(tasks))
            if is_open:
                self._open_file.add(writer.thread_id)
            loop.call_soon_threadsafe(report, positions)  # before the caller gets them
            return positions

        loop = asyncio.get_running_loop()
        is_open = writer.thread_id in self._open
        return await self._run(apply)

    async def _change(
        self,
        thread_id: str,
        header: ordered_tasks.TaskHeader,
        events: Sequence[EventAt] = (),
        *,
        include_archived: bool = True,
    ) -> types.Receipt:
        """Apply a task to a thread, open or not."""
        opened = self._open.get(thread_id)
        if opened is None:
            await self.read_thread(types.ReadThreadParams(thread_id=thread_id, include_archived=include_archived))
            opened = LocalWriter(thread_id)
        [position] = await self._apply(opened, [OrderedTask(header)], events=events)
        return types.Receipt(thread_id=thread_id, position=position)

    async def _exists(self, thread_id: str) -> bool:
        try:
            await self.read_thread(types.ReadThreadParams(thread_id=thread_id))
        except errors.ThreadNotFound:
            return False
        return True

    def _fence_now(self, thread_id: str) -> int:
        """Begin a new epoch under the thread's lock, after any change that is under way."""
        index = self._reader.fresh_index(thread_id)
        if index.in_memory:  # it made no folders
            self._home.create()
        with locks.file_lock(self._home.thread_lock(thread_id), wait_s=LOCK_WAIT):
            return index.fence(thread_id, time.time_ns() // 1_000_000)

    async def _close_thread(self, thread_id: str) -> None:
        if self._open.close(thread_id):
            await self._run(lambda: self._open_file.remove(thread_id))

    def _open_thread(self, thread_id: str, *, epoch: int | None) -> LocalWriter:
        """Add a handle of the thread; handles of one thread in one store share its writer, and so its epoch."""
        writer = self._open.open(thread_id, lambda: LocalWriter(thread_id))
        if epoch is not None:
            writer.raise_epoch(epoch)
        return writer
