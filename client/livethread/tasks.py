"""Ordered tasks: what stands in a mailbox, and what a store applies to its files.

A task is a header (JSON) and, where it appends, the encoded lines. Its identity is its writer and the
writer's counter; its position only orders it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from livethread.errors import InvalidRequest
from livethread.metadata import ThreadMetadataPatch
from livethread.model import Model, UtcTime
from livethread.types import Position


class CreateThread(Model):
    """Create the rollout and the row of a new thread."""

    op: Literal["create_thread"] = "create_thread"
    at: UtcTime
    #: Payload of the first line.
    session_meta: dict[str, Any]


class AppendItems(Model):
    """Append the task's lines to the rollout."""

    op: Literal["append_items"] = "append_items"
    at: UtcTime


class UpdateThreadMetadata(Model):
    """Apply a literal patch."""

    op: Literal["update_thread_metadata"] = "update_thread_metadata"
    at: UtcTime
    patch: ThreadMetadataPatch
    observed_from: Position | None = None


class ArchiveThread(Model):
    """Move the rollout to the archived ones."""

    op: Literal["archive_thread"] = "archive_thread"
    at: UtcTime


class UnarchiveThread(Model):
    """Move the rollout back to its dated folder."""

    op: Literal["unarchive_thread"] = "unarchive_thread"
    at: UtcTime


class DeleteThread(Model):
    """Remove everything of the thread; nothing is accepted behind it."""

    op: Literal["delete_thread"] = "delete_thread"
    at: UtcTime


TaskHeader = CreateThread | AppendItems | UpdateThreadMetadata | ArchiveThread | UnarchiveThread | DeleteThread
_HEADER: TypeAdapter[TaskHeader] = TypeAdapter(Annotated[TaskHeader, Field(discriminator="op")])


@dataclass(frozen=True, slots=True)
class OrderedTask:
    """One change of one thread."""

    header: TaskHeader
    #: Encoded lines without their ends, as `encode_line` returns them; of an `AppendItems` only.
    lines: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the lines."""
        return sum(map(len, self.lines))

    def to_wire(self) -> tuple[bytes, bytes]:
        r"""Return header and lines as a mailbox entry's fields ``task`` and ``lines`` (joined by ``\n``)."""
        header = self.header.model_dump_json(exclude_unset=False, exclude=_unset_fields(self.header)).encode()
        return header, b"\n".join(self.lines)

    @classmethod
    def from_wire(cls, task: bytes, lines: bytes) -> OrderedTask:
        """Return the task that a mailbox entry holds.

        Raises:
            InvalidRequest: it holds none.
        """
        try:
            header = _HEADER.validate_json(task)
        except ValueError as error:
            raise InvalidRequest(f"not a task: {error}") from None
        return cls(header, tuple(lines.split(b"\n")) if lines else ())


def _unset_fields(header: TaskHeader) -> dict[str, Any] | None:
    """Say which fields of a patch are absent: dumping them as null would clear what is to be left."""
    if not isinstance(header, UpdateThreadMetadata):
        return None
    patch = header.patch
    absent: dict[str, Any] = {name: True for name in type(patch).model_fields if name not in patch.model_fields_set}
    if patch.git_info is not None:
        git = patch.git_info
        absent["git_info"] = {name for name in type(git).model_fields if name not in git.model_fields_set}
    return {"patch": absent}


@dataclass(frozen=True, slots=True)
class MailboxEntry:
    """A task in its place."""

    position: Position
    writer: str
    n: int
    task: OrderedTask
