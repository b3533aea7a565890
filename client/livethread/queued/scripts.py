"""Lua scripts, loaded from the files beside the modules that call them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

#: Milliseconds for which a published doorbell counts as outstanding; afterwards another may be rung.
BELL_TTL_MS: Final = 2_000


@cache
def load_script(package: str, name: str) -> str:
    """Return the source of ``lua/<name>.lua`` in *package*."""
    return resources.files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
