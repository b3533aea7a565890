"""Rewrites a legacy rollout as ``codex migrate-rollouts --apply`` does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from livethread_worker.store.files.compression import open_rollout

#: Line types that codex 0.171.0 copies; its own ``session_meta`` comes first.
COPIED = frozenset({"response_item", "event_msg", "turn_context", "compacted", "world_state"})

#: Events that become an ``item_completed``, each with the field that holds the text.
MESSAGES = {"user_message": ("UserMessage", "message"), "agent_message": ("AgentMessage", "message")}


def migrate(path: Path) -> Path:
    """Replace the legacy rollout at *path* with a paginated one, if it is not paginated yet. Return *path*."""
    is_compressed = path.suffix == ".zst"
    with open_rollout(path) as file:
        lines = file.readlines()
    records = [record for line in lines if (record := _record(line)) is not None]
    metas = [record for record in records if record["type"] == "session_meta"]
    if not metas or metas[0]["payload"].get("history_mode") == "paginated":
        return path
    meta = {**metas[0], "payload": {**metas[0]["payload"], "history_mode": "paginated"}}
    copied = [meta, *(copy for record in records if record["type"] in COPIED for copy in _copies(record))]
    numbered = [
        {"timestamp": copy["timestamp"], "ordinal": number, "type": copy["type"], "payload": copy["payload"]}
        for number, copy in enumerate(copied)
    ]
    rewritten = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in numbered)
    staged = path.with_name(f".{path.name}.paginated.tmp")
    staged.write_bytes(zstandard.compress(rewritten) if is_compressed else rewritten)
    staged.chmod(0o600)
    staged.rename(path)
    return path


def said(path: Path) -> list[str]:
    """Return the user messages in the rollout, in either form."""
    texts = []
    for line in path.read_bytes().splitlines():
        payload = json.loads(line)["payload"]
        if payload.get("type") == "user_message":
            texts.append(payload["message"])
        elif payload.get("type") == "item_completed" and payload["item"]["type"] == "UserMessage":
            texts.append(payload["item"]["content"][0]["text"])
    return texts


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "type" in record and "payload" in record else None


def _copies(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    payload = record["payload"]
    if record["type"] != "event_msg" or payload["type"] not in MESSAGES:
        if payload.get("type") != "thread_rolled_back":
            yield record
        return
    kind, field = MESSAGES[payload["type"]]
    if text := payload[field]:
        item = {"type": kind, "id": "item-1", "content": [{"type": "text", "text": text}]}
        yield {**record, "payload": {"type": "item_completed", "turn_id": "t", "item": item}}
