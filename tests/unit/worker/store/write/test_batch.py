from __future__ import annotations

import fcntl
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import DAY, Mail, Store, message_line

from livethread.errors import InvalidRequest
from livethread.metadata import ThreadMetadataPatch
from livethread_worker.flock import flock
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.upkeep.rebuild import read_state
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, POISONED, FAILED, BUSY = OutcomeKind.DONE, OutcomeKind.POISONED, OutcomeKind.FAILED, OutcomeKind.BUSY


def test_a_threads_tasks_become_its_rollout_and_its_index_row(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(cwd="/work"), mail.append("a", "b"), mail.append("c"))

    assert outcome == Outcome(DONE, "1003-0")
    assert store.home.relative(store.path(mail)) == f"{DAY}/rollout-2026-11-22T12-00-00-{mail.thread_id}.jsonl"
    assert store.texts(mail) == ["a", "b", "c"]
    assert store.numbering(mail) == [(0, "w1:1"), (1, "w1:2"), (2, "w1:2"), (3, "w1:3")]
    assert (store.thread(mail).cwd, store.thread(mail).rollout_path) == ("/work", store.path(mail))
    assert stat.S_IMODE(store.path(mail).stat().st_mode) == 0o600


def test_a_batch_applies_all_threads_and_returns_their_positions(store: Store, mail: Mail, other: Mail) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a")],
        other.thread_id: [other.create(), other.append("b"), other.append("c")],
    })

    assert outcomes == {mail.thread_id: Outcome(DONE, "1002-0"), other.thread_id: Outcome(DONE, "1003-0")}
    assert (store.texts(mail), store.texts(other)) == (["a"], ["b", "c"])


def test_applying_the_same_tasks_again_changes_no_byte(store: Store, mail: Mail) -> None:
    entries = [mail.create(), mail.append("a", "b"), mail.patch(ThreadMetadataPatch(title="t")), mail.append("c")]
    store.apply(mail, *entries)
    before, thread = store.path(mail).read_bytes(), store.thread(mail)

    for part in (entries, entries[1:], entries[-1:]):
        assert store.apply(mail, *part) == Outcome(DONE, "1004-0")

    assert store.path(mail).read_bytes() == before
    assert store.thread(mail) == thread


def test_a_redelivered_task_before_a_new_one_is_skipped(store: Store, mail: Mail) -> None:
    create, first = mail.create(), mail.append("first")
    store.apply(mail, create, first)

    store.apply(mail, first, mail.append("second"))

    assert store.texts(mail) == ["first", "second"]


def test_tasks_of_two_writers_keep_the_order_of_the_mailbox(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("1"), mail.append("2", writer="w2"), mail.append("3"))
    store.apply(mail, mail.append("4", writer="w2"))

    assert store.texts(mail) == ["1", "2", "3", "4"]
    assert [seq for _, seq in store.numbering(mail)] == ["w1:1", "w1:2", "w2:1", "w1:3", "w2:2"]


def test_deleting_the_index_between_batches_loses_nothing(store: Store, mail: Mail) -> None:
    entries = [mail.create(cwd="/work"), mail.append("a"), mail.append("b", writer="w2")]
    store.apply(mail, *entries)
    store.drop_index()

    outcome = store.apply(mail, *entries, mail.append("c"))

    assert outcome == Outcome(DONE, "1004-0")
    assert store.texts(mail) == ["a", "b", "c"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, 2, 3]


def test_poison_stops_only_its_own_thread(store: Store, mail: Mail, other: Mail) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a"), mail.append_lines(b"garbage"), mail.append("never")],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes == {
        mail.thread_id: Outcome(
            POISONED,
            "1002-0",
            "InvalidRequest: a line of an append_items holds no item",
            outcomes[mail.thread_id].error,
        ),
        other.thread_id: Outcome(DONE, "1002-0"),
    }
    assert type(outcomes[mail.thread_id].error) is InvalidRequest
    assert (store.texts(mail), store.texts(other)) == (["a"], ["b"])


def test_a_locked_thread_does_not_hold_up_the_others(store: Store, mail: Mail, other: Mail) -> None:
    lock = Path(store.home.thread_lock(mail.thread_id))
    with lock.open("wb") as codex:
        fcntl.flock(codex, fcntl.LOCK_EX)

        outcomes = store.apply_batch({
            mail.thread_id: [mail.create()],
            other.thread_id: [other.create()],
        })

    assert outcomes == {
        mail.thread_id: Outcome(OutcomeKind.LOCKED, reason=f"{mail.thread_id}.lock is held by another writer"),
        other.thread_id: Outcome(DONE, "1001-0"),
    }
    assert store.home.find_rollout(mail.thread_id) is None


def test_a_locked_thread_is_applied_once_its_lock_is_free(store: Store, mail: Mail) -> None:
    create, append = mail.create(), mail.append("a")
    with Path(store.home.thread_lock(mail.thread_id)).open("wb") as codex:
        fcntl.flock(codex, fcntl.LOCK_EX)
        store.apply(mail, create, append)

    assert store.apply(mail, create, append) == Outcome(DONE, "1002-0")
    assert store.texts(mail) == ["a"]


def test_no_lock_is_held_after_a_batch(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append_lines(b"garbage"))

    with Path(store.home.thread_lock(mail.thread_id)).open("rb") as lock:
        assert flock(lock.fileno())


def test_a_locked_index_makes_threads_busy_and_a_retry_recognizes_their_lines(
    store: Store, mail: Mail, other: Mail
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    append = mail.append("b")
    batch = {mail.thread_id: [append], other.thread_id: [other.create()]}
    store.index.db.conn.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(store.home.index, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")

        outcomes = store.apply_batch(batch)
        again = store.apply_batch(batch)

    assert outcomes == again == dict.fromkeys(batch, Outcome(BUSY, reason="the index: database is locked"))
    assert store.thread(mail).title is None
    assert store.index.read_thread(other.thread_id) is None
    rollouts_before = store.path(mail).read_bytes(), store.path(other).read_bytes()
    assert {outcome.kind for outcome in store.apply_batch(batch).values()} == {DONE}
    assert (store.path(mail).read_bytes(), store.path(other).read_bytes()) == rollouts_before
    assert (store.texts(mail), store.numbering(other)) == (["a", "b"], [(0, "w1:1")])


def test_a_thread_that_a_reader_refreshed_during_a_batch_is_busy_and_applied_once(store: Store, mail: Mail) -> None:
    """A reader that read without the lock stores its rows just before the batch commits."""
    store.apply(mail, mail.create(), mail.append("one"))
    codex = message_line("from codex") + b"\n"
    with store.path(mail).open("ab") as file:
        file.write(codex)
    commit, append = store.index.commit, mail.append("two")

    def after_a_reader(*arguments: Any) -> set[str] | None:
        state = read_state(store.home, mail.thread_id, store.path(mail), {})
        store.index.replace([thread_rows(state, None)])
        return commit(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.index, "commit", after_a_reader)
        assert store.apply(mail, append).kind is BUSY

    assert store.apply(mail, append).kind is DONE
    assert store.texts(mail) == ["one", "from codex", "two"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, None, 3]
