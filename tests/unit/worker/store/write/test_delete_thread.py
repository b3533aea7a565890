from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import Mail, Store, killed

from livethread.metadata import ThreadMetadataPatch
from livethread_worker.store.files import name_index
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.index import Index
from livethread_worker.store.write import batch
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DELETING: dict[str, tuple[str, str, int | None]] = {
    "after the file": ("batch", "sync_directory", None),
    "before its names": ("names", "forget_names", None),
    "after its names": ("names", "forget_names", 1),
    "before the commit": ("index", "commit", None),
    "after the commit": ("index", "commit", 1),
}


def crash_target(store: Store, name: str) -> object:
    targets: dict[str, object] = {"names": name_index, "batch": batch, "index": store.index}
    return targets[name]


def rows_of(store: Store, mail: Mail) -> dict[str, int]:
    """Count the thread's rows in each table of the index."""
    tables = ("threads", "rollouts", "writers", "turns", "messages")
    return {
        table: store.index.db.execute(
            f"SELECT count(*) FROM {table} WHERE thread_id = ?",
            [mail.thread_id],
        ).fetchone()[0]
        for table in tables
    }


def assert_nothing_left(store: Store, mail: Mail) -> None:
    assert set(rows_of(store, mail).values()) == {0}
    assert store.home.find_rollout(mail.thread_id) is None
    assert mail.thread_id not in store.home.session_index.read_text(encoding="utf-8")
    assert not Path(store.home.thread_lock(mail.thread_id)).exists()
    assert [path for path in store.home.root.rglob("*") if mail.thread_id in path.name] == []


def test_deleting_a_thread_leaves_nothing_of_it_and_keeps_the_others(store: Store, mail: Mail, other: Mail) -> None:
    name = ThreadMetadataPatch(name="n")
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(name))
    store.apply(other, other.create(), other.append("b"), other.patch(name))
    before = store.path(other).read_bytes(), store.thread(other), rows_of(store, other)

    outcome = store.apply(mail, mail.append("c"), mail.delete())

    assert outcome == Outcome(OutcomeKind.DELETED, "1005-0")
    assert_nothing_left(store, mail)
    assert (store.path(other).read_bytes(), store.thread(other), rows_of(store, other)) == before
    assert read_names(store.home) == {other.thread_id: "n"}


def test_a_batch_of_deletions_writes_the_other_names_once(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (mail, other):
        store.apply(each, each.create(), each.patch(ThreadMetadataPatch(name="n")))
    calls: list[tuple[str, ...]] = []
    forget_names = name_index.forget_names

    def forget(home: Home, *thread_ids: str) -> None:
        calls.append(thread_ids)
        forget_names(home, *thread_ids)

    monkeypatch.setattr(name_index, "forget_names", forget)

    store.apply_batch({each.thread_id: [each.delete()] for each in (mail, other)})

    assert calls == [(mail.thread_id, other.thread_id)]
    assert read_names(store.home) == {}


def test_a_deletion_holds_the_lock_until_the_index_knows_of_it(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that met a row without a rollout would search the whole home for it."""
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    commit, is_locked = Index.commit, []

    def look(index: Index, *args: Any) -> object:
        with pytest.raises(LockBusy), file_lock(store.home.thread_lock(mail.thread_id)):
            pytest.fail("the lock is free")
        is_locked.append(True)
        return commit(index, *args)

    monkeypatch.setattr(Index, "commit", look)

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert is_locked
    assert_nothing_left(store, mail)


def test_an_archived_thread_can_be_deleted(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")), mail.archive())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_deleting_a_thread_removes_all_its_rollouts(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    store.home.archived_sessions.mkdir()
    copy = store.home.archived_sessions / store.path(mail).name
    copy.write_bytes(store.path(mail).read_bytes())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_a_thread_created_and_deleted_in_one_batch_leaves_nothing(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.append("a"), mail.delete())

    assert outcome.kind is OutcomeKind.DELETED
    assert store.home.find_rollout(mail.thread_id) is None
    assert set(rows_of(store, mail).values()) == {0}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(5, "the disk fails"), OutcomeKind.FAILED),
        (LockBusy("session_index.jsonl.lock"), OutcomeKind.LOCKED),
    ],
)
def test_a_deletion_whose_end_fails_is_tried_again(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: OutcomeKind
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    deletion = mail.delete()

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(name_index, "forget_names", fail)
        failed = store.apply(mail, deletion)

    assert (failed.kind, store.index.rollout(mail.thread_id) is None) == (kind, False)
    assert store.apply(mail, deletion).kind is OutcomeKind.DELETED
    assert set(rows_of(store, mail).values()) == {0}


@pytest.mark.parametrize("is_folder_left", [True, False])
def test_a_deletion_is_durable_even_if_its_folder_could_not_be_synced_at_first(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch, *, is_folder_left: bool
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    folder, deletion = store.path(mail).parent, mail.delete()
    synced: list[Path] = []

    def fail_once(path: Path) -> None:
        synced.append(path)
        if len(synced) == 1:
            raise OSError(5, "the disk fails")

    monkeypatch.setattr(batch, "sync_directory", fail_once)
    assert store.apply(mail, deletion).kind is OutcomeKind.FAILED
    if not is_folder_left:
        folder.rmdir()

    assert store.apply(mail, deletion).kind is OutcomeKind.DELETED
    assert synced == ([folder] * 2 if is_folder_left else [folder])


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_anywhere_in_a_deletion_is_repaired(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    target, name, after = crash
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))
    deletion = mail.delete()
    with killed(crash_target(store, target), name, after=after):
        store.apply(mail, deletion)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, deletion)

    assert outcome == Outcome(OutcomeKind.DELETED, "1004-0")
    assert_nothing_left(store, mail)


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_in_a_deletion_after_other_tasks_is_repaired(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    target, name, after = crash
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    entries = [
        mail.append("a"),
        mail.patch(ThreadMetadataPatch(title="t"), writer="w2"),
        mail.archive(),
        mail.delete(),
    ]
    with killed(crash_target(store, target), name, after=after):
        store.apply(mail, *entries)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, *entries)

    assert outcome == Outcome(OutcomeKind.DELETED, "1006-0")
    assert_nothing_left(store, mail)
