"""``livethread search``: find what was said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from livethread.cli.output import console, fresh_option, json_option, one_line, print_json
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread import types


@click.command("search")
@click.argument("term", metavar="TEXT")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Show at most this many."
)
@click.option("--words", is_flag=True, help='Match words, "phrases" and prefix*, and rank the threads.')
@click.option("--archived", is_flag=True, help="Search archived threads instead of active ones.")
@click.option("--thread", "thread_id", metavar="THREAD", help="Show each occurrence in one thread.")
@click.option("--cursor", help="Continue after another page (its next_cursor).")
@fresh_option
@json_option
def command(
    *,
    term: str,
    limit: int,
    words: bool,
    archived: bool,
    thread_id: str | None,
    cursor: str | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Find the threads in which TEXT was said, ignoring case."""
    from livethread import types

    if thread_id is not None and (words or archived):
        raise click.UsageError("--thread searches for TEXT literally, archived or not; omit --words and --archived")
    if thread_id is not None:
        params = types.SearchOccurrencesParams(
            thread_id=thread_id, search_term=term, page_size=limit, cursor=cursor, fresh=fresh
        )
        _show_occurrences(asyncio.run(_occurrences(params)), as_json=as_json)
        return
    match = types.SearchMatch.WORDS if words else types.SearchMatch.LITERAL
    search = types.SearchThreadsParams(
        search_term=term, match=match, page_size=limit, archived=archived, cursor=cursor, fresh=fresh
    )
    _show_threads(asyncio.run(_threads(search)), as_json=as_json)


async def _threads(params: types.SearchThreadsParams) -> types.ThreadSearchPage:
    async with open_reader() as reader:
        return await reader.search_threads(params)


async def _occurrences(params: types.SearchOccurrencesParams) -> types.OccurrencePage:
    async with open_reader() as reader:
        return await reader.search_occurrences(params)


def _show_threads(page: types.ThreadSearchPage, *, as_json: bool) -> None:
    if as_json:
        print_json(page.model_dump(mode="json", exclude={"items": {"__all__": {"thread": {"history"}}}}))
        return
    _print([(each.thread.thread_id, each.snippet) for each in page.items], page.next_cursor)


def _show_occurrences(page: types.OccurrencePage, *, as_json: bool) -> None:
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    _print([(f"{each.turn_id} {each.role}", each.snippet) for each in page.items], page.next_cursor)


def _print(rows: list[tuple[str, str]], next_cursor: str | None) -> None:
    from rich.markup import escape

    if not rows:
        click.echo("nothing found")
        return
    out = console()
    for place, snippet in rows:
        text = one_line(snippet, max(20, out.width - len(place) - 1))
        out.print(f"[bold]{escape(place)}[/] {escape(text)}", no_wrap=True, overflow="ellipsis")
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}")
