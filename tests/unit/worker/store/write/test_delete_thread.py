from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.worker.builders import Mail, Store, killed

from livethread.metadata import ThreadMetadataPatch
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.write import delete_thread
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DELETING: dict[str, tuple[str, str, int | None]] = {
    "behind the file": ("delete", "sync_directory", None),
    "before its names": ("delete", "forget_names", None),
    "behind its names": ("delete", "forget_names", 1),
    "before the commit": ("index", "commit", None),
    "behind the commit": ("index", "commit", 1),
}


def place(store: Store, where: str) -> object:
    places: dict[str, object] = {"delete": delete_thread, "index": store.index}
    return places[where]


def rows_of(store: Store, mail: Mail) -> dict[str, int]:
    """What the index holds of a thread, by table."""
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


def test_of_a_deleted_thread_nothing_is_left_and_the_others_stay(store: Store, mail: Mail, other: Mail) -> None:
    name = ThreadMetadataPatch(name="n")
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(name))
    store.apply(other, other.create(), other.append("b"), other.patch(name))
    before = store.path(other).read_bytes(), store.thread(other), rows_of(store, other)

    outcome = store.apply(mail, mail.append("c"), mail.delete())

    assert outcome == Outcome(OutcomeKind.DELETED, "1005-0")
    assert_nothing_left(store, mail)
    assert (store.path(other).read_bytes(), store.thread(other), rows_of(store, other)) == before
    assert read_names(store.home) == {other.thread_id: "n"}


def test_an_archived_thread_is_deleted_too(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")), mail.archive())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_every_rollout_of_a_deleted_thread_goes(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    store.home.archived_sessions.mkdir()
    copy = store.home.archived_sessions / store.path(mail).name
    copy.write_bytes(store.path(mail).read_bytes())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_deleting_what_was_created_in_the_same_batch_leaves_nothing(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.append("a"), mail.delete())

    assert outcome.kind is OutcomeKind.DELETED
    assert store.home.find_rollout(mail.thread_id) is None
    assert set(rows_of(store, mail).values()) == {0}


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_anywhere_in_a_deletion_is_made_good(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    where, name, after = crash
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))
    deletion = mail.delete()
    with killed(place(store, where), name, after=after):
        store.apply(mail, deletion)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, deletion)

    assert outcome == Outcome(OutcomeKind.DELETED, "1004-0")
    assert_nothing_left(store, mail)


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_in_a_deletion_behind_other_tasks_is_made_good(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    where, name, after = crash
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    entries = [
        mail.append("a"),
        mail.patch(ThreadMetadataPatch(title="t"), writer="w2"),
        mail.archive(),
        mail.delete(),
    ]
    with killed(place(store, where), name, after=after):
        store.apply(mail, *entries)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, *entries)

    assert outcome == Outcome(OutcomeKind.DELETED, "1006-0")
    assert_nothing_left(store, mail)
