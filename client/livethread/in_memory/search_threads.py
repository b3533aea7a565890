"""Searches threads, without an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from livethread import types
from livethread.in_memory.list_threads import list_threads
from livethread.in_memory.stored import Stored
from livethread.rollout.literal import excerpt, literal_term, occurrences
from livethread.rollout.search_text import Phrase, parse_query, search_text, searchable, words_of


def search_threads(stored: Mapping[str, Stored], params: types.SearchThreadsParams) -> types.ThreadSearchPage:
    """Return one page of threads whose name or messages match; unranked."""
    find = _finder(params)
    key = params.sort_key or types.ThreadSortKey.UPDATED_AT
    listing = types.ListThreadsParams(
        page_size=params.page_size,
        cursor=params.cursor,
        sort_key=key,
        sort_direction=params.sort_direction if params.sort_key else types.SortDirection.DESC,
        allowed_sources=params.allowed_sources,
        archived=params.archived,
        include_attached_threads=params.include_attached_threads,
        include_without_preview=True,
    )
    found = {
        thread_id: snippet
        for thread_id, each in stored.items()
        if (snippet := next(filter(None, map(find, _texts(each))), None)) is not None
    }
    page = list_threads(
        {id_: each.shown() for id_, each in stored.items()}, listing, lambda thread: thread.thread_id in found
    )
    items = (types.StoredThreadSearchResult(thread=thread, snippet=found[thread.thread_id]) for thread in page.items)
    return types.ThreadSearchPage(items=tuple(items), next_cursor=page.next_cursor)


def _texts(stored: Stored) -> Iterator[str]:
    if stored.thread.name:
        yield searchable(stored.thread.name)
    for item in stored.history().items:
        if found := search_text(item.type, item.payload):
            yield found.text


def _finder(params: types.SearchThreadsParams) -> Callable[[str], str | None]:
    """Return a function that returns an excerpt of a matching text, or None if the text does not match."""
    if params.match is types.SearchMatch.LITERAL:
        term = literal_term(params.search_term)
        return lambda text: next((excerpt(text, *found).text for found in occurrences(text, term)), None)
    phrases = parse_query(params.search_term)
    return lambda text: text if all(_contains(words_of(text), phrase) for phrase in phrases) else None


def _contains(words: list[str], phrase: Phrase) -> bool:
    wanted = words_of(" ".join(phrase.words))
    for start in range(len(words) - len(wanted) + 1):
        *found, last = words[start : start + len(wanted)]
        if found == wanted[:-1] and (last.startswith(wanted[-1]) if phrase.is_prefix else last == wanted[-1]):
            return True
    return False
