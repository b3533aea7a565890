"""``livethread ls``: list threads."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.output import Column, print_json, shown_time
from livethread.cli.page import page_options, print_page, warn_of_silent_homes
from livethread.cli.place import nothing
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread import types

#: The values of `types.ThreadSortKey`. Written out so that --help need not import that module.
SORT_KEYS: Final = ("created_at", "updated_at", "recency_at")

COLUMNS: Final = (
    Column("thread"),
    Column("updated"),
    Column("name or preview", is_cut=True),
    Column("directory", is_cut=True, from_width=110),
)


@click.command("ls")
@click.option("--sort", type=click.Choice(SORT_KEYS), default="updated_at", show_default=True)
@click.option("--asc", is_flag=True, help="Oldest first.")
@click.option("--archived", is_flag=True, help="List archived threads instead of active ones.")
@click.option("--search", metavar="TEXT", help="List only threads with TEXT in name, title or preview.")
@click.option("--cwd", multiple=True, metavar="DIR", help="List only threads in DIR; may be repeated.")
@click.option(
    "--attached-to", metavar="THREAD", help="List only the forks attached to THREAD; other listings hide them."
)
@click.option("--all", "every", is_flag=True, help="Include threads in which nothing was asked yet.")
@page_options
def command(
    *,
    limit: int,
    sort: str,
    asc: bool,
    archived: bool,
    search: str | None,
    cwd: tuple[str, ...],
    attached_to: str | None,
    every: bool,
    cursor: str | None,
    allow_partial: bool,
    fresh: bool,
    in_utc: bool,
    as_json: bool,
) -> None:
    """List threads."""
    from livethread import types

    params = types.ListThreadsParams(
        page_size=limit,
        cursor=cursor,
        sort_key=types.ThreadSortKey(sort),
        sort_direction=types.SortDirection.ASC if asc else types.SortDirection.DESC,
        archived=archived,
        search_term=search,
        cwd_filters=tuple(map(os.path.abspath, cwd)) or None,
        include_without_preview=every,
        allow_partial=allow_partial,
        fresh=fresh,
    )
    page = asyncio.run(_list(params, attached_to))
    warn_of_silent_homes(page.unanswered)
    if as_json:
        print_json(page.model_dump(mode="json", exclude={"items": {"__all__": {"history"}}}))
    else:
        _print(page, in_utc=in_utc)


async def _list(params: types.ListThreadsParams, attached_to: str | None) -> types.ThreadPage:
    async with open_reader() as reader:
        if attached_to is not None:
            source = await find_thread(reader, attached_to, fresh=params.fresh)
            params = params.model_copy(update={"attached_to_thread_id": source.thread_id})
        return await reader.list_threads(params)


def _print(page: types.ThreadPage, *, in_utc: bool) -> None:
    if not page.items:
        click.echo(nothing("threads", "archived", "search", "cwd", "attached_to", "cursor"))
        return
    rows = (
        (
            thread.thread_id,
            shown_time(thread.updated_at, in_utc=in_utc),
            thread.name or thread.preview or "-",
            thread.cwd,
        )
        for thread in page.items
    )
    print_page(COLUMNS, rows, page.next_cursor)
