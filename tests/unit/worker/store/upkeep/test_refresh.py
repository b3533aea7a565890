"""A refresh reads what other programs wrote to a home, and does not read our own writes again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import AT, DAY, Mail, Store, item_line, message_line, opened_store, thread_id

from livethread.types import SearchThreadsParams
from livethread_worker.store.files import folder_stamps
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.files.name_index import forget_names, set_name
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep import rebuild, refresh
from livethread_worker.store.upkeep.refresh import Refresher

ONE, TWO = thread_id(1), thread_id(2)


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A home with a complete index: the file, or one in memory."""
    for store in opened_store(tmp_path / "home"):
        if request.param == "memory":
            store.index.close()
            store.index = Index(store.home, in_memory=True)
        store.index.mark_complete()
        yield store


@pytest.fixture
def refresher(store: Store, monkeypatch: pytest.MonkeyPatch) -> Refresher:
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    return Refresher(store.home, store.index)


class Reads:
    """Records the threads whose rollouts are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thread_ids: list[str] = []
        read_state = rebuild.read_state

        def counting(home: Home, thread_id: str, path: Path, names: dict[str, str | None]) -> ThreadState:
            self.thread_ids.append(thread_id)
            return read_state(home, thread_id, path, names)

        monkeypatch.setattr(rebuild, "read_state", counting)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def preview(store: Store, id_: str = ONE) -> str | None:
    thread = store.index.read_thread(id_)
    return thread.preview if thread else None


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("is_one_thread", [True, False])
class TestARolloutOfAnotherProgram:
    @pytest.fixture
    def refresh(self, refresher: Refresher, is_one_thread: bool) -> Callable[[], object]:
        return (lambda: refresher.refresh(ONE)) if is_one_thread else refresher.refresh_all

    def test_is_read_when_it_is_new(self, store: Store, refresh: Callable[[], None]) -> None:
        store.write_rollout(ONE, message_line("new"))

        refresh()

        assert preview(store) == "new"

    def test_is_read_again_when_it_has_grown(self, store: Store, refresh: Callable[[], None]) -> None:
        path = store.write_rollout(ONE)
        refresh()
        append(path, message_line("said since") + b"\n")

        refresh()

        assert preview(store) == "said since"

    def test_is_read_again_when_it_was_cut(self, store: Store, refresh: Callable[[], None]) -> None:
        path = store.write_rollout(ONE, message_line("cut off"))
        refresh()
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])

        refresh()

        assert preview(store) == ""

    @pytest.mark.parametrize("tail", [b"", b'{"torn'])
    def test_is_followed_when_it_was_moved(self, store: Store, refresh: Callable[[], None], tail: bytes) -> None:
        path = store.write_rollout(ONE, message_line("here"), tail=tail)
        refresh()
        store.home.archived_sessions.mkdir()
        moved = path.rename(store.home.archived_sessions / path.name)

        refresh()

        thread = store.index.read_thread(ONE)
        assert thread is not None
        assert (thread.rollout_path, thread.archived_at is not None) == (moved, True)

    def test_is_followed_when_it_was_compressed(
        self, store: Store, reads: Reads, refresh: Callable[[], None]
    ) -> None:
        path = store.write_rollout(ONE, message_line("here"))
        refresh()
        compressed = compress(path)

        refresh()
        refresh()

        thread = store.index.read_thread(ONE)
        assert thread is not None
        assert thread.rollout_path == compressed
        assert reads.thread_ids == [ONE, ONE]

    def test_is_not_read_again_while_it_stays_the_same(
        self, store: Store, reads: Reads, refresh: Callable[[], None]
    ) -> None:
        store.write_rollout(ONE, message_line("once"))

        for _ in range(3):
            refresh()

        assert reads.thread_ids == [ONE]

    @pytest.mark.parametrize("tail", [b'{"torn', b"\xff\xfe"])
    def test_is_read_once_when_its_end_is_torn(
        self, store: Store, reads: Reads, refresh: Callable[[], None], tail: bytes
    ) -> None:
        path = store.write_rollout(ONE, message_line("whole"), tail=tail)
        before = path.read_bytes()

        for _ in range(3):
            refresh()

        assert (reads.thread_ids, preview(store), path.read_bytes()) == ([ONE], "whole", before)

    def test_is_read_once_when_it_holds_no_thread(
        self, store: Store, reads: Reads, refresh: Callable[[], None]
    ) -> None:
        store.write_rollout(ONE).write_bytes(b"garbage\n")

        for _ in range(3):
            refresh()

        assert (reads.thread_ids, preview(store)) == ([ONE], None)

    def test_has_the_name_that_another_program_gave_it(
        self, store: Store, reads: Reads, refresh: Callable[[], None]
    ) -> None:
        store.write_rollout(ONE)
        refresh()
        set_name(store.home, ONE, "named by codex", AT)

        refresh()

        thread = store.index.read_thread(ONE)
        assert thread is not None
        assert (thread.name, reads.thread_ids) == ("named by codex", [ONE])
        [found] = store.index.search_threads(SearchThreadsParams(search_term="named")).items
        assert found.thread.thread_id == ONE
        forget_names(store.home, ONE)


def test_our_own_writes_are_not_read_again(store: Store, refresher: Refresher, reads: Reads) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("ours"))

    refresher.refresh(ONE)
    refresher.refresh_all()

    assert reads.thread_ids == []


def test_a_refresh_of_all_threads_is_not_repeated_at_once(store: Store) -> None:
    refresher = Refresher(store.home, store.index)
    refresher.refresh_all()
    store.write_rollout(ONE, message_line("new"))

    refresher.refresh_all()

    assert preview(store) is None
    refresher.refresh(ONE)
    assert preview(store) == "new"


def test_a_fresh_refresh_of_an_index_in_memory_looks_at_every_rollout_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers store what they apply in the SQLite file, and not in another process's memory."""
    monkeypatch.setattr(refresh, "REST_FACTOR", 10**9)
    monkeypatch.setattr(refresh, "UPDATED_LAST", 1)
    monkeypatch.setattr(refresh, "LOOK_TIME", 0.0)
    paths = {thread_id(n): store.write_rollout(thread_id(n)) for n in range(1, 6)}
    refresher = Refresher(store.home, store.index)
    refresher.refresh_all()
    for id_, path in paths.items():
        append(path, message_line("grown") + b"\n")
        set_name(store.home, id_, "named", AT)

    refresher.refresh_all(fresh=True)

    threads = [thread for id_ in paths if (thread := store.index.read_thread(id_)) is not None]
    seen = {(thread.preview, thread.name) for thread in threads}
    assert seen == ({("grown", "named")} if store.index.in_memory else {("", None)})


def test_the_time_spent_reading_rollouts_does_not_delay_the_next_refresh(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a home full of new rollouts would be looked at once, and then not for many minutes."""
    now = 0.0
    monkeypatch.setattr("livethread_worker.store.upkeep.refresh.time.monotonic", lambda: now)
    index_batch = rebuild.index_batch

    def slowly(*args: Any, **kwargs: Any) -> list[tuple[str, Path]]:
        nonlocal now
        now += 10.0
        return index_batch(*args, **kwargs)

    monkeypatch.setattr(refresh, "index_batch", slowly)
    refresher = Refresher(store.home, store.index)
    store.write_rollout(ONE, message_line("one"))
    refresher.refresh_all()
    store.write_rollout(TWO, message_line("two"))

    refresher.refresh_all()

    assert (preview(store, ONE), preview(store, TWO)) == ("one", "two")


def test_a_name_given_while_the_thread_was_locked_is_seen_after_the_unlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """codex locks a thread as long as it has it loaded."""
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    for store in opened_store(tmp_path / "home"):
        store.index.mark_complete()
        store.write_rollout(ONE)
        refresher = Refresher(store.home, store.index)
        refresher.refresh_all()
        set_name(store.home, ONE, "named by codex", AT)
        with file_lock(store.home.thread_lock(ONE)):
            refresher.refresh_all()

        refresher.refresh_all()

        thread = store.index.read_thread(ONE)
        assert thread is not None
        assert thread.name == "named by codex"


def test_a_locked_thread_is_read_after_the_unlock(tmp_path: Path) -> None:
    for store in opened_store(tmp_path / "home"):
        store.index.mark_complete()
        path = store.write_rollout(ONE, message_line("being written"))
        refresher = Refresher(store.home, store.index)

        with file_lock(store.home.thread_lock(ONE)):
            refresher.refresh(ONE)
            assert preview(store) is None

        refresher.refresh(ONE)
        assert preview(store) == "being written"
        assert path.exists()


def test_a_thread_whose_rollout_was_removed_is_forgotten(store: Store, refresher: Refresher) -> None:
    path = store.write_rollout(ONE, message_line("here"))
    store.write_rollout(TWO)
    refresher.refresh_all()
    path.unlink()

    refresher.refresh_all()

    assert preview(store) is None
    assert preview(store, TWO) == ""
    assert not Path(store.home.thread_lock(ONE)).exists()


def test_a_removed_rollout_that_comes_back_is_read_again(store: Store, refresher: Refresher) -> None:
    path = store.write_rollout(ONE, message_line("here"))
    refresher.refresh_all()
    away = path.rename(store.home.root / "away")
    refresher.refresh_all()
    away.rename(path)

    refresher.refresh_all()

    assert preview(store) == "here"


def test_a_thread_is_not_forgotten_while_its_lock_is_held_or_the_disk_is_away(
    store: Store, refresher: Refresher
) -> None:
    path = store.write_rollout(ONE, message_line("here"))
    refresher.refresh_all()
    disk = store.home.sessions.rename(store.home.root / "disk")
    refresher.refresh_all()
    assert preview(store) == "here"

    disk.rename(store.home.sessions)
    path.unlink()
    with file_lock(store.home.thread_lock(ONE)):
        refresher.refresh_all()
        assert (preview(store) is None) == store.index.in_memory  # only this process writes the one in memory
    refresher.refresh_all()
    assert preview(store) is None


def test_a_refresh_does_not_fill_an_incomplete_index(tmp_path: Path) -> None:
    for store in opened_store(tmp_path / "home"):
        store.write_rollout(ONE, item_line("event_msg", {"type": "task_started"}))

        Refresher(store.home, store.index).refresh_all()

        assert store.index.thread_ids() == []


def test_a_worker_that_commits_during_a_refresh_causes_no_read_and_no_lock(
    store: Store, refresher: Refresher, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh sees the rows before the commit, and the file sizes after it."""
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("one"))
    before = store.index.rollouts()
    store.apply(mail, mail.append("two"))
    for query in ("rollouts_of", "rollouts_before", "rollouts_updated_last"):
        monkeypatch.setattr(store.index, query, lambda *_: before)
    monkeypatch.setattr(refresh, "LOOK_TIME", 0.0)

    with file_lock(store.home.thread_lock(ONE)):
        refresher.refresh_all()

    assert reads.thread_ids == []


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Refresher, Path]]:
    """A thread with one indexed turn, which codex has locked and appends to."""
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    monkeypatch.setattr(refresh, "LOCK_WAIT", 0.0)
    monkeypatch.setattr(refresh, "HELD_FOR_LONG", 0.0)
    for store in opened_store(tmp_path / "home"):
        store.index.mark_complete()
        path = store.write_rollout(ONE, item_line("event_msg", {"type": "task_started", "turn_id": "t1"}))
        refresher = Refresher(store.home, store.index)
        refresher.refresh(ONE)
        with file_lock(store.home.thread_lock(ONE)):
            for line in (item_line("event_msg", {"type": "task_started", "turn_id": "t2"}), message_line("more")):
                append(path, line + b"\n")
            yield store, refresher, path


@pytest.mark.parametrize("is_one_thread", [True, False])
def test_lines_that_codex_appends_to_its_locked_thread_are_read(
    held: tuple[Store, Refresher, Path], is_one_thread: bool
) -> None:
    store, refresher, _ = held

    refresher.refresh(ONE) if is_one_thread else refresher.refresh_all()

    assert preview(store) == "more"
    assert [turn.turn_id for turn in store.index.turns(ONE, 0, 9, backward=False)] == ["t1", "t2"]


def test_a_new_thread_that_codex_has_locked_is_listed(held: tuple[Store, Refresher, Path]) -> None:
    store, refresher, _ = held
    with file_lock(store.home.thread_lock(TWO)):
        store.write_rollout(TWO, message_line("new"))

        refresher.refresh_all()

    assert preview(store, TWO) == "new"


def test_a_row_stored_while_a_locked_thread_was_read_is_kept(
    held: tuple[Store, Refresher, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, refresher, path = held
    read_state = rebuild.read_state

    def slowly(*arguments: Any) -> ThreadState:
        state = read_state(*arguments)
        append(path, message_line("from the worker that got the lock") + b"\n")
        store.index.replace([thread_rows(read_state(*arguments), None)])
        return state

    monkeypatch.setattr(refresh, "read_state", slowly)

    refresher.refresh(ONE)

    assert store.index.rollout(ONE) == (store.home.relative(path), path.stat().st_size)


def test_a_thread_that_is_locked_for_a_moment_is_not_read(
    held: tuple[Store, Refresher, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker holds the lock, and commits what it writes itself."""
    store, refresher, _ = held
    monkeypatch.setattr(refresh, "HELD_FOR_LONG", 60.0)

    refresher.refresh(ONE)

    assert preview(store) == ""


@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_stale_copy_of_a_rollout_does_not_take_over(store: Store, refresher: Refresher, is_indexed: bool) -> None:
    path = store.write_rollout(ONE, message_line("one"), message_line("two"))
    if is_indexed:
        refresher.refresh_all()
    copy = store.home.sessions / "2020/01/01" / path.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes().splitlines(keepends=True)[0])

    refresher.refresh_all()
    refresher.refresh(ONE)

    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert (thread.rollout_path, thread.preview) == (path, "one")


def test_a_name_that_another_program_gave_changes_no_other_field(store: Store, refresher: Refresher) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("one"))
    before = store.index.load_states({ONE: {"w1"}})[ONE]
    set_name(store.home, ONE, "named by codex", AT)

    refresher.refresh(ONE)

    after = store.index.load_states({ONE: {"w1"}})[ONE]
    assert before.thread is not None
    before.thread = before.thread.model_copy(update={"name": "named by codex"})
    assert after == before


# -- homes too large to look at every file -----------------------------------------------------------------


@pytest.fixture
def large(store: Store, monkeypatch: pytest.MonkeyPatch) -> Refresher:
    """A refresher that looks at two rollouts at a time, and records each folder's stamp at once."""
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    monkeypatch.setattr(refresh, "UPDATED_LAST", 1)
    monkeypatch.setattr(refresh, "LOOK_TIME", 0.0)
    monkeypatch.setattr(refresh, "NOTED_ROLLOUTS", 1)
    monkeypatch.setattr(folder_stamps, "QUIET_TIME", -1.0)
    return Refresher(store.home, store.index)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the folders of days that are listed."""
    listed: list[str] = []
    entries_of = Home.entries_of

    def entries(self: Home, folder: Path) -> Iterator[os.DirEntry[str]]:
        name = self.relative(folder)
        listed.extend([name] if name.count("/") == DAY.count("/") else [])
        return entries_of(self, folder)

    monkeypatch.setattr(Home, "entries_of", entries)
    return listed


def test_a_folder_is_listed_again_only_if_it_changed(store: Store, large: Refresher, listed: list[str]) -> None:
    day = store.home.relative(store.write_rollout(ONE).parent)
    large.refresh_all()
    large.refresh_all()
    assert listed == [day]
    before = folder_stamps.folder_stamps(store.home)[day]
    path = store.write_rollout(TWO, message_line("new"))
    while (
        folder_stamps.folder_stamps(store.home)[day] == before
    ):  # the clock is coarse, and nothing counts as recent here
        path.with_suffix(".tmp").touch()
        path.with_suffix(".tmp").unlink()

    large.refresh_all()

    assert listed == [day, day]
    assert preview(store, TWO) == "new"


def test_the_next_process_lists_no_unchanged_folder(store: Store, large: Refresher, listed: list[str]) -> None:
    store.write_rollout(ONE)
    large.refresh_all()
    listed.clear()

    with closing(Index(store.home, in_memory=store.index.in_memory)) as index:
        index.mark_complete()
        Refresher(store.home, index).refresh_all()

    assert bool(listed) == store.index.in_memory  # an index in memory ends with its process


def test_a_folder_that_changed_just_now_is_listed_again(
    store: Store, large: Refresher, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system's clock is coarse: the next rollout may leave the same stamp."""
    monkeypatch.setattr(folder_stamps, "QUIET_TIME", 3_600.0)
    store.write_rollout(ONE)

    large.refresh_all()
    large.refresh_all()

    assert len(listed) == 2
    assert store.index.folders == {}


def test_a_folder_is_listed_again_until_the_index_knows_all_its_rollouts(
    store: Store, large: Refresher, listed: list[str]
) -> None:
    path = store.write_rollout(ONE, message_line("complete by now"))
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    large.refresh_all()
    path.write_bytes(whole)  # the folder's stamp stays the same

    large.refresh_all()
    large.refresh_all()

    assert preview(store) == "complete by now"
    assert len(listed) == 2


def test_every_rollout_that_grew_is_read_in_the_end(store: Store, large: Refresher) -> None:
    paths = {thread_id(n): store.write_rollout(thread_id(n)) for n in range(1, 7)}
    large.refresh_all()
    for path in paths.values():
        append(path, message_line("grown") + b"\n")

    found = []
    for _ in range(len(paths) + 1):
        large.refresh_all()
        found.append(sum(preview(store, id_) == "grown" for id_ in paths))

    assert found[0] < len(paths)
    assert found[-1] == len(paths)


def test_the_first_look_of_an_index_in_memory_finds_every_rollout(
    store: Store, large: Refresher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LISTED", 2)
    for n in range(1, 7):
        store.write_rollout(thread_id(n))

    large.refresh_all()

    assert len(store.index.thread_ids()) == (6 if store.index.in_memory else 1)


def test_the_most_recently_updated_thread_is_checked_each_time(store: Store, large: Refresher) -> None:
    paths = [store.write_rollout(thread_id(n)) for n in range(1, 7)]
    large.refresh_all()

    for n in range(3):
        at = AT + timedelta(days=1 + n)
        append(paths[2], item_line("event_msg", {"type": "user_message", "message": "x"}, at) + b"\n")
        if n == 0:
            large.refresh(thread_id(3))
        large.refresh_all()
        thread = store.index.read_thread(thread_id(3))
        assert thread is not None
        assert thread.updated_at == at


def test_a_copy_in_an_unchanged_folder_replaces_a_deleted_rollout(store: Store, large: Refresher) -> None:
    path = store.write_rollout(ONE, message_line("one"))
    copy = store.home.sessions / "2020/01/01" / path.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    large.refresh_all()
    known = store.index.rollout(ONE)
    assert known is not None
    (store.home.root / known[0]).unlink()

    for _ in range(3):
        large.refresh_all()

    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert thread.rollout_path is not None
    assert thread.rollout_path.exists()


def test_a_thread_that_was_locked_is_checked_again_out_of_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("livethread_worker.store.upkeep.refresh.time.monotonic", lambda: now)
    monkeypatch.setattr(refresh, "REST_FACTOR", 0)
    monkeypatch.setattr(refresh, "UPDATED_LAST", 1)
    monkeypatch.setattr(folder_stamps, "QUIET_TIME", -1.0)
    for store in opened_store(tmp_path / "home"):
        store.index.mark_complete()
        paths = [store.write_rollout(thread_id(n)) for n in range(1, 7)]
        refresher = Refresher(store.home, store.index)
        refresher.refresh_all()
        append(paths[2], message_line("more") + b"\n")
        with file_lock(store.home.thread_lock(thread_id(3))):
            refresher.refresh_all()
            before = preview(store, thread_id(3))
            monkeypatch.setattr(refresh, "LOOK_TIME", 0.0)
            now += 10.0

            refresher.refresh_all()

        assert (before, preview(store, thread_id(3))) == ("", "more")
