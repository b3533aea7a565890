"""`LiveThread`: what an agent's session holds.

It applies the persistence policy and appends canonical items, with the metadata that follows from them.
The same code serves every store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from livethread import types
from livethread.errors import NOTHING_STORED, ThreadNotFound, Unavailable
from livethread.metadata import MemoryMode, StoredThread, StoredThreadHistory, ThreadMetadataPatch
from livethread.metadata_sync import ThreadMetadataSync
from livethread.model import utc_now
from livethread.observers import ThreadInitialized
from livethread.policy import is_persisted
from livethread.rollout.item import RolloutItem, parse_items
from livethread.store import ThreadStore

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LiveThread:
    """Handle of one open thread.

    Concurrent calls are safe: they take effect in the order in which they are made.
    """

    def __init__(
        self, store: ThreadStore, sync: ThreadMetadataSync, event: ThreadInitialized, history_mode: str | None = None
    ) -> None:
        """Use `create` or `resume`."""
        self._store = store
        self._thread_id = sync.thread_id
        self._history_mode = history_mode
        self._sync = sync
        #: Emitted when the thread has started; None once it was.
        self._start_event: ThreadInitialized | None = event
        #: Whether a change takes effect though its caller was not told so: it was cancelled, or the answer took too long.
        self._is_under_way = False
        self._last = types.Receipt(thread_id=sync.thread_id, position=types.START)
        self._is_open = True
        self._closing = asyncio.Lock()

    @classmethod
    async def create(cls, store: ThreadStore, params: types.CreateThreadParams) -> LiveThread:
        """Open a new thread. Nothing is stored before its first item, or `persist`.

        Raises:
            Conflict: a thread with this id exists.
        """
        await store.create_thread(params)
        return cls(store, ThreadMetadataSync.for_new(params), ThreadInitialized.of_new(params))

    @classmethod
    async def resume(cls, store: ThreadStore, params: types.ResumeThreadParams) -> LiveThread:
        """Reopen an existing thread. A second writer is served, not refused, unless a later one asks to be exclusive.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
        """
        thread = await store.resume_thread(params)
        sync, event = ThreadMetadataSync.for_stored(thread), ThreadInitialized.of_resumed(thread)
        return cls(store, sync, event, thread.history_mode)

    def __repr__(self) -> str:
        return f"<LiveThread {self._thread_id} {'open' if self._is_open else 'closed'}>"

    @property
    def thread_id(self) -> str:
        """The thread's id: its only durable handle."""
        return self._thread_id

    @property
    def is_open(self) -> bool:
        """Whether neither `shutdown` nor `discard` has succeeded yet."""
        return self._is_open

    async def append_items(
        self,
        items: Sequence[RolloutItem | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_position: types.Position | None = None,
    ) -> types.Receipt:
        """Append those of *items* that are persisted, all or none, in order.

        Returns once they are ordered and in the mailbox; `flush` tells when they are durable. Items that the
        persistence policy drops are dropped silently; where none is left, the receipt is that of the append
        before. To cancel the call is to stop waiting: the items are appended all the same, unless they waited for
        room (``LIVETHREAD_BACKPRESSURE=wait``): then the `CancelledError` bears the note `NOTHING_STORED`.

        With an *idempotency_key* that an append of the thread had before, whoever made it and however long ago, nothing
        is appended, whatever *items* are: the first one counts. The call succeeds, and its receipt is a position at
        which the first is applied, too; whether it was a repetition is for the store to find, and not said. With an
        *expected_position* the items are appended only behind the thread's task at this position, as its next one.

        Raises:
            InvalidRequest: an item, the key or the position is malformed; nothing was appended.
            Conflict: the thread's last position is not the expected one, or a newer exclusive writer has taken the
                thread over; nothing was appended.
            ResourceExhausted: an item is too large, or too many tasks of the thread wait; nothing was appended.
            ThreadNotFound: the thread was shut down or discarded.
            Unavailable: Redis did not answer in time; see its message for what became of the items.
        """
        self._require_open()
        params = self._append_params(items, expected_position, idempotency_key)
        if params is None:
            return self._last
        append, update = self._store.append_items(params), params.metadata
        del params  # thousands of appends may wait: the garbage collector need not visit their items
        self._last = await self._accepted(append)
        if update is not None and idempotency_key is None:
            self._sync.confirm(update)
        self.note_started(update.patch.model if update is not None else None)
        return self._last

    async def update_metadata(self, patch: ThreadMetadataPatch) -> types.Receipt:
        """Apply *patch*, in order with the appends.

        Raises:
            ThreadNotFound: no such thread.
        """
        self._require_open()
        self._last = await self._accepted(
            self._store.update_thread_metadata(
                types.UpdateThreadMetadataParams(thread_id=self._thread_id, patch=patch)
            )
        )
        self.note_started(patch.model)
        return self._last

    async def update_memory_mode(self, mode: MemoryMode) -> types.Receipt:
        """Say whether the thread may feed the agent's memory."""
        return await self.update_metadata(ThreadMetadataPatch(memory_mode=mode))

    async def persist(self) -> None:
        """Create the thread's rollout now, though it has no item yet."""
        self._require_open()
        await self._accepted(self._store.persist_thread(types.PersistThreadParams(thread_id=self._thread_id)))
        self.note_started()

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return once everything accepted is fsynced in the rollout and committed in the index.

        Raises:
            Unavailable: it took longer than *timeout_s* (the store's default where None). Nothing is lost.
            ThreadParked: a task cannot be applied.
        """
        self._require_open()
        await self._store.flush_thread(types.FlushThreadParams(thread_id=self._thread_id, timeout_s=timeout_s))
        self._note_flushed()

    async def shutdown(self, timeout_s: float | None = None) -> None:
        """Flush and close. A second call does nothing; a failed one leaves the thread open.

        Raises:
            Unavailable: the flush timed out.
            ThreadParked: a task cannot be applied.
        """
        async with self._closing:
            if self._is_open:
                await self._store.shutdown_thread(
                    types.ShutdownThreadParams(thread_id=self._thread_id, timeout_s=timeout_s)
                )
                self._is_open = False
                self._note_flushed()

    async def discard(self) -> None:
        """Close without making the thread's start durable; what was accepted before is kept. Idempotent."""
        async with self._closing:
            if self._is_open:
                await self._store.discard_thread(types.DiscardThreadParams(thread_id=self._thread_id))
                self._is_open = False

    async def load_history(self) -> StoredThreadHistory:
        """Return the thread's items, with everything accepted through this handle."""
        return await self._store.load_history(types.LoadThreadHistoryParams(thread_id=self._thread_id))

    async def read_thread(self, *, include_history: bool = False) -> StoredThread:
        """Return the thread's metadata, with everything accepted through this handle."""
        return await self._store.read_thread(
            types.ReadThreadParams(thread_id=self._thread_id, include_history=include_history)
        )

    async def rollout_path(self) -> Path | None:
        """Return the path of the rollout on the workers' host; None where the store keeps no files."""
        return (await self.read_thread()).rollout_path

    def _require_open(self) -> None:
        if not self._is_open:
            raise ThreadNotFound(self._thread_id, "this handle was shut down or discarded; resume the thread")

    def _append_params(
        self,
        items: Sequence[RolloutItem | Mapping[str, Any]],
        expected_position: types.Position | None,
        idempotency_key: str | None,
    ) -> types.AppendThreadItemsParams | None:
        """Return the append of those *items* that are persisted, with the metadata derived from them; None if none is."""
        canonical = tuple(item for item in parse_items(items) if is_persisted(item, self._history_mode))
        if not canonical:
            return None
        appended_at = utc_now()
        return types.AppendThreadItemsParams(
            thread_id=self._thread_id,
            items=canonical,
            appended_at=appended_at,
            expected_position=expected_position,
            idempotency_key=idempotency_key,
            metadata=self._sync.derive(canonical, appended_at),
        )

    async def _accepted(self, change: Coroutine[Any, Any, T]) -> T:
        """Return what *change* returns once it is accepted; note whether it stays under way if that fails."""
        try:
            return await change
        except asyncio.CancelledError as error:
            self._is_under_way |= NOTHING_STORED not in getattr(error, "__notes__", ())
            raise
        except Unavailable as error:
            self._is_under_way |= error.is_queued
            raise

    def _note_flushed(self) -> None:
        if self._is_under_way:
            self.note_started()

    def note_started(self, model: str | None = None) -> None:
        """Emit `ThreadInitialized`, once: the thread will not be discarded. *model* is the one that its items name.

        The first accepted change does so, and the guard that commits; and a flush, if a change was accepted unknown to
        its caller.
        """
        event, self._start_event = self._start_event, None
        if event is not None:
            self._store.observers.emit(replace(event, model=event.model or model))


class LiveThreadInitGuard:
    """Owns a thread while its session's start can still fail.

    Leaving the block without `commit` discards the thread: no file, no row, no key is left of it, unless an item
    was accepted.

        async with LiveThreadInitGuard(await LiveThread.create(store, params)) as guard:
            await start_everything_else()
            thread = guard.commit()
    """

    def __init__(self, thread: LiveThread) -> None:
        self._thread: LiveThread | None = thread

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.discard()

    @property
    def thread(self) -> LiveThread | None:
        """The guarded thread; None once committed or discarded."""
        return self._thread

    def commit(self) -> LiveThread:
        """Hand the thread over to the session.

        Raises:
            RuntimeError: it was committed or discarded before.
        """
        if self._thread is None:
            raise RuntimeError("this guard no longer owns a thread")
        thread, self._thread = self._thread, None
        thread.note_started()
        return thread

    async def discard(self) -> None:
        """Discard the thread, if still owned. A failure is logged: the session's own error matters more."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            await thread.discard()
        except Exception:
            logger.exception(
                "discarding a thread failed", extra={"action": "discard_thread", "thread_id": thread.thread_id}
            )
