"""``livethread schema``: print the JSON schemas of the wire format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from livethread.cli.output import as_indented_json, json_option, print_json

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue


@click.command("schema")
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write <NAME>.json files into DIR."
)
@json_option
def command(name: str | None, out: Path | None, *, as_json: bool) -> None:
    """Print the JSON schema NAME of the wire format, or list all schemas, or write them as files.

    With them, other languages can enqueue tasks: see docs/wire.md.
    """
    chosen = _chosen(name)
    if out is not None:
        _write(chosen, out)
    elif name is not None:
        print_json(chosen[name])
    elif as_json:
        print_json({each: _summary(schema) for each, schema in chosen.items()})
    else:
        width = max(map(len, chosen))
        for each, schema in chosen.items():
            click.echo(f"{each:{width}}  {_summary(schema)}")


def _chosen(name: str | None) -> dict[str, JsonSchemaValue]:
    from livethread.schema import schemas

    every = schemas()
    if name is None:
        return every
    if name not in every:
        raise click.BadParameter(f"unknown schema {name}; livethread schema lists them", param_hint="NAME")
    return {name: every[name]}


def _summary(schema: JsonSchemaValue) -> str:
    return str(schema["description"]).partition("\n")[0]


def _write(chosen: dict[str, JsonSchemaValue], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in chosen.items():
        (folder / f"{name}.json").write_bytes(as_indented_json(schema) + b"\n")
    click.echo(f"{len(chosen)} schemas in {folder}")
