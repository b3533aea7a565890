from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from livethread import new_thread_id
from livethread_worker.store.files import open_threads
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.files.open_threads import OpenThreadsFile, is_open_elsewhere

ONE, TWO = new_thread_id(), new_thread_id()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_threads_are_open_from_their_opening_to_their_closing(home: Home) -> None:
    store = OpenThreadsFile(home)

    def are_open() -> list[bool]:
        return [is_open_elsewhere(home, thread_id) for thread_id in (ONE, TWO)]

    found = [are_open()]
    for change, thread_id in ((store.add, ONE), (store.add, TWO), (store.remove, ONE), (store.add, ONE)):
        change(thread_id)
        found.append(are_open())
    store.close()
    found.append(are_open())

    assert found == [[False, False], [True, False], [True, True], [False, True], [True, True], [False, False]]
    assert list(home.run.iterdir()) == []


def test_the_file_holds_as_many_lines_as_threads_were_open_at_once(home: Home) -> None:
    store, three = OpenThreadsFile(home), new_thread_id()
    for thread_id in (ONE, TWO, three):
        store.add(thread_id)

    for thread_id in (ONE, TWO, ONE, TWO):
        store.remove(thread_id)
        store.add(thread_id)
    store.remove(ONE)
    store.remove(TWO)
    store.add(ONE)  # in the line that was the other one's

    [file] = home.run.iterdir()
    assert len(file.read_text().splitlines()) == 3
    assert [is_open_elsewhere(home, thread_id) for thread_id in (ONE, TWO, three)] == [True, False, True]


def test_each_store_counts(home: Home) -> None:
    first, second = OpenThreadsFile(home), OpenThreadsFile(home)
    first.add(ONE)
    second.add(ONE)

    first.remove(ONE)

    assert is_open_elsewhere(home, ONE)
    second.remove(ONE)
    assert not is_open_elsewhere(home, ONE)


def test_what_a_killed_store_had_open_does_not_count(home: Home) -> None:
    if (child := os.fork()) == 0:
        OpenThreadsFile(home).add(ONE)
        os._exit(0)
    os.waitpid(child, 0)
    left = list(home.run.iterdir())

    assert not is_open_elsewhere(home, ONE)
    assert (len(left), list(home.run.iterdir())) == (1, [])


def test_a_thread_whose_lock_is_held_is_open(home: Home) -> None:
    with file_lock(home.thread_lock(ONE)):
        assert is_open_elsewhere(home, ONE)

    assert not is_open_elsewhere(home, ONE)
    assert not is_open_elsewhere(home, TWO)
    assert not Path(home.thread_lock(TWO)).exists()


def test_a_home_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    store = OpenThreadsFile(Home(tmp_path / "missing"))

    store.add(ONE)
    store.remove(ONE)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_fail_an_append(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append is stored already."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    store = OpenThreadsFile(home)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        store.add(ONE)

    store.remove(ONE)
    store.add(ONE)
    assert is_open_elsewhere(home, ONE)


def test_a_process_that_looks_at_a_new_file_does_not_fail_an_append(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: str, *, wait_s: float) -> int:
        assert wait_s > 0
        raise LockBusy("it is looking")

    store = OpenThreadsFile(home)
    with monkeypatch.context() as patched:
        patched.setattr(open_threads, "take_lock", fail)
        store.add(ONE)

    store.add(TWO)
    assert is_open_elsewhere(home, TWO)
