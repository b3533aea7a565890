"""``livethread doctor``: compare the files and the index of a home, and repair what differs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from livethread.cli.output import json_option, print_findings, print_json, progress
from livethread.cli.place import home_to_work_on
from livethread.errors import Unavailable
from livethread.units import counted

if TYPE_CHECKING:
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.upkeep.doctor import DoctorReport


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Repair the faults; what is removed goes to the quarantine folder.")
@click.option("--undo", is_flag=True, help="Restore everything that --fix removed.")
@json_option
def command(*, fix: bool, undo: bool, as_json: bool) -> None:
    """Compare the rollouts of LIVETHREAD_HOME with its index, and report what differs.

    Workers may keep writing. The exit code is 1 if a fault remains, or if a thread was busy the whole time.
    """
    if undo:
        if fix:
            raise click.UsageError("--fix and --undo exclude each other")
        _undo(as_json=as_json)
        return
    report = _examine(fix=fix, quiet=as_json)
    if as_json:
        print_json({"home": str(home_to_work_on()), **asdict(report)})
    else:
        _print(report, fix=fix)
    sys.exit(0 if report.is_well else 1)


def _examine(*, fix: bool, quiet: bool) -> DoctorReport:
    from livethread_worker.store.upkeep.doctor import examine

    with _home() as home, progress("examining", len({id_ for id_, _ in home.rollouts()}), quiet=quiet) as advance:
        return examine(home, fix=fix, advance=advance)


def _undo(*, as_json: bool) -> None:
    from livethread_worker.store.upkeep.doctor import undo

    with _home() as home:
        report = undo(home)
    if as_json:
        print_json({"home": str(home_to_work_on()), **asdict(report)})
    else:
        for path in report.restored:
            click.echo(f"restored: {path}")
        for reason in report.kept:
            click.echo(f"kept: {reason}")
        click.echo(f"{len(report.restored)} restored, {len(report.kept)} kept in the quarantine")
    sys.exit(1 if report.kept else 0)


@contextmanager
def _home() -> Iterator[Home]:
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.locks import LockBusy
    from livethread_worker.store.index import IndexUnavailable

    home = Home(home_to_work_on())
    try:
        home.create()
        yield home
    except (IndexUnavailable, LockBusy, OSError) as error:
        raise Unavailable(f"the home could not be examined: {error}; try again later") from None


def _print(report: DoctorReport, *, fix: bool) -> None:
    from livethread_worker.store.upkeep.doctor.faults import UNREPAIRABLE

    found = print_findings(
        (fault.kind, f"{fault.path}: {fault.detail}" + (f" -> {fault.repair}" if fault.repair else ""))
        for fault in report.faults
    )
    for busy in report.busy:
        click.echo(f"busy: {busy} was being written the whole time; run this again")
    click.echo(f"{counted(report.threads, 'thread')} of {home_to_work_on()} examined: {found or 'no fault'}")
    left = Counter(fault.kind for fault in report.faults if not fault.repair)
    if fix and left:
        click.echo(f"not repaired: {left.total()}; see the lines above")
    elif left.keys() - UNREPAIRABLE:
        others = ", except those whose lines say what to do," if left.keys() & UNREPAIRABLE else ""
        click.echo(f"livethread doctor --fix repairs them{others} and loses nothing; --undo reverts it")
    elif left:
        click.echo("livethread doctor --fix leaves them as they are; see the lines above")
