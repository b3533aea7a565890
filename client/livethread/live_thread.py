"""`LiveThread`: an agent session's handle of a thread.

It applies the persistence policy and appends canonical items, with the metadata derived from them. It works with every
store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from livethread import types
from livethread.errors import InvalidRequest, ThreadNotFound
from livethread.git_checkout import read_git
from livethread.metadata import (
    HISTORY_MODES,
    MemoryMode,
    StoredModelContext,
    StoredThread,
    StoredThreadHistory,
    ThreadMetadataPatch,
)
from livethread.metadata_sync import ThreadMetadataSync
from livethread.model import utc_now
from livethread.observers import ThreadInitialized
from livethread.policy import is_known, is_persisted, kind_of
from livethread.position import START, Position
from livethread.rollout.item import RolloutItem, parse_items
from livethread.store import ThreadStore

logger = logging.getLogger(__name__)


class LiveThread:
    """Handle of one open thread. Concurrent calls are safe, and take effect in the order in which they are made."""

    def __init__(
        self,
        store: ThreadStore,
        sync: ThreadMetadataSync,
        event: ThreadInitialized,
        history_mode: str | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """Use `create` or `resume`."""
        #: Number of items that the persistence policy dropped, by kind, such as ``event_msg/exec_command_begin``.
        self.dropped: Counter[str] = Counter()
        self._store = store
        self._strict = strict
        self._thread_id = sync.thread_id
        self._history_mode = history_mode
        self._sync = sync
        #: Emitted when the thread starts, then None.
        self._start_event: ThreadInitialized | None = event
        self._last = types.Receipt(thread_id=sync.thread_id, position=START)
        self._is_open = True
        self._closing = asyncio.Lock()

    @classmethod
    async def create(
        cls,
        store: ThreadStore,
        params: types.CreateThreadParams,
        *,
        strict: bool = False,
        collect_git: bool = True,
    ) -> LiveThread:
        """Open a new thread. Nothing is stored before its first item or `persist`.

        *collect_git*: if *params* have a working directory in a checkout but no git metadata, ask git for the commit, the
        branch and the URL of ``origin``, for at most 5 seconds.

        *strict*: refuse an unknown history mode, and later items of unknown kinds, instead of storing them.

        Raises:
            Conflict: a thread with this id exists.
            InvalidRequest: the thread is strict, and its history mode is unknown.
        """
        if strict and params.history_mode not in HISTORY_MODES:
            raise InvalidRequest(
                f"this release does not know the history_mode {params.history_mode!r}, and the thread is strict; nothing was "
                "created. It knows 'paginated', 'legacy' and None"
            )
        if collect_git and params.cwd and params.git is None:
            params = params.model_copy(update={"git": await read_git(params.cwd)})
        await store.create_thread(params)
        sync, event = ThreadMetadataSync.for_new(params), ThreadInitialized.of_new(params)
        return cls(store, sync, event, params.history_mode, strict=strict)

    @classmethod
    async def resume(
        cls, store: ThreadStore, params: types.ResumeThreadParams, *, strict: bool = False
    ) -> LiveThread:
        """Reopen an existing thread. Several writers may have it open, until a later one opens it exclusively.

        *strict*: refuse items of kinds that this release does not know, instead of storing them.

        Raises:
            ThreadNotFound: no thread has this id, or it is archived and *params* exclude archived threads.
        """
        thread = await store.resume_thread(params)
        sync, event = ThreadMetadataSync.for_stored(thread), ThreadInitialized.of_resumed(thread)
        return cls(store, sync, event, thread.history_mode, strict=strict)

    def __repr__(self) -> str:
        return f"<LiveThread {self._thread_id} {'open' if self._is_open else 'closed'}>"

    @property
    def thread_id(self) -> str:
        """The thread's id: its only durable handle."""
        return self._thread_id

    @property
    def is_open(self) -> bool:
        """Whether the handle can be used: no `shutdown` or `discard` has succeeded."""
        return self._is_open

    async def append_items(
        self,
        items: Sequence[RolloutItem | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_position: Position | None = None,
    ) -> types.Receipt:
        """Append *items* in order, all or none, without those that the persistence policy drops.

        Return when they are ordered and in the mailbox; `flush` returns when they are durable. The receipt counts the
        dropped items. If the policy drops every item, the receipt has the position of the handle's previous one.
        Cancelling the call only ends the wait: the items are still appended, unless they were waiting for room
        (``LIVETHREAD_BACKPRESSURE=wait``). In that case the `CancelledError` carries the note `NOTHING_STORED`.

        *idempotency_key*: the thread's first append with this key counts, however long ago and through any store. Later
        ones append nothing, whatever their *items*; they succeed without saying that they were repetitions, and their
        receipt's position comes after the first append. *expected_position*: append only if it is the thread's last
        position.

        Raises:
            InvalidRequest: an item, the idempotency key or the position is malformed, or the thread is strict and an item
                is of an unknown kind; nothing was appended.
            Conflict: the thread's last position is not the expected one, or a newer exclusive writer took over the
                thread; nothing was appended.
            ResourceExhausted: an item is too large, or the thread has too many unapplied tasks; nothing was appended.
            ThreadNotFound: the thread was shut down, discarded or deleted.
            Unavailable: Redis did not answer in time; the message says what happened to the items.
        """
        self._require_open()
        given = self._parse(items)
        canonical = tuple(item for item in given if is_persisted(item, self._history_mode))
        dropped = self._dropped_of(given) if len(canonical) < len(given) else None
        del given
        if not canonical:
            return self._record_dropped(dropped, self._last)
        params = self._append_params(canonical, expected_position, idempotency_key)
        del canonical
        append, update = self._store.append_items(params), params.metadata
        del params  # spares the garbage collector the items of thousands of waiting appends
        self._last = await append
        if update is not None and idempotency_key is None:
            self._sync.confirm(update)
        self.note_started(update.patch.model if update is not None else None)
        return self._record_dropped(dropped, self._last)

    async def update_metadata(self, patch: ThreadMetadataPatch) -> types.Receipt:
        """Patch the thread's metadata, in order with the appends.

        Raises:
            ThreadNotFound: the thread was shut down, discarded or deleted.
        """
        self._require_open()
        self._last = await self._store.update_thread_metadata(
            types.UpdateThreadMetadataParams(thread_id=self._thread_id, patch=patch)
        )
        self.note_started(patch.model)
        return self._last

    async def update_memory_mode(self, mode: MemoryMode) -> types.Receipt:
        """Set whether the thread may feed the agent's memory."""
        return await self.update_metadata(ThreadMetadataPatch(memory_mode=mode))

    async def persist(self) -> None:
        """Create the thread's rollout even if it has no item yet."""
        self._require_open()
        await self._store.persist_thread(types.PersistThreadParams(thread_id=self._thread_id))
        self.note_started()

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return once everything accepted is fsynced in the rollout and committed in the index.

        Raises:
            Unavailable: it took longer than *timeout_s* (None: the store's default). Nothing is lost.
            ThreadParked: a task cannot be applied.
        """
        self._require_open()
        await self._store.flush_thread(types.FlushThreadParams(thread_id=self._thread_id, timeout_s=timeout_s))

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

    async def discard(self) -> None:
        """Close without creating the thread's rollout; accepted tasks are kept. Idempotent."""
        async with self._closing:
            if self._is_open:
                await self._store.discard_thread(types.DiscardThreadParams(thread_id=self._thread_id))
                self._is_open = False

    async def load_history(self, *, include_archived: bool = True, fresh: bool = False) -> StoredThreadHistory:
        """Return the thread's items, including all that was accepted through this handle, or, if *fresh*, any store.

        Raises:
            ThreadNotFound: the thread was deleted, or is archived and *include_archived* is false.
        """
        return await self._store.load_history(self._history_params(include_archived, fresh))

    async def load_latest_model_context(
        self, *, include_archived: bool = True, fresh: bool = False
    ) -> StoredModelContext:
        """Return the items from which the latest model context is rebuilt: from the last compaction on, if there is one.

        They are as recent as the items of `load_history`.

        Raises:
            ThreadNotFound: the thread was deleted, or is archived and *include_archived* is false.
        """
        return await self._store.load_latest_model_context(self._history_params(include_archived, fresh))

    async def read_thread(
        self, *, include_archived: bool = True, include_history: bool = False, fresh: bool = False
    ) -> StoredThread:
        """Return the thread's metadata, including all that was accepted through this handle, or, if *fresh*, any store.

        Raises:
            ThreadNotFound: the thread was deleted, or is archived and *include_archived* is false.
        """
        return await self._store.read_thread(
            types.ReadThreadParams(
                thread_id=self._thread_id,
                include_archived=include_archived,
                include_history=include_history,
                fresh=fresh,
            )
        )

    def watch(
        self, *, after: int | Position | None = None, cursor: str | None = None
    ) -> AsyncGenerator[types.ThreadItem]:
        """Yield the thread's items, and then those that are committed later, from whichever writer.

        By default, begin with the first item. *after*: begin after the item with this ordinal, or after the items of
        the tasks up to this position. *cursor*: begin after a `ThreadItem`, or after an `ItemPage`. A watch continues
        until it is closed, even if the handle is closed first.

        Raises:
            ThreadNotFound: nothing of the thread is stored yet, or it was deleted.
            Conflict: another program took back items that were yielded, or rewrote them; or the place is not known.
            Unavailable: the first read was not answered, or the store was closed.
        """
        return self._store.watch_thread(
            types.WatchThreadParams(thread_id=self._thread_id, after=after, cursor=cursor)
        )

    async def search_occurrences(
        self, search_term: str, *, page_size: int = 50, cursor: str | None = None
    ) -> types.OccurrencePage:
        """Return one page of the occurrences of *search_term* in the thread's messages, ignoring case.

        Raises:
            InvalidRequest: *search_term* is blank, or *cursor* is not from a page of occurrences.
        """
        return await self._store.search_occurrences(
            types.SearchOccurrencesParams(
                thread_id=self._thread_id, search_term=search_term, page_size=page_size, cursor=cursor
            )
        )

    async def rollout_path(self) -> Path | None:
        """Return the path of the rollout on the workers' host, or None if the store keeps no files."""
        return (await self.read_thread()).rollout_path

    def _history_params(self, include_archived: bool, fresh: bool) -> types.LoadThreadHistoryParams:
        return types.LoadThreadHistoryParams(
            thread_id=self._thread_id, include_archived=include_archived, fresh=fresh
        )

    def _require_open(self) -> None:
        if not self._is_open:
            raise ThreadNotFound(self._thread_id, "this handle was shut down or discarded; resume the thread")

    def _parse(self, values: Sequence[RolloutItem | Mapping[str, Any]]) -> tuple[RolloutItem, ...]:
        items = parse_items(values)
        if self._strict:
            for n, item in enumerate(items):
                if not is_known(item):
                    raise InvalidRequest(
                        f"items[{n}]: this release does not know the kind {kind_of(item)}, and the thread is strict; "
                        "nothing was appended. Upgrade livethread, or open the thread without strict"
                    )
        return items

    def _dropped_of(self, items: Sequence[RolloutItem]) -> Counter[str]:
        """Return how many of *items* the policy drops, by kind."""
        return Counter(kind_of(item) for item in items if not is_persisted(item, self._history_mode))

    def _record_dropped(self, dropped: Counter[str] | None, receipt: types.Receipt) -> types.Receipt:
        """Count and log what an accepted append *dropped*, and return its receipt with the number."""
        if not dropped:
            return receipt
        self.dropped += dropped
        logger.debug(
            "the persistence policy dropped %d items of thread %s",
            dropped.total(),
            self._thread_id,
            extra={"action": "drop_items", "thread_id": self._thread_id, "kinds": dict(dropped)},
        )
        return receipt.model_copy(update={"dropped": dropped.total()})

    def _append_params(
        self,
        items: tuple[RolloutItem, ...],
        expected_position: Position | None,
        idempotency_key: str | None,
    ) -> types.AppendThreadItemsParams:
        """Return the append of *items* and of the metadata derived from them."""
        appended_at = utc_now()
        return types.AppendThreadItemsParams(
            thread_id=self._thread_id,
            items=items,
            appended_at=appended_at,
            expected_position=expected_position,
            idempotency_key=idempotency_key,
            metadata=self._sync.derive(items, appended_at),
        )

    def note_started(self, model: str | None = None) -> None:
        """Emit `ThreadInitialized`, once. The first accepted change calls it, or the guard's commit.

        *model*: the model named by the items, if the event has none.
        """
        event, self._start_event = self._start_event, None
        if event is not None:
            self._store.observers.emit(replace(event, model=event.model or model))


class LiveThreadInitGuard:
    """Owns a thread while its session's start can still fail.

    Leaving the block without `commit` discards the thread. A discarded thread leaves no file, row or Redis key
    unless a task was accepted.

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
        """The guarded thread, or None after `commit` or `discard`."""
        return self._thread

    def commit(self) -> LiveThread:
        """Hand the thread over to the session.

        Raises:
            RuntimeError: the guard was committed or discarded before.
        """
        if self._thread is None:
            raise RuntimeError("this guard no longer owns a thread: it was committed or discarded")
        thread, self._thread = self._thread, None
        thread.note_started()
        return thread

    async def discard(self) -> None:
        """Discard the thread if it is still owned. A failure is logged: the session's own error matters more."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            await thread.discard()
        except Exception:
            logger.exception(
                "discarding thread %s failed",
                thread.thread_id,
                extra={"action": "discard_thread", "thread_id": thread.thread_id},
            )
