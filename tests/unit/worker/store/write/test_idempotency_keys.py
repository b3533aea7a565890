"""An append with an idempotency key is applied once in a thread's life, even if the worker dies or the index is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from tests.unit.worker.builders import AT, Mail, Store, item_line, message_line, numbered

from livethread.metadata import ThreadMetadataPatch
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write.outcome import OutcomeKind
from livethread_worker.store.write.thread_work import number_line

DONE = OutcomeKind.DONE


def taken(store: Store, mail: Mail, *keys: str) -> set[str]:
    return store.index.load_states({mail.thread_id: set()}, {mail.thread_id: keys})[mail.thread_id].idempotency_keys


def named(store: Store, mail: Mail) -> list[tuple[str, str | None]]:
    """Return the task and idempotency key of each line after the first."""
    return [(record["seq"], record.get("idempotency_key")) for record in store.records(mail)[1:]]


def counters(store: Store, mail: Mail, *writers: str) -> dict[str, int]:
    states = store.index.load_states({mail.thread_id: set(writers)})
    return {writer: mark.n for writer, mark in states[mail.thread_id].writers.items()}


def token_count(n: int) -> bytes:
    return item_line("event_msg", {"type": "token_count", "info": {"total_token_usage": {"total": n}}}, at(n))


def at(seconds: int) -> Any:
    return AT + timedelta(seconds=seconds)


# -- once --------------------------------------------------------------------------------------------------


def test_each_line_of_an_append_holds_its_idempotency_key(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a", "b", key='"é"'), mail.append("c"))

    assert named(store, mail) == [("w1:2", '"é"'), ("w1:2", '"é"'), ("w1:3", None)]
    assert list(store.records(mail)[1]) == [
        *("timestamp", "ordinal", "seq", "position", "idempotency_key"),
        *("type", "payload"),
    ]


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize("writer", ["w1", "w2"])
def test_the_first_append_with_an_idempotency_key_counts_and_later_ones_are_numbered(
    store: Store, mail: Mail, writer: str, in_one_batch: bool
) -> None:
    entries = [
        mail.create(),
        mail.append("first", key="k"),
        mail.append("second", "again", key="k", writer=writer),
        mail.append("third", writer=writer),
    ]

    for batch in [entries] if in_one_batch else [[entry] for entry in entries]:
        assert store.apply(mail, *batch).position == batch[-1].position

    assert store.texts(mail) == ["first", "third"]
    assert counters(store, mail, writer) == {writer: entries[-1].n}
    assert [record["ordinal"] for record in store.records(mail)] == [0, 1, 2]


def test_idempotency_keys_are_per_thread_and_case_sensitive(store: Store, mail: Mail) -> None:
    other = Mail(2)
    for each in (mail, other):
        store.apply(each, each.create(), each.append("a", key="k"), each.append("b", key="K"))

    assert store.texts(mail) == store.texts(other) == ["a", "b"]


def test_deleting_a_thread_deletes_its_idempotency_keys(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a", key="k"))

    store.apply(mail, mail.delete())

    assert list(store.index.db.query("select * from idempotency_keys")) == []


def test_a_malformed_append_stops_its_thread_though_its_key_is_taken(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a", key="k"))

    outcome = store.apply(mail, mail.append_lines(key="k"))

    assert outcome.kind is OutcomeKind.POISONED


def test_a_batch_without_idempotency_keys_does_not_query_them(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a", key="k"))
    statements: list[str] = []
    store.index.db.conn.set_trace_callback(statements.append)

    store.apply(mail, mail.append("b"))
    without = list(statements)
    store.apply(mail, mail.append("c", key="l"))

    assert [statement for statement in without if "idempotency_keys" in statement] == []
    assert len([statement for statement in statements if "idempotency_keys" in statement]) == 2


# -- crashes -----------------------------------------------------------------------------------------------


def test_a_half_written_append_is_completed_despite_its_own_idempotency_key(store: Store) -> None:
    lines = message_line("héllo"), message_line("world")
    task = numbered("1002-0", "w1", 2)
    expected = number_line(lines[0], 1, task, "k") + number_line(lines[1], 2, task, "k")
    for written in range(len(expected) + 1):
        mail = Mail(1_000 + written)
        store.apply(mail, mail.create())
        size = store.path(mail).stat().st_size
        with store.path(mail).open("ab") as file:
            file.write(expected[:written])

        store.apply(mail, mail.append_lines(*lines, key="k"), mail.append("again", writer="w2", key="k"))

        assert store.path(mail).read_bytes()[size:] == expected, f"after {written} bytes"
        assert taken(store, mail, "k") == {"k"}


def test_an_uncommitted_append_in_the_rollout_has_taken_its_idempotency_key(store: Store, mail: Mail) -> None:
    """After Redis lost data, another writer's append with the idempotency key may come first."""
    store.apply(mail, mail.create())
    with store.path(mail).open("ab") as file:
        file.write(number_line(message_line("written"), 1, numbered("1002-0", "w2", 1), "k"))

    store.apply(mail, mail.append("late", key="k"), mail.append("written", "rest", writer="w2", key="k"))

    assert store.texts(mail) == ["written", "rest"]


def test_a_redelivered_duplicate_stays_a_duplicate(store: Store, mail: Mail) -> None:
    batch = [mail.create(), mail.append("first", key="k"), mail.append("second", key="k", writer="w2")]
    store.apply(mail, *batch)
    later = batch[2].__class__("9999-0", "w2", 1, batch[2].task)  # Redis lost it, and the client sent it again

    for again in (batch, batch[1:], batch[2:], [later]):
        store.apply(mail, *again)

    assert store.texts(mail) == ["first"]


def lose_and_rebuild(store: Store, _: Mail) -> None:
    store.drop_index()
    rebuild(store.home, store.index)


def lose_and_refresh(store: Store, mail: Mail) -> None:
    store.drop_index()
    Refresher(store.home, store.index).refresh(mail.thread_id)


LOSSES: dict[str, Callable[[Store, Mail], object]] = {
    "a new index, by the next task": lambda store, _: store.drop_index(),
    "a new index, rebuilt": lose_and_rebuild,
    "a new index, by a reader": lose_and_refresh,
    "the index rebuilt in place": lambda store, _: rebuild(store.home, store.index),
    "compressed": lambda store, _: compress_cold(store.home, store.index, at(10**9)),
    "a distrusted row": lambda store, mail: store.index.distrust(mail.thread_id),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=list(LOSSES))
def test_idempotency_keys_survive_in_the_rollout_alone(
    store: Store, mail: Mail, lose: Callable[[Store, Mail], object]
) -> None:
    store.apply(mail, mail.create(), mail.append("first", "of it", key="k"), mail.append("other"))

    lose(store, mail)
    outcome = store.apply(mail, mail.append("again", writer="w2", key="k"), mail.append("new", key="l"))

    assert outcome.kind is DONE
    assert store.texts(mail) == ["first", "of it", "other", "new"]


def test_an_idempotency_key_stays_taken_in_the_index_though_its_lines_are_cut_off(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("stays"))
    size = store.path(mail).stat().st_size
    store.apply(mail, mail.append("cut", key="k"))
    os.truncate(store.path(mail), size)

    store.apply(mail, mail.append("again", writer="w2", key="k"))
    rebuild(store.home, store.index)
    store.apply(mail, mail.append("once more", writer="w3", key="k"))

    assert store.texts(mail) == ["stays"]


def test_a_foreign_lines_idempotency_key_field_is_ignored(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    with store.path(mail).open("ab") as file:
        file.write(json.dumps({**json.loads(message_line("theirs")), "idempotency_key": "k"}).encode() + b"\n")

    store.apply(mail, mail.append("ours", key="k"))

    assert store.texts(mail) == ["theirs", "ours"]


# -- metadata ----------------------------------------------------------------------------------------------


def test_a_duplicate_changes_no_metadata(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(writer="w0"), *mail.live(token_count(1), key="k"), *mail.live(token_count(2)))
    before = store.thread(mail)

    store.apply(mail, *mail.live(message_line("another"), token_count(9), writer="w2", key="k"))

    assert (before.token_usage, before.updated_at) == ({"total": 2}, at(2))
    assert store.thread(mail) == before


@pytest.mark.parametrize("sizes", [(3,), (1, 2), (2, 1), (1, 1, 1)], ids=str)
def test_metadata_matches_the_lines_after_a_crash_though_later_batches_are_smaller(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    """The lines are read before their tasks are redelivered."""
    store.apply(mail, mail.create(writer="w0"))
    tasks = [
        mail.live(token_count(1), message_line("first")),
        [mail.patch(ThreadMetadataPatch(token_usage={"asked": 1}, preview=""))],
        mail.live(token_count(2), message_line("second"), writer="w2", key="k"),
    ]
    monkeypatch.setattr(store.index, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.apply(mail, *chain.from_iterable(tasks))
    monkeypatch.undo()

    for size in sizes:
        batch, tasks = tasks[:size], tasks[size:]
        store.apply(mail, *chain.from_iterable(batch))

    thread = store.thread(mail)
    assert (thread.token_usage, thread.title, thread.preview) == ({"total": 2}, "first", "")


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
