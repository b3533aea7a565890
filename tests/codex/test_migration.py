"""``codex migrate-rollouts --apply`` rewrites our rollouts as paginated ones; nothing of ours is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import TURNS, Turn, begin
from tests.codex.model_server import ModelServer
from tests.codex.ours import found, go_on, summary
from tests.nodes.items import read, without_positions
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually

from livethread import (
    ArchiveThreadParams,
    GitInfoPatch,
    LiveThread,
    MemoryMode,
    ResumeThreadParams,
    Settings,
    StoredThread,
    ThreadMetadataPatch,
    ThreadStore,
)
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.upkeep.doctor import FaultKind, examine

PATCH = ThreadMetadataPatch(
    model="patched",
    thread_source="nightly",
    name="Unser Name",
    git_info=GitInfoPatch(branch="unser"),
    memory_mode=MemoryMode.DISABLED,
)
FIRST, KEYED, LATER = TURNS


@pytest.fixture(autouse=True)
def _migrates(codex: Codex) -> None:
    if not codex.migrates:
        pytest.skip("this codex has no migrate-rollouts")


async def write_thread(store: ThreadStore) -> LiveThread:
    thread = await begin(store, FIRST, thread_source="automation")
    await thread.append_items(list(KEYED.items()), idempotency_key="k1")
    await thread.update_metadata(PATCH)
    await thread.flush()
    return thread


def drop_index(home: Path) -> None:
    for path in (home / "livethread").glob("index.sqlite*"):
        path.unlink()


def in_paginated(thread: StoredThread) -> Any:
    return without_positions(thread.model_copy(update={"history_mode": "paginated"}))


@pytest.mark.parametrize("loses_index", ["never", "before", "after"])
async def test_metadata_and_idempotency_keys_survive(codex: Codex, home: Path, loses_index: str) -> None:
    async with LocalThreadStore(Settings(home=home)) as store:
        thread = await write_thread(store)
        known = await thread.read_thread()
        await thread.shutdown()

    if loses_index == "before":
        drop_index(home)
    assert codex.migrate(home) == ["migrated"]
    if loses_index == "after":
        drop_index(home)

    async with LocalThreadStore(Settings(home=home)) as store:
        assert without_positions(await read(store, thread.thread_id)) == in_paginated(known)
        again = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id))
        await again.append_items(list(KEYED.paginated_items(thread.thread_id)), idempotency_key="k1")
        await again.shutdown()
        assert await summary(store, thread.thread_id) == [(turn.question, turn.answer) for turn in (FIRST, KEYED)]
        assert await found(store, "quokkasort") == [thread.thread_id]
        assert (await read(store, thread.thread_id)).model == "patched"
    drop_index(home)
    assert codex.migrate(home) == ["already_paginated"]
    async with LocalThreadStore(Settings(home=home)) as store:
        assert (await read(store, thread.thread_id)).thread_source == "nightly"
    assert {fault.kind for fault in examine(Home(home), fix=False).faults} == {
        FaultKind.BAD_PERMISSIONS
    }  # the test's home is not private


async def test_codex_continues_what_we_continue_after_it_rewrote_the_rollout(
    codex: Codex, serve: Serve, model: ModelServer, home: Path
) -> None:
    model.answers.append("Gern.")
    async with LocalThreadStore(Settings(home=home)) as store:
        thread = await write_thread(store)
        await thread.shutdown()
        codex.migrate(home)
        await (await go_on(store, await read(store, thread.thread_id), LATER)).shutdown()

        async with serve(home) as server:
            listed, hits = await server.threads(), await server.found("quokkasort")
            await server.call("thread/resume", threadId=thread.thread_id)
            await server.run_turn(thread.thread_id, "Danke")
            shown = await server.said(thread.thread_id)

        talk = [*((turn.question, turn.answer) for turn in TURNS), ("Danke", "Gern.")]
        assert [said[0] for said in shown] == [("userMessage", question) for question, _ in talk]
        assert (set(listed), hits) == ({thread.thread_id}, [thread.thread_id])
        assert set(model.texts()) >= {turn.question for turn in TURNS} | {turn.answer for turn in TURNS}
        assert await summary(store, thread.thread_id) == talk
        assert (await read(store, thread.thread_id)).thread_source == "nightly"


async def test_tasks_that_wait_in_the_mailbox_are_applied_once(codex: Codex, home: Path) -> None:
    """codex rewrites the rollout while a worker cannot write it, and the thread has accepted tasks."""
    late = Turn("turn-late", "Und jetzt?", "Jetzt auch.")
    async with opened(Settings(home=home, redis_url=None)) as store:
        thread = await write_thread(store)
        with file_lock(Home(home).thread_lock(thread.thread_id), wait_s=5):
            await thread.append_items(list(late.items()), idempotency_key="k2")
            await thread.append_items(list(KEYED.items()), idempotency_key="k1")
            assert codex.migrate(home) == ["skipped_busy"]
        await eventually(lambda: "skipped_busy" not in codex.migrate(home), "codex rewrites the rollout")
        await thread.flush()

        turns = (FIRST, KEYED, late)
        assert await summary(store, thread.thread_id) == [(turn.question, turn.answer) for turn in turns]
        assert (await read(store, thread.thread_id)).model == "patched"
        await thread.shutdown()


async def test_an_archived_thread_stays_archived_since_then(codex: Codex, home: Path) -> None:
    async with LocalThreadStore(Settings(home=home)) as store:
        thread = await write_thread(store)
        await thread.shutdown()
        await store.archive_thread(ArchiveThreadParams(thread_id=thread.thread_id))
        known = await read(store, thread.thread_id)

        assert codex.migrate(home) == ["migrated"]

        assert without_positions(await read(store, thread.thread_id)) == in_paginated(known)
