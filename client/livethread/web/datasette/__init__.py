"""A plugin for Datasette, 0.65 and 1.0: thread ids in an index lead to the threads' pages. Needs the extra ``datasette``.

A database counts as an index if it is ``livethread/index.sqlite`` of a home; the page is read from that home alone. It
shows more of what the table ``messages`` holds, so it needs the right to see that table.

Datasette imports this if both are installed, even without the extra: other packages of the extra are imported for a page. This is
a package because Datasette takes templates from a plugin's folder: those of the folder above are not for it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from datasette import Forbidden, NotFound, Response, hookimpl
from markupsafe import Markup

from livethread.errors import ThreadNotFound, ThreadStoreError
from livethread_config import Settings
from livethread_config.settings import OWN_FOLDER

try:
    from datasette.resources import TableResource
except ModuleNotFoundError:  # 0.65
    TableResource = None

#: Where Datasette shows a thread.
_PATH: Final = "/-/thread/"
_THREAD_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

View = Callable[..., Awaitable[Any]]


@hookimpl  # type: ignore[untyped-decorator]  # Datasette has no types
def register_routes() -> list[tuple[str, View]]:
    """Add the page of a thread."""
    return [(rf"^{_PATH}(?P<thread_id>{_THREAD_ID.pattern})$", show_thread)]


@hookimpl  # type: ignore[untyped-decorator]  # see above
def render_cell(value: object, column: str, database: str, datasette: Any) -> Markup | None:
    """Link the ids of threads in an index."""
    is_id = (
        column.endswith(("thread_id", "forked_from_id")) and isinstance(value, str) and _THREAD_ID.fullmatch(value)
    )
    if not is_id or _home_of(datasette.get_database(database)) is None:
        return None
    return Markup('<a href="{}">{}</a>').format(datasette.urls.path(f"{_PATH}{value}"), value)


async def show_thread(request: Any, datasette: Any) -> Any:
    """Show a thread as one page that loads nothing and runs nothing.

    Raises:
        Forbidden: the actor may see no index.
        NotFound: none of those that the actor may see belongs to a home with the thread.
    """
    thread_id, is_allowed = request.url_vars["thread_id"], False
    async for home in _visible_homes(datasette, request.actor):
        is_allowed = True
        try:
            return Response.html(await _page(home, thread_id))
        except ThreadNotFound:
            continue
        except ThreadStoreError as error:
            return Response.text(str(error), status=503)
    raise NotFound(f"thread {thread_id} not found") if is_allowed else Forbidden("view-table")


async def _page(home: Path, thread_id: str) -> str:
    from livethread.composition import open_queue_state, open_reader
    from livethread.web.share import html_file
    from livethread.web.transcript import Transcript

    settings = Settings(home=home)
    alone = settings.model_copy(update={"redis_url": None, "reads": "local"})  # no other home
    async with open_reader(alone) as reader, open_queue_state(settings) as queue:
        return await html_file(Transcript(reader, queue, thread_id))


async def _visible_homes(datasette: Any, actor: Any) -> AsyncIterator[Path]:
    for name, database in datasette.databases.items():
        home = _home_of(database)
        if home is not None and await _may_see(datasette, actor, name):
            yield home


async def _may_see(datasette: Any, actor: Any, database: str) -> bool:
    if TableResource is not None:
        resource = TableResource(database, "messages")
        return bool(await datasette.allowed(action="view-table", resource=resource, actor=actor))
    permissions = [("view-table", (database, "messages")), ("view-database", database), "view-instance"]
    visible, _ = await datasette.check_visibility(actor, permissions=permissions)
    return bool(visible)


def _home_of(database: Any) -> Path | None:
    """Return the home whose index a database is; None if it is another one."""
    path = Path(database.path or "").absolute()
    return path.parents[1] if path.parts[-2:] == (OWN_FOLDER, "index.sqlite") else None
