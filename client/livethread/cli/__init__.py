"""The command ``livethread``. Each of its commands has a module, which is imported when the command is used.

The module's click command is its attribute ``command``. It may raise any `ThreadStoreError`; the user sees one line,
and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import sys
from typing import Any, NoReturn

import click

from livethread import extras
from livethread.errors import ThreadStoreError

#: Lines of the help: commands -> what they do. Short enough for a screen.
ROWS = {
    ("demo",): "See it work: ordered writes, killed workers.",
    ("up",): "Run Redis, workers and their pages here.",
    ("status",): "Is all well? What waits, why, and what to do.",
    ("ls", "search"): "List threads; find what was said.",
    ("browse", "metrics"): "Serve web pages; metrics for Prometheus.",
    ("show", "tail", "export"): "Show a thread; follow it; print it all.",
    ("rename",): "Give a thread a name.",
    ("archive", "unarchive", "delete"): "Archive threads, or delete them for good.",
    ("import", "replay"): "Copy existing rollouts, or replay them.",
    ("parked",): "List threads that wait for you, and why.",
    ("shards",): "List shards and their homes; add or move one.",
    ("doctor", "rebuild"): "Repair faults of a home; rebuild the index.",
    ("verify",): "Check journals: was every promise kept?",
    ("config", "schema"): "Show the settings, or the wire's JSON schemas.",
}
#: Command -> its module; in the order of the help.
COMMANDS = {name: f"livethread.cli.{name}" for row in ROWS for name in row} | {
    "import": "livethread.cli.import_rollouts",
    "redis": "livethread.cli.redis",  # for the Procfile
}
#: \b: click keeps the lines as they are.
HELP = """\b
Durable, ordered persistence for agent threads.
Settings: LIVETHREAD_HOME (~/.livethread), LIVETHREAD_REDIS_URL (embedded), …
"""


#: The class name at the start of a message about a model's fields; command line users know no classes.
_MODEL = re.compile(r"^(?:[A-Z][a-z]+){2,}: ")


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # as in click
        """Run the command line; if the output cannot be written, say so on one line."""
        try:
            return super().__call__(*args, **kwargs)
        except OSError as error:
            with contextlib.suppress(OSError):  # writing what is left would fail again at exit
                sys.stdout.close()
            reason = error.strerror or str(error)
            sys.exit(f"Error: {f'{error.filename}: ' if error.filename else ''}{reason}")

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return the command *cmd_name*."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest a similar one if it does not exist, as click does for options."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            similar = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not similar or args[0].startswith("-"):
                raise
            raise click.UsageError(f"{error.message} Did you mean {similar[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table; click's own version would import every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(", ".join(names), line) for names, line in ROWS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn errors that a user can act on into one line each."""
        try:
            return super().invoke(ctx)
        except ThreadStoreError as error:
            from livethread.cli.output import printable

            raise click.ClickException(printable(_MODEL.sub("", str(error)))) from error
        except ModuleNotFoundError as error:
            _explain_missing(error)
        except ValueError as error:
            _explain_setting(error)


def _explain_missing(error: ModuleNotFoundError) -> NoReturn:
    if (reason := extras.explained(error)) is None:
        raise error
    raise click.ClickException(reason) from error


def _explain_setting(error: ValueError) -> NoReturn:
    from livethread_config.settings import explained

    if (reason := explained(error)) is None:
        raise error
    raise click.ClickException(reason) from None


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="livethread", message="%(prog)s %(version)s")
def main() -> None:
    """Run a command."""
