"""``livethread rebuild``: rebuild the index from the rollouts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from livethread.cli.output import json_option, print_json, progress
from livethread.cli.place import home_to_work_on
from livethread.errors import Unavailable
from livethread.units import counted

if TYPE_CHECKING:
    from livethread_worker.store.upkeep.rebuild import RebuildReport


@click.command("rebuild")
@json_option
def command(*, as_json: bool) -> None:
    """Rebuild the index of LIVETHREAD_HOME from its rollouts.

    Workers may keep writing; no rollout is changed.
    """
    home = home_to_work_on()
    report = _rebuild(home, quiet=as_json)
    if as_json:
        print_json({"home": str(home), **asdict(report)})
        return
    click.echo(
        f"{counted(report.threads, 'thread')} of {home} read, {counted(report.forgotten, 'row')} without a rollout removed"
    )
    for what, names in (
        ("not read: it is unreadable, or has no session_meta of its thread", report.unreadable),
        ("not read: the thread has another rollout", report.duplicates),
        ("was being written the whole time; run this again", report.busy),
    ):
        for name in names:
            click.echo(f"{name}: {what}")


def _rebuild(root: Path, *, quiet: bool) -> RebuildReport:
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.index import IndexUnavailable
    from livethread_worker.store.upkeep.index_handle import IndexHandle
    from livethread_worker.store.upkeep.rebuild import rebuild

    home = Home(root)
    handle = IndexHandle(home)
    try:
        index = handle.get()
        with progress("reading", len({thread_id for thread_id, _ in home.rollouts()}), quiet=quiet) as advance:
            return rebuild(home, index, advance)
    except (IndexUnavailable, OSError) as error:
        raise Unavailable(
            f"the index could not be rebuilt: {error}; no rollout was changed; run this again"
        ) from None
    finally:
        handle.close()
