"""The list of threads: filters, search, and pages that begin after the last thread of the page before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, fields, replace
from typing import Final, Self
from urllib.parse import urlencode

from livethread import types
from livethread.directories import same_directory
from livethread.errors import SilentHome, ThreadNotFound, Unavailable
from livethread.metadata import StoredThread
from livethread.store import ThreadReader
from livethread.web.transcript import QueueState

#: Threads of a page.
ROWS: Final = 50
#: Pages that a filter reads at most for one page: the store cannot filter by branch, for example.
SCANS: Final = 20
#: Sources that the store filters by, and sub-agents, by which the page does.
SUBAGENT: Final = "subagent"
SOURCES: Final = ("cli", "vscode", "exec", "mcp", SUBAGENT)


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list shows; empty texts mean everything."""

    q: str = ""
    words: str = ""
    cwd: str = ""
    source: str = ""
    branch: str = ""
    archived: str = ""
    parked: str = ""
    live: str = ""
    cursor: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Return the filters in a query string."""
        return cls(**{field.name: query.get(field.name, "").strip() for field in fields(cls)})

    @property
    def is_filtered(self) -> bool:
        """Whether they hide anything."""
        return replace(self, cursor="") != Filters()

    def query(self, cursor: str) -> str:
        """Return the query string of the page at *cursor*."""
        values = {field.name: getattr(replace(self, cursor=cursor), field.name) for field in fields(self)}
        return urlencode({name: value for name, value in values.items() if value})

    def hides(self, thread: StoredThread) -> bool:
        """Whether a filter hides a thread that the store's own filters let through."""
        source = thread.source if isinstance(thread.source, str) else next(iter(thread.source), "")
        return (
            bool(self.branch and (thread.git_info is None or thread.git_info.branch != self.branch))
            or bool(self.source and source != self.source)
            or bool((self.q or self.parked) and self.cwd and not same_directory((self.cwd,))(thread.cwd))
            or bool(self.archived) is (thread.archived_at is None)
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A thread in the list."""

    thread_id: str
    #: None if it is parked before it was stored, or if its home does not answer.
    thread: StoredThread | None
    snippet: str = ""
    #: Why it is parked.
    parked: str | None = None
    #: Whether a connected client has it open.
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of the list."""

    rows: list[Row]
    next_cursor: str | None
    #: Whether Redis said what is parked and live.
    has_queue_state: bool
    #: The homes whose threads the page lacks.
    unanswered: tuple[SilentHome, ...] = ()


#: Rows, the cursor of the rows after them, and the homes whose threads they lack.
Rows = tuple[list[Row], str | None, tuple[SilentHome, ...]]


async def listing(reader: ThreadReader, queue: QueueState, filters: Filters) -> Listing:
    """Return the page of the list that *filters* describe.

    Raises:
        InvalidRequest: the cursor is from another list, or the search has no word.
    """
    parked = await queue.parked()
    pages = _parked(reader, parked or {}, filters) if filters.parked and not filters.q else _pages(reader, filters)
    found: list[Row] = []
    cursor: str | None = None
    unanswered: tuple[SilentHome, ...] = ()
    async with aclosing(pages):
        async for rows, following, silent in pages:
            cursor, unanswered = following, silent
            shown = [row for row in rows if row.thread is None or not filters.hides(row.thread)]
            if parked is not None:
                shown = await asyncio.gather(*(_with_state(row, queue, parked) for row in shown))
            found += [
                row
                for row in shown
                if (row.is_live or not filters.live) and (row.parked is not None or not filters.parked)
            ]
            if len(found) >= ROWS or unanswered:  # the next page would wait for the same homes
                break
    return Listing(found, cursor, parked is not None, unanswered)


async def _with_state(row: Row, queue: QueueState, parked: Mapping[str, str]) -> Row:
    return replace(row, parked=parked.get(row.thread_id), is_live=await queue.is_open(row.thread_id))


async def _pages(reader: ThreadReader, filters: Filters) -> AsyncGenerator[Rows]:
    cursor = filters.cursor or None
    for _ in range(SCANS):
        rows, cursor, unanswered = await (_search if filters.q else _list)(reader, filters, cursor)
        yield rows, cursor, unanswered
        if cursor is None:
            return


def _allowed(filters: Filters) -> tuple[str, ...]:
    return (filters.source,) if filters.source and filters.source != SUBAGENT else ()


async def _list(reader: ThreadReader, filters: Filters, cursor: str | None) -> Rows:
    page = await reader.list_threads(
        types.ListThreadsParams(
            page_size=ROWS,
            cursor=cursor,
            sort_key=types.ThreadSortKey.RECENCY_AT,
            allowed_sources=_allowed(filters),
            cwd_filters=(filters.cwd,) if filters.cwd else None,
            archived=bool(filters.archived),
            include_without_preview=True,
            allow_partial=True,
        )
    )
    return [Row(thread.thread_id, thread) for thread in page.items], page.next_cursor, page.unanswered


async def _search(reader: ThreadReader, filters: Filters, cursor: str | None) -> Rows:
    page = await reader.search_threads(
        types.SearchThreadsParams(
            search_term=filters.q,
            match=types.SearchMatch.WORDS if filters.words else types.SearchMatch.LITERAL,
            page_size=ROWS,
            cursor=cursor,
            allowed_sources=_allowed(filters),
            archived=bool(filters.archived),
            allow_partial=True,
        )
    )
    rows = [Row(found.thread.thread_id, found.thread, found.snippet) for found in page.items]
    return rows, page.next_cursor, page.unanswered


async def _parked(reader: ThreadReader, parked: Mapping[str, str], filters: Filters) -> AsyncGenerator[Rows]:
    """Yield the parked threads in the order of their ids; each id is a cursor."""
    rest = sorted(thread_id for thread_id in parked if thread_id > filters.cursor)
    for _ in range(SCANS):
        page, rest = rest[:ROWS], rest[ROWS:]
        threads = await asyncio.gather(*(_read(reader, thread_id) for thread_id in page))
        yield list(map(Row, page, threads)), page[-1] if rest else None, ()
        if not rest:
            return


async def _read(reader: ThreadReader, thread_id: str) -> StoredThread | None:
    with suppress(ThreadNotFound, Unavailable):
        return await reader.read_thread(types.ReadThreadParams(thread_id=thread_id))
    return None
