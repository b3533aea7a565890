"""Changes several threads and collects the result of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from livethread.errors import Conflict, ThreadNotFound, ThreadStoreError
from livethread.types import Receipt, ThreadResult, ThreadResults

#: Changes one thread.
Change = Callable[[str], Awaitable[Receipt]]


async def archive_each(thread_ids: Iterable[str], archive: Change) -> ThreadResults:
    """Archive threads concurrently."""
    return _results(await _outcomes(dict.fromkeys(thread_ids), archive))


async def delete_each(
    thread_ids: Iterable[str], delete: Change, until_applied: Callable[[str], Awaitable[object]] | None = None
) -> ThreadResults:
    """Delete threads concurrently; a missing thread counts as deleted.

    A thread that others need can be deleted only after them, so refused threads are tried again as long as each round
    deletes some. *until_applied* waits until a thread's deletion is applied; None if *delete* does.
    """
    outcomes: dict[str, Receipt | ThreadStoreError | None] = {}
    pending = list(dict.fromkeys(thread_ids))
    while pending:
        tried = await _outcomes(pending, delete)
        outcomes |= {id_: None if isinstance(each, ThreadNotFound) else each for id_, each in tried.items()}
        refused = [thread_id for thread_id, outcome in tried.items() if isinstance(outcome, Conflict)]
        if refused and until_applied is not None:
            deleted = [thread_id for thread_id, outcome in tried.items() if isinstance(outcome, Receipt)]
            await asyncio.gather(
                *map(until_applied, deleted), return_exceptions=True
            )  # a deletion that was accepted succeeds, even if late
        pending = refused if len(refused) < len(pending) else []
    return _results(outcomes)


async def _outcomes(thread_ids: Iterable[str], change: Change) -> dict[str, Receipt | ThreadStoreError]:
    async def outcome(thread_id: str) -> Receipt | ThreadStoreError:
        try:
            return await change(thread_id)
        except ThreadStoreError as error:
            return error

    ids = list(thread_ids)
    return dict(zip(ids, await asyncio.gather(*map(outcome, ids)), strict=True))


def _results(outcomes: Mapping[str, Receipt | ThreadStoreError | None]) -> ThreadResults:
    return ThreadResults(
        results=tuple(
            ThreadResult(thread_id=thread_id, error=outcome)
            if isinstance(outcome, ThreadStoreError)
            else ThreadResult(thread_id=thread_id, receipt=outcome)
            for thread_id, outcome in outcomes.items()
        )
    )
