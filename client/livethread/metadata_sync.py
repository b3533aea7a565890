"""`ThreadMetadataSync`: derives a thread's metadata from its items, as they are appended or read from a rollout.

`LiveThread` sends the derived patch with each append, and a reader of a rollout derives the same patches from its lines.
Stores only apply patches. The rules are codex's (``thread-store/src/thread_metadata_sync.rs``), except that times come
from the lines and not from the clock, so that reading a rollout again gives the same metadata.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Self

from livethread.errors import InvalidRequest
from livethread.metadata import (
    FIRST_WINS,
    GitInfoPatch,
    MemoryMode,
    MetadataUpdate,
    StoredThread,
    ThreadMetadataPatch,
)
from livethread.model import parse_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.permissions import permission_profile
from livethread.rollout.session_source import agent_role, spawn_fields
from livethread.rollout.user_message import completed_user_message, user_request
from livethread.types import CreateThreadParams

IMAGE_ONLY_PREVIEW: Final = "[Image]"
AUDIO_ONLY_PREVIEW: Final = "[Audio]"

#: Fields that only the first ``session_meta`` sets.
_FIXED_FIELDS: Final = ("session_id", "forked_from_id", "parent_thread_id", "originator")

#: Line types that may state facts, and frequent events that never do.
_FACT_TYPES: Final = frozenset({"session_meta", "turn_context", "event_msg"})
_FACTLESS_EVENTS: Final = ("agent_message", "agent_reasoning", "task_complete")


class ThreadMetadataSync:
    """Collects the facts that a thread's items state, in order, and turns them into literal patches.

    A patch omits a first-wins fact that is known to be set. It always includes a last-wins fact: another writer may have
    changed it since, and only the order of the tasks decides.
    """

    def __init__(self, thread_id: str, set_fields: Iterable[str] = ()) -> None:
        """Start with a thread that has values for *set_fields*; only first-wins fields matter."""
        self.thread_id = thread_id
        self._set_fields = FIRST_WINS.intersection(set_fields)
        self._facts: dict[str, Any] = {}
        #: Whether the collected working directory replaces an earlier one.
        self._replaces_cwd = False

    @classmethod
    def for_new(cls, params: CreateThreadParams) -> Self:
        """Start with a new thread. Its creation sets the working directory, if it has one."""
        return cls(params.thread_id, {"cwd"} if params.cwd else ())

    @classmethod
    def for_stored(cls, thread: StoredThread) -> Self:
        """Start with a stored thread."""
        return cls(thread.thread_id, (name for name in FIRST_WINS if getattr(thread, name)))

    def derive(self, items: Iterable[RolloutItem], appended_at: datetime) -> MetadataUpdate | None:
        """Return the patch derived from *items*, or None; *appended_at* is the time of items that have none."""
        for item in items:
            if item.type in _FACT_TYPES:
                self.add(item.type, item.payload, parse_time(item.timestamp) or appended_at)
        return self.take()

    def add(self, kind: str, payload: Any, at: datetime) -> None:
        """Collect the facts stated by a line of type *kind* from the time *at*."""
        if kind not in _FACT_TYPES or not isinstance(payload, dict):
            return
        if kind == "event_msg" and payload.get("type") in _FACTLESS_EVENTS:
            return
        facts = self._facts
        for name, value in self._facts_of(kind, payload, at).items():
            # A turn's directory counts only if there is no other; a session's, or one that a user set, always counts.
            replaces = name not in FIRST_WINS or (name == "cwd" and kind != "turn_context")
            if not replaces and (name in self._set_fields or name in facts):
                continue
            if not _fits(name, value):
                continue
            if name == "cwd":
                self._replaces_cwd = replaces
            match facts.get(name):
                case GitInfoPatch() as earlier:
                    facts[name] = earlier.merge(value)
                case datetime() as earlier if name == "advance_recency_at":
                    facts[name] = max(earlier, value)
                case _:
                    facts[name] = value

    def take(self) -> MetadataUpdate | None:
        """Return the patch of the facts collected since the last call; None without facts."""
        if not self._facts:
            return None
        patch, replaced = _patch_of(self._facts), {"cwd"} if self._replaces_cwd else set[str]()
        self._facts, self._replaces_cwd = {}, False
        if patch.is_empty():
            return None
        only_if_unset = FIRST_WINS & patch.model_fields_set - replaced
        return MetadataUpdate.model_validate({"patch": patch, "only_if_unset": only_if_unset})

    def confirm(self, update: MetadataUpdate) -> None:
        """Stop sending the first-wins facts of *update*, which certainly takes effect.

        Do not call it for an append with an idempotency key: a repetition has no effect.
        """
        self._set_fields |= update.only_if_unset

    def _facts_of(self, kind: str, payload: dict[str, Any], at: datetime) -> dict[str, Any]:
        match kind, payload.get("type"):
            case "session_meta", _ if payload.get("id") == self.thread_id:  # a fork also holds its parent's
                return _from_session_meta(payload)
            case "turn_context", _:
                return _from_turn_context(payload)
            case "event_msg", "user_message":
                return _from_user_message(payload)
            case "event_msg", "item_completed" if (message := completed_user_message(payload)) is not None:
                return _from_user_message(message)
            case "event_msg", "token_count":
                return _from_token_count(payload)
            case "event_msg", "thread_goal_updated":
                return _from_goal(payload)
            case "event_msg", "thread_settings_applied":
                return _from_settings(payload)
            case "event_msg", ("task_started" | "turn_started"):
                return {"advance_recency_at": at}
            case _:
                return {}


def thread_of_meta(thread_id: str, meta: dict[str, Any], at: datetime) -> StoredThread:
    """Return the thread that *meta*, its first ``session_meta``, describes; *at* is the time of the line."""
    created_at = parse_time(meta.get("timestamp")) or at
    fixed = meta | spawn_fields(meta.get("source"))
    thread = StoredThread(
        thread_id=thread_id,
        created_at=created_at,
        updated_at=created_at,
        recency_at=created_at,
        attached_to_thread_id=_text(meta, "forked_from_id") if meta.get("attached_thread") is True else None,
        **{key: fixed[key] for key in _FIXED_FIELDS if isinstance(fixed.get(key), str)},
    )
    sync = ThreadMetadataSync(thread_id)
    sync.add("session_meta", meta | {"id": thread_id}, at)
    update = sync.take()
    return thread.patched(update.patch) if update else thread


def _from_session_meta(meta: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"source": "vscode" if meta.get("source") is None else meta["source"]}
    labels = {key: meta.get(key) for key in ("thread_source", "agent_nickname", "agent_path")}
    labels["agent_role"] = agent_role(meta)
    facts |= {key: label for key, label in labels.items() if label is None or isinstance(label, str)}
    facts |= _texts(meta, ("cwd", "model_provider", "cli_version", "history_mode"))
    if created_at := parse_time(meta.get("timestamp")):
        facts["created_at"] = created_at
    if isinstance(git := meta.get("git"), dict):
        # A git object replaces all three fields; only its absence keeps earlier values.
        facts["git_info"] = GitInfoPatch(
            sha=_text(git, "commit_hash"), branch=_text(git, "branch"), origin_url=_text(git, "repository_url")
        )
    if (mode := _text(meta, "memory_mode")) in set(MemoryMode):
        facts["memory_mode"] = MemoryMode(mode)
    return facts


def _from_turn_context(context: dict[str, Any]) -> dict[str, Any]:
    facts = _without_nulls({
        "model": _text(context, "model"),
        "approval_mode": context.get("approval_policy"),
        "permission_profile": permission_profile(context),
        "cwd": _text(context, "cwd") or None,
    })
    if "model" in facts:  # without an effort, the model's default applies
        facts["reasoning_effort"] = _text(context, "effort")
    return facts


def _from_settings(event: dict[str, Any]) -> dict[str, Any]:
    settings = event.get("thread_settings")
    if not isinstance(settings, dict):
        return {}
    facts = _without_nulls({
        "model": _text(settings, "model"),
        "model_provider": _text(settings, "model_provider_id") or None,
        "approval_mode": settings.get("approval_policy"),
        "permission_profile": settings.get("permission_profile"),
        "cwd": _text(settings, "cwd") or None,
    })
    if "model" in facts:
        facts["reasoning_effort"] = _text(settings, "reasoning_effort")
    return facts


def _from_user_message(message: dict[str, Any]) -> dict[str, Any]:
    text = user_request(_text(message, "message") or "")
    preview = text
    if not text and (message.get("images") or message.get("local_images")):
        preview = IMAGE_ONLY_PREVIEW
    elif not text and (message.get("audio") or message.get("local_audio")):
        preview = AUDIO_ONLY_PREVIEW
    facts = {"first_user_message": preview, "preview": preview, "title": text}
    return {name: value for name, value in facts.items() if value}


def _from_goal(event: dict[str, Any]) -> dict[str, Any]:
    goal = event.get("goal")
    objective = (_text(goal, "objective") or "").strip() if isinstance(goal, dict) else ""
    return {"preview": objective} if objective else {}


def _from_token_count(event: dict[str, Any]) -> dict[str, Any]:
    info = event.get("info")
    usage = info.get("total_token_usage") if isinstance(info, dict) else None
    return {"token_usage": usage} if isinstance(usage, dict) else {}


def _fits(name: str, value: Any) -> bool:
    """Whether a patch accepts *value*. Items may hold any value, and a bad one must not displace a good one."""
    if type(value) is str:
        return True
    return value is None or isinstance(value, datetime | GitInfoPatch) or not _patch_of({name: value}).is_empty()


def _patch_of(facts: dict[str, Any]) -> ThreadMetadataPatch:
    """Return the patch of the *facts* that their fields accept."""
    try:
        return ThreadMetadataPatch(**facts)
    except InvalidRequest:
        fitting = (_patch_of({name: value}) for name, value in facts.items() if len(facts) > 1)
        return functools.reduce(ThreadMetadataPatch.merge, fitting, ThreadMetadataPatch())


def _without_nulls(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _text(mapping: dict[str, Any], key: str) -> str | None:
    value = mapping.get(key)
    return value if isinstance(value, str) else None


def _texts(mapping: dict[str, Any], keys: Iterable[str]) -> dict[str, str]:
    return {key: text for key in keys if (text := _text(mapping, key))}
