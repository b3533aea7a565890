from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.worker.builders import AT, DAY, Mail, Store, killed

from livethread.errors import Conflict
from livethread.model import format_time
from livethread_worker.store.files import home as home_module
from livethread_worker.store.files import replacement
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.write import archive_thread
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, POISONED = OutcomeKind.DONE, OutcomeKind.POISONED


MOVING: dict[str, tuple[str, str, int | None]] = {
    "before its line": ("recorder", "append", None),
    "after its line": ("recorder", "append", 1),
    "before the move": ("archive", "make_directory", None),
    "after the move": ("replacement", "sync_directory", None),
    "between syncing the two folders": ("replacement", "sync_directory", 1),
    "before the commit": ("index", "commit", None),
    "after the commit": ("index", "commit", 1),
}


def crash_target(store: Store, name: str) -> object:
    targets: dict[str, object] = {
        "archive": archive_thread,
        "recorder": RolloutRecorder,
        "replacement": replacement,
        "index": store.index,
    }
    return targets[name]


def dated(store: Store, mail: Mail) -> Path:
    return store.home.root / DAY / f"rollout-2026-11-22T12-00-00-{mail.thread_id}.jsonl"


def archived(store: Store, mail: Mail) -> Path:
    return store.home.archived_sessions / dated(store, mail).name


def test_an_archived_thread_moves_to_the_archive_with_the_time(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.append("a"), mail.archive())

    assert outcome == Outcome(DONE, "1003-0")
    assert store.path(mail) == archived(store, mail) == store.thread(mail).rollout_path
    assert store.thread(mail).archived_at == AT
    assert not dated(store, mail).exists()
    assert store.records(mail)[-1]["payload"] == {"archived_at": "2026-11-22T12:00:00.000Z"}
    assert store.numbering(mail)[-1] == (2, "w1:3")


def test_an_unarchived_thread_moves_back(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"), mail.archive())

    outcome = store.apply(mail, mail.unarchive(), mail.append("b"))

    assert outcome == Outcome(DONE, "1005-0")
    assert store.path(mail) == dated(store, mail) == store.thread(mail).rollout_path
    assert store.thread(mail).archived_at is None
    assert store.texts(mail) == ["a", "b"]


def test_archiving_and_unarchiving_in_one_batch_moves_nothing(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.archive(), mail.append("a"), mail.unarchive())

    assert outcome == Outcome(DONE, "1004-0")
    assert (store.path(mail), store.thread(mail).archived_at) == (dated(store, mail), None)


def test_archiving_twice_archives_once(store: Store, mail: Mail) -> None:
    """The second task leaves a line, too, so that it counts as applied; the line repeats the first time."""
    store.apply(mail, mail.create(), mail.archive())

    outcome = store.apply(mail, mail.archive(writer="w2", at=AT + timedelta(days=1)))

    assert outcome.kind is DONE
    assert store.thread(mail).archived_at == AT
    assert [record["payload"]["archived_at"] for record in store.records(mail)[1:]] == [format_time(AT)] * 2


def test_redelivered_moves_are_not_applied_again(store: Store, mail: Mail) -> None:
    """The worker was killed between the commit and the settlement."""
    store.apply(mail, mail.create())
    batch = (mail.unarchive(writer="w2"), mail.archive(writer="w3"))
    store.apply(mail, *batch)
    before = store.path(mail).read_bytes(), store.thread(mail)

    assert store.apply(mail, *batch).kind is DONE

    assert (store.path(mail).read_bytes(), store.thread(mail)) == before


@pytest.mark.parametrize("sizes", [(2,), (1, 1)], ids=str)
def test_after_a_crash_an_unarchive_without_effect_does_not_undo_a_later_archive(
    store: Store, mail: Mail, sizes: tuple[int, ...]
) -> None:
    """The worker was killed between the write and the commit; the retry comes in batches of any size."""
    store.apply(mail, mail.create())
    batch = [mail.unarchive(writer="w2"), mail.archive(writer="w3")]
    with killed(store.index, "commit"):
        store.apply(mail, *batch)
    before = store.path(mail).read_bytes()

    for size in sizes:
        assert store.apply(mail, *batch[:size]).kind is DONE
        batch = batch[size:]

    assert store.path(mail).read_bytes() == before
    assert store.thread(mail).archived_at == AT


def test_batches_of_any_size_repair_a_crash(store: Store, mail: Mail) -> None:
    """The next claim may take fewer tasks than the claim that died."""
    store.apply(mail, mail.create())
    batch = (mail.archive(writer="w2"), mail.append("a"), mail.unarchive(writer="w3"))
    with killed(store.index, "commit"):
        store.apply(mail, *batch)

    outcomes = [store.apply(mail, entry).kind for entry in batch]

    assert outcomes == [DONE] * 3
    assert (store.path(mail), store.thread(mail).archived_at) == (dated(store, mail), None)
    assert store.texts(mail) == ["a"]


@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_thread_created_and_archived_in_a_batch_that_crashed_is_found(
    store: Store, mail: Mail, is_index_lost: bool
) -> None:
    batch = (mail.create(), mail.append("a"), mail.archive())
    with killed(store.index, "commit"):
        store.apply(mail, *batch)
    if is_index_lost:
        store.drop_index()

    assert store.apply(mail, *batch).kind is DONE

    assert (store.path(mail), store.texts(mail)) == (archived(store, mail), ["a"])
    assert not dated(store, mail).exists()


def test_unarchiving_a_thread_that_is_not_archived_changes_nothing(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    before = store.path(mail), store.thread(mail)

    assert store.apply(mail, mail.unarchive()).kind is DONE

    assert (store.path(mail), store.thread(mail)) == before


def test_items_can_be_appended_to_an_archived_thread(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.archive())

    store.apply(mail, mail.append("a"))

    assert (store.path(mail), store.texts(mail)) == (archived(store, mail), ["a"])
    assert store.thread(mail).archived_at == AT


def test_an_existing_file_at_the_target_stops_the_thread_until_it_is_removed(
    store: Store, mail: Mail, other: Mail
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    archive = mail.archive()
    store.home.archived_sessions.mkdir()
    archived(store, mail).write_bytes(b"precious")

    outcomes = store.apply_batch({mail.thread_id: [archive], other.thread_id: [other.create()]})

    assert (outcomes[mail.thread_id].kind, outcomes[other.thread_id].kind) == (POISONED, DONE)
    assert type(outcomes[mail.thread_id].error) is Conflict
    assert archived(store, mail).read_bytes() == b"precious"
    assert dated(store, mail).exists()
    archived(store, mail).unlink()
    assert store.apply(mail, archive) == Outcome(DONE, "1003-0")
    assert [record["type"] for record in store.records(mail)].count("thread_metadata") == 1


@pytest.mark.parametrize("crash", MOVING.values(), ids=list(MOVING))
@pytest.mark.parametrize("direction", ["archive", "unarchive"])
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_anywhere_in_a_move_is_repaired(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], direction: str, is_index_lost: bool
) -> None:
    target, name, after = crash
    history = [mail.create(), mail.append("a")]
    if direction == "unarchive":
        history.append(mail.archive())
    store.apply(mail, *history)
    move = mail.archive() if direction == "archive" else mail.unarchive()
    with killed(crash_target(store, target), name, after=after):
        store.apply(mail, move)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, move, mail.append("b"))

    assert (outcome.kind, outcome.position) == (DONE, f"{1_000 + len(history) + 2}-0")
    assert store.path(mail) == (archived if direction == "archive" else dated)(store, mail)
    assert store.thread(mail).rollout_path == store.path(mail)
    assert store.thread(mail).archived_at == (AT if direction == "archive" else None)
    assert store.texts(mail) == ["a", "b"]
    moves = [r for r in store.records(mail) if r["type"] == "thread_metadata"]
    assert len(moves) == (1 if direction == "archive" else 2)
    assert [ordinal for ordinal, _ in store.numbering(mail)] == list(range(len(store.records(mail))))


@pytest.mark.parametrize("link", ["sessions", "archived_sessions"])
def test_a_thread_moves_between_two_disks(store: Store, mail: Mail, tmp_path: Path, link: str) -> None:
    """The home's owner put one of the folders on another disk, with a symlink in its place."""
    shutil.rmtree(store.home.root / link, ignore_errors=True)
    with other_disk(tmp_path) as disk:
        (store.home.root / link).symlink_to(disk)

        store.apply(mail, mail.create(), mail.append("a"))
        store.apply(mail, mail.append("b"), mail.archive())
        assert store.path(mail) == archived(store, mail) == store.thread(mail).rollout_path
        store.apply(mail, mail.unarchive(), mail.append("c"))

        assert store.path(mail) == dated(store, mail) == store.thread(mail).rollout_path
        assert store.texts(mail) == ["a", "b", "c"]
        assert not archived(store, mail).exists()


@contextmanager
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on another file system, if there is one."""
    shared = Path("/dev/shm")
    is_other = shared.is_dir() and os.access(shared, os.W_OK) and shared.stat().st_dev != tmp_path.stat().st_dev
    with tempfile.TemporaryDirectory(dir=shared if is_other else None) as folder:
        yield Path(folder)


def test_a_thread_is_not_archived_through_another_users_link(
    store: Store, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(mail, mail.create())
    link = store.home.archived_sessions
    link.symlink_to(tmp_path)
    monkeypatch.setattr(home_module, "_owner", lambda path: 12345 if path == link else 6)

    outcome = store.apply(mail, mail.archive())

    assert outcome.kind is POISONED
    assert "leads out of" in str(outcome.reason)
    assert store.path(mail) == dated(store, mail)
