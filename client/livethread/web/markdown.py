"""A thread as Markdown: what a page shows of it, with calls, reasoning and context folded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from html import escape
from typing import Final

from livethread.metadata import StoredThread
from livethread.types import StoredTurnStatus
from livethread.web.blocks import Block
from livethread.web.transcript import ShownTurn, title

_SPEAKERS: Final = {"user": "User", "agent": "Agent"}
_FOLDED: Final = {"reasoning": "Reasoning", "context": "Context"}


def markdown(
    thread: StoredThread, turns: Iterable[ShownTurn], shown_time: Callable[[datetime], str]
) -> Iterator[str]:
    """Yield the paragraphs of *thread*; an empty line belongs between two of them."""
    yield f"# {title(thread)}"
    facts = {
        "thread": thread.thread_id,
        "directory": thread.cwd,
        "model": thread.model,
        "created": shown_time(thread.created_at),
        "updated": shown_time(thread.updated_at),
    }
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)
    for number, turn in enumerate(turns, start=1):
        yield f"## {' · '.join(_head(number, turn, shown_time))}"
        for block in turn.blocks:
            yield from _paragraphs(block)


def _head(number: int, turn: ShownTurn, shown_time: Callable[[datetime], str]) -> Iterator[str]:
    yield str(number)
    if turn.turn.started_at is not None:
        yield shown_time(turn.turn.started_at)
    if turn.seconds is not None:
        yield f"{turn.seconds:.0f} s"
    if turn.turn.status is not StoredTurnStatus.COMPLETED:
        yield turn.turn.status.value.replace("_", " ")


def _paragraphs(block: Block) -> Iterator[str]:
    if block.kind in _SPEAKERS:
        yield f"**{_SPEAKERS[block.kind]}:**"
        yield block.text or "(a picture)"
    elif block.kind in _FOLDED:
        yield from _folded(_FOLDED[block.kind], [block.text])
    elif block.request is None:
        yield f"*{'Failed: ' if block.has_failed else ''}{' '.join(block.text.split())}*"
    else:
        yield from _call(block)


def _call(block: Block) -> Iterator[str]:
    request, outcome = block.request, block.outcome
    assert request is not None
    ending = ""
    if outcome is not None and outcome.has_failed:
        ending = " (failed)" if outcome.exit_code is None else f" (exit code {outcome.exit_code})"
    parts = [_fenced(request.diff, "diff") if request.diff else _fenced(request.text)]
    parts.append(_fenced(outcome.text) if outcome else "*no output*")
    yield from _folded(f"{request.tool} {request.line}".rstrip() + ending, filter(None, parts))


def _folded(summary: str, parts: Iterable[str]) -> Iterator[str]:
    yield f"<details><summary>{escape(summary)}</summary>"
    yield from parts
    yield "</details>"


def _fenced(text: str, language: str = "") -> str:
    """Return *text* as a block of code that no line of it can end."""
    if not text.strip():
        return ""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
