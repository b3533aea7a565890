"""Parameters for opening a thread, and for what is done with it until it is closed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from livethread.errors import InvalidRequest
from livethread.metadata import DEFAULT_PROVIDER, PAGINATED, GitInfo, MemoryMode, SessionSource, ThreadSource
from livethread.model import Model, Text, UtcTime, utc_now
from livethread.rollout.lines import encode_json
from livethread.rollout.session_source import spawn_fields
from livethread.thread_id import ThreadId, new_thread_id
from livethread.types.forks import HistoryPosition


def _json_objects(values: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    try:
        encode_json(values)
    except InvalidRequest as error:
        raise ValueError(error.message) from None
    return values


class CreateThreadParams(Model):
    """Parameters of a new thread. Nothing is stored before its first item or `persist_thread`."""

    thread_id: ThreadId = Field(default_factory=new_thread_id)
    #: Shared by a root thread and its sub-agents; the thread's own id by default.
    session_id: ThreadId | None = None
    #: The thread whose history this one began with.
    forked_from_id: ThreadId | None = None
    #: Whether the thread is attached to the one from which it was forked: hidden from listings, and that one cannot be
    #: deleted before it.
    attached_thread: bool = False
    #: The place up to which a paginated fork shares its source's history, as `prepare_fork` returned it.
    history_base: HistoryPosition | None = None
    #: The thread that spawned this one.
    parent_thread_id: ThreadId | None = None
    #: Working directory; None if the thread has no file system.
    cwd: Text | None = None
    #: Who serves the model. codex lists only threads of the provider that it is configured for.
    model_provider: Text = DEFAULT_PROVIDER
    #: Where the session runs: ``cli``, ``vscode``, ``exec`` or ``mcp``; write your own name as ``{"custom": "my-agent"}``. Any
    #: other text is stored as it is, but read and filtered as ``unknown``, as in codex. codex lists ``cli`` and ``vscode`` by
    #: default, and never a custom object. A spawned sub-agent's source names the
    #: parent, and the nickname, role and path unless they are given.
    source: SessionSource = "cli"
    #: Who started the thread: ``user``, ``subagent``, or a label of your own such as ``automation``.
    thread_source: ThreadSource | None = None
    #: The program that began the thread.
    originator: Text = "livethread"
    #: Version of the agent that runs the session; livethread's version by default.
    cli_version: Text | None = None
    #: The model's system prompt.
    base_instructions: Text | None = None
    #: Tools that the session adds for its model.
    dynamic_tools: Annotated[tuple[dict[str, Any], ...], AfterValidator(_json_objects)] = ()
    #: What a sub-agent is called.
    agent_nickname: Text | None = None
    #: What a sub-agent is for, such as ``reviewer``.
    agent_role: Text | None = None
    #: Where a sub-agent stands in the tree of agents, as codex names it.
    agent_path: Text | None = None
    #: Whether the thread may feed the agent's memory.
    memory_mode: MemoryMode | None = None
    #: codex's label for how its sub-agents work.
    multi_agent_version: Text | None = None
    #: ``paginated`` for a thread whose turns are ``item_completed`` events, as newer codex writes them. None, or any other
    #: text: a legacy thread.
    history_mode: Text | None = None
    #: The checkout in which the thread starts. None: `LiveThread.create` asks git.
    git: GitInfo | None = None
    #: When the thread began.
    created_at: UtcTime = Field(default_factory=utc_now)
    #: Whether the session does not intend to keep the thread; None if unknown. Events carry it; it is not stored.
    ephemeral: bool | None = None
    #: Fence the thread's writers in other stores; see `ResumeThreadParams`.
    exclusive: bool = False

    @model_validator(mode="before")
    @classmethod
    def _take_from_source(cls, values: Any) -> Any:
        spawn = spawn_fields(values.get("source")) if isinstance(values, dict) else {}
        if not spawn:
            return values
        given = {name: value for name, value in values.items() if value is not None and name != "parent_thread_id"}
        return {**values, **spawn, **given}

    @model_validator(mode="after")
    def _is_paginated_if_it_shares(self) -> CreateThreadParams:
        if self.history_base and (self.history_mode != PAGINATED or self.forked_from_id is None):
            raise InvalidRequest("a history_base needs a forked_from_id, and the history_mode 'paginated'")
        return self


class ResumeThreadParams(Model):
    """Parameters for reopening an existing thread."""

    thread_id: ThreadId
    include_archived: bool = False
    #: Fence the thread's current writers in other stores: their accepted tasks are kept, and their later changes are
    #: refused with `Conflict`. Later openings are not fenced, nor are changes through a store in which the thread is not
    #: open. All handles in this store share one writer, which has the epoch of the newest opening.
    exclusive: bool = False


class PersistThreadParams(Model):
    """Parameters for creating the rollout of a thread that has no item yet."""

    thread_id: ThreadId


class FlushThreadParams(Model):
    """Parameters for waiting until everything accepted is durable."""

    thread_id: ThreadId
    #: Seconds to wait; None: the store's default.
    timeout_s: Annotated[float, Field(gt=0)] | None = None


class ShutdownThreadParams(FlushThreadParams):
    """Parameters for flushing a thread and closing its writer."""


class DiscardThreadParams(Model):
    """Parameters for closing a writer without creating the thread's rollout."""

    thread_id: ThreadId
