"""``livethread config``: show the settings in effect, and the source of each."""

from __future__ import annotations

from typing import Any, Final

import click

from livethread.cli.output import Column, json_option, print_json, print_table
from livethread.cli.place import deployment, place_of_reads

COLUMNS: Final = (Column("setting"), Column("value", is_cut=True), Column("source"))


@click.command("config")
@click.option("--files", "shows_files", is_flag=True, help="Print only the directory of the deployment files.")
@json_option
def command(*, shows_files: bool, as_json: bool) -> None:
    """Show each setting, its value and its source, and what commands act on.

    A setting comes from its variable LIVETHREAD_…, else from the settings file, else it has its default. Passwords are
    hidden.
    """
    if shows_files:
        from livethread_worker.embedded.deployment_files import deployment_root

        click.echo(deployment_root())
        return

    from livethread_config import Settings
    from livethread_config.settings import source_of
    from livethread_config.settings_file import settings_path

    settings, path = Settings(), settings_path()
    values = _values(settings)
    sources = {name: source_of(name) or "default" for name in values}
    places = {"acts_on": deployment(settings), "reads_from": place_of_reads(settings)}
    if as_json:
        shown = {name: {"value": value, "source": sources[name]} for name, value in values.items()}
        print_json({**places, "settings_file": str(path), "file_exists": path.exists(), "settings": shown})
        return
    print_table(COLUMNS, ((name, _text(value), sources[name]) for name, value in values.items()))
    click.echo()
    click.echo(f"acts on        {places['acts_on']}")
    click.echo(f"reads from     {places['reads_from']}")
    click.echo(f"settings file  {path}" + ("" if path.exists() else " (not there)"))


def _values(settings: Any) -> dict[str, Any]:
    from livethread_config.redis_url import without_password

    values: dict[str, Any] = settings.model_dump(mode="json")
    if values["redis_url"] is not None:
        values["redis_url"] = without_password(values["redis_url"])
    return values


def _text(value: Any) -> str:
    """Return *value* as the environment and the file spell it."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
