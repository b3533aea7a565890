"""No operation reads more of a home because it holds more threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import DAY, Mail, Store, message_line, opened_store, thread_id

from livethread import types
from livethread.errors import ThreadNotFound
from livethread_worker.store.files import folder_stamps, rollout_search
from livethread_worker.store.files.rollout_search import time_of_id
from livethread_worker.store.index import Index
from livethread_worker.store.read.reader import LocalReader
from livethread_worker.store.rollout_paths import find_rollout
from livethread_worker.store.upkeep import refresh
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write.outcome import OutcomeKind

SIZES = (10, 300)
#: A thread that no home holds: its id is a UUIDv7 of the day of all others, or has no time.
UNKNOWN = thread_id(999_999)
V4 = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a folder's stamp recorded at once, and a large folder never listed twice."""
    monkeypatch.setattr(folder_stamps, "QUIET_TIME", -1.0)
    monkeypatch.setattr(rollout_search, "LARGE", 100)
    monkeypatch.setattr(rollout_search, "REST_FACTOR", 10**9)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Callable[[int], Store]]:
    """Make homes of a number of threads, all in a day's folder, and indexed."""
    stores: list[Iterator[Store]] = []

    def made(size: int) -> Store:
        stores.append(opened_store(tmp_path / f"home-{size}"))
        store = next(stores[-1])
        for n in range(1, size + 1):
            store.write_rollout(thread_id(n), message_line("here"))
        rebuild(store.home, store.index)
        return store

    yield made
    for each in stores:
        next(each, None)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Record each entry of a folder that is read."""
    names: list[str] = []
    listdir, scandir = os.listdir, os.scandir

    class Entries:
        def __init__(self, folder: Any) -> None:
            self._entries = scandir(folder)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self)

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            for entry in self._entries:
                names.append(entry.name)
                yield entry

    def listed(folder: Any = ".") -> list[str]:
        found = listdir(folder)
        names.extend(found)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "listdir", listed)
        patched.setattr(os, "scandir", Entries)
        yield names


def reader(store: Store) -> LocalReader:
    return LocalReader(store.home, lambda: store.index)


def read_unknown(store: Store, id_: str) -> None:
    with pytest.raises(ThreadNotFound):
        reader(store).read_thread(types.ReadThreadParams(thread_id=id_))


def find_new(store: Store) -> None:
    thread = reader(store).read_thread(types.ReadThreadParams(thread_id=UNKNOWN))
    assert thread.preview == "new"


def delete(store: Store) -> None:
    mail = Mail(3)
    reader(store).read_thread(types.ReadThreadParams(thread_id=mail.thread_id, is_deletable=True))
    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED


def create_chosen(store: Store) -> None:
    read_unknown(store, UNKNOWN)
    mail = Mail(999_999)
    assert store.apply(mail, mail.create(), mail.append("new")).kind is OutcomeKind.DONE


def first_listing(store: Store) -> None:
    assert len(reader(store).list_threads(types.ListThreadsParams(page_size=5)).items) == 5


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda store: read_unknown(store, UNKNOWN), id="an unknown id"),
        pytest.param(lambda store: read_unknown(store, V4), id="an unknown id without a time"),
        delete,
        create_chosen,
        first_listing,
    ],
)
def test_an_operation_reads_as_much_of_a_large_folder_as_of_a_small_one(
    home: Callable[[int], Store], operation: Callable[[Store], None]
) -> None:
    read: list[int] = []
    for size in SIZES:
        store = home(size)
        with counted() as entries:
            operation(store)
        read.append(len(entries))

    assert read[0] == read[1] < SIZES[0]


def test_deleting_a_paginated_thread_reads_as_much_of_a_large_folder_as_of_a_small_one(
    home: Callable[[int], Store],
) -> None:
    """Forks may need it, and codex may have reverted it: both leave rollouts that the index does not hold."""
    read: list[int] = []
    for size in SIZES:
        store, mail = home(size), Mail(999_999)
        store.apply(mail, mail.create(history_mode="paginated"), mail.append("new"))
        rebuild(store.home, store.index)
        with counted() as entries:
            assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED
        read.append(len(entries))

    assert read[0] == read[1] < SIZES[0]


def test_a_process_learns_of_the_folders_that_others_noted(
    home: Callable[[int], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("livethread_worker.store.index.index.time.monotonic", lambda: now)
    store = home(SIZES[0])
    with closing(Index(store.home)) as other:
        before = other.folders[DAY]
        (store.home.root / DAY / "changed").touch()
        rebuild(store.home, store.index)
        assert other.folders[DAY] == before

        now += 60.0
        assert other.folders[DAY] == store.index.folders[DAY] != before


def test_the_rollout_of_another_program_is_found_without_a_listing(home: Callable[[int], Store]) -> None:
    for size in SIZES:
        store = home(size)
        made_at = time_of_id(UNKNOWN)
        assert made_at is not None
        write_as_codex(store, UNKNOWN, made_at)
        with counted() as entries:
            find_new(store)
        assert [name for name in entries if UNKNOWN in name] == []


def write_as_codex(store: Store, id_: str, at: datetime) -> Path:
    path = store.home.new_rollout(id_, at)
    path.parent.mkdir(parents=True, exist_ok=True)
    return store.write_rollout(id_, message_line("new")).rename(path)


@pytest.mark.parametrize("hours", [-11.0, -3.5, 0.0, 5.75, 14.0])
@pytest.mark.parametrize("seconds", [0, 2])
def test_a_rollout_that_codex_began_in_a_busy_large_folder_is_found_in_any_time_zone(
    home: Callable[[int], Store], hours: float, seconds: int
) -> None:
    store, made_at = home(SIZES[1]), time_of_id(UNKNOWN)
    assert made_at is not None
    store.write_rollout(thread_id(5_000))
    read_unknown(store, UNKNOWN)  # it lists the folder, which then rests

    path = write_as_codex(store, UNKNOWN, made_at + timedelta(hours=hours, seconds=seconds))

    assert find_rollout(store.home, store.index, UNKNOWN) == path


def test_a_rollout_of_any_other_name_is_found_after_the_rest(
    home: Callable[[int], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(rollout_search, "REST_FACTOR", 1)
    monkeypatch.setattr("livethread_worker.store.files.rollout_search.time.monotonic", lambda: now)
    store = home(SIZES[1])
    path = store.write_rollout(V4)

    assert find_rollout(store.home, store.index, V4) == path


def test_deletions_in_a_row_list_a_large_folder_once(home: Callable[[int], Store]) -> None:
    store = home(SIZES[1])

    with counted() as entries:
        for n in range(1, 9):
            mail = Mail(n)
            assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert len([name for name in entries if name.startswith("rollout-")]) < SIZES[1]
    assert all(find_rollout(store.home, store.index, thread_id(n)) is None for n in range(1, 9))


@pytest.mark.parametrize("folder", ["archived_sessions", "sessions/2020/01/01", DAY])
def test_a_deletion_removes_copies_that_lay_in_known_folders(home: Callable[[int], Store], folder: str) -> None:
    store = home(1)
    path = store.home.require_rollout(thread_id(1))
    name = path.name.replace("T12-00-00", "T13-00-00")
    copy = store.home.root / folder / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(path.read_bytes())
    rebuild(store.home, store.index)
    assert folder in store.index.folders

    assert store.apply(Mail(1), Mail(1).delete()).kind is OutcomeKind.DELETED

    assert not copy.exists()
    assert not path.exists()


def test_a_listing_reads_a_part_of_a_large_folder_that_changed(
    home: Callable[[int], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LISTED", 100)
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    store = home(SIZES[1])
    store.write_rollout(UNKNOWN, message_line("new"))
    local = reader(store)
    listings = SIZES[1] // 50 + 1

    with counted() as entries:
        for _ in range(listings):
            assert len(local.list_threads(types.ListThreadsParams(page_size=1)).items) == 1
            assert len([name for name in entries if name.startswith("rollout-")]) <= 100
            entries.clear()

    assert store.index.rollout(UNKNOWN) is not None
