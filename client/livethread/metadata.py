"""Thread metadata, and literal patches to it.

A patch keeps an absent field, sets one with a value, and clears one with null if it is clearable (codex's
``ThreadMetadataPatch``). pydantic's ``model_fields_set`` tells absent from null.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    field_serializer,
    model_validator,
)

from livethread.errors import InvalidRequest
from livethread.model import Model, Result, StoredTime, Text, UtcTime
from livethread.position import START, Position
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import encode_json
from livethread.rollout.permissions import READ_ONLY
from livethread.rollout.session_source import known_source
from livethread.thread_id import ThreadId

#: ``history_mode`` of newer codex's threads: lines are numbered, and ``item_completed`` events hold the messages.
PAGINATED: Final = "paginated"
#: Every ``history_mode`` that this release knows; None is ``legacy``.
HISTORY_MODES: Final = frozenset({None, "legacy", PAGINATED})

#: codex's defaults for what a rollout does not say.
DEFAULT_PROVIDER: Final = "openai"
DEFAULT_APPROVAL: Final = "on-request"


def _json(value: Any) -> Any:
    try:
        encode_json(value)
    except InvalidRequest as error:
        raise ValueError(error.message) from None
    return value


#: Any JSON value; passed through unchanged.
JsonValue = Annotated[Any, AfterValidator(_json)]


def _session_source(value: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(value, dict) and len(value) != 1:
        raise ValueError("a session source is a name such as 'cli', or an object with one key such as 'custom'")
    return value


_Label = Annotated[str, Strict()]
_Source = (
    _Label | Annotated[dict[str, Any], WithJsonSchema({"type": "object", "minProperties": 1, "maxProperties": 1})]
)

#: Where a session runs: ``cli``, ``vscode``, ``exec``, ``mcp``, or ``{"custom": …}`` or ``{"subagent": …}``. Any other name
#: is stored unchanged and read as ``unknown``, as in codex.
SessionSource = Annotated[_Source, AfterValidator(_session_source), AfterValidator(_json)]

#: Who started a thread: ``user``, ``subagent``, ``memory_consolidation``, or a feature's own label such as
#: ``automation``: any string. Passed through unchanged. codex before 0.140 reads only the first three.
ThreadSource = Annotated[_Label, AfterValidator(_json)]


class MemoryMode(StrEnum):
    """Whether a thread may feed the agent's memory."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class GitInfo(Model):
    """The git checkout in which a thread started; fields are named as in a rollout's ``session_meta``."""

    commit_hash: Text | None = None
    branch: Text | None = None
    repository_url: Text | None = None


def _describe_null(schema: dict[str, Any], patch: type[_Patch]) -> None:
    """Describe null in a patch's JSON schema, and drop the null defaults: filling them in would clear fields."""
    schema["description"] += (
        "\n\nAn absent field stays as it is, a value sets it, and null clears a clearable field and keeps any other."
    )
    for name, field in schema["properties"].items():
        del field["default"]
        is_clearable = name in patch.clearable
        field["description"] = "Absent: leave. Null: clear." if is_clearable else "Absent or null: leave."


class _Patch(Model):
    """A literal patch: it keeps an absent field; null clears a clearable field and keeps any other."""

    model_config = ConfigDict(json_schema_extra=_describe_null)

    #: Fields that null clears.
    clearable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _drop_nulls_without_effect(self) -> Self:
        present = self.model_fields_set
        for name in present - self.clearable:
            if getattr(self, name) is None:
                present.discard(name)
        return self

    def changes(self) -> dict[str, Any]:
        """Return the present fields and their values; None clears."""
        present = self.model_fields_set
        # Looking up `model_fields` would take longer than everything else here.
        return {name: getattr(self, name) for name in type(self).__pydantic_fields__ if name in present}

    def is_empty(self) -> bool:
        """Whether the patch changes nothing."""
        return not self.model_fields_set

    def to_wire(self) -> dict[str, Any]:
        """Return the present fields as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)


class GitInfoPatch(_Patch):
    """Patch of a thread's git metadata; every field is clearable."""

    clearable: ClassVar[frozenset[str]] = frozenset({"sha", "branch", "origin_url"})

    sha: Text | None = None
    branch: Text | None = None
    origin_url: Text | None = None

    def merge(self, later: GitInfoPatch) -> GitInfoPatch:
        """Return the patch with the effect of this one followed by *later*."""
        return GitInfoPatch(**(self.changes() | later.changes()))

    def apply_to(self, git: GitInfo | None) -> GitInfo | None:
        """Return *git* with this patch applied, or None if no field is left."""
        names = {"sha": "commit_hash", "branch": "branch", "origin_url": "repository_url"}
        current = (git or GitInfo()).model_dump()
        patched = GitInfo(**(current | {names[name]: value for name, value in self.changes().items()}))
        return patched if any(value is not None for value in patched.model_dump().values()) else None


def _none_if_empty(patch: GitInfoPatch | None) -> GitInfoPatch | None:
    return None if patch is None or patch.is_empty() else patch


class ThreadMetadataPatch(_Patch):
    """Patch of a thread's metadata. Applying it twice has the same effect as applying it once."""

    clearable: ClassVar[frozenset[str]] = frozenset({
        "name",
        "reasoning_effort",
        "thread_source",
        "agent_nickname",
        "agent_role",
        "agent_path",
    })

    #: Name given by a user; clearable. An empty one clears it: codex's name index cannot hold one.
    name: Annotated[Text | None, AfterValidator(lambda name: name or None)] = None
    #: Text to show in listings.
    preview: Text | None = None
    #: Title derived from the history.
    title: Text | None = None
    first_user_message: Text | None = None
    model_provider: Text | None = None
    model: Text | None = None
    #: Clearable.
    reasoning_effort: Text | None = None
    created_at: UtcTime | None = None
    #: May go back: earlier items no longer count, and the next item advances it to its own time.
    updated_at: UtcTime | None = None
    #: Advances ``recency_at`` to at least this time; it never goes back.
    advance_recency_at: UtcTime | None = None
    source: SessionSource | None = None
    #: Clearable.
    thread_source: ThreadSource | None = None
    #: Clearable.
    agent_nickname: Text | None = None
    #: Clearable.
    agent_role: Text | None = None
    #: Clearable.
    agent_path: Text | None = None
    cwd: Text | None = None
    cli_version: Text | None = None
    approval_mode: JsonValue = None
    permission_profile: JsonValue = None
    token_usage: Annotated[dict[str, Any], AfterValidator(_json)] | None = None
    git_info: Annotated[GitInfoPatch | None, AfterValidator(_none_if_empty)] = None
    memory_mode: MemoryMode | None = None
    history_mode: Text | None = None

    def merge(self, later: ThreadMetadataPatch) -> ThreadMetadataPatch:
        """Return the patch with the effect of this one followed by *later*; git is merged field by field."""
        merged = self.changes() | later.changes()
        if self.git_info is not None and later.git_info is not None:
            merged["git_info"] = self.git_info.merge(later.git_info)
        if self.advance_recency_at is not None and later.advance_recency_at is not None:
            merged["advance_recency_at"] = max(self.advance_recency_at, later.advance_recency_at)
        return ThreadMetadataPatch(**merged)


#: Fields that an update can set only if they are unset.
FirstWins = Literal["cwd", "first_user_message", "preview", "title"]
FIRST_WINS: Final[frozenset[str]] = frozenset(get_args(FirstWins))


class MetadataUpdate(Model):
    """A literal patch of a thread's metadata."""

    patch: ThreadMetadataPatch
    #: Fields of *patch* that take effect only if the thread has no value for them yet. An empty value counts if a caller
    #: set it explicitly.
    only_if_unset: frozenset[FirstWins] = frozenset()

    @model_validator(mode="after")
    def _require_fields_of_patch(self) -> Self:
        if foreign := self.only_if_unset - self.patch.model_fields_set:
            raise ValueError(f"only_if_unset names fields that the patch does not set: {', '.join(sorted(foreign))}")
        return self

    @field_serializer("only_if_unset")
    def _sorted(self, names: frozenset[str]) -> list[str]:
        return sorted(names)

    def effect_on(self, thread: StoredThread, explicit_fields: Collection[str]) -> ThreadMetadataPatch:
        """Return the part of the patch that takes effect on *thread*, whose *explicit_fields* a caller set."""
        kept = {name for name in self.only_if_unset if name in explicit_fields or getattr(thread, name)}
        if not kept:
            return self.patch
        return ThreadMetadataPatch(**{
            name: value for name, value in self.patch.changes().items() if name not in kept
        })


@dataclass(frozen=True, slots=True)  # a model would validate thousands of items again
class StoredThreadHistory:
    """A thread's persisted items, in replay order."""

    thread_id: ThreadId
    items: tuple[RolloutItem, ...]
    #: See `StoredThread.position`.
    position: Position


@dataclass(frozen=True, slots=True)
class StoredModelContext:
    """The items from which a thread's latest model context is rebuilt, in replay order; the ``session_meta`` comes first."""

    thread_id: ThreadId
    items: tuple[RolloutItem, ...]
    #: See `StoredThread.position`.
    position: Position


class StoredThread(Result):
    """A thread's metadata and, on request, its history."""

    thread_id: ThreadId
    #: None if the store keeps no files.
    rollout_path: Path | None = None
    #: Shared by a root thread and its sub-agents.
    session_id: str | None = None
    forked_from_id: str | None = None
    #: The thread to which this fork is attached; listings hide attached forks.
    attached_to_thread_id: str | None = None
    parent_thread_id: str | None = None
    #: Text to show in listings: the first user message or goal; empty before either. Listings hide a thread without it.
    preview: str = ""
    #: Name given by a user.
    name: str | None = None
    #: The first user message, without pictures and sound.
    title: str | None = None
    #: The first user message, or that it has only pictures or sound.
    first_user_message: str | None = None
    model_provider: str = DEFAULT_PROVIDER
    #: The model of the last turn.
    model: str | None = None
    #: How much that model reasons; None: its default.
    reasoning_effort: str | None = None
    created_at: StoredTime
    #: When something was last appended.
    updated_at: StoredTime
    #: When the last turn began; user interfaces sort by it.
    recency_at: StoredTime
    #: None if the thread is active.
    archived_at: StoredTime | None = None
    cwd: str = ""
    cli_version: str = ""
    originator: str = ""
    source: _Source = "vscode"
    thread_source: _Label | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_path: str | None = None
    #: The checkout in which the thread started.
    git_info: GitInfo | None = None
    #: When the agent asks before it acts; codex's default until an item says otherwise.
    approval_mode: Any = DEFAULT_APPROVAL
    #: What the agent may do; codex's default until an item says otherwise.
    permission_profile: Any = Field(default_factory=lambda: READ_ONLY)
    #: Tokens used so far, as the agent counted them.
    token_usage: dict[str, Any] | None = None
    memory_mode: MemoryMode | None = None
    history_mode: str | None = None
    #: When it got its name, if `find_thread_by_name` found it and the store knows; otherwise None.
    named_at: StoredTime | None = None
    #: Everything up to this position is shown; later tasks may be, too. The start if it is not known: since the thread's
    #: last task its index was rebuilt, or another program wrote the thread.
    position: Position = START
    #: None unless requested.
    history: Annotated[StoredThreadHistory | None, Field(repr=False)] = None

    def patched(self, patch: ThreadMetadataPatch) -> StoredThread:
        """Return this thread with *patch* applied."""
        changes = patch.changes()
        if patch.git_info is not None:
            changes["git_info"] = patch.git_info.apply_to(self.git_info)
        if (recency := changes.pop("advance_recency_at", None)) is not None:
            changes["recency_at"] = max(self.recency_at, recency)
        if patch.source is not None:
            changes["source"] = known_source(patch.source)
        return self.model_copy(update=changes)
