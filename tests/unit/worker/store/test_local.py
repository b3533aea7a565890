"""What only `LocalThreadStore` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.nodes.items import append, history, message, new_thread, texts

from livethread import Conflict, ResumeThreadParams, Settings, Unavailable
from livethread.types import START
from livethread_worker.store import LocalThreadStore, local
from livethread_worker.store.home import Home
from livethread_worker.store.locking import file_lock

if TYPE_CHECKING:
    from pathlib import Path


async def test_while_somebody_else_writes_the_thread_nothing_is_stored_and_then_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCK_WAIT", 0.01)
    home = Home(tmp_path / "home")
    async with LocalThreadStore(Settings(home=home.root)) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))

        with (
            file_lock(home.locks / f"{thread_id}.lock"),
            pytest.raises(Unavailable, match=r"nothing was stored: .*held by another writer"),
        ):
            await append(store, thread_id, message("refused"))

        await append(store, thread_id, message("two"))
        assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_a_position_that_the_lost_index_knew_is_no_ground_to_append(tmp_path: Path) -> None:
    """Nor is the start: the thread has tasks."""
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
