"""``livethread unarchive``: make archived threads active again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from livethread.cli.changes import change_threads
from livethread.cli.output import json_option

if TYPE_CHECKING:
    from livethread.store import ThreadStore
    from livethread.types import Receipt


@click.command("unarchive")
@click.argument("threads", nargs=-1, required=True, metavar="THREAD…")
@json_option
def command(*, threads: tuple[str, ...], as_json: bool) -> None:
    """Make each archived THREAD active again."""
    change_threads(threads, _unarchive, "unarchived", as_json=as_json)


async def _unarchive(store: ThreadStore, thread_id: str) -> Receipt:
    from livethread.types import ArchiveThreadParams

    return await store.unarchive_thread(ArchiveThreadParams(thread_id=thread_id))
