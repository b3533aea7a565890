"""Rollouts that another program, such as codex, writes into the home of a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from tests.nodes.items import append, flush, message, read, texts, update
from tests.nodes.waiting import DEADLINE
from tests.store_spec import kinds
from tests.store_spec.operations import a_word, home_of, stored

from livethread import (
    ArchiveThreadParams,
    GitInfo,
    GitInfoPatch,
    ListThreadsParams,
    LoadThreadHistoryParams,
    MemoryMode,
    ReadThreadParams,
    ResumeThreadParams,
    SearchThreadsParams,
    ThreadMetadataPatch,
    ThreadNotFound,
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


BOM = b"\xef\xbb\xbf"
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda lines: lines,
    "after a byte order mark": lambda lines: BOM + lines,
    "without its first line": lambda lines: lines[lines.index(b"\n") + 1 :],
    "with its first line last": lambda lines: lines[lines.index(b"\n") + 1 :] + lines[: lines.index(b"\n") + 1],
    "compressed": zstandard.compress,
}


@pytest.mark.parametrize(
    ("folder", "suffix", "form"),
    [
        *(
            (folder, "", "as it is")
            for folder in ("sessions", "sessions/2027", "sessions/2027/01/01/deep/er", "sessions/x")
        ),
        *(("sessions/2027/01/02", "", form) for form in FORMS),
        ("sessions/2027/01/02", ".zst", "as it is"),
    ],
)
async def test_rollouts_are_read_and_continued_as_people_have_them(
    store: ThreadStore, home: Path, folder: str, suffix: str, form: str
) -> None:
    thread_id, word = new_thread_id(), a_word()
    meta = line("session_meta", {"id": thread_id, "timestamp": "2027-01-01T00:00:00.000Z", **META})
    said = line("event_msg", {"type": "user_message", "message": f"a {word}"}, "2027-01-01T00:00:01.000Z")
    context = line("turn_context", {"cwd": META["cwd"], "n": 2**64}, "2027-01-01T00:00:02.000Z")
    path = home / folder / f"rollout-2027-01-01T00-00-00-{thread_id}.jsonl{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FORMS[form]((meta + said + context).encode()))

    await until_found(store, thread_id, word)
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("ours"))
    await flush(store, thread_id)

    thread = await store.read_thread(ReadThreadParams(thread_id=thread_id, include_history=True))
    assert (thread.preview, thread.cwd) == (f"a {word}", META["cwd"])
    assert thread.history is not None
    said_first, settings, ours = [item for item in thread.history.items if item.type != "session_meta"]
    assert texts([said_first, ours]) == [f"a {word}", "ours"]
    assert settings.payload["n"] == 2**64
    assert not path.with_name(f"{path.name}.zst").exists()


async def test_an_archived_rollout_may_lie_in_a_dated_folder(store: ThreadStore, home: Path) -> None:
    thread_id, word = new_thread_id(), a_word()
    path = home / f"archived_sessions/2027/01/01/rollout-2027-01-01T00-00-00-{thread_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = line("session_meta", {"id": thread_id, "timestamp": "2027-01-01T00:00:00.000Z", **META})
    path.write_text(meta + line("event_msg", {"type": "user_message", "message": word}))

    with pytest.raises(ThreadNotFound, match="archived"):
        await store.read_thread(ReadThreadParams(thread_id=thread_id, include_archived=False))
    thread = await store.read_thread(ReadThreadParams(thread_id=thread_id))
    assert (thread.preview, thread.rollout_path) == (word, path)

    await store.resume_thread(ResumeThreadParams(thread_id=thread_id, include_archived=True))
    await store.unarchive_thread(ArchiveThreadParams(thread_id=thread_id))
    await flush(store, thread_id)
    thread = await store.read_thread(ReadThreadParams(thread_id=thread_id, include_archived=False))
    assert thread.rollout_path == home / "sessions/2027/01/01" / path.name


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
