"""``livethread replay``: send the items of rollout files through `LiveThread`, each file as a new thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from livethread.cli.output import console, json_option, print_json, progress
from livethread.composition import open_store
from livethread.errors import InvalidRequest
from livethread.live_thread import LiveThread
from livethread.metadata import GitInfo, MemoryMode
from livethread.model import parse_time, utc_now
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, items_of
from livethread.store import ThreadStore
from livethread.types import CreateThreadParams
from livethread_config import Settings

#: Files replayed at the same time.
CONCURRENT_FILES: Final = 16

#: Keys of a session_meta that are parameters of the new thread.
_KEPT: Final = (
    *("cwd", "model_provider", "source", "thread_source", "cli_version"),
    *("agent_nickname", "agent_role", "agent_path", "history_mode"),
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result for one file."""

    file: str
    thread_id: str
    rollout_path: str | None
    #: Items given to `LiveThread`.
    sent: int
    #: Items among these that the persistence policy drops.
    dropped_by_policy: int
    #: Lines of the new rollout: its own ``session_meta`` and the kept items.
    lines: int
    #: Lines of the file without an item.
    unreadable: int


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    items: list[RolloutItem]
    unreadable: int


@click.command("replay")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def command(files: tuple[Path, ...], as_json: bool) -> None:
    """Send the items of each rollout FILE through a new LiveThread.

    The new thread is a fork: it begins with a session_meta of its own, followed by the file's.
    """
    sources = [_load(path) for path in files]
    with progress("replaying", sum(len(source.items) for source in sources), quiet=as_json) as advance:
        results = asyncio.run(_replay_all(sources, advance))
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        _print(results)


def _load(path: Path) -> _Source:
    records = [decode_line(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    items = [item if parse_time(item.timestamp) else replace(item, timestamp=None) for item in items_of(records)]
    if not any(item.type == "session_meta" for item in items):
        raise InvalidRequest(f"{path} has no session_meta: it is not a rollout, or is older than September 2025")
    return _Source(path, items, len(records) - len(items))


async def _replay_all(sources: list[_Source], advance: Callable[[int], None]) -> list[Replayed]:
    limit = asyncio.Semaphore(CONCURRENT_FILES)

    async def replay(source: _Source) -> Replayed:
        async with limit:
            return await _replay(store, source, advance)

    async with open_store(Settings()) as store:
        return await asyncio.gather(*map(replay, sources))


async def _replay(store: ThreadStore, source: _Source, advance: Callable[[int], None]) -> Replayed:
    meta = next(item.payload for item in source.items if item.type == "session_meta")
    params = _params(meta if isinstance(meta, dict) else {})
    thread = await LiveThread.create(store, params, collect_git=False)  # the file has the git metadata
    await thread.persist()
    dropped = 0
    for item in source.items:
        dropped += (await thread.append_items([item])).dropped
        advance(1)
    await thread.flush()
    history = await thread.load_history()
    path = await thread.rollout_path()
    await thread.shutdown()
    return Replayed(
        file=str(source.path),
        thread_id=thread.thread_id,
        rollout_path=str(path) if path else None,
        sent=len(source.items),
        dropped_by_policy=dropped,
        lines=len(history.items),
        unreadable=source.unreadable,
    )


def _params(meta: dict[str, Any]) -> CreateThreadParams:
    """Return the parameters of a thread that begins like *meta*, without values that are not valid."""
    git, memory_mode = meta.get("git"), meta.get("memory_mode")
    wanted: dict[str, Any] = {name: meta.get(name) for name in _KEPT} | {
        "forked_from_id": meta.get("id"),
        "memory_mode": memory_mode if memory_mode in set(MemoryMode) else None,
        "created_at": parse_time(meta.get("timestamp")) or utc_now(),
        "git": {key: git.get(key) for key in GitInfo.model_fields} if isinstance(git, dict) else None,
    }
    accepted: dict[str, Any] = {}
    for name, value in wanted.items():
        try:
            CreateThreadParams(**{name: value})
        except InvalidRequest:
            continue
        if value is not None:
            accepted[name] = value
    return CreateThreadParams(**accepted)


def _print(results: list[Replayed]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    table.add_column("thread", min_width=36)
    for column in ("sent", "drop", "lines", "bad"):
        table.add_column(column, justify="right", min_width=5)
    table.add_column("file", no_wrap=True, overflow="ellipsis", max_width=max(12, out.width - 62))
    for result in results:
        counts = (result.sent, result.dropped_by_policy, result.lines, result.unreadable)
        table.add_row(result.thread_id, *map(str, counts), escape(Path(result.file).name))
    out.print(table)
    out.print("drop: dropped by codex's persistence policy; bad: lines of the file without an item")
