"""Makes homes of many threads: writes rollouts directly, as a worker would, for livethread to index."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from livethread.model import format_time
from livethread.ordered_tasks import AppendItems, MailboxEntry, OrderedTask
from livethread_worker.store.files.home import Home
from livethread_worker.store.write.thread_work import number_line

#: The time of the first thread; each next one is younger by `APART`, or what the `Shape` says.
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
APART: Final = timedelta(minutes=4)

#: How many threads share each rare value.
RARE: Final = 10
#: The fraction of the threads, the oldest ones, that share a directory no longer in use.
OLD_SHARE: Final = 20

RARE_CWD: Final = "/rare"
RARE_SOURCE: Final = {"custom": "rare"}
RARE_PROVIDER: Final = "rare-provider"
RARE_WORD: Final = "zyzzyva"
OLD_CWD: Final = "/old"


def id_of(at: datetime, number: int) -> str:
    """Return the UUIDv7 of a time and a number."""
    ms = f"{int(at.timestamp() * 1000):012x}"
    return f"{ms[:8]}-{ms[8:]}-7000-8000-{number:012x}"


def thread_id(number: int) -> str:
    """Return the id of a thread: a UUIDv7 of its time."""
    return id_of(BEGIN + number * APART, number)


#: The thread whose children are rare.
ROOT: Final = thread_id(0)


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of each thread of a home."""

    turns: int
    #: Words that the user and the agent say in a turn.
    asked: int
    answered: int
    #: Words of the base instructions.
    instructions: int
    #: In one thread of this many, the newest ones, nothing was asked, so that listings hide them. 0: in no thread.
    unasked_share: int = 0
    #: The time between two threads: how many share a day's folder.
    apart: timedelta = APART

    def thread_id(self, number: int) -> str:
        """Return the id of a thread."""
        return id_of(self.created_at(number), number)

    def created_at(self, number: int) -> datetime:
        """Return the time in the id of a thread."""
        return BEGIN + number * self.apart


#: Threads for listings, about 2 KB; threads for rebuilds, about 8 KB.
SMALL: Final = Shape(turns=1, asked=8, answered=20, instructions=20, unasked_share=20)
WHOLE: Final = Shape(turns=3, asked=20, answered=62, instructions=40)


@dataclass(slots=True)
class _Rollout:
    """The lines of one thread's rollout, numbered as the store numbers them."""

    at: datetime
    lines: list[bytes] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def add(self, kind: str, payload: dict[str, Any]) -> None:
        self.at += timedelta(milliseconds=700)
        number = next(self._numbers)
        line = orjson.dumps({"timestamp": format_time(self.at), "type": kind, "payload": payload})
        task = OrderedTask(AppendItems(at=self.at), (line,))
        position = f"{self.at.timestamp() * 1000:.0f}-0"
        self.lines.append(number_line(line, number, MailboxEntry(position, "benchmark", number + 1, task)))

    def event(self, kind: str, **fields: Any) -> None:
        self.add("event_msg", {"type": kind, **fields})

    def message(self, role: str, part: str, text: str) -> None:
        self.add("response_item", {"type": "message", "role": role, "content": [{"type": part, "text": text}]})


def write_rollouts(home: Home, threads: int, shape: Shape) -> None:
    """Write a rollout for each of *threads*, with some values that many share and some that few share."""
    words = Words()
    home.create()
    home.archived_sessions.mkdir(exist_ok=True)
    folders: set[Path] = set()
    for number in range(threads):
        path = home.new_rollout(shape.thread_id(number), shape.created_at(number))
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        if _is_rare(number, threads, 5):
            path = home.archived_sessions / path.name
        path.write_bytes(b"".join(_lines(number, threads, shape, words)))


def write_long_rollout(home: Home, number: int, lines: int) -> None:
    """Write the rollout of one thread of *lines* lines: one turn with messages of the agent."""
    rollout = _begun(number, 1000, SMALL, Words())
    path = home.new_rollout(thread_id(number), SMALL.created_at(number))
    home.create()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for kind in ("task_started", "user_message"):
            rollout.event(kind, turn_id="t1", message="Go on for long")
        for n in range(len(rollout.lines), lines):
            rollout.event("agent_message", message=f"{n} and counting")
            if len(rollout.lines) >= 10_000:  # noqa: PLR2004 - written in pieces
                file.writelines(rollout.lines)
                rollout.lines.clear()
        file.writelines(rollout.lines)


def write_history(path: Path, items: int) -> None:
    """Write a rollout of *items* lines with the sizes of real sessions: p50 0.4 KB, p90 2.2 KB."""
    words, rollout = Words(), _begun(0, 1000, WHOLE, Words())
    sizes = words.random
    while len(rollout.lines) < items:
        text = words.text(min(1500, int(sizes.lognormvariate(3.6, 1.35)) + 1))
        match len(rollout.lines) % 4:
            case 0:
                rollout.event("agent_message", message=text)
            case 1:
                rollout.message("assistant", "output_text", text)
            case 2:
                call = {"type": "function_call", "name": "shell", "arguments": text, "call_id": f"c{len(text)}"}
                rollout.add("response_item", call)
            case _:
                output = {"type": "function_call_output", "call_id": f"c{len(text)}", "output": text}
                rollout.add("response_item", output)
    path.write_bytes(b"".join(rollout.lines))


class Words:
    """Makes texts of random words, the same in every run."""

    def __init__(self) -> None:
        self.random = random.Random(20261122)  # noqa: S311 - not a secret
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._words = ["".join(self.random.choices(letters, k=2 + n % 9)) for n in range(5000)]

    def text(self, words: int) -> str:
        """Return the next text of this number of words."""
        return " ".join(self.random.choices(self._words, k=words))


def _lines(number: int, threads: int, shape: Shape, words: Words) -> list[bytes]:
    rollout = _begun(number, threads, shape, words)
    if shape.unasked_share and number >= threads - threads // shape.unasked_share:
        return rollout.lines
    for turn in range(shape.turns):
        asked, answered = words.text(shape.asked), words.text(shape.answered)
        if turn == 0 and _is_rare(number, threads, 4):
            asked += f" {RARE_WORD}"
        rollout.event("task_started", turn_id=f"turn-{turn}", model_context_window=272000)
        rollout.add(
            "turn_context",
            {"turn_id": f"turn-{turn}", "cwd": "/repo", "model": "gpt-5.2-codex", "approval_policy": "never"},
        )
        rollout.message("user", "input_text", asked)
        rollout.event("user_message", message=asked, images=[])
        rollout.message("assistant", "output_text", answered)
        rollout.event("agent_message", message=answered)
        rollout.event(
            "token_count", info={"total_token_usage": {"input_tokens": 7000, "output_tokens": number % 999}}
        )
        rollout.event("task_complete", turn_id=f"turn-{turn}", last_agent_message=None)
    return rollout.lines


def _begun(number: int, threads: int, shape: Shape, words: Words) -> _Rollout:
    """Return a rollout with its first line."""
    rollout = _Rollout(shape.created_at(number))
    # The order of the last changes differs from the order of creation.
    rollout.at += timedelta(minutes=number * 7919 % 5000)
    meta = {
        "id": shape.thread_id(number),
        "session_id": shape.thread_id(number),
        "timestamp": format_time(shape.created_at(number)),
        "cwd": OLD_CWD if number < threads // OLD_SHARE else f"/project/{number % 50}",
        "originator": "livethread",
        "cli_version": "0.138.0",
        "source": ("cli", "cli", "vscode", "cli", "exec")[number % 5],
        "model_provider": "azure" if number % 5 == 0 else "openai",
        "base_instructions": {"text": words.text(shape.instructions)},
    }
    rollout.add("session_meta", meta | dict(_rare_values(number, threads)))
    return rollout


def _rare_values(number: int, threads: int) -> Iterator[tuple[str, Any]]:
    if _is_rare(number, threads, 1):
        yield "cwd", RARE_CWD
    if _is_rare(number, threads, 2):
        yield "source", RARE_SOURCE
    if _is_rare(number, threads, 3):
        yield "model_provider", RARE_PROVIDER
    if _is_rare(number, threads, 6):
        yield "parent_thread_id", ROOT
    if _is_rare(number, threads, 7):  # the children of each child
        yield "parent_thread_id", thread_id(number - 1)


def _is_rare(number: int, threads: int, kind: int) -> bool:
    """Whether a thread is one of the few that share a value of this *kind*; they are spread over all threads."""
    return number % (threads // RARE) == kind
