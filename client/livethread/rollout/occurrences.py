"""Finds a term in the messages of a turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from livethread.rollout.item import RolloutItem
from livethread.rollout.literal import excerpt, occurrences
from livethread.rollout.search_text import SearchText, search_text
from livethread.types import ThreadOccurrence


def occurrences_in_turn(
    turn_id: str, turn_cursor: str, items: Sequence[RolloutItem], term: str
) -> Iterator[ThreadOccurrence]:
    """Yield the occurrences of a `literal_term` in the messages of a turn, in order."""
    for item, message in _messages(items):
        for found in occurrences(message.text, term):
            around = excerpt(message.text, *found)
            yield ThreadOccurrence(
                turn_id=turn_id,
                ordinal=item.ordinal,
                role=message.role,
                snippet=around.text,
                start=around.start,
                end=around.end,
                turn_cursor=turn_cursor,
            )


def _messages(items: Sequence[RolloutItem]) -> Iterator[tuple[RolloutItem, SearchText]]:
    """Yield each message once: most are stored both as an event and as a response item."""
    first_form: dict[str, str] = {}
    for item in items:
        message = search_text(item.type, item.payload)
        if message and first_form.setdefault(message.text, item.type) == item.type:
            yield item, message
