from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from tests.nodes.items import append, flush, message, new_thread, payloads, read
from tests.store_spec.kinds import SHARED

from livethread import (
    Conflict,
    CreateThreadParams,
    DiscardThreadParams,
    GitInfo,
    InvalidRequest,
    ListThreadsParams,
    LoadThreadHistoryParams,
    MemoryMode,
    PersistThreadParams,
    ShutdownThreadParams,
    StoredThread,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


async def test_nothing_is_stored_before_the_first_item(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"

    thread_id = await new_thread(store, cwd=cwd)

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)
    assert (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items == ()


@pytest.mark.parametrize("label", ["", " ", "x" * 1000, "Größe"])
async def test_a_label_is_any_text(store: ThreadStore, label: str) -> None:
    thread_id = await new_thread(store, thread_source=label, source=label)
    await append(store, thread_id, message("one"))

    thread = await read(store, thread_id)

    assert (thread.thread_source, thread.source) == (label, "unknown")
    [meta, _] = (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items
    assert (meta.payload["thread_source"], meta.payload["source"]) == (label, label)


async def test_a_sub_agents_source_names_parent_nickname_role_and_path(store: ThreadStore) -> None:
    parent = new_thread_id()
    spawn = {"parent_thread_id": parent, "depth": 1, "agent_nickname": "Nick", "agent_type": "explorer"}
    source = {"subagent": {"thread_spawn": {**spawn, "agent_path": "/root/a"}}}

    thread_id = await new_thread(store, source=source, agent_role="own")
    await append(store, thread_id, message("one"))

    thread = await read(store, thread_id)
    assert (thread.parent_thread_id, thread.source) == (parent, source)
    assert (thread.agent_nickname, thread.agent_role, thread.agent_path) == ("Nick", "own", "/root/a")


async def test_the_first_item_stores_everything_the_thread_was_created_with(store: ThreadStore) -> None:
    root, parent = new_thread_id(), new_thread_id()
    params = CreateThreadParams(
        session_id=root,
        forked_from_id=root,
        parent_thread_id=parent,
        cwd="/repo",
        model_provider="a-provider",
        source={"subagent": "review"},
        thread_source="automation",
        originator="a-product",
        cli_version="1.2.3",
        agent_nickname="Ada",
        agent_role="reviewer",
        agent_path="root/review",
        memory_mode=MemoryMode.DISABLED,
        git=GitInfo(commit_hash="c0ffee", branch="main"),
    )
    await store.create_thread(params)

    await append(store, params.thread_id, message("one"))

    thread = await read(store, params.thread_id)
    assert thread.updated_at >= params.created_at
    assert thread == StoredThread(
        thread_id=params.thread_id,
        rollout_path=thread.rollout_path,
        position=thread.position,
        session_id=root,
        forked_from_id=root,
        parent_thread_id=parent,
        model_provider="a-provider",
        created_at=params.created_at,
        updated_at=thread.updated_at,
        recency_at=params.created_at,
        cwd="/repo",
        cli_version="1.2.3",
        originator="a-product",
        source={"subagent": "review"},
        thread_source="automation",
        agent_nickname="Ada",
        agent_role="reviewer",
        agent_path="root/review",
        git_info=GitInfo(commit_hash="c0ffee", branch="main"),
        memory_mode=MemoryMode.DISABLED,
    )


async def test_a_thread_that_is_open_is_not_created_again(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(Conflict, match=thread_id):
        await new_thread(store, thread_id=thread_id)


async def test_a_thread_that_is_stored_is_not_created_again(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    with pytest.raises(Conflict, match=thread_id):
        await new_thread(store, thread_id=thread_id)

    assert await payloads(store, thread_id) == [message("one")["payload"]]


@SHARED
async def test_a_thread_that_another_writer_stored_is_not_created_again(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    with pytest.raises(Conflict, match=thread_id):
        await new_thread(second_store, thread_id=thread_id)


async def test_an_id_can_be_used_again_after_its_new_thread_was_discarded(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/first")
    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    await new_thread(store, thread_id=thread_id, cwd="/second")

    await append(store, thread_id, message("one"))
    assert (await read(store, thread_id)).cwd == "/second"


async def test_an_id_in_capitals_names_the_same_thread(store: ThreadStore) -> None:
    thread_id = await new_thread(store, thread_id=new_thread_id().upper())

    await append(store, thread_id.upper(), message("one"))

    assert (await read(store, thread_id.upper())).thread_id == thread_id.lower()


async def start(store: ThreadStore, params: dict[str, Any]) -> None:
    thread_id = await new_thread(store, **params)
    await append(store, thread_id, message("one"))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"base_instructions": "\ud800"}, id="a lone surrogate in the instructions"),
        pytest.param({"dynamic_tools": [{"limit": math.nan}]}, id="NaN in a tool"),
        pytest.param({"dynamic_tools": [{"name": "\udfff"}]}, id="a lone surrogate in a tool"),
        pytest.param({"dynamic_tools": [{"schema": {1: "one"}}]}, id="a key that is not a string in a tool"),
        pytest.param({"dynamic_tools": [{"schema": object()}]}, id="an object in a tool"),
        pytest.param({"source": {"custom": "\ud800"}}, id="a lone surrogate in the source"),
    ],
)
async def test_a_creation_that_is_not_json_is_refused_and_the_store_goes_on(
    store: ThreadStore, bad: dict[str, Any]
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(InvalidRequest):
            await start(store, bad)

        good = await new_thread(store)
        await append(store, good, message("two"))
        await flush(store, good)

    assert await payloads(store, good) == [message("two")["payload"]]


async def test_instructions_in_any_script_are_kept(store: ThreadStore) -> None:
    instructions = 'Höflich sein. 🎉 "quoted"\n\u2028'
    thread_id = await new_thread(store, base_instructions=instructions)

    await store.persist_thread(PersistThreadParams(thread_id=thread_id))

    [meta] = (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items
    assert meta.payload["base_instructions"] == {"text": instructions}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"thread_id": "t1"}, id="an id that is not a UUID"),
        pytest.param({"thread_id": "../../../etc/passwd"}, id="an id that is a path"),
        pytest.param({"thread_id": "{019a93b9-f380-7600-98ff-940e6b99603c}"}, id="an id in braces"),
        pytest.param({"thread_id": "019a93b9-f380-7600-98ff-940e6b99603c\n"}, id="an id with a trailing newline"),
        pytest.param({"thread_source": {"kind": "user"}}, id="a thread source that is an object"),
        pytest.param({"thread_source": 1}, id="a thread source that is a number"),
        pytest.param({"memory_mode": "maybe"}, id="an unknown memory mode"),
        pytest.param({"no_such_field": 1}, id="an unknown field"),
    ],
)
def test_invalid_parameters_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="CreateThreadParams"):
        CreateThreadParams.model_validate(bad)
