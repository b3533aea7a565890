"""Find the thread that a user means: by its id, the beginning of one, or its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from livethread.errors import InvalidRequest, ThreadNotFound

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.store import ThreadReader

#: The beginning of an id; a shorter one is only looked for as a name.
_ID_PREFIX: Final = re.compile(r"[0-9a-f-]{4,36}")

#: Threads that an error about an ambiguous text lists.
_LISTED: Final = 5


async def find_thread(reader: ThreadReader, text: str, *, fresh: bool = False) -> StoredThread:
    """Return the thread, archived or not, whose id is *text* or begins with it, or whose name it is.

    *fresh*: as in `Freshness`; reads of the thread that follow show at least as much.

    Raises:
        ThreadNotFound: no thread has this id or name.
        InvalidRequest: several do. (A name that several threads have means the one that got it last.)
    """
    from livethread.thread_id import canonical_thread_id
    from livethread.types import ReadThreadParams

    if not text.strip():
        raise InvalidRequest("a thread is given by its id, the beginning of one, or its name: the text is empty")
    thread_id = canonical_thread_id(text)
    if thread_id is not None:
        return await reader.read_thread(ReadThreadParams(thread_id=thread_id, fresh=fresh))
    found = {thread.thread_id: thread for thread in await _beginning_with(reader, text.lower(), fresh=fresh)}
    if (named := await _named(reader, text, fresh=fresh)) is not None:
        found[named.thread_id] = named
    if not found:
        raise ThreadNotFound(text, "no thread has this name, or an id that begins like this")
    if len(found) > 1:
        shown = [f"{each.thread_id} ({described(each)})" for each in found.values()]
        more = ["… and more"] if len(shown) > _LISTED else []
        raise InvalidRequest(
            f"{text} may mean several threads; write more of the id: {', '.join(shown[:_LISTED] + more)}"
        )
    [thread] = found.values()
    return thread


def described(thread: StoredThread) -> str:
    """Return what a user knows the thread by, on one line."""
    from livethread.cli.output import one_line

    return one_line(thread.name or thread.preview or "nothing was asked", 60)


async def _beginning_with(reader: ThreadReader, text: str, *, fresh: bool) -> list[StoredThread]:
    from livethread.types import ListThreadsParams

    if not _ID_PREFIX.fullmatch(text):
        return []
    wanted = ListThreadsParams(
        thread_id_prefix=text,
        page_size=_LISTED + 1,
        include_without_preview=True,
        include_attached_threads=True,
        fresh=fresh,
    )
    pages = [await reader.list_threads(wanted.model_copy(update={"archived": each})) for each in (False, True)]
    return [thread for page in pages for thread in page.items]


async def _named(reader: ThreadReader, text: str, *, fresh: bool) -> StoredThread | None:
    from livethread.types import FindThreadByNameParams

    for include_archived in (False, True):
        try:
            wanted = FindThreadByNameParams(name=text, include_archived=include_archived, fresh=fresh)
            return await reader.find_thread_by_name(wanted)
        except ThreadNotFound:
            continue
    return None
