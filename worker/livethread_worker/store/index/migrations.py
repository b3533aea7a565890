"""The schema, as `sqlite-utils` applies and records it.

`sql/schema.sql` is the whole schema. An index is disposable, so a change of the schema needs no migration of rows: it
gets a new name here, and older indexes are rebuilt from the rollouts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import resources

from sqlite_utils import Database, Migrations

migrations = Migrations("livethread")


@migrations()
def m001_schema(db: Database) -> None:
    """Create everything."""
    # Not executescript(): it would commit the transaction that also records the migration.
    for statement in _statements(resources.files(__package__).joinpath("sql", "schema.sql").read_text("utf-8")):
        db.execute(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def missing_and_unknown(db: Database) -> tuple[set[str], set[str]]:
    """Return the migrations that an index lacks, and those that it holds and this release does not know."""
    with closing(sqlite3.connect(":memory:")) as empty:
        known = {migration.name for migration in migrations.pending(Database(empty))}
    applied = {migration.name for migration in migrations.applied(db)}
    return known - applied, applied - known
