"""Lua scripts, loaded from the files beside them."""

from __future__ import annotations

from importlib import resources
from typing import Final

#: ms for which a doorbell that was published counts as outstanding; after it, another may be rung.
BELL_TTL_MS: Final = 2_000


def load_script(package: str, name: str) -> str:
    """Return the source of ``lua/<name>.lua`` in *package*."""
    return resources.files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
