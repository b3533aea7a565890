"""Livethread begins a thread, and both write it in alternation: each sees what the other wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.codex.app_server import CodexError
from tests.codex.conftest import Serve
from tests.codex.conversation import TURNS, Turn, begin
from tests.codex.model_server import ModelServer
from tests.codex.ours import found, found_soon, go_on, summary
from tests.nodes.items import read

from livethread import (
    ArchiveThreadParams,
    DeleteThreadParams,
    GitInfoPatch,
    ListThreadsParams,
    LiveThread,
    ResumeThreadParams,
    Settings,
    ThreadMetadataPatch,
)
from livethread_worker.store import LocalThreadStore

ASKED, ANSWERED = "Und weiter, wombat?", "Gern 🎉"
LATER = Turn("turn-later", "Wer fragt nach dem quokkasort?", "Niemand ✅")
OURS = [(turn.question, turn.answer) for turn in TURNS]


@pytest.fixture
async def store(home: Path) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=home)) as store:
        yield store


@pytest.fixture
async def thread_id(store: LocalThreadStore) -> str:
    """A thread with `TURNS`."""
    thread = await begin(store, *TURNS)
    await thread.shutdown()
    return thread.thread_id


@pytest.fixture
async def continued(serve: Serve, model: ModelServer, home: Path, thread_id: str) -> str:
    """The thread, with a turn of codex after ours."""
    model.answers.append(ANSWERED)
    async with serve(home) as codex:
        await codex.call("thread/resume", threadId=thread_id)
        await codex.run_turn(thread_id, ASKED)
        await codex.call("thread/name/set", threadId=thread_id, name="Von codex 名前")
    return thread_id


async def test_our_next_append_indexes_what_codex_wrote(
    serve: Serve, store: LocalThreadStore, home: Path, continued: str
) -> None:
    thread = await go_on(store, await read(store, continued), LATER)
    await thread.shutdown()

    assert await summary(store, continued) == [*OURS, (ASKED, ANSWERED), (LATER.question, LATER.answer)]
    assert [await found(store, term) for term in ("wombat", "quokkasort")] == [[continued], [continued]]
    [listed] = (await store.list_threads(ListThreadsParams())).items
    assert (listed.thread_id, listed.name, listed.preview) == (continued, "Von codex 名前", TURNS[0].question)
    assert listed.token_usage is not None
    async with serve(home) as codex:
        shown = await codex.said(continued)
    codexs = [("userMessage", ASKED), ("agentMessage", ANSWERED)]
    assert shown == [*(turn.said for turn in TURNS), codexs, LATER.said]


async def test_our_reads_show_what_codex_wrote(store: LocalThreadStore, continued: str) -> None:
    assert await summary(store, continued) == [*OURS, (ASKED, ANSWERED)]
    thread = await read(store, continued)
    assert (thread.name, thread.model) == ("Von codex 名前", "canned")
    assert await found_soon(store, "wombat") == [continued]


async def test_a_fork_by_codex_is_a_thread_with_our_turns(
    serve: Serve, model: ModelServer, store: LocalThreadStore, home: Path, thread_id: str
) -> None:
    model.answers.append(ANSWERED)

    async with serve(home) as codex:
        fork = (await codex.call("thread/fork", threadId=thread_id))["thread"]["id"]
        await codex.run_turn(fork, ASKED)

    assert await summary(store, fork) == [*OURS, (ASKED, ANSWERED)]
    assert (await read(store, fork)).forked_from_id == thread_id
    assert await summary(store, thread_id) == OURS


async def test_codex_sees_our_changes_of_a_thread_that_its_own_index_holds(
    serve: Serve, store: LocalThreadStore, home: Path, thread_id: str
) -> None:
    async with serve(home) as codex:
        assert (await codex.threads()).keys() == {thread_id}
    thread = await go_on(store, await read(store, thread_id), LATER)
    await thread.update_metadata(ThreadMetadataPatch(name="Neuer Name"))
    await thread.shutdown()

    async with serve(home) as codex:
        shown, listed, hits = await codex.said(thread_id), await codex.threads(), await codex.found("quokkasort")
    await store.archive_thread(ArchiveThreadParams(thread_id=thread_id))
    async with serve(home) as codex:
        archived = [await codex.threads(), (await codex.threads(archived=True)).keys()]
    await store.unarchive_thread(ArchiveThreadParams(thread_id=thread_id))
    async with serve(home) as codex:
        unarchived = [(await codex.threads()).keys(), await codex.threads(archived=True)]
    await store.delete_thread(DeleteThreadParams(thread_id=thread_id))
    async with serve(home) as codex:
        deleted = [await codex.threads(), await codex.threads(archived=True)]
        with pytest.raises(CodexError, match=thread_id):
            await codex.call("thread/resume", threadId=thread_id)

    assert shown[-1] == LATER.said
    assert listed[thread_id]["name"] == "Neuer Name"
    assert hits == [thread_id]
    assert (archived, unarchived, deleted) == ([{}, {thread_id}], [{thread_id}, {}], [{}, {}])


async def test_codex_shows_our_name_and_git_branch_once_its_index_is_deleted(
    serve: Serve, store: LocalThreadStore, home: Path, continued: str
) -> None:
    """Codex reads both into ``state_*.sqlite`` only once, and rebuilds a missing file from the rollouts."""
    thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=continued))
    await thread.update_metadata(ThreadMetadataPatch(name="Unser Name", git_info=GitInfoPatch(branch="unser")))
    await thread.shutdown()

    async def shown() -> tuple[str, str | None]:
        async with serve(home) as codex:
            listed = (await codex.threads())[continued]
        return listed["name"], listed["gitInfo"] and listed["gitInfo"]["branch"]

    before = await shown()
    for path in home.glob("state_*.sqlite*"):
        path.unlink()

    assert (before, await shown()) == (("Von codex 名前", None), ("Unser Name", "unser"))
