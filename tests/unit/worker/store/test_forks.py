"""Our forks share lines as codex's do, through crashes and races."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, message, new_thread, read, without_positions
from tests.store_spec.operations import archive, delete, path_of
from tests.store_spec.turns import turns_of
from tests.unit.worker import paginated
from tests.unit.worker.builders import Mail, Store, killed, thread_id
from tests.unit.worker.paginated import Rollout

from livethread import (
    Conflict,
    CreateThreadParams,
    HistoryPosition,
    InvalidRequest,
    LiveThread,
    PreparedFork,
    PrepareForkParams,
    Settings,
    ThreadManager,
)
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files import locks
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.doctor import examine
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write import open_rollout
from livethread_worker.store.write.outcome import OutcomeKind

A, FORK, OURS = thread_id(1), thread_id(2), thread_id(3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
async def store(home: Home) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=home.root)) as store:
        yield store


@pytest.fixture
def original(home: Home) -> Rollout:
    """A thread of two turns."""
    rollout = paginated.begin(home, A)
    return rollout.turn("t1", "keep apples", "apples kept").turn("t2", "discard zucchini", "zucchini discarded")


async def forked(store: LocalThreadStore, thread_id: str, **boundary: str) -> LiveThread:
    params = CreateThreadParams(thread_id=OURS)
    return await ThreadManager(store).fork_thread(thread_id, params, **boundary)


async def turn_ids(store: LocalThreadStore, thread_id: str) -> list[str]:
    return [turn.turn_id for turn in await turns_of(store, thread_id)]


def first_line(path: Path) -> Any:
    return json.loads(path.read_bytes().splitlines()[0])


def base(rollout: Rollout, turn_id: str | None = None) -> dict[str, Any]:
    """Return the place before a turn of *rollout*, or its end, as codex writes it."""
    ordinal, offset = rollout.starts[turn_id] if turn_id else (rollout.next_ordinal, rollout.path.stat().st_size)
    return {"thread_id": rollout.rollout_id, "end_ordinal_exclusive": ordinal, "end_byte_offset": offset}


# -- places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "turn_id"),
    [
        ({}, None),
        ({"before_turn_id": "t2"}, "t2"),
        ({"through_turn_id": "t1"}, "t2"),
        ({"through_turn_id": "t2"}, None),
    ],
)
async def test_a_fork_begins_as_codexs_does(
    store: LocalThreadStore, original: Rollout, boundary: dict[str, str], turn_id: str | None
) -> None:
    expected, before = base(original, turn_id), original.path.read_bytes()

    fork = await forked(store, A, **boundary)
    await append(store, OURS, message("ours"))

    first, second = (json.loads(line) for line in path_of(await fork.read_thread()).read_bytes().splitlines())
    meta, end = first["payload"], expected["end_ordinal_exclusive"]
    assert (first["ordinal"], second["ordinal"]) == (end, end + 1)
    assert (meta["history_base"], meta["history_mode"]) == (expected, "paginated")
    assert (meta["forked_from_id"], meta["forked_from_ordinal_exclusive"]) == (A, end)
    assert original.path.read_bytes() == before


async def test_a_fork_before_the_first_turn_shares_no_line(store: LocalThreadStore, home: Home) -> None:
    paginated.begin(home, A).turn("t1", "keep apples", "apples kept")

    fork = await forked(store, A, before_turn_id="t1")

    first = first_line(path_of(await fork.read_thread()))
    assert (first["ordinal"], first["payload"]["forked_from_id"]) == (0, A)
    assert "history_base" not in first["payload"]
    await delete(store, A)
    assert await turn_ids(store, OURS) == []


async def test_a_fork_of_a_reverted_thread_shares_the_rollout_that_holds_the_place(
    store: LocalThreadStore, original: Rollout
) -> None:
    reverted = original.reverted("t2").turn("t3", "keep pears", "pears kept")

    latest, before, through = [
        (await store.prepare_fork(PrepareForkParams.model_validate({"thread_id": A} | boundary))).history_base
        for boundary in ({}, {"before_turn_id": "t3"}, {"through_turn_id": "t1"})
    ]

    assert latest == HistoryPosition(**base(reverted))
    assert before == through == HistoryPosition(**base(original, "t2"))
    with pytest.raises(InvalidRequest, match="has no turn t2"):
        await store.prepare_fork(PrepareForkParams(thread_id=A, before_turn_id="t2"))
    await forked(store, A)
    assert await turn_ids(store, OURS) == ["t1", "t3"]


async def test_a_fork_of_codexs_fork_reads_through_both(store: LocalThreadStore, original: Rollout) -> None:
    fork = original.forked(FORK, before="t2").turn("f1", "keep figs", "figs kept")
    original.turn("t4", "later", "later")

    await forked(store, FORK)
    assert await turn_ids(store, OURS) == ["t1", "f1"]
    thread = await read(store, OURS)
    assert (thread.title, thread.preview) == ("keep apples", "keep apples")
    assert first_line(path_of(thread))["payload"]["history_base"] == base(fork)


async def test_a_torn_last_line_is_not_shared(store: LocalThreadStore, original: Rollout) -> None:
    expected = base(original)
    with original.path.open("ab") as file:
        file.write(b'{"timestamp": "2026-11-22T12:00:00.000Z", "ordinal": 99, "type": "event_msg", "pay')

    prepared = await store.prepare_fork(PrepareForkParams(thread_id=A))

    assert prepared.history_base == HistoryPosition(**expected)


async def test_a_fork_of_an_archived_thread_is_active(store: LocalThreadStore, original: Rollout) -> None:
    await archive(store, original.thread_id)

    fork = await forked(store, A)

    assert (await fork.read_thread()).archived_at is None
    assert await turn_ids(store, OURS) == ["t1", "t2"]


async def test_a_rebuild_equals_what_a_fork_grew_to(store: LocalThreadStore, home: Home, original: Rollout) -> None:
    await forked(store, A, through_turn_id="t1")
    await append(store, OURS, message("ours"))
    assert len(await turn_ids(store, A)) == len(original.starts)
    grown = await read(store, OURS)
    with closing(Index(home)) as index:
        lines = index.messages_and_turns(OURS)
        rebuild(home, index)
        assert index.messages_and_turns(OURS) == lines
    assert without_positions(await read(store, OURS)) == without_positions(grown)
    assert [fault for fault in examine(home, fix=False).faults if fault.thread_id] == []


# -- crashes and races -------------------------------------------------------------------------------------


@pytest.fixture
def drained(home: Home) -> Iterator[Store]:
    """The home as a drain uses it."""
    with closing(Store(home.root)) as drained:
        yield drained


def creation(prepared: PreparedFork, mail: Mail) -> Any:
    return mail.create(history_mode="paginated", forked_from_id=A, history_base=prepared.history_base)


@pytest.mark.parametrize(
    "call",
    [(RolloutRecorder, "append"), (open_rollout, "_take_in_tail"), (Index, "commit")],
    ids=lambda call: call[1],
)
@pytest.mark.parametrize("after", [None, 1])
async def test_a_crash_leaves_no_half_fork(
    store: LocalThreadStore, drained: Store, original: Rollout, call: tuple[object, str], after: int | None
) -> None:
    prepared = await store.prepare_fork(PrepareForkParams(thread_id=original.thread_id))
    mail = Mail(3)
    entries = [creation(prepared, mail), mail.append("ours")]

    with killed(*call, after=after):
        drained.apply(mail, *entries)
    outcome = drained.apply(mail, *entries)

    assert outcome.kind is OutcomeKind.DONE
    assert await turn_ids(store, OURS) == ["t1", "t2", "turn-12"]
    lines = path_of(await read(store, OURS)).read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == ["w1:1", "w1:2"]
    drained.drop_index()
    assert drained.apply(mail, *entries).kind is OutcomeKind.DONE
    assert path_of(await read(store, OURS)).read_bytes().splitlines() == lines


async def test_a_torn_first_line_is_written_again(store: LocalThreadStore, drained: Store, original: Rollout) -> None:
    prepared = await store.prepare_fork(PrepareForkParams(thread_id=original.thread_id))
    mail = Mail(3)
    entry = creation(prepared, mail)
    with killed(open_rollout, "_take_in_tail"):
        drained.apply(mail, entry)
    [path] = drained.home.sessions.rglob(f"*{OURS}.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])

    assert drained.apply(mail, entry).kind is OutcomeKind.DONE

    assert path.read_bytes() == whole
    assert await turn_ids(store, OURS) == ["t1", "t2"]


async def test_a_fork_whose_source_was_deleted_before_leaves_nothing(
    store: LocalThreadStore, drained: Store, original: Rollout
) -> None:
    prepared = await store.prepare_fork(PrepareForkParams(thread_id=A))
    await delete(store, A)
    mail = Mail(3)

    outcome = drained.apply(mail, creation(prepared, mail))

    assert (outcome.kind, original.path.exists()) == (OutcomeKind.POISONED, False)
    assert "is missing" in str(outcome.reason)
    assert list(drained.home.root.rglob("rollout-*")) == []


async def test_a_fork_that_no_index_knows_keeps_its_source(
    store: LocalThreadStore, drained: Store, original: Rollout
) -> None:
    prepared = await store.prepare_fork(PrepareForkParams(thread_id=A))
    mail = Mail(3)
    with killed(open_rollout, "_take_in_tail"):
        drained.apply(mail, creation(prepared, mail))

    with pytest.raises(Conflict, match=f"thread {OURS} was forked from it"):
        await delete(store, A)
    assert original.path.exists()


async def test_a_fork_and_a_deletion_wait_for_each_other(
    store: LocalThreadStore, drained: Store, original: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_rollout, "FORKS_LOCK_WAIT", 0.0)
    prepared = await store.prepare_fork(PrepareForkParams(thread_id=A))
    mail, source = Mail(3), Mail(1)
    entry = creation(prepared, mail)

    with locks.file_lock(drained.home.forks_lock):
        assert drained.apply(mail, entry).kind is OutcomeKind.LOCKED
    assert drained.apply(mail, entry).kind is OutcomeKind.DONE

    monkeypatch.setattr("livethread_worker.store.write.batch.FORKS_LOCK_WAIT", 0.0)
    with locks.file_lock(drained.home.forks_lock):
        assert drained.apply(source, source.delete()).kind is OutcomeKind.LOCKED
    assert drained.apply(source, source.delete()).kind is OutcomeKind.POISONED
    assert original.path.exists()


async def test_a_thread_of_no_paginated_rollout_is_not_shared(store: LocalThreadStore) -> None:
    legacy = await new_thread(store)
    await append(store, legacy, message("one"))

    prepared = await store.prepare_fork(PrepareForkParams(thread_id=legacy))

    assert (prepared.is_shared, prepared.history_base) == (False, None)
