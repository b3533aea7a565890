"""Parked threads on the command line: shown, dropped and retried, and what clients notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.nodes.items import append, flush, history, message, new_thread, read, texts
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker

from livethread import (
    Conflict,
    DeleteThreadParams,
    DiscardThreadParams,
    QueuedThreadStore,
    ResourceExhausted,
    ResumeThreadParams,
    ThreadEvent,
    ThreadNotFound,
    ThreadParked,
    ThreadParkedEvent,
    new_thread_id,
)
from livethread.cli import main
from livethread.model import parse_time, utc_now
from livethread.ordered_tasks import AppendItems, CreateThread, OrderedTask
from livethread.queued.parked_threads import ParkedThreads
from livethread.queued.writer import Submission
from livethread_config import Settings, names

if TYPE_CHECKING:
    Cli = Callable[..., Result]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


@pytest.fixture
async def own_store(own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(own_settings) as store:
        yield store


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client


def keys(settings: Settings) -> names.ShardKeys:
    return names.ShardKeys(settings.key_prefix, 0)


async def cli(settings: Settings, *args: str, answer: str | None = None, **env: str | None) -> Result:
    """Run ``livethread parked`` with *args*, as in a shell on the workers' host."""
    deployment = {
        "LIVETHREAD_REDIS_URL": settings.redis_url,
        "LIVETHREAD_HOME": str(settings.home),
        "LIVETHREAD_KEY_PREFIX": settings.key_prefix,
        "LIVETHREAD_CONNECT_TIMEOUT_S": "30",  # other tests may load the machine
    }
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["parked", *args], input=answer, env={**deployment, **env}
    )


async def done(settings: Settings, *args: str) -> str:
    """Return the output of ``livethread parked`` with *args*, which must succeed."""
    result = await cli(settings, *args)
    assert result.exit_code == 0, result.output
    return result.stdout


async def drain(worker: HandWorker) -> None:
    await asyncio.to_thread(worker.drain)


async def poison(store: QueuedThreadStore, thread_id: str, line: bytes = b'{"poison": "secret"}') -> str:
    """Append a line that is not an item, as another client might, through *store*'s writer."""
    task = OrderedTask(AppendItems(at=utc_now()), (line,)).encode()
    return await store._submit(store._threads.require(thread_id), Submission(task))


async def a_parked_thread(store: QueuedThreadStore, worker: HandWorker) -> tuple[str, str]:
    """Return a thread with a poisoned task between two good ones, and that task's position."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("before"))
    position = await poison(store, thread_id)
    await append(store, thread_id, message("after"))
    await drain(worker)
    return thread_id, position


def kept_in(settings: Settings) -> list[list[dict[str, Any]]]:
    """Return the dropped tasks in the quarantine, a list for each file."""
    files = sorted((settings.home / "livethread" / "quarantine").glob("*.dropped.*"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def kept_in_redis(redis: Any, settings: Settings) -> dict[bytes, bytes]:
    """Return all Redis keys of the deployment and their values, except doorbells, whose timing varies."""
    redis_keys = redis.scan_iter(f"{settings.key_prefix}:*")
    doorbells = f"{settings.key_prefix}:celery:".encode()
    return {name: redis.dump(name) for name in redis_keys if not name.startswith(doorbells)}


# -- show --------------------------------------------------------------------------------------------------


async def test_a_parked_thread_is_listed_with_its_reason(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)

    bare, listed = await done(settings), await done(settings, "list")
    [as_json] = json.loads(await done(settings, "list", "--json"))

    assert bare == listed == f"{thread_id}  InvalidRequest: a line of an append_items holds no item\n"
    assert as_json == json.loads(await done(settings, "--json"))[0]
    assert (as_json["thread_id"], as_json["reason"]) == (thread_id, listed.split("  ")[1].strip())


async def test_show_prints_the_position_and_the_waiting_tasks_without_contents(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, position = await a_parked_thread(store, hand_worker)
    writer = store._threads.require(thread_id).id

    shown = json.loads(await done(settings, "show", thread_id, "--json"))
    output = await done(settings, "show", thread_id[:-1], "--utc")

    assert (parked_at := parse_time(shown["parked_at"])) is not None
    stopped = shown["stopped_at"]
    assert (stopped["position"], stopped["writer"], stopped["n"]) == (position, writer, 3)
    assert (stopped["op"], stopped["items"]) == ("append_items", 1)
    assert shown["waiting"]["tasks"] == 2
    assert shown["waiting"]["bytes"] > stopped["bytes"] > len("secret")
    assert f"at       {position}: append_items, 1 item, " in output
    assert f"since {parked_at:%Y-%m-%d %H:%M:%SZ}" in output
    assert "secret" not in output + json.dumps(shown)


async def test_show_prints_contents_on_request(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)

    shown = json.loads(await done(settings, "show", thread_id, "--json", "--contents"))
    output = await done(settings, "show", thread_id, "--contents")

    assert shown["stopped_at"]["contents"]["lines"] == '{"poison": "secret"}'
    assert "secret" in output


async def test_show_prints_an_entry_that_is_not_a_task(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    redis.xadd(keys(settings).mailbox(thread_id), {"junk": b"\xff\x1b[2J"}, id="99999999999999-0")
    await drain(hand_worker)

    shown = json.loads(await done(settings, "show", thread_id, "--json", "--contents"))
    output = await done(settings, "show", thread_id, "--contents")

    assert shown["reason"].startswith("the entry at 99999999999999-0 is not a task")
    assert shown["stopped_at"] == {
        "position": "99999999999999-0",
        "writer": None,
        "n": None,
        "op": None,
        "bytes": 5,
        "contents": {"junk": {"base64": "/xtbMko="}},
    }
    assert "at       99999999999999-0: no task, 5 bytes" in output


@pytest.mark.parametrize("what", ["show", "drop", "retry"])
async def test_a_thread_that_is_not_parked_is_reported(
    store: QueuedThreadStore, settings: Settings, what: str
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    result = await cli(settings, what, thread_id)

    assert (result.exit_code, result.stderr) == (1, f"Error: thread {thread_id} not found: it is not parked\n")


# -- drop --------------------------------------------------------------------------------------------------


async def test_a_dropped_task_is_saved_and_the_tasks_after_it_are_applied(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, position = await a_parked_thread(store, hand_worker)
    with pytest.raises(ThreadParked):
        await flush(store, thread_id)

    dropped = json.loads(await done(settings, "drop", thread_id[:-1], "--yes", "--json"))
    await drain(hand_worker)

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["before", "after"]
    [[kept]] = kept_in(settings)
    assert (kept["thread_id"], kept["position"], kept["op"]) == (thread_id, position, "append_items")
    assert kept["reason"] == "InvalidRequest: a line of an append_items holds no item"
    assert kept["fields"]["lines"] == '{"poison": "secret"}'
    assert sorted(kept["fields"]) == ["lines", "n", "task", "writer"]
    assert dropped["kept_in"].startswith(str(settings.home / "livethread" / "quarantine"))
    assert (dropped["thread_id"], dropped["dropped"]) == (thread_id, f"the append_items at {position}")
    assert "secret" not in str(dropped)


async def test_later_tasks_of_the_same_writer_are_applied_after_a_drop(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    await done(settings, "drop", thread_id, "--yes")

    await append(store, thread_id, message("later"))
    await drain(hand_worker)

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["before", "after", "later"]
    assert not store._threads.require(thread_id).has_outstanding


async def test_no_call_waits_for_a_dropped_task_though_it_was_the_last(
    own_store: QueuedThreadStore, own_worker: HandWorker, own_settings: Settings, own_redis: RedisServer
) -> None:
    """The publication is lost, too; neither a flush nor a resume may hang."""
    thread_id = await new_thread(own_store)
    await append(own_store, thread_id, message("before"))
    await poison(own_store, thread_id)
    await drain(own_worker)
    own_redis.client.client_kill_filter(_type="pubsub")

    await done(own_settings, "drop", thread_id, "--yes")

    await flush(own_store, thread_id, timeout_s=15)
    async with opened(own_settings) as other:
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        assert texts(await history(other, thread_id)) == ["before"]


async def test_a_flush_in_progress_ends_when_the_last_of_its_tasks_is_dropped(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush does not know that the thread was parked."""
    thread_id = await new_thread(store)
    await poison(store, thread_id)
    writer = store._threads.require(thread_id)
    await drain(hand_worker)
    await eventually(lambda: writer.parked, "the publication")
    writer.note_parked(None)
    monkeypatch.setattr(writer, "note_parked", lambda _reason: None)  # not even when it asks
    flushing = asyncio.ensure_future(flush(store, thread_id, timeout_s=15))
    await asyncio.wait([flushing], timeout=0.1)
    waited = not flushing.done()

    await done(settings, "drop", thread_id, "--yes")

    assert waited
    await flushing


async def test_a_dropped_append_does_not_take_its_idempotency_key(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    await append(store, thread_id, message("dropped"), key="k")
    await done(settings, "drop", thread_id, "--all", "--yes")
    await flush(store, thread_id)

    with pytest.raises(Conflict):
        await append(store, thread_id, message("stale"), key="k", expected="1-1")
    await append(store, thread_id, message("again"), key="k")

    await drain(hand_worker)
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["before", "again"]


async def test_a_dropped_task_does_not_come_back_when_redis_loses_everything(
    own_store: QueuedThreadStore, own_worker: HandWorker, own_settings: Settings, own_redis: RedisServer
) -> None:
    thread_id, _ = await a_parked_thread(own_store, own_worker)
    await done(own_settings, "drop", thread_id, "--yes")
    await drain(own_worker)
    await flush(own_store, thread_id)

    own_redis.client.flushall()
    await append(own_store, thread_id, message("later"))
    await drain(own_worker)

    await flush(own_store, thread_id, timeout_s=15)
    assert texts(await history(own_store, thread_id)) == ["before", "after", "later"]


async def test_a_dropped_task_that_its_client_sends_again_is_not_accepted_again(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    """The client does not know of the drop."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("before"))
    await poison(store, thread_id)
    await drain(hand_worker)
    writer = store._threads.require(thread_id)
    await eventually(lambda: writer.floor == 2, "the acknowledgement")
    await store._acknowledgements.stop()
    await done(settings, "drop", thread_id, "--yes")

    writer.rewind(2)
    store._outbox.send(writer)
    await eventually(lambda: not writer.queue, "the answer")

    assert redis.exists(keys(settings).mailbox(thread_id)) == 0


async def test_all_waiting_tasks_can_be_dropped(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    async with opened(settings) as other:
        other._open(thread_id, epoch=0)
        await append(other, thread_id, message("from another writer"))

        await done(settings, "drop", thread_id, "--all", "--yes")

        await flush(store, thread_id)
        await flush(other, thread_id)
    assert texts(await history(store, thread_id)) == ["before"]
    [kept] = kept_in(settings)
    assert [json.loads(entry["fields"]["task"])["op"] for entry in kept] == ["append_items"] * 3
    assert redis.exists(keys(settings).mailbox(thread_id)) == 0


async def test_dropping_by_position_needs_the_position_where_the_thread_stopped(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id, position = await a_parked_thread(store, hand_worker)
    later = store._threads.require(thread_id).unapplied[-1].position

    refused = await cli(settings, "drop", thread_id, "--position", later, "--yes")
    waiting = redis.xlen(keys(settings).mailbox(thread_id))
    await done(settings, "drop", thread_id, "--position", position, "--yes")

    assert refused.exit_code == 1
    assert f"stopped at {position}" in refused.stderr
    assert waiting == 2
    assert redis.xlen(keys(settings).mailbox(thread_id)) == 1


@pytest.mark.parametrize(("answer", "left"), [("y\n", 1), ("n\n", 2), ("", 2)])
async def test_drop_asks_for_confirmation_without_yes(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, answer: str, left: int
) -> None:
    thread_id, position = await a_parked_thread(store, hand_worker)

    result = await cli(settings, "drop", thread_id, answer=answer)

    assert f"Drop the append_items at {position} of thread {thread_id}? [y/N]" in result.stderr
    assert hand_worker.redis.xlen(keys(settings).mailbox(thread_id)) == left
    assert len(kept_in(settings)) == 2 - left


async def test_drop_needs_save_if_the_home_is_unknown(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any, tmp_path: Path
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    file, taken = tmp_path / "dropped.jsonl", tmp_path / "taken.jsonl"
    taken.write_text("mine")

    without = await cli(settings, "drop", thread_id, "--yes", LIVETHREAD_HOME=None)
    occupied = await cli(settings, "drop", thread_id, "--yes", "--save", str(taken), LIVETHREAD_HOME=None)
    waiting = redis.xlen(keys(settings).mailbox(thread_id))
    saved = await cli(settings, "drop", thread_id, "--yes", "--save", str(file), LIVETHREAD_HOME=None)

    assert (without.exit_code, occupied.exit_code, saved.exit_code) == (1, 1, 0)
    assert "--save" in without.stderr
    assert "exists" in occupied.stderr
    assert (waiting, taken.read_text()) == (2, "mine")
    assert json.loads(file.read_text())["fields"]["lines"] == '{"poison": "secret"}'
    assert file.stat().st_mode & 0o777 == 0o600


async def test_dropping_an_entry_that_is_not_a_task_does_not_advance_positions(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id = await new_thread(store)
    last = await append(store, thread_id, message("one"))
    redis.xadd(keys(settings).mailbox(thread_id), {"junk": b"\xff", "writer": "x", "n": "-1"}, id="99999999999999-0")
    await drain(hand_worker)

    await done(settings, "drop", thread_id, "--yes")

    assert redis.get(keys(settings).applied(thread_id)).decode() == last.position
    assert (await append(store, thread_id, message("two"))).position < "99999999999999-0"
    await drain(hand_worker)
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two"]
    assert kept_in(settings)[0][0]["fields"] == {"junk": {"base64": "/w=="}, "writer": "x", "n": "-1"}


async def test_a_dropped_entry_with_a_forged_counter_acknowledges_nothing(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    """An entry with a writer's id and too high a counter must not make later tasks count as applied."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    writer = store._threads.require(thread_id).id
    redis.xadd(keys(settings).mailbox(thread_id), {"writer": writer, "n": "100"}, id="99999999999999-0")
    await drain(hand_worker)

    await done(settings, "drop", thread_id, "--yes")
    await append(store, thread_id, message("two"))

    assert redis.hget(keys(settings).writers(thread_id), f"a:{writer}") == b"2"
    assert store._threads.require(thread_id).has_outstanding


async def test_after_a_dropped_creation_the_thread_stops_at_the_next_task(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id = await new_thread(store)
    another = CreateThread(at=utc_now(), session_meta={"id": new_thread_id()})
    store._threads.require(thread_id).creation = OrderedTask(another).encode()
    await append(store, thread_id, message("one"))
    await append(store, thread_id, message("two"))
    await drain(hand_worker)

    await done(settings, "drop", thread_id, "--yes")
    await drain(hand_worker)
    with pytest.raises(ThreadParked, match=r"ThreadNotFound.*holds no rollout of it"):
        await flush(store, thread_id)
    waiting = redis.xlen(keys(settings).mailbox(thread_id))
    await done(settings, "drop", thread_id, "--all", "--yes")

    await flush(store, thread_id)
    assert waiting == 2
    assert [len(kept) for kept in kept_in(settings)] == [1, 2]
    assert not list(settings.home.glob("sessions/*/*/*/*"))
    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_dropping_a_deletion_opens_the_thread_again(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    """A folder at the rollout's path makes the deletion fail."""
    hand_worker.settings = settings.model_copy(update={"park_after_attempts": 1})
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await drain(hand_worker)
    path = (await read(store, thread_id)).rollout_path
    assert path is not None
    away = path.rename(path.with_suffix(".away"))
    path.mkdir()
    await store.delete_thread(DeleteThreadParams(thread_id=thread_id))
    await drain(hand_worker)
    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("refused"))

    path.rmdir()
    away.rename(path)
    await done(settings, "drop", thread_id, "--yes")

    await append(store, thread_id, message("two"))
    await drain(hand_worker)
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two"]


@pytest.mark.parametrize("meanwhile", ["retried", "retried and parked again", "its first task was dropped"])
async def test_a_drop_conflicts_if_the_mailbox_changed_since_it_was_shown(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any, meanwhile: str
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    parked_threads = ParkedThreads(store._mailboxes)
    parked = await parked_threads.require(thread_id)
    entries = [entry async for entry in parked_threads.entries(parked)]
    if meanwhile == "its first task was dropped":
        redis.xdel(keys(settings).mailbox(thread_id), entries[0].position)
    else:
        await parked_threads.unpark(parked)
    if meanwhile == "retried and parked again":
        await drain(hand_worker)
    before = kept_in_redis(redis, settings)

    with pytest.raises(Conflict, match="nothing was dropped"):
        await parked_threads.drop(parked, entries[:1])

    assert kept_in_redis(redis, settings) == before


async def test_a_redis_timeout_is_reported_in_one_line(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)

    async def time_out(*_: object) -> None:
        raise RedisTimeoutError("Timeout reading from socket")

    monkeypatch.setattr(ParkedThreads, "drop", time_out)

    result = await cli(settings, "drop", thread_id, "--yes")

    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert (
        "stopped answering (Timeout reading from socket): the command may or may not have taken effect"
        in result.output
    )
    assert len(kept_in(settings)) == 1  # tasks are saved before they are dropped


async def test_many_tasks_can_be_dropped_together(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    await asyncio.gather(*(append(store, thread_id, message(f"{n}")) for n in range(250)))

    output = await done(settings, "drop", thread_id, "--all", "--yes")

    assert "and the 251 after it" in output
    assert [len(kept) for kept in kept_in(settings)] == [252]
    assert redis.exists(keys(settings).mailbox(thread_id)) == 0
    await flush(store, thread_id)


# -- retry and the bound -----------------------------------------------------------------------------------


async def test_a_retried_thread_stops_at_the_same_task_while_the_cause_remains(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis: Any
) -> None:
    thread_id, _ = await a_parked_thread(store, hand_worker)
    mailbox = keys(settings).mailbox(thread_id)
    before = redis.xrange(mailbox)

    output = await done(settings, "retry", thread_id)
    await drain(hand_worker)

    assert output == f"{thread_id} is tried again\n"
    assert redis.xrange(mailbox) == before
    assert redis.hexists(keys(settings).parked, thread_id)


async def test_a_parked_thread_accepts_tasks_up_to_its_bound(settings: Settings, hand_worker: HandWorker) -> None:
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 4})) as store:
        thread_id, _ = await a_parked_thread(store, hand_worker)
        writer = store._threads.require(thread_id)
        await eventually(lambda: writer.parked, "the publication")
        await append(store, thread_id, message("third"))
        await append(store, thread_id, message("fourth"))

        with pytest.raises(ResourceExhausted, match=r"4 tasks of thread .*it is parked: InvalidRequest"):
            await append(store, thread_id, message("refused"))

        await done(settings, "drop", thread_id, "--yes")
        await drain(hand_worker)
        await flush(store, thread_id)
        assert texts(await history(store, thread_id)) == ["before", "after", "third", "fourth"]


async def test_each_parking_is_one_event_however_often_the_client_hears_of_it(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    events: list[ThreadEvent] = []
    store.observers.subscribe(events.append)

    def parkings() -> list[ThreadParkedEvent]:
        return [event for event in events if isinstance(event, ThreadParkedEvent)]

    thread_id, _ = await a_parked_thread(store, hand_worker)
    for _ in range(2):
        with pytest.raises(ThreadParked):
            await flush(store, thread_id)
    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("later"))
    with pytest.raises(ThreadParked):
        await flush(store, thread_id)
    first = parkings()

    await done(settings, "retry", thread_id)
    await drain(hand_worker)
    await eventually(lambda: len(parkings()) > 1, "the second parking")
    with pytest.raises(ThreadParked):
        await flush(store, thread_id)

    assert [event.thread_id for event in first] == [thread_id]
    again = parkings()
    assert [event.reason for event in again] == [first[0].reason] * 2
    assert again[1].parked_at > again[0].parked_at  # type: ignore[operator]  # a worker parked it
