"""Lists threads, without an index."""

from __future__ import annotations

from collections.abc import Callable

from livethread import types
from livethread.cursor import decode_cursor, encode_cursor
from livethread.directories import same_directory
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.rollout.search_text import folded_term, listing_text


def list_threads(
    threads: dict[str, StoredThread],
    params: types.ListThreadsParams,
    wanted: Callable[[StoredThread], bool] = lambda _: True,
) -> types.ThreadPage:
    """Return one page of the *threads* that are *wanted* and pass the filters."""
    key = params.sort_key.value

    def order(thread: StoredThread) -> tuple[str, str]:
        return format_time(getattr(thread, key)), thread.thread_id

    descending = params.sort_direction is types.SortDirection.DESC
    matching = sorted((t for t in threads.values() if wanted(t) and _matches(threads, t, params)), key=order)
    if descending:
        matching.reverse()
    if params.cursor:
        after = decode_cursor(params.cursor, params.sort_key)
        matching = [t for t in matching if (order(t) < after if descending else order(t) > after)]
    page = tuple(matching[: params.page_size])
    more = len(matching) > params.page_size
    return types.ThreadPage(items=page, next_cursor=encode_cursor(page[-1], params.sort_key) if more else None)


def _matches(threads: dict[str, StoredThread], thread: StoredThread, params: types.ListThreadsParams) -> bool:
    term = folded_term(params.search_term or "")
    return (
        (thread.archived_at is not None) == params.archived
        and thread.thread_id.startswith(params.thread_id_prefix or "")
        and _is_shown(thread, params)
        and (thread.preview != "" or params.include_without_preview)
        and (not params.allowed_sources or thread.source in params.allowed_sources)
        and (not params.model_providers or thread.model_provider in params.model_providers)
        and (params.cwd_filters is None or same_directory(params.cwd_filters)(thread.cwd))
        and (not term or term in listing_text(thread.name, thread.title, thread.preview))
        and (params.relation_filter is None or _is_related(threads, thread, params))
    )


def _is_shown(thread: StoredThread, params: types.ListThreadsParams) -> bool:
    """Whether the parameters ask for the thread if it is attached."""
    if params.attached_to_thread_id is not None:
        return thread.attached_to_thread_id == params.attached_to_thread_id
    return params.include_attached_threads or thread.attached_to_thread_id is None


def _is_related(threads: dict[str, StoredThread], thread: StoredThread, params: types.ListThreadsParams) -> bool:
    assert params.relation_filter is not None
    ancestor, wanted = thread.parent_thread_id, params.relation_filter.thread_ids
    if params.relation_filter.kind is types.RelationKind.DESCENDANTS:
        seen: set[str] = set()
        while ancestor in threads and ancestor not in wanted and ancestor not in seen:
            seen.add(ancestor)
            ancestor = threads[ancestor].parent_thread_id
    return ancestor in wanted
