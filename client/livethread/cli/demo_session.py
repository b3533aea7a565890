"""Invented agent sessions for the demonstration, with the shape and size of codex's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, Final

from livethread.rollout.item import RolloutItem

_REQUESTS: Final = (
    "Fix the build",
    "Why does the login test fail on CI?",
    "Rename the config loader and update its callers",
    "Füge eine Zusammenfassung hinzu 🎉",
    "Make the importer handle empty files",
)
_COMMANDS: Final = ("rg -n TODO src", "pytest -q", "git diff --stat", "sed -n 1,80p src/app.py", "make lint")
_WORDS: Final = (
    *("the", "build", "fails", "because", "a", "fixture", "reads", "its", "settings"),
    *("before", "the", "environment", "is", "set", "up"),
)


def agent_session(chance: random.Random, turn: int) -> list[RolloutItem]:
    """Return the items of one turn. The persistence policy drops some of them."""
    return [RolloutItem(type=kind, payload=payload) for kind, payload in _turn(chance, f"turn-{turn}", turn)]


def _turn(chance: random.Random, turn_id: str, turn: int) -> Iterator[tuple[str, dict[str, Any]]]:
    request = chance.choice(_REQUESTS)
    yield "event_msg", {"type": "task_started", "turn_id": turn_id, "model_context_window": 272_000}
    yield "turn_context", {"turn_id": turn_id, "cwd": "/repo", "model": "gpt-5.2-codex", "effort": "medium",
                           "approval_policy": "on-request", "sandbox_policy": {"type": "read-only"}, "summary": "auto"}  # fmt: skip
    yield "event_msg", {"type": "user_message", "message": request, "images": []}
    yield "response_item", _message("user", "input_text", request)
    for step in range(chance.randint(2, 4)):
        call_id = f"call-{turn}-{step}"
        yield "event_msg", {"type": "agent_reasoning", "text": _text(chance, 20)}
        yield "response_item", {"type": "reasoning", "summary": [{"type": "summary_text", "text": _text(chance, 30)}]}
        command = chance.choice(_COMMANDS)
        arguments = json.dumps({"command": ["bash", "-lc", command]})
        yield "response_item", {"type": "function_call", "name": "shell", "call_id": call_id, "arguments": arguments}
        # The policy drops partial output of a command.
        yield "event_msg", {"type": "exec_command_output_delta", "call_id": call_id, "chunk": _text(chance, 10)}
        output = _text(chance, chance.randint(20, 300))
        yield "response_item", {"type": "function_call_output", "call_id": call_id, "output": output}
        yield (
            "event_msg",
            {"type": "token_count", "info": {"total_token_usage": _usage(turn, step)}, "rate_limits": None},
        )
    answer = _text(chance, 60)
    yield "event_msg", {"type": "agent_message", "message": answer}
    yield "response_item", _message("assistant", "output_text", answer)
    yield "event_msg", {"type": "task_complete", "turn_id": turn_id, "last_agent_message": answer}


def _message(role: str, part: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": part, "text": text}]}


def _usage(turn: int, step: int) -> dict[str, int]:
    tokens = 1_000 * (turn * 4 + step + 1)
    return {"input_tokens": tokens, "cached_input_tokens": tokens // 2, "output_tokens": tokens // 10,
            "reasoning_output_tokens": tokens // 20, "total_tokens": tokens + tokens // 10}  # fmt: skip


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))
