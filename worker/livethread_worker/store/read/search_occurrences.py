"""One page of the occurrences of a term in one thread, read from its rollout, turn by turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, Final

from livethread import cursor, types
from livethread.rollout.literal import literal_term
from livethread.rollout.occurrences import occurrences_in_turn
from livethread_worker.store.files import Home
from livethread_worker.store.index import Index
from livethread_worker.store.index.index import TurnSpan
from livethread_worker.store.read.thread_file import open_thread
from livethread_worker.store.read.turn_spans import items_of_turn, turns_from

#: Turns that are looked up at a time.
_TURNS: Final = 100

#: Where an occurrence is: the offset of its turn, and its number there.
_Place = tuple[int, int]


def search_occurrences(home: Home, index: Index, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
    """Return one page of occurrences, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        InvalidRequest: the term is blank, or the cursor is not valid.
    """
    term = literal_term(params.search_term)
    begin = cursor.decode_occurrence(params.cursor) if params.cursor else (0, 0)
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        found = _found(index, params.thread_id, file, begin, term)
        page = list(islice(found, params.page_size + 1))
    return types.OccurrencePage(
        items=tuple(occurrence for _, occurrence in page[: params.page_size]),
        next_cursor=cursor.encode_occurrence(*page[-1][0]) if len(page) > params.page_size else None,
        position=position,
    )


def _found(
    index: Index, thread_id: str, file: BinaryIO, begin: _Place, term: str
) -> Iterator[tuple[_Place, types.ThreadOccurrence]]:
    for span in _turns(index, thread_id, file, begin[0]):
        turn_cursor = cursor.encode_offset("turns", span.offset)
        for number, occurrence in enumerate(
            occurrences_in_turn(span.turn_id, turn_cursor, items_of_turn(file, span), term)
        ):
            if (place := (span.offset, number)) >= begin:
                yield place, occurrence


def _turns(index: Index, thread_id: str, file: BinaryIO, offset: int) -> Iterator[TurnSpan]:
    """Yield the turns from *offset* on that were not rolled back."""
    while spans := turns_from(index, thread_id, offset, _TURNS, file, backward=False):
        yield from spans
        offset = spans[-1].offset + 1
