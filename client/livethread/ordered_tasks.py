"""Ordered tasks: the changes that mailboxes hold and stores apply.

A task is a JSON header and, for an append, the encoded lines. Its writer and counter identify it; its position only
orders it.
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
from livethread.position import Position
from livethread.rollout.lines import MAX_TASK_BYTES, encode_json
from livethread.rollout.session_meta import SESSION_META_SCHEMA
from livethread.types import IdempotencyKey


def _require_op(schema: dict[str, Any]) -> None:
    """Require ``op`` in the JSON schema: on the wire it selects the class."""
    del schema["properties"]["op"]["default"]
    schema["required"] = ["op", *schema["required"]]


class _Header(Model):
    """A task without its lines."""

    model_config = ConfigDict(json_schema_extra=_require_op)


class CreateThread(_Header):
    """Create the rollout and the row of a new thread."""

    op: Literal["create_thread"] = "create_thread"
    at: UtcTime
    #: Payload of the first line. Its ``id`` is the thread's; codex needs the other required keys.
    session_meta: Annotated[dict[str, Any], WithJsonSchema(SESSION_META_SCHEMA)]


class AppendItems(_Header):
    """Append the task's lines to the rollout."""

    op: Literal["append_items"] = "append_items"
    at: UtcTime
    #: Append only if no earlier append of the thread had this idempotency key.
    idempotency_key: IdempotencyKey | None = None


class UpdateThreadMetadata(_Header, MetadataUpdate):
    """Apply a literal patch."""

    op: Literal["update_thread_metadata"] = "update_thread_metadata"
    #: Whether the patch was derived from the items of the writer's previous task, an append. A derived patch leaves no
    #: line, and takes effect only if that append wrote its lines.
    derived: bool = False
    at: UtcTime

    @classmethod
    def of(cls, update: MetadataUpdate, *, at: datetime, derived: bool = False) -> Self:
        """Return the task that applies *update*."""
        return cls(at=at, patch=update.patch, only_if_unset=update.only_if_unset, derived=derived)

    @field_serializer("patch")
    def _present_fields(self, patch: ThreadMetadataPatch) -> dict[str, Any]:
        """Omit absent fields: null would clear them."""
        return patch.to_wire()


class ArchiveThread(_Header):
    """Move the rollout to the folder of archived rollouts."""

    op: Literal["archive_thread"] = "archive_thread"
    at: UtcTime


class UnarchiveThread(_Header):
    """Move the rollout back to its dated folder."""

    op: Literal["unarchive_thread"] = "unarchive_thread"
    at: UtcTime


class DeleteThread(_Header):
    """Remove everything that is stored for the thread; no later task is accepted."""

    op: Literal["delete_thread"] = "delete_thread"
    at: UtcTime


TaskHeader = CreateThread | AppendItems | UpdateThreadMetadata | ArchiveThread | UnarchiveThread | DeleteThread
#: Parses the field ``task`` of a mailbox entry.
TASK_HEADER: TypeAdapter[TaskHeader] = TypeAdapter(Annotated[TaskHeader, Field(discriminator="op")])

#: Start of an append's header as our clients write it, and the longest header that is cached.
_APPEND_PREFIX: Final = b'{"op":"append_items",'
_MAX_CACHED_BYTES: Final = 100


class EncodedTask(NamedTuple):
    """A task, encoded for its mailbox."""

    op: str
    #: The mailbox entry's fields ``task`` and ``lines``.
    header: bytes
    lines: bytes
    #: Idempotency key of an append.
    key: str | None = None

    @property
    def size(self) -> int:
        """Bytes of header and lines."""
        return len(self.header) + len(self.lines)


class OrderedTask(NamedTuple):
    """One change of one thread."""

    header: TaskHeader
    #: Encoded lines without line ends, as `encode_line` returns them; only for `AppendItems`.
    lines: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the lines."""
        return sum(map(len, self.lines))

    def to_wire(self) -> tuple[bytes, bytes]:
        r"""Return header and lines as a mailbox entry's fields ``task`` and ``lines`` (joined by ``\n``).

        Raises:
            InvalidRequest: a field's value is not JSON.
            ResourceExhausted: the header is longer than `MAX_TASK_BYTES`.
        """
        try:
            fields = self.header.model_dump(mode="json", exclude_defaults=True)
            header = encode_json({"op": self.header.op} | fields)
        except (PydanticSerializationError, UnicodeError) as error:
            raise InvalidRequest(f"{type(self.header).__name__}: {error}") from None
        if len(header) > MAX_TASK_BYTES:
            raise ResourceExhausted(f"the change takes more than {MAX_TASK_BYTES} bytes; make it smaller")
        return header, b"\n".join(self.lines)

    def encode(self) -> EncodedTask:
        """Return the task, encoded for its mailbox.

        Raises:
            InvalidRequest: a field's value is not JSON.
            ResourceExhausted: the header is longer than `MAX_TASK_BYTES`.
        """
        header = self.header
        key = header.idempotency_key if isinstance(header, AppendItems) else None
        return EncodedTask(header.op, *self.to_wire(), key)

    @classmethod
    def from_wire(cls, task: bytes, lines: bytes) -> OrderedTask:
        """Return the task that a mailbox entry's fields ``task`` and ``lines`` hold.

        Raises:
            InvalidRequest: they hold no task.
        """
        is_cached = len(task) <= _MAX_CACHED_BYTES and task.startswith(_APPEND_PREFIX)
        try:
            header = _append_header(task) if is_cached else TASK_HEADER.validate_json(task)
        except ValidationError as error:
            # Without the values: they may be contents, which no log and no event may hold.
            problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['type']}" for p in error.errors())
            raise InvalidRequest(f"not a task: {problems}") from None
        except InvalidRequest as error:
            raise InvalidRequest(f"not a task: {error}") from None
        return cls(header, tuple(lines.split(b"\n")) if lines else ())


def encode_append(at: datetime, lines: tuple[bytes, ...], idempotency_key: str | None) -> EncodedTask:
    """Return an append of *lines*, encoded for its mailbox. Appends within a millisecond share one encoded header."""
    header = _encoded_header_of_append(at, idempotency_key)
    return EncodedTask("append_items", header, b"\n".join(lines), idempotency_key)


@lru_cache(maxsize=16)
def _encoded_header_of_append(at: datetime, idempotency_key: str | None) -> bytes:
    return OrderedTask(AppendItems(at=at, idempotency_key=idempotency_key)).to_wire()[0]


@lru_cache(maxsize=1024)
def _append_header(task: bytes) -> TaskHeader:
    """Parse an append's header. It holds little but its millisecond, so under load many are equal."""
    return TASK_HEADER.validate_json(task)


class MailboxEntry(NamedTuple):
    """A task in its thread's order."""

    position: Position
    writer: str
    n: int
    task: OrderedTask
    #: Trace context of its caller as Redis holds it: empty if there is none, and perhaps malformed.
    traceparent: bytes = b""
