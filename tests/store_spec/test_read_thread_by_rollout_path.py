from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, message, read, update
from tests.store_spec import kinds
from tests.store_spec.operations import archive, home_of, path_of, stored

from livethread import (
    InvalidRequest,
    LoadThreadHistoryParams,
    ReadThreadByRolloutPathParams,
    StoredThread,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

WITH_FILES = pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.QUEUED, kinds.CELERY])


async def by_path(store: ThreadStore, path: Path | str, **params: Any) -> StoredThread:
    return await store.read_thread_by_rollout_path(ReadThreadByRolloutPathParams(rollout_path=str(path), **params))


@WITH_FILES
async def test_a_thread_is_read_by_its_path_relative_or_absolute(store: ThreadStore) -> None:
    thread = await read(store, await stored(store, name="A name", cwd="/repo"))
    path = path_of(thread)

    found = [await by_path(store, spelled) for spelled in (path, path.relative_to(home_of(thread)))]

    assert found == [thread, thread]


@WITH_FILES
async def test_the_history_is_included_on_request(store: ThreadStore) -> None:
    thread = await read(store, await stored(store, message("one")))

    found = await by_path(store, path_of(thread), include_history=True)

    assert found.history == await store.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))
    assert found.model_copy(update={"history": None}) == thread


@WITH_FILES
async def test_a_read_sees_what_was_accepted_before_it(store: ThreadStore) -> None:
    thread_id = await stored(store)
    path = path_of(await read(store, thread_id))

    for n in range(10):
        await append(store, thread_id, message(f"{n}"))
        await update(store, thread_id, ThreadMetadataPatch(name=f"{n}"))
        assert (await by_path(store, path)).name == f"{n}"


@WITH_FILES
async def test_an_archived_thread_is_read_by_its_new_path(store: ThreadStore) -> None:
    thread_id = await stored(store)
    before = path_of(await read(store, thread_id))
    await archive(store, thread_id)
    archived = await read(store, thread_id)

    assert await by_path(store, path_of(archived)) == archived
    assert await by_path(store, f"archived_sessions/{before.name}") == archived
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await by_path(store, path_of(archived), include_archived=False)
    with pytest.raises(ThreadNotFound):
        await by_path(store, before)


@WITH_FILES
async def test_a_path_with_a_detour_within_the_home_finds_the_same_thread(store: ThreadStore) -> None:
    thread_id = await stored(store)
    thread = await read(store, thread_id)
    home = home_of(thread)
    active = await by_path(store, f"sessions/../{path_of(thread).relative_to(home)}")
    await archive(store, thread_id)
    archived = await read(store, thread_id)
    detour = f"sessions/../archived_sessions/{path_of(thread).name}"

    assert active == thread
    assert await by_path(store, detour) == archived
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await by_path(store, detour, include_archived=False)


@WITH_FILES
async def test_a_path_that_reaches_the_home_through_a_symlink_is_accepted(store: ThreadStore, tmp_path: Path) -> None:
    """As on macOS, where /tmp is /private/tmp."""
    thread = await read(store, await stored(store, name="A name"))
    link = tmp_path / "link"
    link.symlink_to(home_of(thread))

    found = await by_path(store, link / path_of(thread).relative_to(home_of(thread)))

    assert (found.thread_id, found.name) == (thread.thread_id, "A name")


@WITH_FILES
async def test_a_path_out_of_the_home_is_refused(store: ThreadStore, tmp_path: Path) -> None:
    thread = await read(store, await stored(store))
    outside = tmp_path / "outside"
    outside.mkdir()
    copy = outside / path_of(thread).name
    copy.write_bytes(path_of(thread).read_bytes())

    for path in (copy, f"../{copy.name}", f"sessions/../../{copy.name}", f"/etc/{copy.name}"):
        with pytest.raises(InvalidRequest, match="leads out of"):
            await by_path(store, path)


@WITH_FILES
async def test_a_symlink_out_of_the_home_is_not_followed(store: ThreadStore, tmp_path: Path) -> None:
    thread = await read(store, await stored(store))
    outside = tmp_path / "outside"
    outside.mkdir()
    name = f"rollout-2026-01-02T03-04-05-{new_thread_id()}.jsonl"
    (outside / name).write_bytes(path_of(thread).read_bytes())
    a_file, a_folder = path_of(thread).with_name(name), path_of(thread).with_name(f"folder-{new_thread_id()}")
    a_file.symlink_to(outside / name)
    a_folder.symlink_to(outside)

    for path in (a_file, a_folder / name):
        with pytest.raises(InvalidRequest, match=r"leads? out of"):
            await by_path(store, path)
    a_file.unlink()  # other tests list the same home
    a_folder.unlink()


@WITH_FILES
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="the home itself"),
        pytest.param("sessions", id="a folder"),
        pytest.param("livethread/index.sqlite", id="the index"),
        pytest.param("session_index.jsonl", id="the name index"),
        pytest.param("sessions/2026/01/02/rollout-x.jsonl", id="no id"),
        pytest.param(f"sessions/rollout-2026-01-02T03-04-05-{'-' * 35}.jsonl", id="too short an id"),
        pytest.param("sessions/rollout-2026-01-02T03-04-05-\0.jsonl", id="NUL"),
        pytest.param("sessions/\ud800.jsonl", id="a lone surrogate"),
        pytest.param("x" * 5000, id="too long a name"),
    ],
)
async def test_a_path_that_does_not_name_a_rollout_is_refused(store: ThreadStore, path: str) -> None:
    with pytest.raises(InvalidRequest):
        await by_path(store, path)


@WITH_FILES
async def test_a_missing_rollout_is_not_found(store: ThreadStore) -> None:
    thread_id = new_thread_id()

    with pytest.raises(ThreadNotFound) as failure:
        await by_path(store, f"sessions/2026/01/02/rollout-2026-01-02T03-04-05-{thread_id}.jsonl")

    assert failure.value.thread_id == thread_id


@pytest.mark.parametrize("kind", [kinds.MEMORY])
async def test_without_files_the_name_of_the_path_says_which_thread_it_is(store: ThreadStore) -> None:
    thread_id = await stored(store, message("one"))
    path = f"sessions/2026/01/02/rollout-2026-01-02T03-04-05-{thread_id}.jsonl"

    for spelled in (path, f"/home/.codex/{path}.zst", f"rollout-2026-01-02T03-04-05-{thread_id}_{thread_id}.jsonl"):
        assert await by_path(store, spelled) == await read(store, thread_id)
    found = await by_path(store, path, include_history=True)
    assert found.history == await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))
    await archive(store, thread_id)
    assert (await by_path(store, path)).archived_at is not None
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await by_path(store, path, include_archived=False)
    with pytest.raises(ThreadNotFound):
        await by_path(store, f"rollout-2026-01-02T03-04-05-{new_thread_id()}.jsonl")
    with pytest.raises(InvalidRequest):
        await by_path(store, f"sessions/2026/01/02/{thread_id}.jsonl")
