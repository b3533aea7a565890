from __future__ import annotations

import asyncio
import logging

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, update
from tests.nodes.waiting import eventually

from livethread import (
    CreateThreadParams,
    GitInfoPatch,
    InvalidRequest,
    ItemsAppended,
    LiveThread,
    LiveThreadInitGuard,
    MemoryMode,
    MetadataUpdated,
    Position,
    ResumeThreadParams,
    TasksApplied,
    ThreadEvent,
    ThreadInitialized,
    ThreadMetadataPatch,
    ThreadStore,
    new_thread_id,
)
from livethread.model import utc_now
from livethread.observers import InitializationMode
from livethread.position import position_key
from livethread.rollout.item import parse_items
from livethread.rollout.lines import encode_items


@pytest.fixture
def events(store: ThreadStore) -> list[ThreadEvent]:
    events: list[ThreadEvent] = []
    store.observers.subscribe(events.append)
    return events


def applied_up_to(events: list[ThreadEvent], position: Position) -> bool:
    return any(
        isinstance(event, TasksApplied) and position_key(event.position) >= position_key(position) for event in events
    )


def initialized(events: list[ThreadEvent]) -> list[ThreadInitialized]:
    return [event for event in events if isinstance(event, ThreadInitialized)]


@pytest.mark.parametrize("label", ["user", "subagent", "automation", "eine Funktion", None])
async def test_a_started_thread_is_reported_with_its_plain_thread_source(
    store: ThreadStore, events: list[ThreadEvent], label: str | None
) -> None:
    params = CreateThreadParams(thread_source=label)
    thread = await LiveThread.create(store, params)
    await thread.append_items([message("one")])
    await thread.append_items([message("two")])
    await thread.shutdown()
    resumed = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id))
    await resumed.append_items([message("three")])

    assert [(event.thread_id, event.thread_source, event.mode) for event in initialized(events)] == [
        (params.thread_id, label, InitializationMode.NEW),
        (params.thread_id, label, InitializationMode.RESUMED),
    ]


async def test_a_started_thread_is_reported_with_what_analytics_needs(
    store: ThreadStore, events: list[ThreadEvent]
) -> None:
    params = CreateThreadParams(
        session_id=new_thread_id(),
        forked_from_id=new_thread_id(),
        parent_thread_id=new_thread_id(),
        source={"subagent": {"thread_spawn": {"depth": 1}}},
        thread_source="subagent",
        originator="agent",
        cli_version="7",
        ephemeral=False,
    )
    thread = await LiveThread.create(store, params)
    await thread.append_items([{"type": "turn_context", "payload": {"model": "gpt-5", "cwd": "/work"}}])

    assert initialized(events) == [
        ThreadInitialized(
            thread_id=params.thread_id,
            session_id=params.session_id,
            mode=InitializationMode.FORKED,
            thread_source="subagent",
            source={"subagent": {"thread_spawn": {"depth": 1}}},
            subagent_source="thread_spawn",
            parent_thread_id=params.parent_thread_id,
            forked_from_id=params.forked_from_id,
            model="gpt-5",
            ephemeral=False,
            created_at=params.created_at,
            client_name="agent",
            client_version="7",
        )
    ]


@pytest.mark.parametrize("start", ["persist", "update_memory_mode", "commit"])
async def test_a_start_is_reported_with_the_first_change_or_the_commit_of_its_guard(
    store: ThreadStore, events: list[ThreadEvent], start: str
) -> None:
    thread = await LiveThread.create(store, CreateThreadParams())
    async with LiveThreadInitGuard(thread) as guard:
        assert initialized(events) == []
        if start == "persist":
            await thread.persist()
        elif start == "update_memory_mode":
            await thread.update_memory_mode(MemoryMode.DISABLED)
        guard.commit()

    assert [event.thread_id for event in initialized(events)] == [thread.thread_id]


async def test_a_discarded_start_is_not_reported(store: ThreadStore, events: list[ThreadEvent]) -> None:
    async with LiveThreadInitGuard(await LiveThread.create(store, CreateThreadParams())):
        pass

    assert initialized(events) == []


async def test_an_append_is_reported_with_its_size_and_again_when_it_is_applied(
    store: ThreadStore, events: list[ThreadEvent]
) -> None:
    thread_id = await new_thread(store)

    receipt = await append(store, thread_id, message("one"), message("two"))
    await flush(store, thread_id)

    [appended] = [event for event in events if isinstance(event, ItemsAppended)]
    assert (appended.thread_id, appended.position, appended.items) == (thread_id, receipt.position, 2)
    items = parse_items([message("one"), message("two")])
    assert appended.size == sum(map(len, encode_items(items, utc_now(), max_bytes=1_000)))
    await eventually(lambda: applied_up_to(events, receipt.position), "the event of its application")


async def test_each_accepted_append_is_reported_whether_or_not_its_caller_waits(
    store: ThreadStore, events: list[ThreadEvent]
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("first"))
    calls = [asyncio.ensure_future(append(store, thread_id, message(f"{n}"))) for n in range(10)]
    await asyncio.sleep(0)

    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await flush(store, thread_id)

    stored = await history(store, thread_id)
    assert len([event for event in events if isinstance(event, ItemsAppended)]) == len(stored)
    positions = [position_key(event.position) for event in events if isinstance(event, ItemsAppended)]
    assert positions == sorted(set(positions))


async def test_a_patch_is_reported_with_the_names_of_its_fields_only(
    store: ThreadStore, events: list[ThreadEvent]
) -> None:
    thread_id = await new_thread(store)
    patch = ThreadMetadataPatch(name="secret", thread_source=None, git_info=GitInfoPatch(branch="secret"))

    receipt = await update(store, thread_id, patch)
    await flush(store, thread_id)

    reported = [event for event in events if isinstance(event, MetadataUpdated)]
    assert [(event.thread_id, event.position, sorted(event.fields)) for event in reported] == [
        (thread_id, receipt.position, ["git_info", "name", "thread_source"])
    ]
    await eventually(lambda: applied_up_to(events, receipt.position), "the event of its application")
    assert "secret" not in repr(events)


async def test_a_refused_append_is_not_reported(store: ThreadStore, events: list[ThreadEvent]) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(InvalidRequest, match="nan"):
        await append(store, thread_id, message("x", value=float("nan")))

    assert events == []


async def test_applied_positions_are_reported_in_order(store: ThreadStore, events: list[ThreadEvent]) -> None:
    thread_id = await new_thread(store)

    for n in range(20):
        await append(store, thread_id, message(f"{n}"))
    await flush(store, thread_id)

    positions = [position_key(event.position) for event in events if isinstance(event, TasksApplied)]
    assert positions == sorted(set(positions))


async def test_events_are_logged_without_contents(store: ThreadStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="livethread")

    thread = await LiveThread.create(store, CreateThreadParams(thread_source="automation"))
    await thread.append_items([message("a secret")])
    await thread.update_metadata(ThreadMetadataPatch(name="a secret"))
    await thread.shutdown()

    actions = [record.__dict__.get("action") for record in caplog.records if record.name == "livethread.observers"]
    assert {"thread_initialized", "items_appended", "metadata_updated", "tasks_applied"} <= set(actions)
    assert "a secret" not in "".join(repr(record.__dict__) for record in caplog.records)


async def test_a_failing_observer_disturbs_neither_the_store_nor_other_observers(
    store: ThreadStore, events: list[ThreadEvent], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: ThreadEvent) -> None:
        raise ValueError(event.action)

    store.observers.subscribe(fail)
    later: list[ThreadEvent] = []
    store.observers.subscribe(later.append)
    thread_id = await new_thread(store)

    await append(store, thread_id, message("one"))

    assert len(await history(store, thread_id)) == 1
    assert later == events
    assert f"an observer of thread {thread_id} failed at items_appended" in caplog.messages


async def test_a_subscription_can_be_ended(store: ThreadStore) -> None:
    events: list[ThreadEvent] = []
    end = store.observers.subscribe(events.append)
    thread_id = await new_thread(store)

    end()
    end()
    await append(store, thread_id, message("one"))

    assert events == []
