from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import AT, Mail, Store, message_line

from livethread import types
from livethread.metadata import ThreadMetadataPatch
from livethread_worker.store.files import compression
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.list_turns import list_turns
from livethread_worker.store.read.read_thread import read_thread, read_thread_by_rollout_path
from livethread_worker.store.read.thread_file import load_history, read_lines
from livethread_worker.store.upkeep import compress_cold as compress_cold_module
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write.outcome import OutcomeKind

LATER = AT + timedelta(days=30)


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture
def plain(store: Store, mail: Mail) -> Path:
    """The rollout of a thread that was last changed at `AT`."""
    store.apply(mail, mail.create(), mail.append("hello zebra"), mail.patch(ThreadMetadataPatch(name="a name")))
    store.read_in(mail.thread_id)
    path = store.path(mail)
    os.utime(path, (AT.timestamp(), AT.timestamp()))
    return path


@pytest.fixture
def cold(store: Store, plain: Path) -> Path:
    """The compressed rollout of the same thread."""
    assert compress_cold(store.home, store.index, LATER)["threads"] == 1
    return plain.with_name(plain.name + ".zst")


def reads(store: Store, mail: Mail) -> dict[str, Any]:
    """Return the results of all reads of the thread."""
    id_, home, index = mail.thread_id, store.home, store.index
    return {
        "thread": read_thread(home, index, types.ReadThreadParams(thread_id=id_, include_history=True)),
        "history": load_history(home, index, types.LoadThreadHistoryParams(thread_id=id_)),
        "lines": read_lines(home, index, types.LoadThreadHistoryParams(thread_id=id_), 0, 10_000),
        "items": list_items(home, index, types.ListItemsParams(thread_id=id_)),
        "turns": list_turns(home, index, types.ListTurnsParams(thread_id=id_)),
        "list": index.list_threads(types.ListThreadsParams(include_without_preview=True)),
        "search": index.search_threads(types.SearchThreadsParams(search_term="zebra")),
    }


def with_plain_path(answer: Any) -> str:
    return str(answer).replace(".jsonl.zst", ".jsonl")


def test_a_cold_rollout_is_compressed(store: Store, plain: Path, cold: Path) -> None:
    assert cold.exists()
    assert not plain.exists()
    assert compress_cold(store.home, store.index, LATER) == {"threads": 0, "bytes": 0, "compressed_bytes": 0}


def test_every_read_of_a_compressed_thread_returns_the_same(store: Store, mail: Mail, plain: Path) -> None:
    before = reads(store, mail)

    compress_cold(store.home, store.index, LATER)

    after = reads(store, mail)
    assert {name: with_plain_path(answer) for name, answer in after.items()} == {k: str(v) for k, v in before.items()}
    assert str(after["thread"].rollout_path).endswith(".jsonl.zst")


def test_a_rebuilt_index_of_a_compressed_thread_returns_the_same(store: Store, mail: Mail, cold: Path) -> None:
    before = reads(store, mail)

    store.drop_index()
    rebuild(store.home, store.index)

    assert reads(store, mail) == before


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_a_compressed_rollout_is_read_by_either_path(
    store: Store, mail: Mail, plain: Path, cold: Path, suffix: str
) -> None:
    params = types.ReadThreadByRolloutPathParams(rollout_path=str(plain) + suffix)

    assert read_thread_by_rollout_path(store.home, store.index, params).thread_id == mail.thread_id


@pytest.mark.parametrize("is_indexed", [True, False])
def test_the_next_append_decompresses_the_rollout(
    store: Store, mail: Mail, plain: Path, cold: Path, is_indexed: bool
) -> None:
    if not is_indexed:
        store.forget(mail.thread_id)

    outcome = store.apply(mail, mail.append("and a gnu"))

    assert outcome.kind is OutcomeKind.DONE
    assert (plain.exists(), cold.exists()) == (True, False)
    assert store.texts(mail) == ["hello zebra", "and a gnu"]
    assert store.thread(mail).rollout_path == plain
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_indexed", [True, False])
def test_an_applied_task_is_recognized_in_a_compressed_rollout(store: Store, mail: Mail, is_indexed: bool) -> None:
    entries = mail.create(), mail.append("once")
    store.apply(mail, *entries)
    store.read_in(mail.thread_id)
    os.utime(store.path(mail), (AT.timestamp(), AT.timestamp()))
    compress_cold(store.home, store.index, LATER)
    if not is_indexed:
        store.forget(mail.thread_id)

    store.apply(mail, *entries)

    assert store.texts(mail) == ["once"]
    assert len(list(store.home.rollouts())) == 1


def test_a_compressed_thread_can_be_archived_and_unarchived(
    store: Store, mail: Mail, plain: Path, cold: Path
) -> None:
    store.apply(mail, mail.archive())
    archived = store.path(mail)
    store.apply(mail, mail.unarchive())

    assert (archived.parent.name, store.path(mail)) == ("archived_sessions", plain)
    assert not cold.exists()


def archive(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.archive())


def append_to_the_compressed_form(store: Store, mail: Mail) -> None:
    store.index.set_path(mail.thread_id, store.home.relative(store.path(mail)) + ".zst")
    store.apply(mail, mail.append("and a gnu"))
    assert store.texts(mail) == ["hello zebra", "and a gnu"]


def compress_again(store: Store, mail: Mail) -> None:
    assert compress_cold(store.home, store.index, LATER)["threads"] == 1


@pytest.mark.parametrize("change", [archive, append_to_the_compressed_form, compress_again])
def test_a_compressed_rollout_beside_a_plain_one_is_quarantined(
    store: Store, mail: Mail, plain: Path, change: Callable[[Store, Mail], None]
) -> None:
    """After a crash it holds the same lines; after an interrupted decompression by hand, more of them."""
    left = plain.with_name(plain.name + ".zst")
    left.write_bytes(b"any content")

    change(store, mail)

    assert not left.exists() or left.read_bytes() != b"any content"
    assert store.quarantined() == [b"any content"]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_compressed_thread_can_be_deleted(store: Store, mail: Mail, cold: Path, is_damaged: bool) -> None:
    if is_damaged:
        cold.write_bytes(b"garbage")

    outcome = store.apply(mail, mail.delete())

    assert outcome.kind is OutcomeKind.DELETED
    assert store.home.find_rollout(mail.thread_id) is None


def test_unfinished_copies_are_deleted_with_the_thread(store: Store, mail: Mail, plain: Path, cold: Path) -> None:
    left = [path.with_name(f".{path.name}.new") for path in (plain, cold)]
    for path in left:
        path.write_bytes(b"zebra")

    store.apply(mail, mail.delete())

    assert [path for path in left if path.exists()] == []


def test_an_append_to_a_damaged_rollout_is_poisoned_and_changes_nothing(store: Store, mail: Mail, cold: Path) -> None:
    cold.write_bytes(cold.read_bytes()[:-20])

    outcome = store.apply(mail, mail.append("more"))

    assert outcome.kind is OutcomeKind.POISONED
    assert "truncated" in outcome.reason
    assert cold.exists()


def test_a_rollout_changed_since_then_is_not_compressed(store: Store, plain: Path) -> None:
    assert compress_cold(store.home, store.index, AT)["threads"] == 0

    assert plain.exists()


def test_a_rollout_that_another_program_wrote_to_is_not_compressed(store: Store, plain: Path) -> None:
    with plain.open("ab") as file:
        file.write(message_line("from codex") + b"\n")
    os.utime(plain, (AT.timestamp(), AT.timestamp()))

    assert compress_cold(store.home, store.index, LATER)["threads"] == 0


def test_a_rollout_in_use_is_not_compressed(store: Store, mail: Mail, plain: Path) -> None:
    with file_lock(store.home.thread_lock(mail.thread_id)):
        counts = compress_cold(store.home, store.index, LATER)

    assert counts["threads"] == 0
    assert plain.exists()


def test_a_rollout_behind_a_link_out_of_the_home_is_skipped(store: Store, plain: Path, tmp_path: Path) -> None:
    outside = plain.parent.rename(tmp_path / "outside")
    plain.parent.symlink_to(outside)
    other = Mail(2)
    store.apply(other, other.create(created_at=AT + timedelta(days=1)))
    os.utime(store.path(other), (AT.timestamp(), AT.timestamp()))

    # Another process: this one checked the folder less than a second ago.
    assert compress_cold(Home(store.home.root), store.index, LATER)["threads"] == 1

    assert (outside / plain.name).exists()


def test_a_rollout_that_cannot_be_read_does_not_keep_the_others_plain(
    store: Store, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Mail(2)
    store.apply(other, other.create(created_at=AT + timedelta(days=1)))
    os.utime(store.path(other), (AT.timestamp(), AT.timestamp()))
    compress = compression.compress

    def fail(path: Path) -> Path:
        if path == plain:
            raise OSError(errno.EIO, "a bad sector")
        return compress(path)

    monkeypatch.setattr(compression, "compress", fail)

    assert compress_cold(store.home, store.index, LATER)["threads"] == 1


def test_a_full_disk_ends_the_compression(store: Store, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> Path:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(compression, "compress", fail)
    monkeypatch.setattr(compress_cold_module, "FAILURES", 1)

    with pytest.raises(OSError, match="no space left"):
        compress_cold(store.home, store.index, LATER)
    assert plain.exists()
