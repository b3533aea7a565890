"""Ordered tasks: what stands in a mailbox, and what a store applies to its files.

A task is a header (JSON) and, where it appends, the encoded lines. Its identity is its writer and the
writer's counter; its position only orders it.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, field_serializer
from pydantic_core import PydanticSerializationError

from livethread.errors import InvalidRequest, ResourceExhausted
from livethread.metadata import MetadataUpdate, ThreadMetadataPatch
from livethread.model import Model, UtcTime
from livethread.rollout.lines import MAX_TASK_BYTES, encode_json
from livethread.rollout.session_meta import SESSION_META_SCHEMA
from livethread.types import IdempotencyKey, Position


def _require_op(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that ``op`` must stand on the wire; in Python the class says it."""
    del schema["properties"]["op"]["default"]
    schema["required"] = ["op", *schema["required"]]


class _Header(Model):
    """What a mailbox entry says of its task, beside the lines."""

    model_config = ConfigDict(json_schema_extra=_require_op)


class CreateThread(_Header):
    """Create the rollout and the row of a new thread."""

    op: Literal["create_thread"] = "create_thread"
    at: UtcTime
    #: Payload of the first line. The store needs its ``id``, which is the thread's; codex the other required keys.
    session_meta: Annotated[dict[str, Any], WithJsonSchema(SESSION_META_SCHEMA)]


class AppendItems(_Header):
    """Append the task's lines to the rollout."""

    op: Literal["append_items"] = "append_items"
    at: UtcTime
    #: Append only if no append of the thread had this key before.
    idempotency_key: IdempotencyKey | None = None


class UpdateThreadMetadata(_Header, MetadataUpdate):
    """Apply a literal patch."""

    op: Literal["update_thread_metadata"] = "update_thread_metadata"
    #: Whether the patch was derived from the items of the writer's task directly before. It leaves no line, and has an
    #: effect only if that append wrote its lines.
    derived: bool = False
    at: UtcTime

    @classmethod
    def of(cls, update: MetadataUpdate, *, at: datetime, derived: bool = False) -> Self:
        """Return the task of *update*."""
        return cls(at=at, patch=update.patch, only_if_unset=update.only_if_unset, derived=derived)

    @field_serializer("patch")
    def _present_fields(self, patch: ThreadMetadataPatch) -> dict[str, Any]:
        """Leave out what the patch leaves: as null it would clear."""
        return patch.to_wire()


class ArchiveThread(_Header):
    """Move the rollout to the archived ones."""

    op: Literal["archive_thread"] = "archive_thread"
    at: UtcTime


class UnarchiveThread(_Header):
    """Move the rollout back to its dated folder."""

    op: Literal["unarchive_thread"] = "unarchive_thread"
    at: UtcTime


class DeleteThread(_Header):
    """Remove everything of the thread; nothing is accepted behind it."""

    op: Literal["delete_thread"] = "delete_thread"
    at: UtcTime


TaskHeader = CreateThread | AppendItems | UpdateThreadMetadata | ArchiveThread | UnarchiveThread | DeleteThread
#: Reads the field ``task`` of a mailbox entry.
TASK_HEADER: TypeAdapter[TaskHeader] = TypeAdapter(Annotated[TaskHeader, Field(discriminator="op")])

#: How the header of an append begins, as our own clients write it, and the longest that is remembered.
_APPEND_BEGINS: Final = b'{"op":"append_items",'
_REMEMBERED_BYTES: Final = 100


class EncodedTask(NamedTuple):
    """A task as it travels, and what must be known of it on its way."""

    op: str
    #: The mailbox entry's fields ``task`` and ``lines``.
    header: bytes
    lines: bytes
    #: Idempotency key of an append.
    key: str | None = None

    @property
    def size(self) -> int:
        """Bytes that travel."""
        return len(self.header) + len(self.lines)


class OrderedTask(NamedTuple):
    """One change of one thread."""

    header: TaskHeader
    #: Encoded lines without their ends, as `encode_line` returns them; of an `AppendItems` only.
    lines: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the lines."""
        return sum(map(len, self.lines))

    def to_wire(self) -> tuple[bytes, bytes]:
        r"""Return header and lines as a mailbox entry's fields ``task`` and ``lines`` (joined by ``\n``).

        Raises:
            InvalidRequest: a field holds what is not JSON.
            ResourceExhausted: the header is longer than `MAX_TASK_BYTES`.
        """
        try:
            fields = self.header.model_dump(mode="json", exclude_defaults=True)
            header = encode_json({"op": self.header.op} | fields)
        except (PydanticSerializationError, UnicodeError) as error:
            raise InvalidRequest(f"{type(self.header).__name__}: {error}") from None
        if len(header) > MAX_TASK_BYTES:
            raise ResourceExhausted(f"a task of more than {MAX_TASK_BYTES} bytes")
        return header, b"\n".join(self.lines)

    def encode(self) -> EncodedTask:
        """Return the task as it travels.

        Raises:
            InvalidRequest: a field holds what is not JSON.
            ResourceExhausted: the header is longer than `MAX_TASK_BYTES`.
        """
        header = self.header
        key = header.idempotency_key if isinstance(header, AppendItems) else None
        return EncodedTask(header.op, *self.to_wire(), key)

    @classmethod
    def from_wire(cls, task: bytes, lines: bytes) -> OrderedTask:
        """Return the task that a mailbox entry holds.

        Raises:
            InvalidRequest: it holds none.
        """
        is_short = len(task) <= _REMEMBERED_BYTES and task.startswith(_APPEND_BEGINS)
        try:
            header = _append_header(task) if is_short else TASK_HEADER.validate_json(task)
        except ValidationError as error:
            # What the entry holds may be contents: they reach no log and no event.
            problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['type']}" for p in error.errors())
            raise InvalidRequest(f"not a task: {problems}") from None
        except InvalidRequest as error:
            raise InvalidRequest(f"not a task: {error}") from None
        return cls(header, tuple(lines.split(b"\n")) if lines else ())


def encode_append(at: datetime, lines: tuple[bytes, ...], idempotency_key: str | None) -> EncodedTask:
    """Return the append of *lines* as it travels. Appends within one millisecond share one encoded header."""
    header = _encoded_header_of_append(at, idempotency_key)
    return EncodedTask("append_items", header, b"\n".join(lines), idempotency_key)


@lru_cache(maxsize=16)
def _encoded_header_of_append(at: datetime, idempotency_key: str | None) -> bytes:
    return OrderedTask(AppendItems(at=at, idempotency_key=idempotency_key)).to_wire()[0]


@lru_cache(maxsize=1024)
def _append_header(task: bytes) -> TaskHeader:
    """Return an append's header. It says its millisecond, little else: under load many are the same, and are read once."""
    return TASK_HEADER.validate_json(task)


class MailboxEntry(NamedTuple):
    """A task in its place."""

    position: Position
    writer: str
    n: int
    task: OrderedTask
