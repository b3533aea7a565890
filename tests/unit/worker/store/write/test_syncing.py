"""A batch is on disk before it is committed."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from tests.unit.worker.builders import Mail, Store, killed, message_line
from tests.unit.worker.conftest import LimitFileSize

from livethread_worker.store.files import sync
from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.write import batch as batch_module
from livethread_worker.store.write.batch import apply_batch
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, FAILED = OutcomeKind.DONE, OutcomeKind.FAILED


def test_a_full_disk_fails_the_thread_and_leaves_no_partial_line(
    store: Store, mail: Mail, limit_file_size: LimitFileSize
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    before = store.path(mail).read_bytes()
    long = mail.append("x" * 100_000)
    with limit_file_size(50_000):
        outcome = store.apply(mail, long)

    assert (outcome.kind, outcome.position) == (FAILED, None)
    assert "File too large" in outcome.reason
    assert store.path(mail).read_bytes() == before
    assert store.apply(mail, long) == Outcome(DONE, "1003-0")
    assert store.texts(mail) == ["a", "x" * 100_000]


@pytest.mark.usefixtures("one_by_one")
def test_a_rollout_that_cannot_be_synced_fails_only_its_own_thread(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create(), each.append("a")] for each in (mail, other)}
    synced = []

    def force(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if os.path.samestat(os.fstat(descriptor), store.path(other).stat()):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(sync, "_datasync", force)
        outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert outcomes[mail.thread_id] == Outcome(DONE, "1002-0")
    assert (outcomes[other.thread_id].kind, outcomes[other.thread_id].position) == (FAILED, None)
    assert "Input/output error" in outcomes[other.thread_id].reason
    assert sorted(synced) == sorted(store.path(each).stat().st_ino for each in (mail, other))
    assert store.index.read_thread(other.thread_id) is None
    # The kernel takes its pages for written, so they have to be written again.
    assert store.path(other).read_bytes() == b""
    assert {outcome.kind for outcome in apply_batch(store.home, store.index, batch, sync=True).values()} == {DONE}
    assert store.texts(mail) == store.texts(other) == ["a"]


def test_a_batch_is_committed_after_its_rollouts_are_synced(
    store: Store, mail: Mail, other: Mail, forcing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def force(_: int) -> None:
        time.sleep(0.02)  # long enough for a commit that does not wait
        steps.append("synced")

    monkeypatch.setattr(sync, forcing, force)
    store.index.db.conn.set_trace_callback(steps.append)

    apply_batch(store.home, store.index, {each.thread_id: [each.create()] for each in (mail, other)}, sync=True)

    calls = 2 if forcing == "_datasync" else 1
    assert [step for step in steps if step in {"synced", "COMMIT"}] == [*["synced"] * calls, "COMMIT"]


def steps_with_a_slow_disk(store: Store, monkeypatch: pytest.MonkeyPatch, slow: str) -> list[str]:
    """Make *slow*, a function that syncs, wait until the index transaction is rolled back; return the steps in order."""
    steps: list[str] = []
    released = threading.Event()

    def force(_: object) -> None:
        released.wait(60)
        steps.append("synced")

    def note(statement: str) -> None:
        steps.append(statement)
        if statement == "ROLLBACK":
            released.set()

    monkeypatch.setattr(sync, slow, force)
    monkeypatch.setattr(batch_module, "HELD_FOR_DISK", 0.01)
    store.index.db.conn.set_trace_callback(note)
    return steps


def waited(calls: int) -> list[str]:
    return ["BEGIN IMMEDIATE", "ROLLBACK", *["synced"] * calls, "BEGIN IMMEDIATE", "COMMIT"]


def test_a_slow_disk_does_not_hold_up_the_index(
    store: Store, mail: Mail, other: Mail, forcing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create(), each.append("a")] for each in (mail, other)}
    steps = steps_with_a_slow_disk(store, monkeypatch, forcing)

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    expected = waited(2 if forcing == "_datasync" else 1)
    assert [step for step in steps if step in expected] == expected


@pytest.mark.usefixtures("one_by_one")
def test_a_slow_folder_sync_does_not_hold_up_the_index(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create()] for each in (mail, other)}
    steps = steps_with_a_slow_disk(store, monkeypatch, "sync_directories")

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert [step for step in steps if step in waited(1)] == waited(1)


def test_a_failed_sync_is_reported_though_the_index_is_locked(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports the error only once."""
    store.apply(mail, mail.create(), mail.append("a"))
    before = store.path(mail).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def locked(*_: object) -> None:
        raise IndexUnavailable("locked")

    late = mail.append("late")
    with monkeypatch.context() as patched:
        patched.setattr(sync, "_datasync", fail)
        patched.setattr(store.index, "commit", locked)
        outcome = apply_batch(store.home, store.index, {mail.thread_id: [late]}, sync=True)[mail.thread_id]

    assert (outcome.kind, store.path(mail).read_bytes()) == (FAILED, before)
    assert store.apply(mail, late).kind is DONE
    assert store.texts(mail) == ["a", "late"]


def test_rollouts_with_foreign_lines_are_synced_file_by_file(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's ``syncfs`` may have consumed an error; ``fdatasync`` reports it again."""
    store.apply_batch({each.thread_id: [each.create()] for each in (mail, other)})
    with store.path(mail).open("ab") as file:
        file.write(message_line("theirs") + b"\n")
    synced: list[int] = []
    monkeypatch.setattr(sync, "is_cheap_to_sync", lambda _: True)
    monkeypatch.setattr(sync, "_datasync", synced.append)
    batch = {each.thread_id: [each.append("ours")] for each in (mail, other)}

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert len(synced) == 2
    assert store.texts(mail) == ["theirs", "ours"]


def test_the_folder_of_a_rollout_that_a_crash_left_is_synced(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = mail.create()
    with killed(sync, "_sync_data"):
        apply_batch(store.home, store.index, {mail.thread_id: [create]}, sync=True)
    folders: list[Path] = []
    monkeypatch.setattr(sync, "sync_directories", folders.append)

    apply_batch(store.home, store.index, {mail.thread_id: [create]}, sync=True)

    assert folders == [store.path(mail).parent]
