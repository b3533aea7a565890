"""Files of a thread to take away: one HTML file that needs nothing else, and the items as JSON lines."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Final

from markupsafe import Markup

from livethread import types
from livethread.store import ThreadReader
from livethread.web.render import asset, render
from livethread.web.transcript import Transcript

#: Items of one read.
PAGE: Final = 500


async def html_file(transcript: Transcript) -> str:
    """Return a thread as one HTML file: it loads nothing and runs nothing.

    Raises:
        ThreadNotFound: no such thread.
    """
    thread = await transcript.reader.read_thread(types.ReadThreadParams(thread_id=transcript.thread_id))
    style = asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render(
        "share.html",
        thread=thread,
        turns=await transcript.whole(),
        style=Markup(style),  # noqa: S704 - ours
        style_hash=f"sha256-{digest}",
    )


async def json_lines(reader: ThreadReader, thread_id: str, turn_id: str | None = None) -> AsyncIterator[str]:
    """Yield the items of a thread, or of one of its turns, each as a line of JSON.

    Raises:
        ThreadNotFound: no such thread.
        InvalidRequest: no such turn.
    """
    cursor = None
    while True:
        params = types.ListItemsParams(thread_id=thread_id, turn_id=turn_id, cursor=cursor, page_size=PAGE)
        page = await reader.list_items(params)
        items = page.model_dump(mode="json")["items"]
        for item in items:
            if item["ordinal"] is None:  # older codex numbers no lines
                del item["ordinal"]
        yield "".join(f"{json.dumps(item, ensure_ascii=False, separators=(',', ':'))}\n" for item in items)
        if (cursor := page.next_cursor) is None:
            return
