"""The index's repeated queries, kept in ``sql/queries.sql`` under ``-- name --`` headings."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

_HEADING: Final = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def _parse(text: str) -> dict[str, str]:
    _, *parts = _HEADING.split(text)
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


QUERIES: Final = _parse(resources.files(__package__).joinpath("sql", "queries.sql").read_text(encoding="utf-8"))
