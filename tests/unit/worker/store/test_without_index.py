"""`LocalThreadStore` without an index, or with an unusable one: the rollouts answer."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.nodes.items import append, history, message, new_thread, texts
from tests.unit.worker.builders import Store, message_line, thread_id

from livethread import (
    ListItemsParams,
    ListThreadsParams,
    ListTurnsParams,
    LoadThreadHistoryParams,
    ReadThreadByRolloutPathParams,
    ReadThreadParams,
    SearchThreadsParams,
    Settings,
    Unavailable,
)
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.index import database

ONE, TWO = thread_id(1), thread_id(2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of a home with two rollouts and nothing else."""
    store = Store(tmp_path / "home")
    store.write_rollout(ONE, message_line("a zebra"))
    store.write_rollout(TWO, message_line("a gnu"))
    store.close()
    for path in (*store.home.own.glob("*"), *store.home.locks.glob("*")):
        if path.is_file():
            path.unlink()
    return Settings(home=store.home.root)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(settings, index=None) as store:
        yield store


async def assert_every_read_answers(store: LocalThreadStore) -> None:
    listed = await store.list_threads(ListThreadsParams(include_without_preview=True))
    found = await store.search_threads(SearchThreadsParams(search_term="zebra"))
    turns = await store.list_turns(ListTurnsParams(thread_id=TWO))
    items = await store.list_items(ListItemsParams(thread_id=TWO))
    thread = await store.read_thread(ReadThreadParams(thread_id=ONE))
    by_path = await store.read_thread_by_rollout_path(
        ReadThreadByRolloutPathParams(rollout_path=str(thread.rollout_path))
    )

    assert {item.thread_id for item in listed.items} == {ONE, TWO}
    assert [item.thread.thread_id for item in found.items] == [ONE]
    assert (len(turns.turns), len(items.items)) == (1, 2)
    assert (thread.preview, by_path) == ("a zebra", thread)
    _meta, *said = (await store.load_history(LoadThreadHistoryParams(thread_id=ONE))).items
    assert texts(said) == ["a zebra"]


async def test_every_read_answers_from_the_rollouts_and_creates_no_file(
    store: LocalThreadStore, settings: Settings
) -> None:
    before = sorted(settings.home.rglob("*"))

    await assert_every_read_answers(store)

    assert sorted(settings.home.rglob("*")) == before


async def test_a_store_with_an_index_sees_what_one_without_wrote(store: LocalThreadStore, settings: Settings) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("written"))

    assert not (settings.own_dir / "index.sqlite").exists()
    async with LocalThreadStore(settings) as other:
        assert texts(await history(other, thread_id)) == ["written"]
        listed = await other.list_threads(ListThreadsParams(include_without_preview=True))
        assert {item.thread_id for item in listed.items} == {ONE, TWO, thread_id}


async def test_a_read_only_home_can_be_read(settings: Settings) -> None:
    """Our own folder cannot be created, as on a disk that is mounted read-only."""
    (settings.own_dir / "run").rmdir()
    (settings.own_dir / "quarantine").rmdir()
    shutil.rmtree(settings.own_dir / "originals")
    settings.own_dir.rmdir()
    settings.own_dir.write_text("in the way")

    async with LocalThreadStore(settings) as store:
        await assert_every_read_answers(store)
        with pytest.raises(Unavailable, match="cannot be used"):
            await append(store, await new_thread(store), message("no"))


async def test_a_locked_index_does_not_prevent_reads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    async with LocalThreadStore(settings) as store:
        await store.list_threads(ListThreadsParams(include_without_preview=True))
    with closing(sqlite3.connect(settings.own_dir / "index.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        async with LocalThreadStore(settings) as store:
            await assert_every_read_answers(store)
            thread_id = await new_thread(store)
            with pytest.raises(Unavailable, match="index"):
                await append(store, thread_id, message("refused"))


async def test_a_listing_from_the_index_alone_fails_without_the_index(settings: Settings) -> None:
    settings.own_dir.rename(settings.home / "away")
    settings.own_dir.write_text("in the way")
    async with LocalThreadStore(settings) as store:
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be used"):
                await store.list_threads(ListThreadsParams(include_without_preview=True, use_state_db_only=True))
            assert len((await store.list_threads(ListThreadsParams(include_without_preview=True))).items) == 2


async def test_the_index_is_used_again_once_it_can_be_opened(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livethread_worker.store.read.reader.INDEX_RETRY_INTERVAL", 0.0)
    settings.own_dir.rename(settings.home / "away")
    settings.own_dir.write_text("in the way")
    async with LocalThreadStore(settings) as store:
        await store.list_threads(ListThreadsParams(include_without_preview=True))
        settings.own_dir.unlink()

        await assert_every_read_answers(store)

        assert (settings.own_dir / "index.sqlite").exists()
