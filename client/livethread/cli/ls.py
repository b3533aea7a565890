"""``livethread ls``: list threads."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import click

from livethread.cli.output import console, fresh_option, json_option, local_time, one_line, print_json
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread import types

#: The values of `types.ThreadSortKey`. Written out so that --help need not import that module.
SORT_KEYS: Final = ("created_at", "updated_at", "recency_at")

#: Columns of a terminal that has room for the directory.
WIDE: Final = 110


@click.command("ls")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Show at most this many threads.",
)
@click.option("--sort", type=click.Choice(SORT_KEYS), default="updated_at", show_default=True)
@click.option("--asc", is_flag=True, help="Oldest first.")
@click.option("--archived", is_flag=True, help="List archived threads instead of active ones.")
@click.option("--search", metavar="TEXT", help="List only threads with TEXT in name, title or preview.")
@click.option("--cwd", multiple=True, metavar="DIR", help="List only threads in DIR; may be repeated.")
@click.option(
    "--attached-to", metavar="THREAD", help="List only the forks attached to THREAD; other listings hide them."
)
@click.option("--all", "every", is_flag=True, help="Include threads in which nothing was asked yet.")
@click.option("--cursor", help="Continue after another page (its next_cursor).")
@fresh_option
@json_option
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
    fresh: bool,
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
        attached_to_thread_id=attached_to,
        include_without_preview=every,
        fresh=fresh,
    )
    page = asyncio.run(_list(params))
    if as_json:
        print_json(page.model_dump(mode="json", exclude={"items": {"__all__": {"history"}}}))
    else:
        _print(page)


async def _list(params: types.ListThreadsParams) -> types.ThreadPage:
    async with open_reader() as reader:
        return await reader.list_threads(params)


def _print(page: types.ThreadPage) -> None:
    from rich.markup import escape
    from rich.table import Table

    from livethread_config import Settings

    if not page.items:
        click.echo(f"no threads in {Settings().home}")
        return
    out = console()
    table = Table(box=None, pad_edge=False)
    table.add_column("thread", min_width=36)
    table.add_column("updated", min_width=19)
    table.add_column("name or preview", no_wrap=True, overflow="ellipsis")
    if out.width >= WIDE:
        table.add_column("directory", no_wrap=True, overflow="ellipsis")
    for thread in page.items:
        title = escape(one_line(thread.name or thread.preview or "-", 60))
        row = (thread.thread_id, local_time(thread.updated_at), title, escape(thread.cwd))
        table.add_row(*row[: len(table.columns)])
    out.print(table)
    if page.next_cursor:
        click.echo(f"more: --cursor {page.next_cursor}")
