"""Threads that codex reverts and forks are the same in livethread: listed, read, searched, continued and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.codex.app_server import AppServer, CodexError
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import Turn
from tests.codex.model_server import ModelServer
from tests.codex.ours import found, found_soon, go_on, listed, listed_soon, summary
from tests.nodes.items import read
from tests.store_spec.operations import archive, delete, unarchive

from livethread import Conflict, ListThreadsParams, SearchThreadsParams, Settings
from livethread_worker.store import LocalThreadStore

OURS = Turn("turn-ours", "Und der quokkasort?", "Der auch 🎉")

FIRST, SECOND, EDITED = (
    ("keep apples", "apples kept"),
    ("discard zucchini", "discarded"),
    ("keep pears", "pears kept"),
)


@pytest.fixture(autouse=True)
def newer_codex(codex: Codex) -> None:
    """Before it, codex neither reverts threads nor begins paginated ones."""
    if codex.version < (0, 169):
        pytest.skip("this codex does not revert threads")


@pytest.fixture
async def store(home: Path) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=home)) as store:
        yield store


async def say(codex: AppServer, model: ModelServer, thread_id: str, *talk: tuple[str, str]) -> None:
    for question, answer in talk:
        model.answers.append(answer)
        await codex.run_turn(thread_id, question)


async def begin(codex: AppServer, model: ModelServer, home: Path, *talk: tuple[str, str]) -> str:
    thread_id = str((await codex.call("thread/start", cwd=str(home)))["thread"]["id"])
    await say(codex, model, thread_id, *talk)
    return thread_id


async def revert(codex: AppServer, model: ModelServer, thread_id: str) -> None:
    """Edit the second turn of a thread."""
    newest_first = (await codex.call("thread/turns/list", threadId=thread_id))["data"]
    await codex.call("thread/revert", threadId=thread_id, beforeTurnId=newest_first[-2]["id"])
    await say(codex, model, thread_id, EDITED)


async def fork(codex: AppServer, model: ModelServer, thread_id: str, **params: bool) -> str:
    forked = (await codex.call("thread/fork", threadId=thread_id, **params))["thread"]["id"]
    await say(codex, model, forked, ("fork figs", "figs forked"))
    return str(forked)


def shown(*talk: tuple[str, ...]) -> list[list[tuple[str, str]]]:
    return [[("userMessage", question), ("agentMessage", answer)] for question, answer in talk]


async def test_a_reverted_thread_is_the_same_in_both(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        thread_id = await begin(codex, model, home, FIRST, SECOND)
        assert await summary(store, thread_id) == [FIRST, SECOND]
        await revert(codex, model, thread_id)

        by_codex = (await codex.threads())[thread_id]
        assert await codex.said(thread_id) == shown(FIRST, EDITED)
        assert (await codex.found("zucchini"), await codex.found("pears")) == ([], [thread_id])
        assert await found_soon(store, "pears") == [thread_id]
        assert await found(store, "zucchini") == []
    assert await summary(store, thread_id) == [FIRST, EDITED]
    [thread] = (await store.list_threads(ListThreadsParams())).items
    assert (thread.thread_id, thread.preview, thread.name) == (thread_id, by_codex["preview"], by_codex["name"])
    assert int(thread.created_at.timestamp()) == by_codex["createdAt"]


async def test_codexs_model_sees_what_we_append_after_a_revert(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        thread_id = await begin(codex, model, home, FIRST, SECOND)
        assert await summary(store, thread_id) == [FIRST, SECOND]
        await revert(codex, model, thread_id)
    thread = await go_on(store, await read(store, thread_id), OURS)
    await thread.shutdown()

    async with serve(home) as codex:
        await codex.call("thread/resume", threadId=thread_id)
        await say(codex, model, thread_id, ("Danke", "Gern."))
        said_by_codex = await codex.said(thread_id)

    talk = [FIRST, EDITED, (OURS.question, OURS.answer), ("Danke", "Gern.")]
    assert said_by_codex == shown(*talk)
    assert model.texts()[-7:] == [text for turn in talk for text in turn][:-1]
    assert not {*SECOND} & {*model.texts()}
    assert await summary(store, thread_id) == talk


async def test_a_fork_is_the_same_in_both_and_goes_on_in_both(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        thread_id = await begin(codex, model, home, FIRST, SECOND)
        await revert(codex, model, thread_id)
        forked = await fork(codex, model, thread_id)
        await say(codex, model, thread_id, ("not in the fork", "no"))
        by_codex = (await codex.threads())[forked]
    talk = [FIRST, EDITED, ("fork figs", "figs forked")]
    assert await summary(store, forked) == talk
    assert (await read(store, forked)).preview == by_codex["preview"]
    assert await listed(store) == {thread_id, forked}

    live = await go_on(store, await read(store, forked), OURS)
    await live.shutdown()
    async with serve(home) as codex:
        await codex.call("thread/resume", threadId=forked)
        await say(codex, model, forked, ("Danke", "Gern."))
        said_by_codex = await codex.said(forked)

    talk += [(OURS.question, OURS.answer), ("Danke", "Gern.")]
    assert said_by_codex == shown(*talk)
    assert model.texts()[-9:] == [text for turn in talk for text in turn][:-1]
    assert await summary(store, forked) == talk


async def test_archiving_and_deleting_a_reverted_thread_in_either_is_whole(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        thread_id = await begin(codex, model, home, FIRST, SECOND)
        await revert(codex, model, thread_id)
    await archive(store, thread_id)
    async with serve(home) as codex:
        assert (await codex.threads(), list(await codex.threads(archived=True))) == ({}, [thread_id])
    await unarchive(store, thread_id)
    async with serve(home) as codex:
        assert list(await codex.threads()) == [thread_id]
        assert await codex.said(thread_id) == shown(FIRST, EDITED)
    assert await summary(store, thread_id) == [FIRST, EDITED]
    assert await listed_soon(store) == {thread_id}
    async with serve(home) as codex:
        await codex.call("thread/archive", threadId=thread_id)
    assert await summary(store, thread_id) == [FIRST, EDITED]
    assert await listed_soon(store, archived=True) == {thread_id}
    await unarchive(store, thread_id)
    async with serve(home) as codex:
        assert list(await codex.threads()) == [thread_id]

    await delete(store, thread_id)

    assert list(home.rglob("rollout-*")) == []
    async with serve(home) as codex:
        assert (await codex.threads(), await codex.threads(archived=True)) == ({}, {})


async def test_both_refuse_to_delete_what_a_fork_needs_and_both_hide_attached_forks(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        thread_id = await begin(codex, model, home, FIRST, SECOND)
        attached = await fork(codex, model, thread_id, attachToSource=True)
        with pytest.raises(CodexError, match=rf"attached thread {attached} exists"):
            await codex.call("thread/delete", threadId=thread_id)
        listed_by_codex = set(await codex.threads())
        attached_by_codex = list(await codex.threads(attachedToThreadId=thread_id))
        found_by_codex = await codex.found("figs")
    with pytest.raises(Conflict, match=rf"attached thread {attached} exists"):
        await delete(store, thread_id)
    assert await listed(store) == listed_by_codex == {thread_id}
    page = await store.list_threads(ListThreadsParams(attached_to_thread_id=thread_id))
    assert [thread.thread_id for thread in page.items] == attached_by_codex == [attached]
    assert await found(store, "figs") == found_by_codex == []
    hits = await store.search_threads(SearchThreadsParams(search_term="figs", include_attached_threads=True))
    assert [hit.thread.thread_id for hit in hits.items] == [attached]

    async with serve(home) as codex:
        await codex.call("thread/delete", threadId=attached)
        await codex.call("thread/resume", threadId=thread_id)
        forked = await fork(codex, model, thread_id)
        with pytest.raises(CodexError, match="forked history still references it"):
            await codex.call("thread/delete", threadId=thread_id)
    with pytest.raises(Conflict, match=rf"thread {forked} was forked from it"):
        await delete(store, thread_id)
    await delete(store, forked)
    await delete(store, thread_id)
    assert list(home.rglob("rollout-*")) == []
