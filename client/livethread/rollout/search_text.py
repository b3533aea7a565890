"""Search rules that all stores share: which texts can be found, and how a query is parsed."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from livethread.errors import InvalidRequest
from livethread.rollout.user_message import completed_message, message_text, user_request

#: Invisible separator around the characters of scripts without spaces, so that each is a word.
WORD_BREAK: Final = "\u200b"

_UNSPACED: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff])"
)
#: Separates the texts of a listing, so that no term matches across two of them.
_SEPARATOR: Final = "\x1f"
#: U+0000 would end a text in SQLite.
_REPLACEMENTS: Final = {0: " ", ord(_SEPARATOR): " "}

_QUERY_PART: Final = re.compile(r'"([^"]*)"|(\S+)')
_WORD: Final = re.compile(r"[^\W_]+")


class SearchText(NamedTuple):
    """A searchable message."""

    role: str
    text: str

    @property
    def digest(self) -> int:
        """Identifies a text within its thread: an event and a response item often hold the same one."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that must follow one another."""

    words: tuple[str, ...]
    #: Whether the last word may be the start of a longer one.
    is_prefix: bool = False


def search_text(kind: str, payload: Any) -> SearchText | None:
    """Return the user's or the agent's message that an item holds, or None."""
    if not isinstance(payload, dict):
        return None
    what = payload.get("type")
    if what not in (
        "user_message",
        "agent_message",
        "message",
        "item_completed",
    ):  # most items; faster than the match below
        return None
    text, role = "", "assistant"
    match kind, what:
        case "event_msg", "user_message":
            text, role = user_request(str(payload.get("message") or "")), "user"
        case "event_msg", "agent_message":
            text = str(payload.get("message") or "")
        case "event_msg", "item_completed" if message := completed_message(payload):
            role, text = message
            text = user_request(text) if role == "user" else text
        case "response_item", "message" if payload.get("role") in ("user", "assistant"):
            role = payload["role"]
            text = message_text(payload.get("content"))
            text = user_request(text) if role == "user" else text
            if text.startswith("<"):  # context that the harness adds in the user's name
                return None
        case _:
            return None
    text = searchable(text).strip()
    return SearchText(role, text) if text else None


def searchable(text: str) -> str:
    """Return *text* in the form that is searched: composed, and without U+0000, which would end it in SQLite."""
    return _composed(text).replace("\0", " ")


def parse_query(query: str) -> list[Phrase]:
    """Return the phrases that a text must contain: words, ``"quoted phrases"``, and ``prefix*``.

    Raises:
        InvalidRequest: *query* has no word.
    """
    phrases = [
        Phrase(words, part.endswith("*"))
        for part in _parts(query)
        if (words := tuple(_WORD.findall(spaced(_composed(part)))))
    ]
    if not phrases:
        raise InvalidRequest("a search needs at least one word")
    return phrases


def words_of(text: str) -> list[str]:
    """Return the words of *text* without case and diacritics, for comparison."""
    return _WORD.findall(_folded(spaced(_composed(text))))


def folded_term(text: str) -> str:
    """Return a listing's search term without case and composed (NFC), for comparison."""
    return _composed(text).casefold().translate(_REPLACEMENTS)


def listing_text(*texts: str | None) -> str:
    """Return the text in which a listing looks for a `folded_term`: the distinct *texts*, folded alike."""
    return _SEPARATOR.join(dict.fromkeys(folded_term(text) for text in texts if text))


def spaced(text: str) -> str:
    """Return *text* with word breaks around the characters of scripts without spaces."""
    if text.isascii():
        return text
    return _UNSPACED.sub(f"{WORD_BREAK}\\1{WORD_BREAK}", text)


def _parts(query: str) -> Iterator[str]:
    for match in _QUERY_PART.finditer(query):
        yield match[1] if match[1] is not None else match[2]


def _composed(text: str) -> str:
    """Compose letters and their marks: a separate mark would end a word."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))
