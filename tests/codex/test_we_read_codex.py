"""Livethread lists, reads, searches and continues a thread that codex wrote, and codex reads the additions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.codex.conftest import Serve
from tests.codex.conversation import PROVIDER, Turn
from tests.codex.model_server import ModelServer
from tests.codex.ours import found, found_soon, go_on, listed, listed_soon, summary
from tests.nodes.items import read
from tests.store_spec.turns import item_page, turns_of

from livethread import (
    GitInfoPatch,
    ListThreadsParams,
    MemoryMode,
    Settings,
    ThreadMetadataPatch,
)
from livethread_worker.store import LocalThreadStore

TALK = [("Wie heißt 世界? 🌍", "So: world ✅"), ("ועכשיו?", "Weiter so.")]
OURS = Turn("turn-ours", "Und der quokkasort?", "Der auch 🎉")


@dataclass(frozen=True)
class ByCodex:
    """A thread that codex wrote."""

    home: Path
    thread_id: str


@pytest.fixture
async def by_codex(serve: Serve, model: ModelServer, home: Path) -> ByCodex:
    model.answers += [answer for _, answer in TALK]
    async with serve(home) as codex:
        thread_id = (await codex.call("thread/start", cwd=str(home)))["thread"]["id"]
        for question, _ in TALK:
            await codex.run_turn(thread_id, question)
        await codex.call("thread/name/set", threadId=thread_id, name="Codex' Name 名前")
    return ByCodex(home, thread_id)


@pytest.fixture
async def store(by_codex: ByCodex) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=by_codex.home)) as store:
        yield store


async def test_livethread_lists_the_thread(store: LocalThreadStore, by_codex: ByCodex) -> None:
    [thread] = (await store.list_threads(ListThreadsParams())).items

    assert (thread.thread_id, thread.name) == (by_codex.thread_id, "Codex' Name 名前")
    assert (thread.preview, thread.title) == (TALK[0][0], TALK[0][0])
    assert (thread.cwd, thread.model_provider, thread.model) == (str(by_codex.home), PROVIDER, "canned")
    assert thread.token_usage is not None
    assert thread.token_usage["total_tokens"] == 18 * len(TALK)


async def test_livethread_reads_and_searches_its_turns(store: LocalThreadStore, by_codex: ByCodex) -> None:
    assert await summary(store, by_codex.thread_id) == TALK
    [first, _] = await turns_of(store, by_codex.thread_id)
    page = await item_page(store, by_codex.thread_id, turn_id=first.turn_id)
    assert page.items == first.items
    for term in ("世界", "world", "ועכשיו"):
        assert await found(store, term) == [by_codex.thread_id], term
    assert await found(store, "quokkasort") == []


async def test_codex_reads_and_continues_what_livethread_appends(
    serve: Serve, model: ModelServer, store: LocalThreadStore, by_codex: ByCodex
) -> None:
    thread = await go_on(store, await read(store, by_codex.thread_id), OURS)
    await thread.shutdown()
    model.answers.append("Gern.")

    async with serve(by_codex.home) as codex:
        found_by_codex = await codex.found("quokkasort")
        await codex.call("thread/resume", threadId=by_codex.thread_id)
        await codex.run_turn(by_codex.thread_id, "Danke")
        shown = await codex.said(by_codex.thread_id)

    talk = [*TALK, (OURS.question, OURS.answer), ("Danke", "Gern.")]
    assert found_by_codex == [by_codex.thread_id]
    assert shown == [[("userMessage", question), ("agentMessage", answer)] for question, answer in talk]
    assert model.texts()[-7:] == [*(text for said in talk for text in said)][:-1]
    assert await summary(store, by_codex.thread_id) == talk
    assert await found_soon(store, "Danke") == [by_codex.thread_id]


async def test_codexs_model_sees_every_message_after_metadata_changes(
    serve: Serve, model: ModelServer, store: LocalThreadStore, by_codex: ByCodex
) -> None:
    thread = await go_on(store, await read(store, by_codex.thread_id), OURS)
    await thread.update_metadata(ThreadMetadataPatch(name="Unser Name"))
    await thread.update_metadata(
        ThreadMetadataPatch(git_info=GitInfoPatch(branch="b"), memory_mode=MemoryMode.DISABLED)
    )
    await thread.shutdown()
    model.answers += ["Gern.", "Bitte."]

    for question in ("Danke", "Noch da?"):
        async with serve(by_codex.home) as codex:
            await codex.call("thread/resume", threadId=by_codex.thread_id)
            await codex.run_turn(by_codex.thread_id, question)

    talk = [*TALK, (OURS.question, OURS.answer), ("Danke", "Gern.")]
    assert set(model.texts()) >= {*(text for said in talk for text in said), "Noch da?"}


async def test_a_thread_that_codex_archives_is_archived(
    serve: Serve, store: LocalThreadStore, by_codex: ByCodex
) -> None:
    assert await listed(store) == {by_codex.thread_id}

    for method, is_archived in (("thread/archive", True), ("thread/unarchive", False)):
        async with serve(by_codex.home) as codex:
            await codex.call(method, threadId=by_codex.thread_id)

        assert ((await read(store, by_codex.thread_id)).archived_at is not None) == is_archived
        assert await listed_soon(store, archived=is_archived) == {by_codex.thread_id}
        assert await listed(store, archived=not is_archived) == set()


async def test_a_thread_that_codex_begins_while_the_store_is_open_is_listed(
    serve: Serve, model: ModelServer, store: LocalThreadStore, by_codex: ByCodex
) -> None:
    assert await listed(store) == {by_codex.thread_id}
    model.answers.append("Gern.")

    async with serve(by_codex.home) as codex:
        another = (await codex.call("thread/start", cwd="/"))["thread"]["id"]
        await codex.run_turn(another, "Wo ist der Wombat?")

    assert await summary(store, another) == [("Wo ist der Wombat?", "Gern.")]
    assert await found_soon(store, "wombat") == [another]
    assert await listed(store) == {by_codex.thread_id, another}
