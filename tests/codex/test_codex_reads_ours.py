"""Codex lists, reads, searches and resumes threads that were written through a `LiveThread`."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.codex.app_server import CodexError, said_in
from tests.codex.conftest import Serve
from tests.codex.conversation import TURNS, begin
from tests.codex.model_server import ModelServer
from tests.nodes.items import read
from tests.nodes.stores import opened

from livethread import (
    ArchiveThreadParams,
    DeleteThreadParams,
    GitInfo,
    GitInfoPatch,
    LiveThread,
    ResumeThreadParams,
    Settings,
    StoredThread,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
)
from livethread_worker.store import LocalThreadStore

GIT = GitInfo(commit_hash="c0ffee", branch="main", repository_url="https://example.com/r.git")


@dataclass(frozen=True)
class Written:
    """A home, and its threads as the store reads them, by what was done with them."""

    home: Path
    threads: dict[str, StoredThread]
    deleted: str

    def active(self) -> set[str]:
        return self.threads.keys() - {"archived"}


async def write_threads(store: ThreadStore, home: Path) -> Written:
    first, *others = TURNS
    conversation = await begin(store, first, source="vscode", thread_source="user", git=GIT)
    await conversation.update_metadata(ThreadMetadataPatch(name="Der Name 名前 🏷️"))
    await conversation.update_metadata(ThreadMetadataPatch(git_info=GitInfoPatch(branch="feature/x")))
    await conversation.shutdown()
    resumed = await LiveThread.resume(store, ResumeThreadParams(thread_id=conversation.thread_id))
    for turn in others:
        await resumed.append_items(list(turn.items()))
    await resumed.shutdown()
    ids = {"conversation": conversation.thread_id}
    for about in ("renamed", "unnamed", "archived", "unarchived", "deleted"):
        thread = await begin(store, TURNS[1])
        await thread.update_metadata(ThreadMetadataPatch(name=about))
        await thread.shutdown()
        ids[about] = thread.thread_id
    for about, patch in {
        "renamed": ThreadMetadataPatch(name="שם חדש"),
        "unnamed": ThreadMetadataPatch(name=None),
    }.items():
        thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=ids[about]))
        await thread.update_metadata(patch)
        await thread.shutdown()
    await store.archive_thread(ArchiveThreadParams(thread_id=ids["archived"]))
    await store.archive_thread(ArchiveThreadParams(thread_id=ids["unarchived"]))
    await store.unarchive_thread(ArchiveThreadParams(thread_id=ids["unarchived"]))
    deleted = ids.pop("deleted")
    await store.delete_thread(DeleteThreadParams(thread_id=deleted))
    threads = {about: await read(store, thread_id) for about, thread_id in ids.items()}
    with pytest.raises(ThreadNotFound):
        await read(store, deleted)
    return Written(home, threads, deleted)


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """Writes the threads once for all versions of codex: the queued store's worker takes seconds to start."""

    async def write_with(store: AbstractAsyncContextManager[ThreadStore], home: Path) -> Written:
        async with store as entered:
            return await write_threads(entered, home)

    @functools.cache
    def write(kind: str) -> Written:
        settings = Settings(home=tmp_path_factory.mktemp(kind) / "home", redis_url=None)
        store = LocalThreadStore(settings) if kind == "local" else opened(settings)
        with asyncio.Runner() as runner:
            return runner.run(write_with(store, settings.home))

    return write


@pytest.fixture(params=["local", "queued"])
def written(request: pytest.FixtureRequest, write: Callable[[str], Written]) -> Written:
    """The threads, as the local store wrote them and as an embedded worker did."""
    return write(request.param)


@pytest.fixture
def home(written: Written, tmp_path: Path) -> Path:
    """A copy of the written home without livethread's own folder: codex has only the shared files."""
    shutil.copytree(written.home, tmp_path / "home", ignore=shutil.ignore_patterns("livethread"))
    return tmp_path / "home"


def as_listed(thread: StoredThread, written: Written, home: Path) -> dict[str, Any]:
    """Return *thread* as codex must list it."""
    assert thread.rollout_path is not None
    path = home / thread.rollout_path.relative_to(written.home)
    git = thread.git_info
    return {
        "id": thread.thread_id,
        "sessionId": thread.session_id,
        "path": str(path),
        "preview": thread.preview,
        "name": thread.name,
        "cwd": thread.cwd,
        "source": thread.source,
        "modelProvider": thread.model_provider,
        "cliVersion": thread.cli_version,
        "gitInfo": git and {"sha": git.commit_hash, "branch": git.branch, "originUrl": git.repository_url},
        "createdAt": int(thread.created_at.timestamp()),
        "updatedAt": int(path.stat().st_mtime),  # codex uses the time of the file
    }


async def test_codex_lists_threads_as_livethread_does(serve: Serve, written: Written, home: Path) -> None:
    async with serve(home) as codex:
        active, archived = await codex.threads(), await codex.threads(archived=True)

    expected = {about: as_listed(thread, written, home) for about, thread in written.threads.items()}
    listed = {about: {key: (active | archived)[each["id"]][key] for key in each} for about, each in expected.items()}
    assert listed == expected
    assert active.keys() == {expected[about]["id"] for about in written.active()}
    assert archived.keys() == {expected["archived"]["id"]}
    names = {about: each["name"] for about, each in listed.items()}
    assert (names["conversation"], names["renamed"], names["unnamed"]) == ("Der Name 名前 🏷️", "שם חדש", None)
    assert listed["conversation"]["gitInfo"]["branch"] == "feature/x"


async def test_codex_reads_the_same_texts_in_the_same_turns(serve: Serve, written: Written, home: Path) -> None:
    async with serve(home) as codex:
        said = {about: await codex.said(thread.thread_id) for about, thread in written.threads.items()}

    assert said.pop("conversation") == [turn.said for turn in TURNS]
    assert said == {about: [TURNS[1].said] for about in said}


@pytest.mark.parametrize("term", ["quokkasort", "🔧", "fixed ✅", "כבקשתך", "التوثيق"])
async def test_codex_finds_what_was_said(serve: Serve, written: Written, home: Path, term: str) -> None:
    async with serve(home) as codex:
        assert await codex.found(term) == [written.threads["conversation"].thread_id]


async def test_codex_finds_a_text_in_all_threads_that_contain_it_and_in_no_other(
    serve: Serve, written: Written, home: Path
) -> None:
    async with serve(home) as codex:
        assert set(await codex.found("すべての試験")) == {
            written.threads[about].thread_id for about in written.active()
        }
        assert await codex.found("quokkasorted") == []


async def test_codex_resumes_a_thread_and_its_model_sees_our_items(
    serve: Serve, model: ModelServer, written: Written, home: Path
) -> None:
    thread_id = written.threads["conversation"].thread_id
    model.answers.append("Gern.")

    async with serve(home) as codex:
        resumed = (await codex.call("thread/resume", threadId=thread_id))["thread"]
        await codex.run_turn(thread_id, "Und weiter?")
        said = await codex.said(thread_id)

    assert said_in(resumed) == [turn.said for turn in TURNS]
    assert resumed["threadSource"] == "user"
    assert said == [*(turn.said for turn in TURNS), [("userMessage", "Und weiter?"), ("agentMessage", "Gern.")]]
    items = [item for turn in TURNS for item in turn.items()]
    ours = [item["payload"] for item in items if item["type"] == "response_item"]
    assert [item for item in model.inputs() if item in ours] == ours


async def test_codex_does_not_know_a_deleted_thread(serve: Serve, written: Written, home: Path) -> None:
    async with serve(home) as codex:
        for method in ("thread/read", "thread/resume"):
            with pytest.raises(CodexError, match=written.deleted):
                await codex.call(method, threadId=written.deleted)
