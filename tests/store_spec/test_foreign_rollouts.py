"""Rollouts that another program, such as codex, writes into the home of a store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, message, read, texts, update
from tests.nodes.waiting import DEADLINE
from tests.store_spec import kinds
from tests.store_spec.operations import a_word, home_of, stored

from livethread import (
    GitInfo,
    GitInfoPatch,
    ListThreadsParams,
    LoadThreadHistoryParams,
    MemoryMode,
    ReadThreadParams,
    ResumeThreadParams,
    SearchThreadsParams,
    ThreadMetadataPatch,
    ThreadSortKey,
    ThreadStore,
    new_thread_id,
)

pytestmark = pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.FILES, kinds.QUEUED, kinds.CELERY])

META = {"cwd": f"/{new_thread_id()}", "originator": "codex_cli_rs", "cli_version": "0.138.0", "source": "cli"}


def line(kind: str, payload: object, time: str = "2026-11-22T12:00:00.000Z") -> str:
    return json.dumps({"timestamp": time, "type": kind, "payload": payload}) + "\n"


@pytest.fixture
async def home(store: ThreadStore) -> Path:
    thread_id = await stored(store)
    return home_of(await store.read_thread(ReadThreadParams(thread_id=thread_id)))


async def until_listed_first(store: ThreadStore, thread_id: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            params = ListThreadsParams(
                include_without_preview=True,
                sort_key=ThreadSortKey.UPDATED_AT,
                page_size=1,
                cwd_filters=(META["cwd"],),
            )
            page = await store.list_threads(params)
            if [item.thread_id for item in page.items] == [thread_id]:
                return


async def until_found(store: ThreadStore, thread_id: str, word: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            found = await store.search_threads(SearchThreadsParams(search_term=word))
            if [item.thread.thread_id for item in found.items] == [thread_id]:
                return


async def test_foreign_rollouts_are_listed_read_searched_and_continued(store: ThreadStore, home: Path) -> None:
    thread_id, word, later = new_thread_id(), a_word(), a_word()
    path = home / f"sessions/2027/01/01/rollout-2027-01-01T00-00-00-{thread_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = line("session_meta", {"id": thread_id, "timestamp": "2027-01-01T00:00:00.000Z", **META})
    said = {"type": "user_message", "message": f"a {word}"}
    path.write_text(meta + line("event_msg", said, "2027-01-01T00:00:01.000Z"))

    assert (await store.read_thread(ReadThreadParams(thread_id=thread_id))).preview == f"a {word}"
    await until_listed_first(store, thread_id)
    await until_found(store, thread_id, word)

    with path.open("a") as file:
        file.write(line("event_msg", {"type": "agent_message", "message": f"the {later}"}))
    await until_found(store, thread_id, later)

    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("ours"))
    await flush(store, thread_id)
    history = await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))
    assert texts(list(history.items[1:])) == [f"a {word}", f"the {later}", "ours"]


@pytest.mark.parametrize("label", ["", "x" * 1000])
async def test_our_patch_of_one_field_keeps_labels_and_fields_that_we_do_not_know(
    store: ThreadStore, home: Path, label: str
) -> None:
    thread_id = new_thread_id()
    path = home / f"sessions/2027/01/01/rollout-2027-01-01T00-00-00-{thread_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    odd = {"source": "weird", "thread_source": label, "agent_type": "explorer", "from_the_future": [label]}
    meta = {"id": thread_id, "timestamp": "2027-01-01T00:00:00.000Z", **META, **odd}
    path.write_text(line("session_meta", meta))

    patch = ThreadMetadataPatch(git_info=GitInfoPatch(branch="b"), memory_mode=MemoryMode.DISABLED)
    await update(store, thread_id, patch)
    thread = await read(store, thread_id)

    assert (thread.source, thread.thread_source, thread.agent_role) == ("unknown", label, "explorer")
    assert thread.git_info == GitInfo(branch="b")
    copy = json.loads(path.read_text().splitlines()[-1])
    assert copy["payload"] == meta | {"memory_mode": "disabled", "git": {"branch": "b"}}
