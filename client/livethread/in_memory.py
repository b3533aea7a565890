"""`InMemoryThreadStore`: the store contract in memory, for tests of code that uses a store."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from livethread import types
from livethread.changes import Changes
from livethread.cursor import (
    decode_cursor,
    decode_occurrence,
    decode_offset,
    encode_cursor,
    encode_occurrence,
    encode_offset,
)
from livethread.directories import same_directory
from livethread.errors import Conflict, InvalidRequest, ThreadNotFound
from livethread.metadata import PAGINATED, StoredModelContext, StoredThread, StoredThreadHistory
from livethread.metadata_state import MetadataState, is_activity
from livethread.metadata_sync import ThreadMetadataSync, thread_of_meta
from livethread.model import format_time, parse_time, utc_now
from livethread.observers import ItemsAppended, MetadataUpdated, Observers, TasksApplied
from livethread.open_threads import OpenThreads
from livethread.position import START, Position, position_key, require_position
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, encode_items, encode_line, items_of
from livethread.rollout.literal import excerpt, literal_term, occurrences
from livethread.rollout.model_context import context_start
from livethread.rollout.occurrences import occurrences_in_turn
from livethread.rollout.search_text import (
    Phrase,
    folded_term,
    listing_text,
    parse_query,
    search_text,
    searchable,
    words_of,
)
from livethread.rollout.session_meta import session_meta
from livethread.rollout.turn_ranges import TurnRange, end_of_fork, turn_ranges
from livethread.rollout.turns import stored_turn
from livethread.several_threads import archive_each, delete_each
from livethread.thread_id import thread_of_rollout_name
from livethread.watching import watch


@dataclass(slots=True)
class _Stored:
    """A thread that is stored."""

    thread: StoredThread
    lines: list[bytes]
    position: Position = START
    #: Position and time of the task that set the name.
    named: tuple[Position, datetime | None] = (START, None)
    #: First-wins fields that a caller set explicitly.
    explicit_fields: set[str] = field(default_factory=set)
    #: The thread whose lines it shares, if it is a fork.
    base_id: str | None = None
    #: Idempotency keys that are taken.
    idempotency_keys: set[str] = field(default_factory=set)

    #: Position of the task of each line; inherited lines keep theirs.
    positions: list[Position] = field(default_factory=list)

    def after(self, place: int | Position) -> int:
        """Return the number of the first line after an ordinal, or after the tasks up to a position."""
        if isinstance(place, int):
            return min(place + 1, len(self.lines))
        shown = [position_key(each) <= position_key(place) for each in self.positions]
        return len(shown) - shown[::-1].index(True) if any(shown) else 0

    def shown(self) -> StoredThread:
        """Return the thread with its position."""
        return self.thread.model_copy(update={"position": self.position})

    def metadata(self) -> MetadataState:
        """Return the metadata as a state that updates change."""
        return MetadataState(self.thread, self.explicit_fields)


@dataclass(slots=True)
class _Open:
    """An open thread; *creation* is set until the thread is stored."""

    creation: types.CreateThreadParams | None = None


@dataclass
class InMemoryThreadStore:
    """A thread store in memory. Everything is durable at once, for as long as the object lives."""

    #: Size limit of an item, in bytes of its encoded line.
    max_item_bytes: int = 4 * 1024 * 1024
    _observers: Observers = field(default_factory=Observers, init=False)
    _stored: dict[str, _Stored] = field(default_factory=dict, init=False)
    _open: OpenThreads[_Open] = field(default_factory=OpenThreads, init=False)
    _changes: Changes = field(default_factory=Changes, init=False)
    _positions: itertools.count[int] = field(default_factory=lambda: itertools.count(1), init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

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
        thread = self._read(params.thread_id, include_archived=params.include_archived)
        self._open.open(params.thread_id, _Open)
        return thread

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
        self._read(params.thread_id, include_archived=params.include_archived, at_least=params.at_least)
        return self._history(params.thread_id)

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
        thread = self._read(params.thread_id, include_archived=params.include_archived, at_least=params.at_least)
        if params.is_deletable:
            self._require_unneeded(params.thread_id)
        if not params.include_history:
            return thread
        return thread.model_copy(update={"history": self._history(params.thread_id)})

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of threads."""
        return self._page(params, lambda _: True)

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Apply the patch."""
        if params.thread_id not in self._open:
            self._read(params.thread_id, include_archived=params.include_archived)
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
        find = _finder(params)
        key = params.sort_key or types.ThreadSortKey.UPDATED_AT
        listing = types.ListThreadsParams(
            page_size=params.page_size,
            cursor=params.cursor,
            sort_key=key,
            sort_direction=params.sort_direction if params.sort_key else types.SortDirection.DESC,
            allowed_sources=params.allowed_sources,
            archived=params.archived,
            include_attached_threads=params.include_attached_threads,
            include_without_preview=True,
        )
        found = {
            thread_id: snippet
            for thread_id, stored in self._stored.items()
            if (snippet := next(filter(None, map(find, self._texts(stored))), None)) is not None
        }
        page = self._page(listing, lambda thread: thread.thread_id in found)
        items = (
            types.StoredThreadSearchResult(thread=thread, snippet=found[thread.thread_id]) for thread in page.items
        )
        return types.ThreadSearchPage(items=tuple(items), next_cursor=page.next_cursor)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of occurrences. A cursor holds the number of the turn's first item."""
        term = literal_term(params.search_term)
        begin = decode_occurrence(params.cursor) if params.cursor else (0, 0)
        history = await self.load_history(_of_history(params))
        items = history.items
        found = [
            ((turn.start, number), occurrence)
            for turn in turn_ranges(items)
            for number, occurrence in enumerate(
                occurrences_in_turn(
                    turn.turn_id, encode_offset("turns", turn.start), items[turn.start : turn.end], term
                )
            )
            if (turn.start, number) >= begin
        ]
        page, more = found[: params.page_size], found[params.page_size :]
        return types.OccurrencePage(
            items=tuple(occurrence for _, occurrence in page),
            next_cursor=encode_occurrence(*more[0][0]) if more else None,
            position=history.position,
        )

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of turns. A cursor holds the number of the page's first item."""
        history = await self.load_history(_of_history(params))
        items = history.items
        turns = turn_ranges(items)
        descending = params.sort_direction is types.SortDirection.DESC
        ordered = turns[::-1] if descending else turns
        begin = decode_offset("turns", params.cursor) if params.cursor else None
        if begin is not None:
            ordered = [turn for turn in ordered if (turn.start <= begin if descending else turn.start >= begin)]
        shown, more = ordered[: params.page_size], ordered[params.page_size :]
        is_open = params.is_open or params.thread_id in self._open
        return types.TurnPage(
            turns=tuple(_stored_turn(items, turn, turns, params.items_view, is_open=is_open) for turn in shown),
            next_cursor=encode_offset("turns", more[0].start) if more else None,
            backwards_cursor=encode_offset("turns", shown[0].start) if shown else None,
            position=history.position,
        )

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of items. A cursor holds an item's number."""
        history = await self.load_history(_of_history(params))
        items = history.items
        start, end = 0, len(items)
        if params.turn_id is not None:
            turn = next((turn for turn in turn_ranges(items) if turn.turn_id == params.turn_id), None)
            if turn is None:
                raise InvalidRequest(f"thread {params.thread_id} has no turn {params.turn_id}")
            start, end = turn.start, end if turn.end is None else turn.end
        descending = params.sort_direction is types.SortDirection.DESC
        begin = end if descending else start
        if params.after is not None:
            begin = self._stored[params.thread_id].after(params.after)
        elif params.cursor is not None:
            begin = decode_offset("items", params.cursor)
            if not start <= begin <= end:
                raise InvalidRequest("this cursor belongs to another thread, or to another turn")
        if descending:
            edge = max(start, begin - params.page_size)
            return types.ItemPage(
                items=items[edge:begin][::-1],
                next_cursor=encode_offset("items", edge) if edge > start else None,
                end_cursor=encode_offset("items", edge),
                backwards_cursor=encode_offset("items", begin - 1) if begin > edge else None,
                position=history.position,
            )
        edge = min(end, begin + params.page_size)
        return types.ItemPage(
            items=items[begin:edge],
            next_cursor=encode_offset("items", edge) if edge < end else None,
            end_cursor=encode_offset("items", edge),
            backwards_cursor=encode_offset("items", begin + 1) if begin < edge else None,
            position=history.position,
        )

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Follow the thread."""
        return watch(self._changes, params, self.list_items, self.list_items)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of the thread begins with."""
        thread = self._read(params.thread_id, include_archived=True)
        if thread.history_mode != PAGINATED:
            return types.PreparedFork(thread_id=params.thread_id, is_shared=False)
        end = end_of_fork(self._history(params.thread_id).items, params)
        lines = self._stored[params.thread_id].lines[:end]
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

    def _created(self, thread_id: str) -> _Stored:
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
            self._stored[thread_id] = stored = _Stored(
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

    def _receipt(self, stored: _Stored) -> types.Receipt:
        stored.position = f"{next(self._positions)}-0"
        self._changes.note(stored.thread.thread_id)
        return types.Receipt(thread_id=stored.thread.thread_id, position=stored.position)

    def _read(self, thread_id: str, *, include_archived: bool, at_least: Position | None = None) -> StoredThread:
        stored = self._stored.get(thread_id)
        if stored is None:
            raise ThreadNotFound(thread_id)
        if stored.thread.archived_at is not None and not include_archived:
            raise ThreadNotFound(thread_id, "it is archived")
        require_position(thread_id, stored.position, at_least)
        return stored.shown()

    def _history(self, thread_id: str) -> StoredThreadHistory:
        stored = self._stored[thread_id]
        records = ({**(decode_line(line) or {}), "ordinal": n} for n, line in enumerate(stored.lines))
        return StoredThreadHistory(thread_id, items_of(records), stored.position)

    def _page(self, params: types.ListThreadsParams, wanted: Callable[[StoredThread], bool]) -> types.ThreadPage:
        key = params.sort_key.value

        def order(thread: StoredThread) -> tuple[str, str]:
            return format_time(getattr(thread, key)), thread.thread_id

        descending = params.sort_direction is types.SortDirection.DESC
        threads = (stored.shown() for stored in self._stored.values())
        matching = sorted((t for t in threads if wanted(t) and self._matches(t, params)), key=order)
        if descending:
            matching.reverse()
        if params.cursor:
            after = decode_cursor(params.cursor, params.sort_key)
            matching = [t for t in matching if (order(t) < after if descending else order(t) > after)]
        page = tuple(matching[: params.page_size])
        more = len(matching) > params.page_size
        return types.ThreadPage(items=page, next_cursor=encode_cursor(page[-1], params.sort_key) if more else None)

    def _texts(self, stored: _Stored) -> Iterator[str]:
        if stored.thread.name:
            yield searchable(stored.thread.name)
        for item in self._history(stored.thread.thread_id).items:
            if found := search_text(item.type, item.payload):
                yield found.text

    def _matches(self, thread: StoredThread, params: types.ListThreadsParams) -> bool:
        term = folded_term(params.search_term or "")
        return (
            (thread.archived_at is not None) == params.archived
            and thread.thread_id.startswith(params.thread_id_prefix or "")
            and self._is_shown(thread, params)
            and (thread.preview != "" or params.include_without_preview)
            and (not params.allowed_sources or thread.source in params.allowed_sources)
            and (not params.model_providers or thread.model_provider in params.model_providers)
            and (params.cwd_filters is None or same_directory(params.cwd_filters)(thread.cwd))
            and (not term or term in listing_text(thread.name, thread.title, thread.preview))
            and (params.relation_filter is None or self._is_related(thread, params))
        )

    @staticmethod
    def _is_shown(thread: StoredThread, params: types.ListThreadsParams) -> bool:
        """Whether the parameters ask for the thread if it is attached."""
        if params.attached_to_thread_id is not None:
            return thread.attached_to_thread_id == params.attached_to_thread_id
        return params.include_attached_threads or thread.attached_to_thread_id is None

    def _is_related(self, thread: StoredThread, params: types.ListThreadsParams) -> bool:
        assert params.relation_filter is not None
        ancestor, wanted = thread.parent_thread_id, params.relation_filter.thread_ids
        if params.relation_filter.kind is types.RelationKind.DESCENDANTS:
            seen: set[str] = set()
            while ancestor in self._stored and ancestor not in wanted and ancestor not in seen:
                seen.add(ancestor)
                ancestor = self._stored[ancestor].thread.parent_thread_id
        return ancestor in wanted


def _of_history(
    params: types.SearchOccurrencesParams | types.ListTurnsParams | types.ListItemsParams,
) -> types.LoadThreadHistoryParams:
    return types.LoadThreadHistoryParams(
        thread_id=params.thread_id, include_archived=params.include_archived, at_least=params.at_least
    )


def _stored_turn(
    items: Sequence[RolloutItem],
    turn: TurnRange,
    turns: Sequence[TurnRange],
    view: types.StoredTurnItemsView,
    *,
    is_open: bool,
) -> types.StoredTurn:
    own = items[turn.start : turn.end]
    is_late = turn.end is not None and turn.late_end is not None and turn.late_end >= turn.end
    return stored_turn(
        turn.turn_id,
        own,
        view,
        may_go_on=is_open and turn.end is None,
        others={other.turn_id for other in turns if other.start < turn.start} - {turn.turn_id},
        late_end=items[turn.late_end] if is_late and turn.late_end is not None else None,
    )


def _finder(params: types.SearchThreadsParams) -> Callable[[str], str | None]:
    """Return a function that returns an excerpt of a matching text, or None if the text does not match."""
    if params.match is types.SearchMatch.LITERAL:
        term = literal_term(params.search_term)
        return lambda text: next((excerpt(text, *found).text for found in occurrences(text, term)), None)
    phrases = parse_query(params.search_term)
    return lambda text: text if all(_contains(words_of(text), phrase) for phrase in phrases) else None


def _contains(words: list[str], phrase: Phrase) -> bool:
    wanted = words_of(" ".join(phrase.words))
    for start in range(len(words) - len(wanted) + 1):
        *found, last = words[start : start + len(wanted)]
        if found == wanted[:-1] and (last.startswith(wanted[-1]) if phrase.is_prefix else last == wanted[-1]):
            return True
    return False
