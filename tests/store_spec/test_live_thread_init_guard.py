from __future__ import annotations

from pathlib import Path

import pytest
from tests.nodes.items import history, message, read, texts
from tests.nodes.processes import RedisServer
from tests.store_spec.kinds import LOCAL, QUEUED, SHARED

from livethread import (
    CreateThreadParams,
    ListThreadsParams,
    LiveThread,
    LiveThreadInitGuard,
    Settings,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


class StartFailed(Exception):
    """Another step of the session's start failed."""


async def create(store: ThreadStore, cwd: str = "") -> LiveThread:
    return await LiveThread.create(store, CreateThreadParams(cwd=cwd))


async def test_a_failed_start_leaves_nothing(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"
    thread = await create(store, cwd)

    with pytest.raises(StartFailed):
        async with LiveThreadInitGuard(thread):
            raise StartFailed

    assert not thread.is_open
    with pytest.raises(ThreadNotFound):
        await read(store, thread.thread_id)
    assert (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items == ()


@pytest.mark.parametrize("kind", [LOCAL, QUEUED])
async def test_a_failed_start_leaves_no_file_and_no_redis_key(
    store: ThreadStore, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = tmp_path / "home"
    if kind == QUEUED:
        served: Settings = request.getfixturevalue("served")
        home = served.home
    thread = await create(store)

    async with LiveThreadInitGuard(thread):
        await thread.flush()

    assert [str(path) for path in home.rglob(f"*{thread.thread_id}*")] == []
    if kind == QUEUED:
        redis: RedisServer = request.getfixturevalue("redis_server")
        assert list(redis.client.scan_iter(f"*{thread.thread_id}*")) == []


async def test_leaving_the_guard_without_a_commit_discards_the_thread(store: ThreadStore) -> None:
    thread = await create(store)

    async with LiveThreadInitGuard(thread) as guard:
        assert guard.thread is thread

    assert not thread.is_open
    assert guard.thread is None


async def test_a_committed_thread_goes_on(store: ThreadStore) -> None:
    async with LiveThreadInitGuard(await create(store)) as guard:
        thread = guard.commit()

    await thread.append_items([message("one")])
    assert texts(await history(store, thread.thread_id)) == ["one"]


async def test_a_failure_after_the_commit_does_not_discard_the_thread(store: ThreadStore) -> None:
    thread = await create(store)

    with pytest.raises(StartFailed):  # noqa: PT012 - the block is what is tested
        async with LiveThreadInitGuard(thread) as guard:
            guard.commit()
            raise StartFailed

    assert thread.is_open


async def test_what_was_accepted_before_the_failure_is_kept(store: ThreadStore) -> None:
    thread = await create(store)

    with pytest.raises(StartFailed):  # noqa: PT012 - the block is what is tested
        async with LiveThreadInitGuard(thread):
            await thread.append_items([message("one")])
            await thread.update_metadata(ThreadMetadataPatch(name="A name"))
            await thread.flush()
            raise StartFailed

    assert texts(await history(store, thread.thread_id)) == ["one"]


async def test_a_guard_hands_its_thread_over_once(store: ThreadStore) -> None:
    async with LiveThreadInitGuard(await create(store)) as guard:
        guard.commit()
        with pytest.raises(RuntimeError, match="no longer owns"):
            guard.commit()
        await guard.discard()


async def test_a_failed_discard_does_not_hide_the_error_of_the_start(
    store: ThreadStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await create(store)

    async def fail() -> None:
        raise OSError

    monkeypatch.setattr(thread, "discard", fail)

    with pytest.raises(StartFailed):
        async with LiveThreadInitGuard(thread):
            raise StartFailed

    [record] = [record for record in caplog.records if record.name == "livethread.live_thread"]
    assert (record.getMessage(), record.__dict__["thread_id"]) == (
        f"discarding thread {thread.thread_id} failed",
        thread.thread_id,
    )


@SHARED
async def test_another_process_can_create_the_thread_after_a_failed_start(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    params = CreateThreadParams(thread_id=new_thread_id())
    async with LiveThreadInitGuard(await LiveThread.create(store, params)):
        pass

    thread = await LiveThread.create(second_store, params)

    await thread.append_items([message("one")])
    assert texts(await history(second_store, thread.thread_id)) == ["one"]
