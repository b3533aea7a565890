"""``livethread search``: find what was said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.output import Column, print_json, shown_time
from livethread.cli.page import page_options, print_page, warn_of_silent_homes
from livethread.cli.place import nothing
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread import types


@click.command("search")
@click.argument("term", metavar="TEXT")
@click.option("--words", is_flag=True, help='Match words, "phrases" and prefix*, and rank the threads.')
@click.option("--archived", is_flag=True, help="Search archived threads instead of active ones.")
@click.option("--thread", metavar="THREAD", help="Show each occurrence in one thread (id, its beginning, or name).")
@page_options
def command(
    *,
    term: str,
    limit: int,
    words: bool,
    archived: bool,
    thread: str | None,
    cursor: str | None,
    allow_partial: bool,
    fresh: bool,
    in_utc: bool,
    as_json: bool,
) -> None:
    """Find the threads in which TEXT was said, ignoring case."""
    from livethread import types

    if thread is not None and (words or archived):
        raise click.UsageError("--thread searches for TEXT literally, archived or not; omit --words and --archived")
    if thread is not None:
        found = asyncio.run(_occurrences(thread, search_term=term, page_size=limit, cursor=cursor, fresh=fresh))
        _show_occurrences(found, as_json=as_json)
        return
    match = types.SearchMatch.WORDS if words else types.SearchMatch.LITERAL
    search = types.SearchThreadsParams(
        search_term=term,
        match=match,
        page_size=limit,
        archived=archived,
        cursor=cursor,
        allow_partial=allow_partial,
        fresh=fresh,
    )
    page = asyncio.run(_threads(search))
    warn_of_silent_homes(page.unanswered)
    _show_threads(page, in_utc=in_utc, as_json=as_json)


async def _threads(params: types.SearchThreadsParams) -> types.ThreadSearchPage:
    async with open_reader() as reader:
        return await reader.search_threads(params)


async def _occurrences(text: str, *, fresh: bool, **params: Any) -> types.OccurrencePage:
    from livethread.types import SearchOccurrencesParams

    async with open_reader() as reader:
        thread = await find_thread(reader, text, fresh=fresh)
        return await reader.search_occurrences(SearchOccurrencesParams(thread_id=thread.thread_id, **params))


def _show_threads(page: types.ThreadSearchPage, *, in_utc: bool, as_json: bool) -> None:
    if as_json:
        print_json(page.model_dump(mode="json", exclude={"items": {"__all__": {"thread": {"history"}}}}))
        return
    rows = [
        (each.thread.thread_id, shown_time(each.thread.updated_at, in_utc=in_utc), each.snippet)
        for each in page.items
    ]
    columns = (Column("thread"), Column("updated", from_width=110), Column("found", is_cut=True))
    _print(columns, rows, page.next_cursor)


def _show_occurrences(page: types.OccurrencePage, *, as_json: bool) -> None:
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    rows = [(each.turn_id, each.role, each.snippet) for each in page.items]
    _print((Column("turn"), Column("by"), Column("found", is_cut=True)), rows, page.next_cursor)


def _print(columns: Sequence[Column], rows: list[tuple[str, str, str]], next_cursor: str | None) -> None:
    if not rows:
        click.echo(
            nothing(f"text {click.get_current_context().params['term']!r}", "words", "archived", "thread", "cursor")
        )
        return
    print_page(columns, rows, next_cursor)
