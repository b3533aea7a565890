"""``livethread verify``: check from journals that a home kept every promise."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from livethread.cli.output import json_option, print_findings, print_json
from livethread.cli.place import home_to_work_on
from livethread.errors import Unavailable
from livethread.units import counted

if TYPE_CHECKING:
    from livethread_worker.verify import VerifyReport


@click.command("verify")
@click.argument("journals", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--redis-lost-data", is_flag=True, help="Clients sent tasks again: check only the order of each writer."
)
@json_option
def command(*, journals: tuple[Path, ...], redis_lost_data: bool, as_json: bool) -> None:
    """Compare LIVETHREAD_HOME with the JOURNALS of all its writers.

    `livethread.journal.journaled` writes a journal. All writers must have ended, and their tasks must be applied. If the
    deployment has several homes, run this in each. The exit code is 1 if a promise was not kept.
    """
    report = _verify(journals, redis_lost_data=redis_lost_data)
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)
    sys.exit(1 if report.violations else 0)


def _verify(journals: tuple[Path, ...], *, redis_lost_data: bool) -> VerifyReport:
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.locks import LockBusy
    from livethread_worker.store.index import IndexUnavailable
    from livethread_worker.verify import verify

    home = Home(home_to_work_on())
    try:
        return verify(home, journals, redis_lost_data=redis_lost_data)
    except (IndexUnavailable, LockBusy, OSError) as error:
        raise Unavailable(f"the home could not be read: {error}; try again later") from None


def _print(report: VerifyReport) -> None:
    found = print_findings((each.kind, f"{each.thread_id}: {each.detail}") for each in report.violations)
    calls = report.calls
    click.echo(
        f"{counted(report.threads, 'thread')}: {counted(calls['ok'], 'call')} accepted, {calls['fail']} refused, {calls['info']} unknown; "
        f"{counted(report.applied, 'append')} in the rollouts"
    )
    if report.elsewhere:
        click.echo(f"not verified: {counted(report.elsewhere, 'thread')} of other homes")
    click.echo(found or "every promise was kept")
