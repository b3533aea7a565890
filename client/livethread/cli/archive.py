"""``livethread archive``: archive threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from livethread.cli.changes import change_threads
from livethread.cli.output import json_option

if TYPE_CHECKING:
    from livethread.store import ThreadStore
    from livethread.types import Receipt


@click.command("archive")
@click.argument("threads", nargs=-1, required=True, metavar="THREAD…")
@json_option
def command(*, threads: tuple[str, ...], as_json: bool) -> None:
    """Archive each THREAD: listings and searches leave it out unless they ask for archived ones."""
    change_threads(threads, _archive, "archived", as_json=as_json)


async def _archive(store: ThreadStore, thread_id: str) -> Receipt:
    from livethread.types import ArchiveThreadParams

    return await store.archive_thread(ArchiveThreadParams(thread_id=thread_id))
