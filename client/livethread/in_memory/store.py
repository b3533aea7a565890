"""`InMemoryThreadStore`: the operations, each on what is stored of its thread."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from livethread import types
from livethread.changes import Changes
from livethread.errors import Conflict, InvalidRequest, ThreadNotFound
from livethread.in_memory import pages
from livethread.in_memory.list_threads import list_threads
from livethread.in_memory.search_threads import search_threads
from livethread.in_memory.stored import Stored
from livethread.metadata import PAGINATED, StoredModelContext, StoredThread, StoredThreadHistory
from livethread.metadata_state import is_activity
from livethread.metadata_sync import ThreadMetadataSync, thread_of_meta
from livethread.model import parse_time, utc_now
from livethread.observers import ItemsAppended, MetadataUpdated, Observers, TasksApplied
from livethread.open_threads import OpenThreads
from livethread.opener import Opener, checking
from livethread.position import START, Position, position_key, require_position
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, encode_items, encode_line, items_of
from livethread.rollout.model_context import context_start
from livethread.rollout.session_meta import session_meta
from livethread.rollout.turn_ranges import end_of_fork
from livethread.several_threads import archive_each, delete_each
from livethread.thread_id import thread_of_rollout_name
from livethread.watching import watch

#: Parameters of reads of one thread.
_ReadsThread = (
    types.LoadThreadHistoryParams
    | types.ReadThreadParams
    | types.SearchOccurrencesParams
    | types.ListTurnsParams
    | types.ListItemsParams
)


@dataclass(slots=True)
class _Open:
    """An open thread; *creation* is set until the thread is stored."""

    creation: types.CreateThreadParams | None = None


@checking(Opener.require_open)
@dataclass
class InMemoryThreadStore:
    """A thread store in memory. Everything is durable at once, for as long as the object lives."""

    #: Size limit of an item, in bytes of its encoded line.
    max_item_bytes: int = 4 * 1024 * 1024
    _opener: Opener = field(default_factory=Opener, init=False, repr=False)
    _observers: Observers = field(default_factory=Observers, init=False, repr=False)
    _stored: dict[str, Stored] = field(default_factory=dict, init=False, repr=False)
    _open: OpenThreads[_Open] = field(default_factory=OpenThreads, init=False, repr=False)
    _changes: Changes = field(default_factory=Changes, init=False, repr=False)
    _positions: itertools.count[int] = field(default_factory=lambda: itertools.count(1), init=False, repr=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opener.close()
        await self._changes.aclose()

    @property
    def observers(self) -> Observers:
        """The observers of this store's events."""
        return self._observers

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread."""
        if params.thread_id in self._stored or params.thread_id in self._open:
            raise Conflict(f"thread {params.thread_id} exists; resume it instead")
        self._open.open(params.thread_id, _Open).creation = params

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread."""
        stored = self._require(params.thread_id, include_archived=params.include_archived)
        self._open.open(params.thread_id, _Open)
        return stored.shown()

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Append the items."""
        self._open.require(params.thread_id)
        lines = encode_items(params.items, params.appended_at, max_bytes=self.max_item_bytes)
        known = self._stored.get(params.thread_id)
        last, key = known.position if known else START, params.idempotency_key
        is_repeated = known is not None and key in known.idempotency_keys
        if params.expected_position not in {None, last} and not is_repeated:
            raise Conflict.of_position(params.thread_id, last, params.expected_position)
        stored = self._created(params.thread_id)
        receipt = self._receipt(stored)
        self._observers.emit(ItemsAppended(params.thread_id, receipt.position, len(lines), sum(map(len, lines))))
        metadata = stored.metadata()
        if not is_repeated:
            stored.lines += lines
            stored.positions += [receipt.position] * len(lines)
            if key is not None:
                stored.idempotency_keys.add(key)
            for item in params.items:
                if is_activity(item.type):
                    metadata.touch(parse_time(item.timestamp) or params.appended_at)
        if params.metadata is not None:
            receipt = self._receipt(stored)
            self._observers.emit(MetadataUpdated.of(params.thread_id, receipt.position, params.metadata))
            if not is_repeated:
                metadata.update(params.metadata, is_explicit=False)
        stored.thread = metadata.thread
        self._observers.emit(TasksApplied(params.thread_id, receipt.position))
        return receipt

    async def persist_thread(self, params: types.PersistThreadParams) -> None:
        """Create the thread."""
        self._open.require(params.thread_id)
        self._created(params.thread_id)

    async def flush_thread(self, params: types.FlushThreadParams) -> None:
        """Do nothing: whatever was accepted is stored already."""
        self._open.require(params.thread_id)

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        """Close the thread."""
        self._open.require(params.thread_id)
        self._open.close(params.thread_id)

    async def discard_thread(self, params: types.DiscardThreadParams) -> None:
        """Close the thread; without an item, nothing was stored."""
        self._open.close(params.thread_id)

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return the items."""
        return self._read(params).history()

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of the latest model context."""
        history = await self.load_history(params)
        items = history.items
        places = range(len(items) - 1, -1, -1)
        start = context_start((place, items[place].type, items[place].payload) for place in places)
        needed = items if start is None else (items[0], *items[start:])
        return StoredModelContext(params.thread_id, needed, history.position)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return the thread."""
        stored = self._read(params)
        if params.is_deletable:
            self._require_unneeded(params.thread_id)
        if not params.include_history:
            return stored.shown()
        return stored.shown().model_copy(update={"history": stored.history()})

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of threads."""
        return list_threads({id_: stored.shown() for id_, stored in self._stored.items()}, params)

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Apply the patch."""
        if params.thread_id not in self._open:
            self._require(params.thread_id, include_archived=params.include_archived)
        stored = self._created(params.thread_id)
        receipt = self._receipt(stored)
        stored.thread = stored.metadata().update(params, is_explicit=True)
        if "name" in params.patch.model_fields_set:
            stored.named = receipt.position, utc_now()
        self._observers.emit(MetadataUpdated.of(params.thread_id, receipt.position, params))
        self._observers.emit(TasksApplied(params.thread_id, receipt.position))
        return receipt

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread whose id is in the path's name; there are no files."""
        thread_id = thread_of_rollout_name(params.rollout_path)
        if thread_id is None:
            raise InvalidRequest(f"{params.rollout_path[-200:]!r} is not the name of a rollout")
        return await self.read_thread(
            types.ReadThreadParams(
                thread_id=thread_id,
                include_archived=params.include_archived,
                include_history=params.include_history,
                at_least=params.at_least,
            )
        )

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread that got the name last."""
        named = [
            stored
            for thread_id, stored in self._stored.items()
            if stored.thread.name == params.name and thread_id not in params.except_thread_ids
        ]
        for stored in sorted(named, key=lambda stored: position_key(stored.named[0]), reverse=True):
            if stored.thread.archived_at is None or params.include_archived:
                return stored.shown().model_copy(update={"named_at": stored.named[1]})
        raise ThreadNotFound(params.name, "no thread has this name")

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of threads whose name or messages match; unranked."""
        return search_threads(self._stored, params)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of occurrences."""
        return pages.search_occurrences(self._read(params).history(), params)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of turns."""
        is_open = params.is_open or params.thread_id in self._open
        return pages.list_turns(self._read(params).history(), params, is_open=is_open)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of items."""
        return pages.list_items(self._read(params), params)

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Follow the thread."""
        return watch(self._changes, params, self.list_items, self.list_items)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of the thread begins with."""
        stored = self._require(params.thread_id, include_archived=True)
        if stored.thread.history_mode != PAGINATED:
            return types.PreparedFork(thread_id=params.thread_id, is_shared=False)
        end = end_of_fork(stored.history().items, params)
        lines = stored.lines[:end]
        position = types.HistoryPosition(
            thread_id=params.thread_id,
            end_ordinal_exclusive=end,
            end_byte_offset=sum(len(line) + 1 for line in lines),
        )
        return types.PreparedFork(
            thread_id=params.thread_id, is_shared=True, history_base=position if end > 1 else None
        )

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Archive the thread."""
        return self._set_archived_at(params.thread_id, utc_now())

    async def archive_threads(self, params: types.ArchiveThreadsParams) -> types.ThreadResults:
        """Archive each thread."""
        return await archive_each(
            params.thread_ids, lambda id_: self.archive_thread(types.ArchiveThreadParams(thread_id=id_))
        )

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Unarchive the thread."""
        return self._set_archived_at(params.thread_id, None)

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Forget the thread."""
        self._require_unneeded(params.thread_id)
        receipt = self._receipt(self._created(params.thread_id))
        del self._stored[params.thread_id]
        self._observers.emit(TasksApplied(params.thread_id, receipt.position))
        return receipt

    async def delete_threads(self, params: types.DeleteThreadsParams) -> types.ThreadResults:
        """Forget each thread."""
        return await delete_each(
            params.thread_ids, lambda id_: self.delete_thread(types.DeleteThreadParams(thread_id=id_))
        )

    def _require_unneeded(self, thread_id: str) -> None:
        for stored in self._stored.values():
            if stored.thread.attached_to_thread_id == thread_id:
                attached = stored.thread.thread_id
                raise Conflict(
                    f"cannot delete thread {thread_id} while attached thread {attached} exists; delete that one first"
                )
            if stored.base_id == thread_id:
                raise Conflict(
                    f"cannot delete thread {thread_id}: thread {stored.thread.thread_id} was forked from it; delete that "
                    "one first, or archive this one"
                )

    def _set_archived_at(self, thread_id: str, archived_at: datetime | None) -> types.Receipt:
        stored = self._created(thread_id)
        if (stored.thread.archived_at is None) != (archived_at is None):
            stored.thread = stored.thread.model_copy(update={"archived_at": archived_at})
        receipt = self._receipt(stored)
        self._observers.emit(TasksApplied(thread_id, receipt.position))
        return receipt

    def _created(self, thread_id: str) -> Stored:
        """Return the stored thread; create it now if it is only open."""
        opened = self._open.get(thread_id)
        if opened is not None and opened.creation is not None:
            creation, opened.creation = opened.creation, None
            meta = session_meta(creation)
            thread = thread_of_meta(thread_id, meta, creation.created_at)
            first = RolloutItem(type="session_meta", payload=meta)
            line = encode_line(first, creation.created_at, max_bytes=self.max_item_bytes)
            base = creation.history_base
            inherited, positions = self._inherited(base) if base else ([], [])
            self._stored[thread_id] = stored = Stored(
                thread,
                [line, *inherited],
                base_id=base.thread_id if base else None,
                positions=[f"{next(self._positions)}-0", *positions],
            )
            sync = ThreadMetadataSync.for_stored(thread)
            update = sync.derive(items_of(map(decode_line, inherited)), creation.created_at)
            if update is not None:
                stored.thread = stored.metadata().update(update, is_explicit=False)
        if thread_id not in self._stored:
            raise ThreadNotFound(thread_id)
        return self._stored[thread_id]

    def _inherited(self, base: types.HistoryPosition) -> tuple[list[bytes], list[Position]]:
        """Return the lines that a fork inherits, and their positions.

        Raises:
            InvalidRequest: the source was deleted.
        """
        source = self._stored.get(base.thread_id)
        if source is None:
            raise InvalidRequest(f"the fork continues thread {base.thread_id}, which is missing")
        inherited = slice(1, base.end_ordinal_exclusive)
        return source.lines[inherited], source.positions[inherited]

    def _receipt(self, stored: Stored) -> types.Receipt:
        stored.position = f"{next(self._positions)}-0"
        self._changes.note(stored.thread.thread_id)
        return types.Receipt(thread_id=stored.thread.thread_id, position=stored.position)

    def _read(self, params: _ReadsThread) -> Stored:
        stored = self._require(params.thread_id, include_archived=params.include_archived)
        require_position(params.thread_id, stored.position, params.at_least)
        return stored

    def _require(self, thread_id: str, *, include_archived: bool) -> Stored:
        stored = self._stored.get(thread_id)
        if stored is None:
            raise ThreadNotFound(thread_id)
        if stored.thread.archived_at is not None and not include_archived:
            raise ThreadNotFound.of_archived(thread_id)
        return stored
