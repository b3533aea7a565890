"""``livethread delete``: delete threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from livethread.cli.changes import change_threads
from livethread.cli.find_thread import described
from livethread.cli.output import json_option

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.store import ThreadStore
    from livethread.types import Receipt


@click.command("delete")
@click.argument("threads", nargs=-1, required=True, metavar="THREAD…")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@json_option
def command(*, threads: tuple[str, ...], is_sure: bool, as_json: bool) -> None:
    """Delete each THREAD for good: its history, its name and its metadata.

    It shows the threads and asks first. A thread that forks need is not deleted; archive it instead.
    """
    if is_sure:
        change_threads(threads, _delete, "deleted", as_json=as_json)
    else:
        change_threads(threads, _delete, "deleted", as_json=as_json, confirm=_confirm)


def _confirm(threads: list[StoredThread]) -> None:
    for thread in threads:
        click.echo(
            f"{thread.thread_id} ({described(thread)})" + (", archived" if thread.archived_at else ""), err=True
        )
    what = "this thread" if len(threads) == 1 else f"these {len(threads)} threads"
    click.confirm(f"Delete {what} for good?", abort=True, err=True)


async def _delete(store: ThreadStore, thread_id: str) -> Receipt:
    from livethread.types import DeleteThreadParams

    return await store.delete_thread(DeleteThreadParams(thread_id=thread_id))
