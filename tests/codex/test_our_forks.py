"""Codex treats our forks like its own: it lists, reads and continues them, and keeps what they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.codex.app_server import AppServer, CodexError
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import PROVIDER, Turn
from tests.codex.model_server import ModelServer
from tests.codex.ours import go_on, summary
from tests.codex.test_lineages import EDITED, FIRST, SECOND, begin, revert, say, shown
from tests.nodes.items import read

from livethread import CreateThreadParams, GitInfo, LiveThread, Settings, ThreadManager
from livethread_worker.store import LocalThreadStore

OURS = Turn("turn-ours", "Und der quokkasort?", "Der auch 🎉")
THANKS = ("Danke", "Gern.")


@pytest.fixture
async def store(home: Path) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=home)) as store:
        yield store


@pytest.fixture
def newer(codex: Codex) -> None:
    """Before it, codex has no paginated threads."""
    if codex.version < (0, 169):
        pytest.skip("this codex has no paginated threads")


async def append_ours(store: LocalThreadStore, fork: LiveThread) -> None:
    thread = await go_on(store, await read(store, fork.thread_id), OURS)
    await thread.shutdown()
    await fork.shutdown()


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("is_reverted", [False, True])
async def test_codex_goes_on_with_our_fork_of_its_thread(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore, is_reverted: bool
) -> None:
    async with serve(home) as codex:
        source = await begin(codex, model, home, FIRST, SECOND)
        if is_reverted:
            await revert(codex, model, source)
        await codex.call("thread/name/set", threadId=source, name="Its name")
    fork = await ThreadManager(store).fork_thread(source)
    await append_ours(store, fork)

    async with serve(home) as codex:
        listed = await codex.threads()
        await codex.call("thread/resume", threadId=fork.thread_id)
        await say(codex, model, fork.thread_id, THANKS)
        said_by_codex = await codex.said(fork.thread_id)
        with pytest.raises(CodexError, match="forked history still references it"):
            await codex.call("thread/delete", threadId=source)

    talk = [FIRST, EDITED if is_reverted else SECOND, (OURS.question, OURS.answer), THANKS]
    assert listed.keys() == {source, fork.thread_id}
    assert listed[fork.thread_id]["preview"] == OURS.question  # codex reads only the newest file
    forked = await read(store, fork.thread_id)
    assert (forked.forked_from_id, forked.preview, forked.name) == (source, FIRST[0], "Its name")
    assert said_by_codex == shown(*talk)
    assert model.texts()[-7:] == [text for turn in talk for text in turn][:-1]
    assert await summary(store, fork.thread_id) == talk


@pytest.mark.usefixtures("newer")
async def test_codex_goes_on_with_our_fork_at_a_turn_and_forks_it(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    async with serve(home) as codex:
        source = await begin(codex, model, home, FIRST, SECOND)
        second, first = (turn["id"] for turn in (await codex.call("thread/turns/list", threadId=source))["data"])
    manager = ThreadManager(store)
    before = await manager.fork_thread(source, before_turn_id=second)
    through = await manager.fork_thread(source, through_turn_id=first)
    empty = await manager.fork_thread(source, before_turn_id=first)
    for fork in (before, through, empty):
        await append_ours(store, fork)

    ours = (OURS.question, OURS.answer)
    async with serve(home) as codex:
        for fork in (before, through, empty):  # until codex resumes a paginated thread, it misses what others wrote
            await codex.call("thread/resume", threadId=fork.thread_id)
        assert await codex.said(before.thread_id) == await codex.said(through.thread_id) == shown(FIRST, ours)
        assert await codex.said(empty.thread_id) == shown(ours)
        forked = (await codex.call("thread/fork", threadId=before.thread_id))["thread"]["id"]
        await say(codex, model, forked, THANKS)
        assert await codex.said(forked) == shown(FIRST, ours, THANKS)

    assert model.texts()[-5:] == [*FIRST, *ours, THANKS[0]]
    assert SECOND[0] not in model.texts()
    assert await summary(store, forked) == [FIRST, ours, THANKS]


async def begin_ours(store: LocalThreadStore, manager: ThreadManager, history_mode: str | None, cwd: Path) -> str:
    """Begin a thread of the turns ``t0`` and ``t1``."""
    params = CreateThreadParams(
        cwd=str(cwd), model_provider=PROVIDER, source="vscode", history_mode=history_mode, git=GitInfo()
    )
    source = await manager.create_thread(params)
    await source.persist()
    for n, (question, answer) in enumerate((FIRST, SECOND)):
        thread = await go_on(store, await read(store, source.thread_id), Turn(f"t{n}", question, answer))
        await thread.shutdown()
    await source.shutdown()
    return source.thread_id


async def is_continued_by_codex(
    codex: AppServer, model: ModelServer, home: Path, store: LocalThreadStore, *, history_mode: str | None
) -> None:
    """Fork a thread of ours, append a turn, and have codex go on."""
    manager = ThreadManager(store)
    source = await begin_ours(store, manager, history_mode, home)
    fork = await manager.fork_thread(source, through_turn_id="t0")
    await append_ours(store, fork)

    async with codex:
        assert (await codex.threads()).keys() == {source, fork.thread_id}
        await codex.call("thread/resume", threadId=fork.thread_id)
        await say(codex, model, fork.thread_id, THANKS)
        await codex.call("thread/resume", threadId=source)  # see above: what they share is in the source's file
        said_by_codex = await codex.said(fork.thread_id)

    talk = [FIRST, (OURS.question, OURS.answer), THANKS]
    assert said_by_codex == shown(*talk)
    said = [text for turn in talk for text in turn][:-1]
    assert [text for text in model.texts() if text in {*said, *SECOND}] == said


@pytest.mark.usefixtures("newer")
async def test_codex_goes_on_with_a_fork_of_our_paginated_thread(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    await is_continued_by_codex(serve(home), model, home, store, history_mode="paginated")


async def test_codex_goes_on_with_a_fork_of_our_other_thread(
    serve: Serve, model: ModelServer, home: Path, store: LocalThreadStore
) -> None:
    await is_continued_by_codex(serve(home), model, home, store, history_mode=None)
