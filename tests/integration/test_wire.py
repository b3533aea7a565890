"""docs/wire.md suffices to write a client: these use only Redis commands, the schemas and a script's text."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from redis import Redis
from tests.nodes.processes import RedisServer
from tests.nodes.waiting import wait_until
from tests.nodes.workers import HandWorker, celery_worker

from livethread.queued.scripts import BELL_TTL_MS
from livethread_config import Settings

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "client" / "livethread" / "queued" / "lua" / "enqueue.lua").read_text(encoding="utf-8")
TIME = "2026-11-22T12:00:00.000Z"

#: The functions in the document: ``enqueue`` and ``ring``.
EXAMPLE: dict[str, Any] = {}
exec(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1], EXAMPLE)  # type: ignore[index]  # the document has the block


class Outsider:
    """A writer that uses only the document's functions, the schemas and a connection."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.prefix = prefix
        self.thread_id = str(uuid.uuid4())
        self.writer = uuid.uuid4().hex[:16]

    def key(self, name: str) -> str:
        return f"{self.prefix}:{{0}}:{name}:{self.thread_id}"

    def acks(self) -> str:
        return f"{self.prefix}:{{0}}:acks:{self.writer}"

    def enqueue(self, first: int, *tasks: tuple[str, str, str], **options: Any) -> tuple[int, str, int, str]:
        enqueue: Callable[..., tuple[int, str, int, str]] = EXAMPLE["enqueue"]
        return enqueue(
            self.redis, SCRIPT, self.thread_id, self.writer, first, tasks, prefix=self.prefix, **options
        )  # fmt: skip

    def send(self, first: int, *tasks: tuple[str, str, str]) -> tuple[str, int, str]:
        """Enqueue the tasks, and ring if a doorbell is due."""
        must_ring, status, last, position = self.enqueue(first, *tasks)
        if must_ring:
            EXAMPLE["ring"](self.redis, 0, prefix=self.prefix)
        return status, last, position

    def create(self) -> tuple[str, str, str]:
        meta = {
            "id": self.thread_id,
            "timestamp": TIME,
            "cwd": "/repo",
            "originator": "elsewhere",
            "cli_version": "1",
        }
        return "create", valid("CreateThread", {"op": "create_thread", "at": TIME, "session_meta": meta}), ""

    def applied(self) -> int:
        """Return the counter of the last applied task."""
        return int(self.redis.execute_command("HGET", self.key("writers"), f"a:{self.writer}") or 0)  # type: ignore[no-untyped-call]  # redis-py


def append(*texts: str, **header: str) -> tuple[str, str, str]:
    payloads = [{"type": "user_message", "message": text} for text in texts]
    lines = [{"timestamp": TIME, "type": "event_msg", "payload": payload} for payload in payloads]
    return (
        "",
        valid("AppendItems", {"op": "append_items", "at": TIME, **header}),
        "\n".join(valid("RolloutLine", x) for x in lines),
    )


def rename(name: str | None) -> tuple[str, str, str]:
    return (
        "",
        valid("UpdateThreadMetadata", {"op": "update_thread_metadata", "at": TIME, "patch": {"name": name}}),
        "",
    )


DELETE = ("delete", json.dumps({"op": "delete_thread", "at": TIME}), "")


def valid(name: str, value: Any) -> str:
    """Return *value* as JSON after validating it against the published schema *name*."""
    schema = json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def rollout(settings: Settings, thread_id: str) -> list[dict[str, Any]]:
    [path] = settings.home.glob(f"sessions/*/*/*/rollout-*-{thread_id}.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def outsider(redis_server: RedisServer, settings: Settings) -> Outsider:
    redis_server.client.hset(f"{settings.key_prefix}:deployment", mapping={"wire": "1", "epochs": "[[0,1]]"})
    return Outsider(redis_server.client, settings.key_prefix)


@pytest.fixture
def worker(settings: Settings) -> Iterator[None]:
    """Run a worker that sweeps at its start only: then, only a doorbell wakes it."""
    with celery_worker(settings.model_copy(update={"sweep_interval_s": 3600.0})):
        yield


def test_a_thread_is_created_and_written_with_plain_commands(
    worker: None, outsider: Outsider, settings: Settings
) -> None:
    heard = outsider.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
    with heard:
        heard.subscribe(outsider.acks())

        status, last, position = outsider.send(1, outsider.create(), append("naïve", "hi"), rename("by hand"))

        message = wait_until(lambda: heard.get_message(timeout=0.1), "the publication")
    said = message["data"].decode()
    assert (status, last) == ("ok", 3)
    assert said == f"applied {outsider.thread_id} {position} {outsider.writer}:3"
    assert outsider.applied() == 3
    assert outsider.redis.execute_command("GET", outsider.key("applied")) == position.encode()  # type: ignore[no-untyped-call]  # redis-py

    meta, *items, _name = rollout(settings, outsider.thread_id)
    assert (meta["type"], meta["payload"]["originator"]) == ("session_meta", "elsewhere")
    assert [item["payload"]["message"] for item in items] == ["naïve", "hi"]
    assert [item["seq"] for item in items] == [f"{outsider.writer}:2"] * 2
    names = (settings.home / "session_index.jsonl").read_text(encoding="utf-8")
    assert json.loads(names)["thread_name"] == "by hand"


def test_a_minimal_doorbell_wakes_a_worker_each_time(worker: None, outsider: Outsider, settings: Settings) -> None:
    outsider.send(1, outsider.create())
    for n in range(2, 5):
        wait_until(lambda n=n: outsider.applied() == n - 1, "the task before")  # type: ignore[misc]  # bound at once
        outsider.send(n, append(f"{n}"))

    wait_until(lambda: outsider.applied() == 4, "the last task")
    _meta, *items = rollout(settings, outsider.thread_id)
    assert [item["payload"]["message"] for item in items] == ["2", "3", "4"]


def test_a_task_sent_twice_is_answered_twice_and_written_once(
    worker: None, outsider: Outsider, settings: Settings
) -> None:
    tasks = outsider.create(), append("once")

    first = outsider.send(1, *tasks)
    again = outsider.send(1, *tasks)
    wait_until(lambda: outsider.applied() == 2, "both tasks")
    after = outsider.send(1, *tasks)

    assert (first[:2], again, after) == (("ok", 2), first, first)
    assert [line["type"] for line in rollout(settings, outsider.thread_id)] == ["session_meta", "event_msg"]


def test_another_writers_append_with_the_same_idempotency_key_is_not_written(
    outsider: Outsider, hand_worker: HandWorker, settings: Settings
) -> None:
    """A job that runs again has another writer and counter."""
    other = Outsider(outsider.redis, outsider.prefix)
    other.thread_id = outsider.thread_id
    outsider.enqueue(1, outsider.create(), append("once", idempotency_key="job 7"))

    other.enqueue(1, append("once", idempotency_key="job 7"), append("more"))
    hand_worker.drain()

    _meta, *items = rollout(settings, outsider.thread_id)
    assert [item["payload"]["message"] for item in items] == ["once", "more"]
    assert [item.get("idempotency_key") for item in items] == ["job 7", None]
    assert (outsider.applied(), other.applied()) == (2, 2)


def test_refusals_match_the_table_in_the_document(outsider: Outsider) -> None:
    outsider.enqueue(1, outsider.create())
    other = Outsider(outsider.redis, outsider.prefix)
    other.thread_id = outsider.thread_id

    statuses = [
        outsider.enqueue(3, append("3"))[1:3],
        other.enqueue(1, other.create())[1:3],
        outsider.enqueue(2, DELETE)[1:3],
        other.enqueue(1, append("too late"))[1:3],
    ]

    assert statuses == [("gap", 1), ("exists", 0), ("ok", 2), ("deleted", 0)]
    table = DOCUMENT.partition("| status |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == re.findall(
        r"^--   (\w+)  +", SCRIPT.partition("status is\n")[2], re.MULTILINE
    )


def test_a_sweep_finds_a_task_without_a_doorbell(
    outsider: Outsider, hand_worker: HandWorker, settings: Settings
) -> None:
    must_ring, *_ = outsider.enqueue(1, outsider.create(), append("silent"), bell_ms=1)
    wait_until(lambda: not outsider.redis.exists(f"{settings.key_prefix}:{{0}}:bell"), "the bell's expiry")

    assert must_ring == 1
    assert hand_worker.mailbox().sweep() is True  # as a worker does; a doorbell is due
    hand_worker.drain()
    assert outsider.applied() == 2


def test_a_task_that_matches_no_schema_parks_its_thread(worker: None, outsider: Outsider, settings: Settings) -> None:
    outsider.send(1, outsider.create(), ("", json.dumps({"op": "append_items", "at": TIME, "items": []}), ""))
    parked = f"{settings.key_prefix}:{{0}}:parked"

    why = wait_until(lambda: outsider.redis.execute_command("HGET", parked, outsider.thread_id), "the parking")  # type: ignore[no-untyped-call]  # redis-py

    assert "is not a task" in json.loads(why)["reason"]
    assert outsider.applied() == 1


def test_the_document_shows_the_actual_doorbell_and_defaults(outsider: Outsider) -> None:
    [shown] = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    EXAMPLE["ring"](outsider.redis, 0, prefix="livethread")
    sent = json.loads(outsider.redis.execute_command("RPOP", "livethread:celery:livethread.0"))  # type: ignore[no-untyped-call]  # redis-py

    tag = sent["properties"]["delivery_tag"]
    assert json.loads(shown.replace("7f1f…", tag)) == sent
    defaults = Settings()
    for value in BELL_TTL_MS, defaults.writer_ttl_days * 86_400, defaults.mailbox_max_tasks:
        assert f"`{value}`" in DOCUMENT
