"""Thread ids: the only durable handle of a thread."""

from __future__ import annotations

import os
import re
import time
import uuid
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_IN_ANY_CASE: Final = _CANONICAL_UUID.pattern.replace("a-f", "A-Fa-f")

#: The JSON schema of an id in its canonical form.
CANONICAL_ID_SCHEMA: Final = {"type": "string", "format": "uuid", "pattern": f"^{_CANONICAL_UUID.pattern}$"}


#: How the path of a rollout ends.
_ROLLOUT_NAME: Final = re.compile(
    rf"(?:^|/)rollout-[0-9T-]+-({_CANONICAL_UUID.pattern})(?:_[0-9a-f-]+)?\.jsonl(?:\.zst)?$"
)


@lru_cache(maxsize=1024)  # a session passes the same id with every call
def _canonical(value: str) -> str:
    text = value.lower()
    if _CANONICAL_UUID.fullmatch(text) is None:
        raise ValueError(f"a thread id is a UUID such as 019a93b9-f380-7600-98ff-940e6b99603c, not {value[:80]!r}")
    return text


#: A UUID in its canonical lower-case form. Every operation checks it, so no other text can reach a path, a Redis key or
#: a query.
ThreadId = Annotated[
    str,
    AfterValidator(_canonical),
    WithJsonSchema({**CANONICAL_ID_SCHEMA, "pattern": f"^{_UUID_IN_ANY_CASE}$"}, mode="validation"),
    WithJsonSchema(CANONICAL_ID_SCHEMA, mode="serialization"),
]


def canonical_thread_id(text: str) -> ThreadId | None:
    """Return *text* in the canonical form of a thread id, or None if it is not a UUID."""
    try:
        return _canonical(text)
    except ValueError:
        return None


def thread_of_rollout_name(path: str) -> ThreadId | None:
    """Return the thread id in the name of the rollout *path*; None if it is not the name of a rollout."""
    named = _ROLLOUT_NAME.search(path)
    return named[1] if named else None


def new_thread_id() -> ThreadId:
    """Return a new UUIDv7 (RFC 9562). Like codex's, ids sort by the millisecond of their creation."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=value))
