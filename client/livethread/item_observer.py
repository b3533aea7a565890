"""What metadata follows from items: one set of rules for live threads, rebuilt ones and adopted lines.

The rules are codex's (``thread-store/src/thread_metadata_sync.rs``), but for time: where codex takes the
clock, the line's own timestamp is taken, so that reading the files again gives the same metadata.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from livethread.errors import InvalidRequest
from livethread.metadata import GitInfoPatch, MemoryMode, StoredThread, ThreadMetadataPatch
from livethread.model import parse_time

#: What editors put before a user's own words.
USER_MESSAGE_BEGIN: Final = "## My request for Codex:"
IMAGE_ONLY_PREVIEW: Final = "[Image]"

#: Types of lines from which metadata may follow.
_TELLING: Final = frozenset({"session_meta", "turn_context", "event_msg"})
#: Events that there are many of, and from which none follows.
_SILENT: Final = ("agent_message", "agent_reasoning", "task_complete")

#: Fields whose texts are limited, and the length up to which they are taken.
_LIMITED: Final = frozenset({"source", "thread_source"})
_SURELY_FIT: Final = 100


@dataclass(slots=True)
class ItemObserver:
    """Derives patches from a thread's items, in order; remembers which first-come fields are taken."""

    thread_id: str
    cwd_seen: bool = False
    preview_seen: bool = False
    first_user_message_seen: bool = False
    title_seen: bool = False

    @classmethod
    def of(cls, thread: StoredThread) -> ItemObserver:
        """Return an observer that continues where *thread* stands."""
        return cls(
            thread.thread_id,
            cwd_seen=bool(thread.cwd),
            preview_seen=bool(thread.preview),
            first_user_message_seen=thread.first_user_message is not None,
            title_seen=thread.title is not None,
        )

    def settle(self, names: Iterable[str]) -> None:
        """Note that the fields *names* were asked for: no item is the first to say them any more, even if empty."""
        asked_for = set(names)
        self.cwd_seen = self.cwd_seen or "cwd" in asked_for
        self.preview_seen = self.preview_seen or "preview" in asked_for
        self.first_user_message_seen = self.first_user_message_seen or "first_user_message" in asked_for
        self.title_seen = self.title_seen or "title" in asked_for

    def is_own_meta(self, kind: str, payload: Any) -> bool:
        """Whether that is the thread's own ``session_meta``; a fork also holds those of others."""
        return kind == "session_meta" and isinstance(payload, dict) and payload.get("id") == self.thread_id

    def add(self, changes: dict[str, Any], kind: str, payload: Any, at: datetime) -> None:
        """Add to *changes* what an item of line type *kind* says; *at* is the time of its line."""
        if (
            kind not in _TELLING
            or not isinstance(payload, dict)
            or (payload.get("type") in _SILENT and kind == "event_msg")
        ):
            return
        for name, value in self._changes(kind, payload, at).items():
            if value is None and name not in ThreadMetadataPatch.clearable:
                continue
            if not _is_fit(name, value):  # else it would take the place of one that is
                continue
            match changes.get(name):
                case GitInfoPatch() as earlier:
                    changes[name] = earlier.merge(value)
                case datetime() as earlier if name == "advance_recency_at":
                    changes[name] = max(earlier, value)
                case _:
                    changes[name] = value

    def _changes(self, kind: str, payload: dict[str, Any], at: datetime) -> dict[str, Any]:
        match kind, payload.get("type"):
            case "session_meta", _ if payload.get("id") == self.thread_id:
                return self._from_session_meta(payload)
            case "turn_context", _:
                return self._from_turn_context(payload)
            case "event_msg", "user_message":
                return self._from_user_message(payload)
            case "event_msg", "item_completed" if (message := completed_user_message(payload)) is not None:
                return self._from_user_message(message)
            case "event_msg", "token_count":
                return _from_token_count(payload)
            case "event_msg", "thread_goal_updated":
                return self._from_goal(payload)
            case "event_msg", ("task_started" | "turn_started"):
                return {"advance_recency_at": at}
            case _:
                return {}

    def _from_session_meta(self, meta: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "created_at": parse_time(meta.get("timestamp")),
            "source": meta.get("source") or "vscode",
            "thread_source": _text(meta, "thread_source"),
            "agent_nickname": _text(meta, "agent_nickname"),
            "agent_role": _text(meta, "agent_role"),
            "agent_path": _text(meta, "agent_path"),
            "history_mode": _text(meta, "history_mode"),
        }
        changes |= {key: _text(meta, key) for key in ("model_provider", "cli_version") if _text(meta, key)}
        changes |= self._cwd(meta)
        if isinstance(git := meta.get("git"), dict):
            # A git object stands for all three; only its absence keeps what an earlier line said.
            changes["git_info"] = GitInfoPatch(
                sha=_text(git, "commit_hash"), branch=_text(git, "branch"), origin_url=_text(git, "repository_url")
            )
        if (mode := _text(meta, "memory_mode")) in set(MemoryMode):
            changes["memory_mode"] = MemoryMode(mode)
        return changes

    def _from_turn_context(self, context: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "model": _text(context, "model"),
            "reasoning_effort": _text(context, "effort"),
            "approval_mode": context.get("approval_policy"),
            "permission_profile": context.get("permission_profile"),
        }
        return changes | self._cwd(context)

    def _cwd(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the working directory, if it is the first that anybody reports."""
        cwd = _text(payload, "cwd")
        if self.cwd_seen or not cwd:
            return {}
        self.cwd_seen = True
        return {"cwd": cwd}

    def _from_user_message(self, message: dict[str, Any]) -> dict[str, Any]:
        text = user_request(_text(message, "message") or "")
        has_image = bool(message.get("images") or message.get("local_images"))
        preview = text or (IMAGE_ONLY_PREVIEW if has_image else "")
        changes: dict[str, Any] = {}
        if preview and not self.first_user_message_seen:
            self.first_user_message_seen = True
            changes["first_user_message"] = preview
        if preview and not self.preview_seen:
            self.preview_seen = True
            changes["preview"] = preview
        if text and not self.title_seen:
            self.title_seen = True
            changes["title"] = text
        return changes

    def _from_goal(self, event: dict[str, Any]) -> dict[str, Any]:
        goal = event.get("goal")
        objective = (_text(goal, "objective") or "").strip() if isinstance(goal, dict) else ""
        if not objective or self.preview_seen:
            return {}
        self.preview_seen = True
        return {"preview": objective}


def user_request(message: str) -> str:
    """Return the user's own words: what follows the editor's marker, where there is one, trimmed."""
    _, marker, request = message.partition(USER_MESSAGE_BEGIN)
    return (request if marker else message).strip()


def completed_user_message(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an ``item_completed`` of a user's message says, in the form of a ``user_message``; None for others.

    A paginated thread of codex holds the one where others hold the other.
    """
    item = event.get("item")
    if not isinstance(item, dict) or item.get("type") != "UserMessage":
        return None
    content = item.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return {
        "message": "".join(_text(part, "text") or "" for part in parts),
        "images": [part for part in parts if part.get("type") in ("image", "local_image")],
    }


def _is_fit(name: str, value: Any) -> bool:
    """Whether a patch takes *value* for its field *name*: an item may say anything."""
    if type(value) is str and (name not in _LIMITED or 0 < len(value) <= _SURELY_FIT):
        return True  # as nearly all are, and told in no time
    return value is None or isinstance(value, datetime | GitInfoPatch) or bool(patch_of({name: value}).changes())


def patch_of(changes: dict[str, Any]) -> ThreadMetadataPatch:
    """Return the patch of those *changes* that fit their fields: an item may say anything."""
    try:
        return ThreadMetadataPatch(**changes)
    except InvalidRequest:
        fitting = (patch_of({name: value}) for name, value in changes.items() if len(changes) > 1)
        return functools.reduce(ThreadMetadataPatch.merge, fitting, ThreadMetadataPatch())


def _from_token_count(event: dict[str, Any]) -> dict[str, Any]:
    info = event.get("info")
    usage = info.get("total_token_usage") if isinstance(info, dict) else None
    return {"token_usage": usage} if isinstance(usage, dict) else {}


def _text(mapping: dict[str, Any], key: str) -> str | None:
    value = mapping.get(key)
    return value if isinstance(value, str) else None
