"""Unusual files: codex and livethread list and read the same, or `doctor --fix` makes it so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.codex.app_server import AppServer, CodexError
from tests.codex.conftest import Serve

from livethread import ListThreadsParams, Settings, new_thread_id
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.upkeep.doctor import examine

AT = "2026-06-01T10:00:00.000Z"


def line(kind: str, **payload: Any) -> bytes:
    return json.dumps({"timestamp": AT, "type": kind, "payload": payload}, ensure_ascii=False).encode() + b"\n"


def conversation(thread_id: str, cwd: str = "/srv/demo") -> bytes:
    meta = {"originator": "codex_cli_rs", "cli_version": "0.120.0", "source": "cli", "model_provider": "canned"}
    context = {"approval_policy": "never", "sandbox_policy": {"type": "read-only"}, "model": "m", "summary": "auto"}
    return b"".join((
        line("session_meta", id=thread_id, timestamp=AT, cwd=cwd, **meta),
        line("event_msg", type="task_started", turn_id="t1"),
        line("turn_context", cwd=cwd, turn_id="t1", **context),
        line("event_msg", type="user_message", message="please water the ferns"),
        line("event_msg", type="agent_message", message="they are watered"),
        line("event_msg", type="task_complete", turn_id="t1", last_agent_message="they are watered"),
    ))


SAID = [[("userMessage", "please water the ferns"), ("agentMessage", "they are watered")]]


def put(home: Path, thread_id: str, content: bytes, folder: str = "sessions/2026/06/01", suffix: str = "") -> Path:
    path = home / folder / f"rollout-2026-06-01T10-00-00-{thread_id}.jsonl{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def listed_by_us(home: Path, *, archived: bool = False, cwd: str | None = None) -> set[str]:
    async with LocalThreadStore(Settings(home=home)) as store:
        params = ListThreadsParams(archived=archived, cwd_filters=None if cwd is None else (cwd,), page_size=100)
        return {thread.thread_id for thread in (await store.list_threads(params)).items}


@pytest.mark.parametrize("archived", [False, True])
async def test_rollouts_at_any_depth_are_listed_and_read_by_both(serve: Serve, home: Path, *, archived: bool) -> None:
    root = "archived_sessions" if archived else "sessions"
    folders = ("", "/2026", "/2026/06", "/2026/06/01/deep/er", "/backup/2026/06/01", "/.hidden")
    threads = {new_thread_id(): folder for folder in folders}
    for thread_id, folder in threads.items():
        put(home, thread_id, conversation(thread_id), f"{root}{folder}")

    async with serve(home) as codex:
        # If asked for every source and provider, codex lists from its database, otherwise only from dated folders.
        listed = await codex.threads(archived=archived, sourceKinds=["cli", "vscode", "unknown"], modelProviders=[])
        assert listed.keys() == threads.keys()
        assert [await codex.said(thread_id) for thread_id in threads] == [SAID] * len(threads)
    assert await listed_by_us(home, archived=archived) == threads.keys()


async def test_a_link_in_place_of_sessions_is_followed_by_both_and_links_in_it_by_neither(
    serve: Serve, home: Path, tmp_path: Path
) -> None:
    disk, thread_id, elsewhere = tmp_path / "disk", new_thread_id(), new_thread_id()
    disk.mkdir()
    (home / "sessions").symlink_to(disk)
    put(home, thread_id, conversation(thread_id))
    put(tmp_path / "other", elsewhere, conversation(elsewhere))
    (disk / "2025").symlink_to(tmp_path / "other/sessions/2026")

    async with serve(home) as codex:
        assert (await codex.threads()).keys() == {thread_id}
    assert await listed_by_us(home) == {thread_id}


async def test_directories_are_compared_alike(serve: Serve, home: Path, tmp_path: Path) -> None:
    project, link = tmp_path / "project", tmp_path / "link"
    project.mkdir()
    link.symlink_to(project)
    for cwd in (
        str(project),
        f"{project}/",
        str(link),
        f"{project}/../project",
        "/nowhere/x",
        "/nowhere//x/",
        "/nowhere/y/../x",
    ):
        thread_id = new_thread_id()
        put(home, thread_id, conversation(thread_id, cwd))

    async with serve(home) as codex:
        for cwd in (
            str(project),
            f"{project}/",
            str(link),
            f"{link}/../project",
            "/nowhere/x/",
            "/nowhere/y/../x",
            "/no",
        ):
            assert (await codex.threads(cwd=cwd)).keys() == await listed_by_us(home, cwd=cwd), cwd


def without_first(lines: bytes) -> bytes:
    return lines[lines.index(b"\n") + 1 :]


#: What codex cannot read: how the file is damaged, and its suffix.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a byte order mark": (lambda lines: b"\xef\xbb\xbf" + lines, ""),
    "a lost first line": (without_first, ""),
    "plain lines named .zst": (lambda lines: lines, ".zst"),
    "zstd named .jsonl": (zstandard.compress, ""),
    "glued lines": (lambda lines: lines.replace(b"}}\n" + b'{"timestamp"', b'}}{"timestamp"', 4), ""),
    "NULs": (lambda lines: lines.replace(b'{"timestamp"', b"\0" * 64 + b'{"timestamp"'), ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_codex_reads_after_a_repair_what_it_could_not_read(serve: Serve, home: Path, damage: str) -> None:
    change, suffix = DAMAGES[damage]
    thread_id = new_thread_id()
    put(home, thread_id, change(conversation(thread_id)), suffix=suffix)
    async with serve(home) as codex:
        assert await said_or_error(codex, thread_id) != SAID

    Home(home).create()
    await asyncio.to_thread(examine, Home(home), fix=True)
    for database in home.glob("*.sqlite*"):
        database.unlink()  # codex remembers what it could not read

    async with serve(home) as codex:
        assert await said_or_error(codex, thread_id) == SAID
        resumed = await codex.call("thread/resume", threadId=thread_id)
        assert resumed["thread"]["id"] == thread_id


async def test_half_a_surrogate_pair_is_read_by_both_after_a_repair(serve: Serve, home: Path) -> None:
    thread_id = new_thread_id()
    put(home, thread_id, conversation(thread_id).replace(b"the ferns", rb"the ferns \ud83d"))
    async with serve(home) as codex:
        assert await codex.threads() == {}

    Home(home).create()
    await asyncio.to_thread(examine, Home(home), fix=True)
    for database in home.glob("*.sqlite*"):
        database.unlink()

    async with serve(home) as codex:
        [thread] = (await codex.threads()).values()
    assert thread["preview"] == "please water the ferns \ufffd"
    async with LocalThreadStore(Settings(home=home)) as store:
        [ours] = (await store.list_threads(ListThreadsParams())).items
    assert ours.preview == thread["preview"]


async def said_or_error(codex: AppServer, thread_id: str) -> Any:
    try:
        return await codex.said(thread_id)
    except CodexError as error:
        return str(error)
