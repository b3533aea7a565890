"""Behavior that only `LocalThreadStore` has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, history, message, new_thread, texts
from tests.unit.worker.builders import killed

from livethread import Conflict, ResumeThreadParams, Settings, Unavailable
from livethread.position import START
from livethread_worker.store import LocalThreadStore, local
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.upkeep.rebuild import read_state, rebuild


async def test_an_append_to_a_locked_thread_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCK_WAIT", 0.01)
    home = Home(tmp_path / "home")
    async with LocalThreadStore(Settings(home=home.root)) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))

        with (
            file_lock(home.thread_lock(thread_id)),
            pytest.raises(Unavailable, match=r"nothing was stored: .*held by another writer"),
        ):
            await append(store, thread_id, message("refused"))

        await append(store, thread_id, message("two"))
        assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_an_expected_position_that_was_lost_with_the_index_is_refused(tmp_path: Path) -> None:
    """So is START, since the thread has tasks."""
    home = Home(tmp_path / "home")
    async with LocalThreadStore(Settings(home=home.root)) as store:
        thread_id = await new_thread(store)
        receipt = await append(store, thread_id, message("one"))
    for path in home.own.glob("index.sqlite*"):
        path.unlink()

    async with LocalThreadStore(Settings(home=home.root)) as store:
        await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
        for expected in (START, receipt.position):
            with pytest.raises(Conflict, match="not known"):
                await append(store, thread_id, message("no"), expected=expected)
        receipt = await append(store, thread_id, message("two"))
        await append(store, thread_id, message("three"), expected=receipt.position)

        assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_an_append_is_refused_if_a_killed_store_left_unread_lines(tmp_path: Path) -> None:
    """The killed store had not committed them; the other has not read them."""
    settings = Settings(home=tmp_path / "home")
    async with LocalThreadStore(settings) as dying, LocalThreadStore(settings) as other:
        thread_id = await new_thread(dying)
        receipt = await append(dying, thread_id, message("one"))
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        with killed(Index, "commit"):
            await append(dying, thread_id, message("two"), expected=receipt.position)

        with pytest.raises(Conflict, match="not known"):
            await append(other, thread_id, message("no"), expected=receipt.position)

        assert texts(await history(other, thread_id)) == ["one", "two"]


async def test_an_append_that_found_the_index_busy_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expected position was the last one when the first attempt wrote its lines; a reader then indexed them."""
    home = Home(tmp_path / "home")
    async with LocalThreadStore(Settings(home=home.root)) as store:
        thread_id = await new_thread(store)
        receipt = await append(store, thread_id, message("one"))
        commit, index = Index.commit, Index(home)

        def busy_once(*args: Any) -> Any:
            monkeypatch.setattr(Index, "commit", commit)
            path = home.require_rollout(thread_id)
            index.replace([thread_rows(read_state(home, thread_id, path, {}), None)])
            raise IndexUnavailable("busy")

        monkeypatch.setattr(Index, "commit", busy_once)
        await append(store, thread_id, message("two"), expected=receipt.position)
        index.close()

        assert texts(await history(store, thread_id)) == ["one", "two"]


# -- epochs ------------------------------------------------------------------------------------------------


async def fenced_thread(older: LocalThreadStore, newer: LocalThreadStore) -> str:
    """Return a thread that *older* has open and *newer* has since opened exclusively."""
    thread_id = await new_thread(older)
    await append(older, thread_id, message("one"))
    await newer.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=True))
    return thread_id


async def test_a_fence_survives_a_rebuild_of_the_index(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    async with (
        LocalThreadStore(Settings(home=home.root)) as older,
        LocalThreadStore(Settings(home=home.root)) as newer,
    ):
        thread_id = await fenced_thread(older, newer)
        index = Index(home)
        rebuild(home, index)
        index.distrust(thread_id)
        index.rename(thread_id, "A name")
        index.close()

        with pytest.raises(Conflict, match="newer exclusive writer"):
            await append(older, thread_id, message("fenced"))


async def test_an_epoch_lost_with_the_index_is_restored_by_its_writers_next_task(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    async with (
        LocalThreadStore(Settings(home=home.root)) as older,
        LocalThreadStore(Settings(home=home.root)) as newer,
    ):
        thread_id = await fenced_thread(older, newer)
        for path in home.own.glob("index.sqlite*"):
            path.unlink()
        await append(older, thread_id, message("two"))  # not promised, but accepted until the newer writer comes back

        await append(newer, thread_id, message("three"))

        with pytest.raises(Conflict, match="newer exclusive writer"):
            await append(older, thread_id, message("fenced"))
        assert texts(await history(older, thread_id)) == ["one", "two", "three"]


async def test_a_store_without_an_index_neither_fences_nor_is_fenced(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    async with LocalThreadStore(settings) as one, LocalThreadStore(settings, index=None) as other:
        thread_id = await fenced_thread(one, other)
        await append(one, thread_id, message("two"))
        await one.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=True))

        await append(other, thread_id, message("three"))

        assert texts(await history(one, thread_id)) == ["one", "two", "three"]


async def test_a_locked_thread_cannot_be_opened_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCK_WAIT", 0.01)
    home = Home(tmp_path / "home")
    async with LocalThreadStore(Settings(home=home.root)) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))

        with file_lock(home.thread_lock(thread_id)), pytest.raises(Unavailable):
            await store.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=True))
