"""The web application: which address shows what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from livethread import types
from livethread.cursor import require_items_cursor
from livethread.errors import InvalidRequest, SilentHome, ThreadNotFound, ThreadStoreError, Unavailable
from livethread.metadata import StoredThread
from livethread.store import ThreadReader, WatchingReader
from livethread.web.events import event_stream
from livethread.web.guard import Guard
from livethread.web.listing import SOURCES, Filters, listing
from livethread.web.live import end_of, follow
from livethread.web.render import render
from livethread.web.share import html_file, json_lines
from livethread.web.system import StatusSource, show_system, stream_status
from livethread.web.transcript import QueueState, Transcript, title

#: Sub-agents, and attached forks, to which a thread's page links.
RELATED: Final = 20
#: Places that a search within a thread shows.
OCCURRENCES: Final = 100

_STATUS: Final = {
    ThreadNotFound: HTTPStatus.NOT_FOUND,
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def create_app(
    reader: WatchingReader,
    queue: QueueState,
    status: StatusSource,
    *,
    place: str,
    flower: str | None = None,
    token: str | None = None,
    names: Collection[str] = (),
) -> Starlette:
    """Return the application, which shows what *reader*, *queue* and *status* say.

    *place*: where the threads are, for a person. *flower*: address of Flower. *token*: needed for every request. *names*:
    host names, besides addresses and ``localhost``, that a request may name.
    """
    thread = "/threads/{thread_id}"
    app = Starlette(
        routes=[
            Route("/", show_list),
            Route("/system", show_system),
            Route("/system/live", stream_status),
            Route(thread, show_thread),
            Route(f"{thread}/live", stream_changes),
            Route(f"{thread}/items.jsonl", download_items),
            Route(f"{thread}/share.html", download_page),
            Mount("/static", StaticFiles(packages=[("livethread.web", "static")])),
        ],
        middleware=[Middleware(Guard, token=token, names=names)],
        exception_handlers={ThreadStoreError: _show_error, HTTPException: _show_error},
    )
    app.state.reader, app.state.queue, app.state.place = reader, queue, place
    app.state.status, app.state.flower = status, flower
    app.state.is_stopping = lambda: False
    return app


async def _show_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        status, message = HTTPStatus(error.status_code), error.detail
    else:
        statuses = (status for kind, status in _STATUS.items() if isinstance(error, kind))
        status = next(statuses, HTTPStatus.INTERNAL_SERVER_ERROR)
        message = str(error)
    return HTMLResponse(render("error.html", status=f"{status} {status.phrase}", message=message), status)


async def show_list(request: Request) -> Response:
    """Show a page of the list."""
    filters = Filters.of(request.query_params)
    page = await listing(request.app.state.reader, request.app.state.queue, filters)
    html = render(
        "list.html",
        f=filters,
        rows=page.rows,
        next=page.next_cursor and filters.query(page.next_cursor),
        has_queue_state=page.has_queue_state,
        unanswered=page.unanswered,
        sources=SOURCES,
        place=request.app.state.place,
    )
    return HTMLResponse(html)


async def show_thread(request: Request) -> Response:
    """Show a thread: its newest turns, those before a cursor, or those around one turn."""
    transcript, query = _transcript(request), request.query_params
    reader, thread_id = transcript.reader, transcript.thread_id
    thread = await reader.read_thread(types.ReadThreadParams(thread_id=thread_id))
    after = await end_of(reader, thread_id)  # before the turns, so that nothing comes between
    cursor = query.get("before")
    if turn_id := query.get("turn"):
        cursor = await transcript.cursor_of(turn_id)
    page = await transcript.page(cursor)
    parked = await transcript.queue.parked()
    relations, unanswered = await _relations(reader, thread)
    html = render(
        "thread.html",
        thread=thread,
        page=page,
        shown={turn.id for turn in page.turns},
        prompts=await transcript.prompts(),
        relations=relations,
        unanswered=unanswered,
        parked=(parked or {}).get(thread_id),
        after=after,
        q=query.get("q", "").strip(),
        found=await _occurrences(reader, thread_id, query.get("q", "").strip()),
    )
    return HTMLResponse(html)


async def stream_changes(request: Request) -> Response:
    """Stream what changes in a thread after a cursor, which a browser that connects again names in a header."""
    cursor = request.headers.get("last-event-id") or request.query_params.get("after", "")
    require_items_cursor(cursor)
    return event_stream(follow(_transcript(request), cursor, request.app.state.is_stopping))


async def download_items(request: Request) -> Response:
    """Stream a thread's items, or those of one turn, as JSON lines."""
    transcript = _transcript(request)
    lines = json_lines(transcript.reader, transcript.thread_id, request.query_params.get("turn"))
    first = await anext(lines)  # a missing thread is a 404, no torn file

    async def whole() -> AsyncIterator[str]:
        yield first
        async for more in lines:
            yield more

    return StreamingResponse(whole(), media_type="text/plain; charset=utf-8")


async def download_page(request: Request) -> Response:
    """Send a thread as one HTML file."""
    transcript = _transcript(request)
    name = f'attachment; filename="{transcript.thread_id}.html"'
    return HTMLResponse(await html_file(transcript), headers={"Content-Disposition": name})


def _transcript(request: Request) -> Transcript:
    thread_id = types.ReadThreadParams(thread_id=request.path_params["thread_id"]).thread_id
    return Transcript(request.app.state.reader, request.app.state.queue, thread_id)


#: How threads relate to a thread -> the id and the title of each.
Relations = list[tuple[str, list[tuple[str, str]]]]


async def _relations(reader: ThreadReader, thread: StoredThread) -> tuple[Relations, list[SilentHome]]:
    """Return the threads to which a thread leads, by how they relate to it, and the homes that may have more."""
    spawned = types.ThreadRelationFilter(kind=types.RelationKind.DIRECT_CHILDREN, thread_id=thread.thread_id)
    filters: tuple[dict[str, object], ...] = (
        {"relation_filter": spawned, "include_attached_threads": True},
        {"attached_to_thread_id": thread.thread_id},
    )
    pages = await asyncio.gather(
        *(_related(reader, each | {"archived": archived}) for each in filters for archived in (False, True))
    )
    titles = [[(each.thread_id, title(each)) for each in page.items] for page in pages]
    children, forks = titles[0] + titles[1], titles[2] + titles[3]
    parents = (("sub-agent of", thread.parent_thread_id), ("fork of", thread.forked_from_id))
    found = [(name, [(parent, parent)]) for name, parent in parents if parent]
    found += [(name, threads) for name, threads in (("sub-agents", children), ("forks", forks)) if threads]
    return found, list({each.home: each for page in pages for each in page.unanswered}.values())


async def _related(reader: ThreadReader, filters: dict[str, object]) -> types.ThreadPage:
    known = {"page_size": RELATED, "include_without_preview": True, "allow_partial": True}
    return await reader.list_threads(types.ListThreadsParams.model_validate(known | filters))


async def _occurrences(reader: ThreadReader, thread_id: str, term: str) -> tuple[types.ThreadOccurrence, ...]:
    if not term:
        return ()
    params = types.SearchOccurrencesParams(thread_id=thread_id, search_term=term, page_size=OCCURRENCES)
    return (await reader.search_occurrences(params)).items
