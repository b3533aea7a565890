"""`undo` restores what the repairs of `examine` removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.worker.builders import Mail, Store, append_bytes, killed, message_line, thread_id

from livethread.metadata import ThreadMetadataPatch
from livethread_worker.store.files import replacement
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.upkeep.doctor import examine, repairs, undo

ONE, TWO = thread_id(1), thread_id(2)
TAIL = b'{"type":"event_msg","pay'
DAMAGES = {
    "a torn tail": lambda lines: lines + TAIL,
    "a byte order mark": lambda lines: b"\xef\xbb\xbf" + lines,
    "an odd byte": lambda lines: lines.replace(b"zebra", b"z\xffbra"),
    "garbage": lambda lines: lines.replace(b"\n", b"\ngarbage\n", 1),
    "a lost first line": lambda lines: lines[lines.index(b"\n") + 1 :],
    "several": lambda lines: lines[lines.index(b"\n") + 1 :].replace(b"zebra", b"z\xffbra") + b"[]\n" + TAIL,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.index.mark_complete()
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("hello", "zebra"), mail.patch(ThreadMetadataPatch(name="a name")))
    yield store
    store.close()


@pytest.fixture
def rollout(store: Store) -> Path:
    return store.home.require_rollout(ONE)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_undone_repair_leaves_what_was_before(store: Store, rollout: Path, damage: str) -> None:
    rollout.write_bytes(before := DAMAGES[damage](rollout.read_bytes()))
    examine(store.home, fix=True)
    assert rollout.read_bytes() != before

    report = undo(store.home)

    assert (report.kept, {*report.restored}) == ([], {store.home.relative(rollout)})
    assert rollout.read_bytes() == before
    assert undo(store.home).restored == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_lines_that_were_added_since_stay(store: Store, rollout: Path, damage: str) -> None:
    rollout.write_bytes(before := DAMAGES[damage](rollout.read_bytes()))
    examine(store.home, fix=True)
    append_bytes(rollout, added := message_line("later") + b"\n")

    undo(store.home)

    assert rollout.read_bytes() == before + (b"" if before.endswith(b"\n") else b"\n") + added
    assert store.index.rollout(ONE) == (store.home.relative(rollout), rollout.stat().st_size)


@pytest.mark.parametrize("damage", ["a torn tail", "garbage"])
def test_a_compressed_and_moved_rollout_gets_its_lines_back(store: Store, rollout: Path, damage: str) -> None:
    rollout.write_bytes(before := DAMAGES[damage](rollout.read_bytes()))
    examine(store.home, fix=True)
    store.home.archived_sessions.mkdir()
    compress(rollout).rename(store.home.archived_sessions / f"{rollout.name}.zst")

    undo(store.home)

    assert (store.home.archived_sessions / rollout.name).read_bytes() == before


@pytest.mark.parametrize("after", [None, 1], ids=["before the rollout is replaced", "after it"])
def test_a_second_run_completes_an_interrupted_one(store: Store, rollout: Path, after: int | None) -> None:
    rollout.write_bytes(before := DAMAGES["a torn tail"](rollout.read_bytes()))
    examine(store.home, fix=True)
    with killed(replacement, "sync_directory", after=after):
        undo(store.home)

    undo(store.home)

    assert rollout.read_bytes() == before


def test_duplicates_are_restored(store: Store, rollout: Path) -> None:
    copy = rollout.with_name(rollout.name.replace("T12-00-00", "T12-00-01"))
    copy.write_bytes(rollout.read_bytes())
    examine(store.home, fix=True)
    assert len([*store.home.rollouts()]) == 1

    undo(store.home)

    assert sorted(path for _, path in store.home.rollouts()) == [rollout, copy]


def test_names_are_restored_and_later_ones_stay(store: Store) -> None:
    set_name(store.home, TWO, "no rollout has it", store.thread(Mail(1)).created_at)
    examine(store.home, fix=True)
    assert TWO not in read_names(store.home)

    undo(store.home)

    assert read_names(store.home) == {ONE: "a name", TWO: "no rollout has it"}


def test_a_rollout_that_was_rewritten_since_stays(store: Store, rollout: Path) -> None:
    rollout.write_bytes(DAMAGES["garbage"](rollout.read_bytes()))
    examine(store.home, fix=True)
    rollout.write_bytes(now := rollout.read_bytes().replace(b"zebra", b"horse"))

    [kept] = undo(store.home).kept

    assert "was changed since the repair" in kept
    assert rollout.read_bytes() == now


def test_a_busy_thread_is_left_to_the_next_run(store: Store, rollout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout.write_bytes(before := DAMAGES["garbage"](rollout.read_bytes()))
    examine(store.home, fix=True)
    monkeypatch.setattr(repairs, "LOCK_WAIT", 0.0)
    with file_lock(store.home.thread_lock(ONE)):
        [kept] = undo(store.home).kept

    assert "run this again" in kept
    assert undo(store.home).restored == [store.home.relative(rollout)]
    assert rollout.read_bytes() == before
