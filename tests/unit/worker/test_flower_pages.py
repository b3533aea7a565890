"""What Flower shows of a task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest

from livethread_worker import flower_pages as pages


def shown(**fields: Any) -> dict[str, Any]:
    task = SimpleNamespace(
        **({"name": None, "kwargs": None, "state": "SUCCESS", "result": None, "exception": None} | fields)
    )
    formatted: dict[str, Any] = vars(pages.format_task(task))
    return formatted


def kwargs(items: int, size: int) -> str:
    return f"{{'thread': 't1', 'position': '7-1', 'items': {items}, 'bytes': {size}}}"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (kwargs(1, 40), "1 item, 40 B at 7-1 of t1"),
        (kwargs(2_000, 596_000), "2,000 items, 596,000 B at 7-1 of t1"),
        (kwargs(0, 0), "at 7-1 of t1"),
        (kwargs(0, 40), "0 items, 40 B at 7-1 of t1"),
    ],
)
def test_an_ordered_task_shows_what_fits_into_a_cell(sent: str, expected: str) -> None:
    task = shown(name="livethread.append_items", kwargs=sent, result="'durable'")

    assert (task["name"], task["kwargs"], task["result"]) == ("append_items", expected, "durable")


def test_a_failed_task_shows_its_reason_without_the_thread_that_stands_beside_it() -> None:
    reason = "ThreadNotFound: thread t1 not found: /home holds no rollout of it"

    task = shown(kwargs=kwargs(1, 40), state="FAILURE", exception=reason)

    assert task["result"] == "ThreadNotFound: not found: /home holds no rollout of it"
    assert task["exception"] == reason


@pytest.mark.parametrize("sent", [None, "", "{'shard': 0}", "<html>", "[1]", "{'items': ...}"])
def test_any_other_task_stays_as_it_is(sent: str | None) -> None:
    task = shown(name="other.task", kwargs=sent, result="{'a': 1}")

    assert (task["name"], task["kwargs"], task["result"]) == ("other.task", sent, "{'a': 1}")


def test_a_worker_has_the_ordered_tasks_that_it_finished() -> None:
    events = prometheus_client.Counter("events", "x", ["worker", "type", "task"], registry=None)
    for worker, kind, task in [
        ("w1", "task-received", "livethread.append_items"),
        ("w1", "task-succeeded", "livethread.append_items"),
        ("w1", "task-failed", "livethread.append_items"),
        ("w2", "task-succeeded", "livethread.append_items"),
        ("w1", "task-succeeded", "other.task"),
    ]:
        events.labels(worker, kind, task).inc()

    assert pages.ordered_tasks(events, "w1") == {"livethread.append_items": 2}


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (
            1_000,
            "Each worker process reports at most 1,000 ordered tasks a second; above that, this list shows a sample.",
        ),
        (0, "Workers report no ordered tasks, because <code>LIVETHREAD_TASK_EVENTS_PER_S</code> is 0."),
    ],
)
def test_the_list_says_what_it_leaves_out(rate: int, expected: str) -> None:
    assert pages.omitted(rate).startswith(expected)
