"""Thread metadata: what is stored of a thread beside its history, and literal patches to it.

Every field of a patch is literal: absent leaves, a value sets, and for clearable fields ``null`` clears
(codex's ``ThreadMetadataPatch``). pydantic's ``model_fields_set`` tells absent from null.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from livethread.model import Model, UtcTime
from livethread.rollout_item import RolloutItem
from livethread.thread_id import ThreadId

_MAX_LABEL = 200


def _session_source(value: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(value, dict) and len(value) != 1:
        raise ValueError("a session source is a name such as 'cli', or an object with one key such as 'custom'")
    return value


#: Where a session runs: ``cli``, ``vscode``, ``exec``, …, or ``{"custom": …}`` or ``{"subagent": …}``.
SessionSource = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=_MAX_LABEL, strict=True)] | dict[str, Any],
    AfterValidator(_session_source),
]

#: Who started a thread: ``user``, ``subagent``, ``memory_consolidation``, or a feature's own label such as
#: ``automation``. A scalar string, carried unchanged. codex before 0.140 reads only the first three.
ThreadSource = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_LABEL, strict=True)]


class MemoryMode(StrEnum):
    """Whether a thread may feed the agent's memory."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class GitInfo(Model):
    """The checkout a thread was started in, named as in a rollout's ``session_meta``."""

    commit_hash: str | None = None
    branch: str | None = None
    repository_url: str | None = None


class _Patch(Model):
    """Fields whose absence means: leave. An explicit null clears a clearable field and leaves any other."""

    #: Fields that null clears.
    clearable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _null_leaves_what_cannot_be_cleared(self) -> Self:
        for name in type(self).model_fields:
            if getattr(self, name) is None and name not in self.clearable:
                self.model_fields_set.discard(name)
        return self

    def changes(self) -> dict[str, Any]:
        """Return the present fields and their values; None where one is cleared."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def is_empty(self) -> bool:
        """Whether the patch changes nothing."""
        return not self.model_fields_set

    def to_wire(self) -> dict[str, Any]:
        """Return the present fields as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)


class GitInfoPatch(_Patch):
    """Patch of a thread's git metadata; each field may be cleared."""

    clearable: ClassVar[frozenset[str]] = frozenset({"sha", "branch", "origin_url"})

    sha: str | None = None
    branch: str | None = None
    origin_url: str | None = None

    def merge(self, later: GitInfoPatch) -> GitInfoPatch:
        """Return the patch that has the effect of this one and then *later*."""
        return GitInfoPatch(**(self.changes() | later.changes()))

    def apply_to(self, git: GitInfo | None) -> GitInfo | None:
        """Return *git* with this patch applied; None where nothing is left."""
        names = {"sha": "commit_hash", "branch": "branch", "origin_url": "repository_url"}
        current = (git or GitInfo()).model_dump()
        patched = GitInfo(**(current | {names[name]: value for name, value in self.changes().items()}))
        return patched if any(patched.model_dump().values()) else None


class ThreadMetadataPatch(_Patch):
    """Patch of a thread's metadata. Applying one twice has the effect of applying it once."""

    clearable: ClassVar[frozenset[str]] = frozenset({
        "name",
        "thread_source",
        "agent_nickname",
        "agent_role",
        "agent_path",
    })

    #: Name given by a user; clearable.
    name: str | None = None
    #: Text to show in listings.
    preview: str | None = None
    #: Title derived from the history.
    title: str | None = None
    first_user_message: str | None = None
    model_provider: str | None = None
    model: str | None = None
    reasoning_effort: str | None = None
    created_at: UtcTime | None = None
    updated_at: UtcTime | None = None
    #: Advances ``recency_at`` to at least this time; it never goes back.
    advance_recency_at: UtcTime | None = None
    source: SessionSource | None = None
    #: Clearable.
    thread_source: ThreadSource | None = None
    #: Clearable.
    agent_nickname: str | None = None
    #: Clearable.
    agent_role: str | None = None
    #: Clearable.
    agent_path: str | None = None
    cwd: str | None = None
    cli_version: str | None = None
    approval_mode: Any = None
    permission_profile: Any = None
    token_usage: dict[str, Any] | None = None
    git_info: GitInfoPatch | None = None
    memory_mode: MemoryMode | None = None
    history_mode: str | None = None

    def merge(self, later: ThreadMetadataPatch) -> ThreadMetadataPatch:
        """Return the patch that has the effect of this one and then *later*; git is merged field by field."""
        merged = self.changes() | later.changes()
        if self.git_info is not None and later.git_info is not None:
            merged["git_info"] = self.git_info.merge(later.git_info)
        if self.advance_recency_at is not None and later.advance_recency_at is not None:
            merged["advance_recency_at"] = max(self.advance_recency_at, later.advance_recency_at)
        return ThreadMetadataPatch(**merged)


class StoredThreadHistory(Model):
    """A thread's persisted items, in replay order."""

    thread_id: ThreadId
    items: tuple[RolloutItem, ...]


class StoredThread(Model):
    """What a store knows of a thread."""

    thread_id: ThreadId
    #: The rollout, where the store keeps files.
    rollout_path: Path | None = None
    session_id: str | None = None
    forked_from_id: str | None = None
    parent_thread_id: str | None = None
    #: Text to show in listings: the first user message, or a goal; empty until there is one.
    preview: str = ""
    #: Name given by a user.
    name: str | None = None
    title: str | None = None
    first_user_message: str | None = None
    model_provider: str = ""
    model: str | None = None
    reasoning_effort: str | None = None
    created_at: UtcTime
    updated_at: UtcTime
    #: When a turn last began; what a product sorts by.
    recency_at: UtcTime
    archived_at: UtcTime | None = None
    cwd: str = ""
    cli_version: str = ""
    originator: str = ""
    source: SessionSource = "vscode"
    thread_source: ThreadSource | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    agent_path: str | None = None
    git_info: GitInfo | None = None
    approval_mode: Any = None
    permission_profile: Any = None
    token_usage: dict[str, Any] | None = None
    memory_mode: MemoryMode | None = None
    history_mode: str | None = None
    #: Only where it was asked for.
    history: Annotated[StoredThreadHistory | None, Field(repr=False)] = None

    def patched(self, patch: ThreadMetadataPatch) -> StoredThread:
        """Return this thread with *patch* applied."""
        changes = patch.changes()
        if patch.git_info is not None:
            changes["git_info"] = patch.git_info.apply_to(self.git_info)
        if (recency := changes.pop("advance_recency_at", None)) is not None:
            changes["recency_at"] = max(self.recency_at, recency)
        return self.model_copy(update=changes)


#: Fields of a patch that the first item to set them decides: a later observation never overrides one.
FIRST_OBSERVED: Final = frozenset({"preview", "title", "first_user_message"})
