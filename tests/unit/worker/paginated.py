"""Writes paginated threads as codex does: begins, continues, reverts and forks them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livethread.model import parse_time
from livethread_worker.store.files.home import Home


def rollout_id(n: int) -> str:
    """Return the id of a rollout that a revert began; they sort by *n*."""
    return f"019a93ba-0000-7000-8000-{n:012x}"


@dataclass
class Rollout:
    """A paginated rollout, which codex writes."""

    home: Home
    thread_id: str
    meta: dict[str, Any]
    #: Its own id, if a revert began it.
    revert: str | None = None
    #: Minute of the day in which it began.
    minute: int = 0
    first_ordinal: int = 0
    #: Turn -> place of its first line: ordinal, offset.
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Where it lies, if we began it.
    file: Path | None = None

    @property
    def next_ordinal(self) -> int:
        """The number of the next line: we may have appended some."""
        lines = self.path.read_bytes().splitlines()
        return int(json.loads(lines[-1])["ordinal"]) + 1 if lines else self.first_ordinal

    @property
    def rollout_id(self) -> str:
        return self.revert or self.thread_id

    @property
    def path(self) -> Path:
        if self.file is not None:
            return self.file
        suffix = f"_{self.revert}" if self.revert else ""
        name = f"rollout-2026-11-22T12-{self.minute:02}-00-{self.thread_id}{suffix}.jsonl"
        return self.home.sessions / "2026/11/22" / name

    def begin(self) -> Rollout:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        base = {"id": self.thread_id, "session_id": self.thread_id, "timestamp": self._at(0), "cwd": "/work"}
        base |= {"originator": "codex", "cli_version": "0.171.0", "source": "vscode", "history_mode": "paginated"}
        self.write("session_meta", base | self.meta, 0)
        return self

    def turn(self, turn_id: str, question: str, answer: str) -> Rollout:
        """Append a turn."""
        self.note(turn_id)
        for kind, payload in self.items(turn_id, question, answer):
            self.write(kind, payload, self.next_ordinal)
        return self

    def note(self, turn_id: str) -> None:
        """Note that a turn begins here."""
        self.starts[turn_id] = self.next_ordinal, self.path.stat().st_size

    def write(self, kind: str, payload: dict[str, Any], second: int) -> None:
        line = {"timestamp": self._at(second), "ordinal": self.next_ordinal, "type": kind, "payload": payload}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def reverted(self, before: str, n: int = 1, thread_id: str | None = None) -> Rollout:
        """Return a rollout that continues this one before a turn, of the same thread or a fork; *n* sorts it."""
        return self._heir(thread_id or self.thread_id, before, {}, rollout_id(n))

    def forked(self, thread_id: str, before: str | None = None, **meta: Any) -> Rollout:
        """Return the rollout of a fork of everything, or of what comes before a turn."""
        return self._heir(thread_id, before, {"forked_from_id": self.thread_id, **meta}, None)

    def _heir(self, thread_id: str, before: str | None, meta: dict[str, Any], revert: str | None) -> Rollout:
        ordinal, offset = self.starts[before] if before else (self.next_ordinal, self.path.stat().st_size)
        base = {"thread_id": self.rollout_id, "end_ordinal_exclusive": ordinal, "end_byte_offset": offset}
        heir = Rollout(self.home, thread_id, meta | {"history_base": base}, revert, (self.minute + 1) % 60, ordinal)
        return heir.begin()

    def _at(self, second: int) -> str:
        return f"2026-11-22T12:{self.minute:02}:{second:02}.000Z"

    def items(self, turn_id: str, question: str, answer: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield types and payloads of a turn's lines."""

        def completed(kind: str, part: str, text: str) -> dict[str, Any]:
            item = {"type": kind, "id": f"{turn_id}-{kind}", "content": [{"type": part, "text": text}]}
            return {"type": "item_completed", "thread_id": self.thread_id, "turn_id": turn_id, "item": item}

        yield "event_msg", {"type": "task_started", "turn_id": turn_id}
        yield "event_msg", completed("UserMessage", "text", question)
        yield (
            "response_item",
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]},
        )
        yield "event_msg", completed("AgentMessage", "Text", answer)
        yield "event_msg", {"type": "task_complete", "turn_id": turn_id, "last_agent_message": answer}


def begin(home: Home, thread_id: str, **meta: Any) -> Rollout:
    """Begin a thread."""
    return Rollout(home, thread_id, meta).begin()


def began_at(rollout: Rollout) -> Any:
    """Return when a rollout began."""
    return parse_time(f"2026-11-22T12:{rollout.minute:02}:00.000Z")
