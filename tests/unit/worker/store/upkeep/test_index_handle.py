from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.worker.builders import Mail, Store

from livethread.errors import Unavailable
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.upkeep import index_handle
from livethread_worker.store.upkeep.index_handle import IndexHandle


@pytest.fixture
def filled(tmp_path: Path) -> Home:
    """A home with one thread in its index."""
    store, mail = Store(tmp_path / "home"), Mail(1)
    store.apply(mail, mail.create(), mail.append("a"))
    store.index.mark_complete()
    store.close()
    return store.home


@pytest.fixture
def opened(filled: Home) -> Iterator[IndexHandle]:
    handle = IndexHandle(filled)
    yield handle
    handle.close()


def files(home: Home) -> list[str]:
    return sorted(path.name for path in home.own.glob("index.sqlite*"))


def quarantined(home: Home) -> list[str]:
    return sorted(path.name.rpartition(".")[0] for path in home.quarantine.iterdir())


def assert_usable(home: Home, handle: IndexHandle) -> None:
    """Check that *handle* can write the index, and that another handle sees it."""
    handle.get().mark_complete()
    other = IndexHandle(home)
    assert other.get().is_complete
    other.close()


def test_nothing_is_created_before_the_first_use(tmp_path: Path) -> None:
    handle = IndexHandle(Home(tmp_path / "home"))

    handle.close()

    assert not (tmp_path / "home").exists()


def test_the_index_is_opened_once(opened: IndexHandle) -> None:
    assert opened.get() is opened.get()
    assert opened.get().thread_ids() == [Mail(1).thread_id]


def test_the_first_use_creates_the_home_with_an_empty_index(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    handle = IndexHandle(home)

    assert (handle.get().thread_ids(), handle.get().is_complete) == ([], False)

    handle.close()


def test_a_closed_handle_can_be_used_again(opened: IndexHandle) -> None:
    first = opened.get()
    opened.close()

    assert opened.get() is not first
    assert opened.get().thread_ids() == [Mail(1).thread_id]


def test_a_home_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"a file, not a folder")

    with pytest.raises(Unavailable, match="cannot be used"):
        IndexHandle(Home(tmp_path / "home")).get()


@pytest.mark.parametrize("deleted", [("",), ("", "-wal", "-shm"), ("", "-wal"), ("", "-shm")], ids="+".join)
def test_an_index_that_is_deleted_while_it_is_open_is_created_again(
    filled: Home, opened: IndexHandle, deleted: tuple[str, ...]
) -> None:
    before = opened.get()
    before.mark_complete()
    assert files(filled) == ["index.sqlite", "index.sqlite-shm", "index.sqlite-wal"]
    for suffix in deleted:
        filled.index.with_name(f"index.sqlite{suffix}").unlink()

    after = opened.get()

    assert after is not before
    assert (after.thread_ids(), after.is_complete) == ([], False)
    assert quarantined(filled) == []
    assert_usable(filled, opened)


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["main file only", "all"])
def test_an_index_that_was_deleted_before_it_is_opened_is_created_again(
    filled: Home, suffixes: tuple[str, ...]
) -> None:
    filled.index.with_name("index.sqlite-wal").write_bytes(b"left over" * 500)
    filled.index.with_name("index.sqlite-shm").write_bytes(b"left over" * 500)
    for suffix in suffixes:
        filled.index.with_name(f"index.sqlite{suffix}").unlink()
    handle = IndexHandle(filled)

    assert handle.get().thread_ids() == []

    assert_usable(filled, handle)
    handle.close()


GARBAGE = {
    "empty": b"",
    "garbage": b"garbage" * 2_000,
    "a wrong header": b"SQLite format 4\0" + b"\0" * 8_000,
    "a header and garbage": b"SQLite format 3\0" + b"\xff" * 8_000,
    "a few bytes": b"SQL",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("is_open", [False, True], ids=["before it is opened", "while it is open"])
def test_an_index_that_is_replaced_by_garbage_is_created_again(
    filled: Home, opened: IndexHandle, content: bytes, is_open: bool
) -> None:
    if is_open:
        opened.get()
    replacement = filled.own / "replacement"
    replacement.write_bytes(content)
    replacement.replace(filled.index)

    after = opened.get()

    assert (after.thread_ids(), after.is_complete) == ([], False)
    assert ("index.sqlite" in quarantined(filled)) == bool(content)
    assert_usable(filled, opened)


def test_an_index_whose_damage_shows_later_is_quarantined_at_the_next_use(filled: Home, opened: IndexHandle) -> None:
    """The header is intact, so opening succeeds; the pages are damaged."""
    size = filled.index.stat().st_size
    with filled.index.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    index: object = None
    for _ in range(3):
        try:
            index = opened.get()
            assert opened.get().thread_ids() == []
            break
        except IndexUnavailable:
            continue

    assert index is opened.get()
    assert "index.sqlite" in quarantined(filled)
    assert_usable(filled, opened)


def test_an_index_that_another_process_is_quarantining_is_unavailable(
    filled: Home, opened: IndexHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_handle, "_LOCK_WAIT", 0.0)  # the lock is never released here
    opened.get()._connection.is_damaged = True

    with file_lock(filled.index.with_suffix(".lock")), pytest.raises(IndexUnavailable, match="another process"):
        opened.get()

    assert opened.get().thread_ids() == []
    assert "index.sqlite" in quarantined(filled)


def test_a_damaged_index_that_another_process_replaced_is_not_quarantined(filled: Home, opened: IndexHandle) -> None:
    damaged = opened.get()
    damaged._connection.is_damaged = True
    filled.index.rename(filled.own / "taken-away")
    other = IndexHandle(filled)
    other.get().mark_complete()

    assert opened.get().is_complete

    assert quarantined(filled) == []
    other.close()
