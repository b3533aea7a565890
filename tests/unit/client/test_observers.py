from __future__ import annotations

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from livethread.observers import (
    InitializationMode,
    ItemsAppended,
    JsonLinesObserver,
    MetadataUpdated,
    Observers,
    TasksApplied,
    ThreadEvent,
    ThreadInitialized,
    ThreadParkedEvent,
    subagent_label,
)

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
APPLIED = TasksApplied(THREAD, "1-0")
INITIALIZED = ThreadInitialized(
    thread_id=THREAD,
    session_id=THREAD,
    mode=InitializationMode.RESUMED,
    thread_source="automation",
    source={"subagent": "review"},
    subagent_source="review",
    parent_thread_id=None,
    forked_from_id=None,
    model="gpt-5",
    ephemeral=None,
    created_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    client_name="livethread",
    client_version="0.1.0",
)
EVENTS: list[tuple[ThreadEvent, str, int, str]] = [
    (INITIALIZED, "thread_initialized", logging.INFO, "resumed"),
    (ItemsAppended(THREAD, "1-0", 2, 300), "items_appended", logging.DEBUG, "2 items, 300 bytes, at 1-0"),
    (MetadataUpdated(THREAD, "2-0", ("title", "name")), "metadata_updated", logging.DEBUG, "title, name, at 2-0"),
    (APPLIED, "tasks_applied", logging.DEBUG, "up to 1-0"),
    (ThreadParkedEvent(THREAD, "ThreadNotFound"), "thread_parked", logging.ERROR, "ThreadNotFound"),
]


@pytest.fixture
def observers() -> Observers:
    return Observers()


def test_every_observer_gets_every_event_in_order(observers: Observers) -> None:
    first: list[ThreadEvent] = []
    second: list[ThreadEvent] = []
    observers.subscribe(first.append)
    observers.subscribe(second.append)

    for event, *_ in EVENTS:
        observers.emit(event)

    assert first == second == [event for event, *_ in EVENTS]


def test_an_observer_gets_no_event_after_unsubscribing(observers: Observers) -> None:
    seen: list[ThreadEvent] = []
    unsubscribe = observers.subscribe(seen.append)
    observers.emit(APPLIED)

    unsubscribe()
    observers.emit(APPLIED)

    assert seen == [APPLIED]


def test_unsubscribing_twice_leaves_the_other_subscription(observers: Observers) -> None:
    seen: list[ThreadEvent] = []
    end_first = observers.subscribe(seen.append)
    observers.subscribe(seen.append)

    end_first()
    end_first()
    observers.emit(APPLIED)

    assert seen == [APPLIED]


def test_an_observer_that_raises_is_logged_and_disturbs_no_other(
    observers: Observers, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[ThreadEvent] = []

    def fail(event: ThreadEvent) -> None:
        raise RuntimeError("broken observer")

    observers.subscribe(fail)
    observers.subscribe(seen.append)

    observers.emit(APPLIED)
    observers.emit(APPLIED)

    assert seen == [APPLIED, APPLIED]
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(r.name, r.getMessage(), vars(r)["action"]) for r in failures] == [
        ("livethread.observers", f"an observer of thread {THREAD} failed at tasks_applied", "tasks_applied")
    ] * 2


def test_an_observer_may_unsubscribe_while_it_is_called(observers: Observers) -> None:
    seen: list[ThreadEvent] = []

    def once(event: ThreadEvent) -> None:
        end()
        seen.append(event)

    end = observers.subscribe(once)
    observers.subscribe(seen.append)

    observers.emit(APPLIED)
    observers.emit(APPLIED)

    assert seen == [APPLIED] * 3


@pytest.mark.parametrize(("event", "action", "level", "detail"), EVENTS, ids=[action for _, action, *_ in EVENTS])
def test_every_event_is_a_log_line_that_names_the_thread_and_has_its_data(
    observers: Observers,
    caplog: pytest.LogCaptureFixture,
    event: ThreadEvent,
    action: str,
    level: int,
    *,
    detail: str,
) -> None:
    caplog.set_level(logging.DEBUG, "livethread.observers")

    observers.emit(event)

    (record,) = caplog.records
    plain = vars(logging.makeLogRecord({}))
    data: dict[str, Any] = {k: v for k, v in vars(record).items() if k not in plain and k != "message"}
    assert record.levelno == level
    assert record.getMessage() == f"{action}, thread {THREAD}: {detail}"
    assert data == {"action": action, **asdict(event)}
    assert data["thread_id"] == THREAD


def test_frequent_events_are_quiet_in_production(observers: Observers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "livethread.observers")

    for event, *_ in EVENTS:
        observers.emit(event)

    assert [record.getMessage() for record in caplog.records] == [
        f"thread_initialized, thread {THREAD}: resumed",
        f"thread_parked, thread {THREAD}: ThreadNotFound",
    ]


# -- events as JSON lines ----------------------------------------------------------------------------------


def test_events_are_appended_to_a_file_as_json_lines(observers: Observers, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    for event in (INITIALIZED, APPLIED):  # opened again, it goes on at the end
        with JsonLinesObserver(path) as observer:
            end = observers.subscribe(observer)
            observers.emit(event)
            end()

    initialized, applied = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert initialized.keys() == {"at", "event", *asdict(INITIALIZED)}
    assert (initialized["event"], initialized["mode"], initialized["source"], initialized["created_at"]) == (
        "thread_initialized",
        "resumed",
        {"subagent": "review"},
        "2026-11-22T12:00:00Z",
    )
    assert applied == {"at": applied["at"], "event": "tasks_applied", "thread_id": THREAD, "position": "1-0"}


def test_a_file_that_cannot_be_written_disturbs_no_other_observer(
    observers: Observers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[ThreadEvent] = []
    observer = JsonLinesObserver(tmp_path / "events.jsonl")
    observers.subscribe(observer)
    observers.subscribe(seen.append)
    observer.close()

    observers.emit(APPLIED)

    assert seen == [APPLIED]
    assert f"an observer of thread {THREAD} failed at tasks_applied" in caplog.messages


def test_a_file_that_cannot_be_opened_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JsonLinesObserver(tmp_path / "missing" / "events.jsonl")


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("cli", None),
        ({"custom": "x"}, None),
        ({"subagent": "review"}, "review"),
        ({"subagent": {"thread_spawn": {"parent_thread_id": THREAD, "depth": 1}}}, "thread_spawn"),
        ({"subagent": {"other": "guardian"}}, "guardian"),
        ({"subagent": None}, None),
    ],
    ids=str,
)
def test_only_a_sub_agents_source_has_a_label(source: Any, label: str | None) -> None:
    assert subagent_label(source) == label
