"""Parameters of changes, and what became of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, PlainSerializer, WithJsonSchema

from livethread.errors import ThreadStoreError
from livethread.metadata import MetadataUpdate
from livethread.model import Model, Result, UtcTime, utc_now
from livethread.position import Position
from livethread.rollout.item import AppendedItems
from livethread.thread_id import ThreadId

#: Threads of one call. A thread that is named twice counts once.
ThreadIds = Annotated[tuple[ThreadId, ...], Field(min_length=1, max_length=1000)]

#: Names an append for the life of its thread; see `AppendThreadItemsParams`. No control characters.
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]

_ErrorAsText = Annotated[
    ThreadStoreError, PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"}, mode="serialization")
]


class AppendThreadItemsParams(Model):
    """Parameters for appending items in order, all or none."""

    thread_id: ThreadId
    #: At least one.
    items: Annotated[AppendedItems, Field(json_schema_extra={"minItems": 1})]
    #: Time of items that have none.
    appended_at: UtcTime = Field(default_factory=utc_now)
    #: Append only if the thread's last accepted task has this position (compare-and-append).
    expected_position: Position | None = None
    #: The thread's first append with this idempotency key counts, however long ago and through any store. Later ones
    #: succeed and change nothing, whatever their items. If the store knows that the idempotency key is taken, it ignores
    #: the expected position.
    idempotency_key: IdempotencyKey | None = None
    #: Metadata derived from the items, as by `LiveThread`. It takes effect as if `update_thread_metadata` were called right
    #: after the append, with nothing in between. Both are accepted or neither. If the append repeats an idempotency key,
    #: the patch has no effect. Without metadata, an append changes only the history and ``updated_at``.
    metadata: MetadataUpdate | None = None


class UpdateThreadMetadataParams(MetadataUpdate):
    """Parameters for patching a thread's metadata."""

    thread_id: ThreadId
    include_archived: bool = True


class ArchiveThreadParams(Model):
    """Parameters for archiving or unarchiving a thread."""

    thread_id: ThreadId


class ArchiveThreadsParams(Model):
    """Parameters for archiving several threads."""

    thread_ids: ThreadIds


class DeleteThreadParams(Model):
    """Parameters for deleting a thread."""

    thread_id: ThreadId


class DeleteThreadsParams(Model):
    """Parameters for deleting several threads."""

    thread_ids: ThreadIds


class Receipt(Result):
    """A task is ordered and accepted: as durable as the mailbox, and certain to be applied."""

    thread_id: ThreadId
    #: The task's place in the thread's order.
    position: Position
    #: Items of a `LiveThread`'s append that the persistence policy dropped.
    dropped: Annotated[int, Field(ge=0)] = 0


class ThreadResult(Result):
    """What became of one thread of a call that changes several."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    thread_id: ThreadId
    #: None if it failed, and if a thread to delete was gone already.
    receipt: Receipt | None = None
    #: Why it failed. In JSON, its message.
    error: _ErrorAsText | None = None


class ThreadResults(Result):
    """What became of each thread of a call that changes several, in the order in which the call named them."""

    results: tuple[ThreadResult, ...]

    @property
    def done(self) -> dict[str, Receipt | None]:
        """The receipt of each thread that was changed; None if a thread to delete was gone already."""
        return {result.thread_id: result.receipt for result in self.results if result.error is None}

    @property
    def failed(self) -> dict[str, ThreadStoreError]:
        """Why each of the others was not changed."""
        return {result.thread_id: result.error for result in self.results if result.error is not None}
