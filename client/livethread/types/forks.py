"""The place at which a fork leaves its source."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from livethread.errors import InvalidRequest
from livethread.model import Model, Result, Text
from livethread.thread_id import ThreadId, new_thread_id


class HistoryPosition(Model):
    """A place in a rollout: a fork shares the lines before it, and copies none."""

    #: Names the rollout: the id of the thread that it began, or its own id if a revert began it.
    thread_id: ThreadId
    #: Number of the last shared line, plus one.
    end_ordinal_exclusive: Annotated[int, Field(ge=0)]
    #: Where the last shared line ends.
    end_byte_offset: Annotated[int, Field(ge=0)]


class PrepareForkParams(Model):
    """Parameters for finding the place up to which a fork shares a thread's history: by default, its end."""

    thread_id: ThreadId
    #: The first turn that the fork does not have.
    before_turn_id: Annotated[Text, Field(min_length=1)] | None = None
    #: The last turn that the fork has. It must have ended.
    through_turn_id: Annotated[Text, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _names_one_turn(self) -> PrepareForkParams:
        if self.before_turn_id is not None and self.through_turn_id is not None:
            raise InvalidRequest("before_turn_id and through_turn_id exclude each other")
        return self


class PreparedFork(Result):
    """What a fork begins with."""

    #: The source.
    thread_id: ThreadId
    #: A new id for the fork. It is in a shard of the source's home.
    fork_id: ThreadId = Field(default_factory=new_thread_id)
    #: Whether a fork can share the source's lines: it is paginated. Otherwise they are copied.
    is_shared: bool
    #: None if the lines are copied, or if the fork inherits none.
    history_base: HistoryPosition | None = None
