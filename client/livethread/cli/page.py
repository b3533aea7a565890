"""What commands share that print a page of threads: `ls` and `search`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from livethread.cli.output import Column, fresh_option, json_option, print_table, utc_option

if TYPE_CHECKING:
    from livethread.errors import SilentHome

_OPTIONS = (
    click.option(
        "-n",
        "--limit",
        type=click.IntRange(1, 1000),
        default=20,
        show_default=True,
        help="Show at most this many.",
    ),
    click.option("--cursor", help="Continue after another page (its next_cursor)."),
    click.option(
        "--partial", "allow_partial", is_flag=True, help="Leave out homes that do not answer, and name them."
    ),
    fresh_option,
    utc_option,
    json_option,
)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a page, and of how it is printed."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def print_page(columns: Sequence[Column], rows: Iterable[Sequence[str]], next_cursor: str | None) -> None:
    """Print *rows* as a table, and how to print the next page."""
    print_table(columns, rows)
    if next_cursor:
        click.echo(f"more: --cursor {next_cursor}", err=True)


def warn_of_silent_homes(homes: Iterable[SilentHome]) -> None:
    """Name on stderr the homes whose threads a page lacks."""
    for home in homes:
        click.echo(f"no answer from {home}", err=True)
