"""``livethread rename``: give a thread a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from livethread.cli.changes import change_threads
from livethread.cli.output import json_option

if TYPE_CHECKING:
    from livethread.store import ThreadStore
    from livethread.types import Receipt


@click.command("rename")
@click.argument("thread", metavar="THREAD")
@click.argument("name")
@json_option
def command(*, thread: str, name: str, as_json: bool) -> None:
    """Give THREAD the name NAME. An empty NAME ('') removes its name."""

    async def rename(store: ThreadStore, thread_id: str) -> Receipt:
        from livethread.metadata import ThreadMetadataPatch
        from livethread.types import UpdateThreadMetadataParams

        patch = ThreadMetadataPatch(name=name)
        return await store.update_thread_metadata(UpdateThreadMetadataParams(thread_id=thread_id, patch=patch))

    change_threads([thread], rename, f"renamed to {name!r}" if name else "without a name", as_json=as_json)
