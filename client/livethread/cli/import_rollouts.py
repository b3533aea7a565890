"""``livethread import``: copy existing rollouts into the home."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from livethread.cli.output import json_option, print_json, progress
from livethread.cli.place import home_to_work_on
from livethread.errors import Unavailable

if TYPE_CHECKING:
    from livethread_worker.store.upkeep.importing.rollouts import ImportReport


@click.command("import")
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    metavar="HOME_OR_FILES…",
    # A file that cannot be read is reported; the others are imported.
    type=click.Path(exists=True, readable=False, path_type=Path),
)
@click.option("--dry-run", is_flag=True, help="Report what would be done, and change nothing.")
@json_option
def command(sources: tuple[Path, ...], *, dry_run: bool, as_json: bool) -> None:
    """Copy the rollouts of a codex home, of folders or of single files into LIVETHREAD_HOME.

    The copies are exact, and the sources stay as they are. Rollouts that are already in LIVETHREAD_HOME are indexed in
    place. A second run adds what is new. The exit code is 1 if anything could not be imported; it is listed.
    """
    home = home_to_work_on(must_exist=False)
    report = _import(home, sources, dry_run=dry_run, quiet=as_json)
    if as_json:
        print_json({"home": str(home), "dry_run": dry_run, **asdict(report)})
    else:
        _print(home, report, dry_run=dry_run)
    if not report.is_whole:
        raise SystemExit(1)


def _import(root: Path, sources: tuple[Path, ...], *, dry_run: bool, quiet: bool) -> ImportReport:
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.locks import LockBusy
    from livethread_worker.store.index import IndexUnavailable
    from livethread_worker.store.upkeep.importing.rollouts import import_rollouts
    from livethread_worker.store.upkeep.importing.sources import Search
    from livethread_worker.store.upkeep.index_handle import IndexHandle

    home = Home(root)
    search = Search()
    for source in sources:
        search.look(source)
    # In memory: a dry run must not create the home.
    handle = IndexHandle(home, in_memory=dry_run and not home.index.exists())
    try:
        with progress("importing", len(search.found), quiet=quiet) as advance:
            return import_rollouts(home, handle.get(), search, advance, dry_run=dry_run)
    except LockBusy:
        raise Unavailable(f"another import into {home.root} is running; wait for it to end") from None
    except (IndexUnavailable, OSError) as error:
        raise Unavailable(f"{home.root} cannot be used: {error}; run the import again to continue") from None
    finally:
        handle.close()


def _print(home: Path, report: ImportReport, *, dry_run: bool) -> None:
    click.echo(
        f"{home}: {'would be: ' if dry_run else ''}{report.imported} imported, {report.grown} grown, "
        f"{report.unchanged} unchanged, {report.indexed} indexed in place, {len(report.conflicts)} conflicts, "
        f"{len(report.left_out)} left out, {len(report.not_rollouts)} not rollouts"
    )
    for conflict in report.conflicts:
        click.echo(f"{conflict.source}: conflict: {conflict.rollout} has different lines; both stay as they are")
    for what, refused in (
        ("not a rollout", report.not_rollouts),
        ("left out", report.left_out),
        ("busy", report.busy),
        ("failed", report.failed),
    ):
        for each in refused:
            click.echo(f"{each.path}: {what}: {each.reason}")
