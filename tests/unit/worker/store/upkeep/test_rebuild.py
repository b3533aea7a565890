from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import without_positions
from tests.unit.worker.builders import AT, ODD_ITEMS, Mail, Store, item_line, message_line, thread_id

from livethread import types
from livethread.live_thread import LiveThread
from livethread.metadata import GitInfo, GitInfoPatch, MemoryMode, StoredThread, ThreadMetadataPatch
from livethread_config import Settings
from livethread_worker.store.files import folder_stamps
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.local import LocalThreadStore
from livethread_worker.store.upkeep import rebuild as rebuild_module
from livethread_worker.store.upkeep.rebuild import RebuildReport, complete_once, index_batch, rebuild


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": kind, **fields}}


TURN = [
    event("task_started", turn_id="t1"),
    {"type": "turn_context", "payload": {"cwd": "/turn", "model": "m", "effort": "high", "approval_policy": "never"}},
    event("user_message", message="find the needle"),
    event("token_count", info={"total_token_usage": {"total": 7}}),
    event("agent_message", message="found it"),
    {"type": "response_item", "payload": {"type": "message", "role": "assistant", "content": "plainly"}},
    event("task_complete", turn_id="t1"),
]


async def plain(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)


async def named(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)
    await thread.update_metadata(ThreadMetadataPatch(name="former"))
    await thread.update_metadata(ThreadMetadataPatch(name="Größe"))


async def name_cleared(store: LocalThreadStore, thread: LiveThread) -> None:
    await named(store, thread)
    await thread.update_metadata(ThreadMetadataPatch(name=None))


async def with_git(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN[:3])
    await thread.update_metadata(ThreadMetadataPatch(git_info=GitInfoPatch(sha="s2", branch=None)))
    await thread.update_memory_mode(MemoryMode.DISABLED)
    await thread.append_items(TURN[3:])


async def without_git(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)
    await thread.update_metadata(ThreadMetadataPatch(git_info=GitInfoPatch(sha=None, branch=None, origin_url=None)))


async def archived(store: LocalThreadStore, thread: LiveThread) -> None:
    await named(store, thread)
    await thread.flush()
    await store.archive_thread(types.ArchiveThreadParams(thread_id=thread.thread_id))


async def unarchived(store: LocalThreadStore, thread: LiveThread) -> None:
    await archived(store, thread)
    await store.unarchive_thread(types.ArchiveThreadParams(thread_id=thread.thread_id))
    await thread.append_items([event("user_message", message="again")])


async def titled_before_the_first_message(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.persist()
    await thread.update_metadata(ThreadMetadataPatch(title="given", preview="given"))
    await thread.append_items(TURN)


async def titled_after_the_first_message(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)
    await thread.update_metadata(ThreadMetadataPatch(title="given", agent_role=None, thread_source="automation"))
    await thread.append_items([event("user_message", message="again")])


async def patched_every_field(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)
    patch = ThreadMetadataPatch(
        first_user_message="f",
        model_provider="azure",
        model="asked",
        reasoning_effort="low",
        created_at=AT,
        updated_at=AT,
        source={"custom": "x"},
        agent_nickname="a",
        agent_path="/a",
        cwd="/asked",
        cli_version="9",
        approval_mode={"granular": None},
        permission_profile=["p"],
        token_usage={"total": 2**70},
        history_mode="paginated",
    )
    await thread.update_metadata(patch)


async def rolled_back(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items([*TURN, event("task_started", turn_id="t2"), event("user_message", message="oops")])
    await thread.append_items([event("thread_rolled_back", num_turns=1)])


async def persisted_only(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.persist()


async def resumed(store: LocalThreadStore, thread: LiveThread) -> None:
    await thread.append_items(TURN)
    await thread.flush()
    again = await LiveThread.resume(store, types.ResumeThreadParams(thread_id=thread.thread_id))
    await again.append_items([event("user_message", message="later", images=["i"]), event("task_started")])
    await again.shutdown()


HISTORIES = [
    *(plain, named, name_cleared, with_git, without_git, archived, unarchived, titled_before_the_first_message),
    *(titled_after_the_first_message, patched_every_field, rolled_back, persisted_only, resumed),
]


async def everything_of(store: LocalThreadStore, thread_id: str) -> dict[str, Any]:
    """Return the results of all reads of a store with one thread."""
    return {
        "thread": await store.read_thread(types.ReadThreadParams(thread_id=thread_id, include_history=True)),
        "turns": await store.list_turns(types.ListTurnsParams(thread_id=thread_id)),
        "listed": [
            await store.list_threads(
                types.ListThreadsParams(include_without_preview=True, archived=is_archived, sort_key=key)
            )
            for is_archived in (False, True)
            for key in types.ThreadSortKey
        ],
        "found": [
            [
                (result.thread, result.snippet)
                for result in (
                    await store.search_threads(types.SearchThreadsParams(search_term=term, archived=is_archived))
                ).items
            ]
            for term in ("needle", "found", "plainly", "oops", "former", "größe", "given")
            for is_archived in (False, True)
        ],
    }


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
@pytest.mark.parametrize("how", ["deleted", "rebuilt"])
async def test_a_rebuilt_index_gives_the_same_answers(
    tmp_path: Path, history: Callable[[LocalThreadStore, LiveThread], Awaitable[None]], how: str
) -> None:
    settings = Settings(home=tmp_path / "home", sync="none")
    params = types.CreateThreadParams(
        cwd="/work",
        git=GitInfo(commit_hash="s", branch="b", repository_url="u"),
        thread_source="user",
        agent_role="reviewer",
        memory_mode=MemoryMode.ENABLED,
        forked_from_id=thread_id(8),
        parent_thread_id=thread_id(9),
    )
    async with LocalThreadStore(settings) as store:
        thread = await LiveThread.create(store, params)
        await history(store, thread)
        await thread.shutdown()
        before = await everything_of(store, params.thread_id)
    files = {path: path.read_bytes() for path in settings.home.rglob("*.jsonl")}
    if how == "deleted":
        for path in settings.own_dir.glob("index.sqlite*"):
            path.unlink()
    else:
        opened = Store(settings.home)
        assert rebuild(opened.home, opened.index).threads == 1
        opened.close()

    async with LocalThreadStore(settings) as store:
        after = await everything_of(store, params.thread_id)

    assert isinstance(before["thread"], StoredThread)
    assert without_positions(after) == without_positions(before)
    assert {path: path.read_bytes() for path in settings.home.rglob("*.jsonl")} == files


# -- what a rebuild does -----------------------------------------------------------------------------------


def test_a_rebuild_reads_rollouts_and_deletes_rows_without_one(store: Store) -> None:
    kept, gone = Mail(1), Mail(2)
    store.apply(kept, kept.create(), kept.append("a"))
    store.apply(gone, gone.create(), gone.append("b"))
    store.path(gone).unlink()
    batches: list[int] = []

    report = rebuild(store.home, store.index, batches.append)

    assert (report.threads, report.forgotten, batches) == (1, 1, [1])
    assert store.index.thread_ids() == [kept.thread_id]
    assert store.index.is_complete


def test_a_thread_that_is_deleted_after_it_was_listed_leaves_no_lock(store: Store) -> None:
    path = store.write_rollout(thread_id(1), message_line("a"))
    path.unlink()

    index_batch(store.home, store.index, [(thread_id(1), path)], RebuildReport(), is_needed=None)

    assert not Path(store.home.thread_lock(thread_id(1))).exists()


def test_a_rollout_of_another_thread_and_a_duplicate_are_reported(store: Store) -> None:
    path = store.write_rollout(thread_id(1), message_line("a"))
    store.home.archived_sessions.mkdir()
    second = store.home.archived_sessions / path.name
    second.write_bytes(path.read_bytes())
    foreign = store.write_rollout(thread_id(2))
    foreign.write_bytes(item_line("session_meta", {"id": thread_id(3)}) + b"\n")

    report = rebuild(store.home, store.index)

    assert (report.threads, report.unreadable) == (1, [store.home.relative(foreign)])
    assert report.duplicates == [str(second)]
    thread = store.index.read_thread(thread_id(1))
    assert thread is not None
    assert (thread.rollout_path, thread.archived_at) == (path, None)


@pytest.mark.parametrize("line", ODD_ITEMS.values(), ids=list(ODD_ITEMS))
def test_odd_items_do_not_stop_the_rebuild(store: Store, line: bytes) -> None:
    """One rollout must not prevent the rebuild of the whole home's index."""
    store.write_rollout(thread_id(1), line, message_line("a"))
    store.write_rollout(thread_id(2), message_line("b"))

    rebuild(store.home, store.index)

    assert sorted(store.index.thread_ids()) == [thread_id(1), thread_id(2)]


def test_a_thread_whose_lock_stays_held_is_skipped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild_module, "LOCK_WAIT", 0.0)
    store.write_rollout(thread_id(1), message_line("a"))
    store.write_rollout(thread_id(2), message_line("b"))

    with Path(store.home.thread_lock(thread_id(1))).open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        report = rebuild(store.home, store.index)

    assert (report.threads, report.busy) == (1, [thread_id(1)])
    assert store.index.thread_ids() == [thread_id(2)]


def test_long_rollouts_are_read_in_small_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers wait for the locks of a batch."""
    for n, length in ((1, 10_000), (2, 100), (3, 100), (4, 100), (5, 10_000)):
        mail = Mail(n)
        store.apply(mail, mail.create(), mail.append("x" * length))
    monkeypatch.setattr(rebuild_module, "BATCH_BYTES", 5_000)
    read: list[int] = []

    rebuild(store.home, store.index, read.append)

    assert (sum(read), len(read)) == (5, 2)


def test_all_threads_are_read_if_one_transaction_cannot_hold_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "BATCH_THREADS", 2)
    for n in range(5):
        store.write_rollout(thread_id(n), message_line("a"))

    assert rebuild(store.home, store.index).threads == 5

    assert sorted(store.index.thread_ids()) == [thread_id(n) for n in range(5)]


def test_rebuilding_twice_changes_nothing(store: Store) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))
    rebuild(store.home, store.index)

    def dumped() -> list[str]:
        """Return all but the full-text tables, which change with each write."""
        own = ("messages_fts", "listing_texts_data", "listing_texts_idx", "listing_texts_docsize")
        return [line for line in store.index.db.conn.iterdump() if not any(name in line for name in own)]

    before = dumped()

    rebuild(store.home, store.index)

    assert dumped() == before


def test_a_rebuild_keeps_a_counter_higher_than_those_of_the_lines(store: Store) -> None:
    mail = Mail(1)
    create = Mail(1).create(writer="w0")
    store.apply(mail, create, mail.append("a"), mail.unarchive())

    rebuild(store.home, store.index)

    marks = store.index.load_states({mail.thread_id: {"w0", "w1"}})[mail.thread_id].writers
    assert {writer: mark.n for writer, mark in marks.items()} == {"w0": 1, "w1": 2}


# -- once --------------------------------------------------------------------------------------------------


def test_a_new_index_is_completed_once(store: Store) -> None:
    store.write_rollout(thread_id(1), message_line("a"))

    assert complete_once(store.home, store.index)["threads"] == 1
    store.write_rollout(thread_id(2), message_line("b"))

    assert complete_once(store.home, store.index) == {}
    assert store.index.thread_ids() == [thread_id(1)]


def test_an_index_that_another_process_completes_is_left_to_it(store: Store) -> None:
    store.write_rollout(thread_id(1), message_line("a"))

    with file_lock(store.home.own / "rebuild.lock"):
        assert complete_once(store.home, store.index) == {}

    assert not store.index.is_complete


def test_completing_an_index_keeps_its_rows(store: Store) -> None:
    """Rows that workers stored meanwhile are newer; here, after an append without a derived patch."""
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append_lines(item_line("turn_context", {"model": "m"})))
    store.write_rollout(thread_id(2), message_line("b"))

    assert complete_once(store.home, store.index)["threads"] == 1

    assert (store.thread(mail).model, store.index.is_complete) == (None, True)
    assert sorted(store.index.thread_ids()) == [thread_id(1), thread_id(2)]


def test_a_store_completes_a_new_index_before_it_answers(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", sync="none")
    store = Store(settings.home)
    store.write_rollout(thread_id(1), message_line("a"))
    store.close()

    async def listed() -> list[str]:
        async with LocalThreadStore(settings) as local:
            page = await local.list_threads(types.ListThreadsParams(include_without_preview=True))
            return [thread.thread_id for thread in page.items]

    assert asyncio.run(listed()) == [thread_id(1)]


@pytest.mark.parametrize("gone", [0, 3])
def test_a_rebuild_does_not_search_for_each_rollout(store: Store, monkeypatch: pytest.MonkeyPatch, gone: int) -> None:
    """Searching thousands of folders took as long as reading all rollouts."""
    paths = [store.write_rollout(thread_id(n), message_line("here")) for n in range(1, 6)]
    store.read_in(*(thread_id(n) for n in range(1, 6)))
    for path in paths[:gone]:
        path.unlink()
    walks: list[Home] = []
    rollout_folders = Home.rollout_folders

    def walk(home: Home) -> Iterator[Path]:
        walks.append(home)
        return rollout_folders(home)

    monkeypatch.setattr(Home, "rollout_folders", walk)

    report = rebuild(store.home, store.index)

    assert (report.threads, report.forgotten, len(walks)) == (5 - gone, gone, 3 if gone else 2)


@pytest.mark.parametrize("is_readable", [True, False])
def test_folders_whose_rollouts_are_all_known_are_noted_for_listings(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    monkeypatch.setattr(folder_stamps, "QUIET_TIME", -1.0)
    path = store.write_rollout(thread_id(1), message_line("a"))
    if not is_readable:
        path.write_bytes(b"garbage\n")

    rebuild(store.home, store.index)

    assert (store.home.relative(path.parent) in store.index.folders) == is_readable


def test_a_folder_that_changed_just_before_a_long_rebuild_is_listed_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_rollout(thread_id(1), message_line("a"))

    def finish_later(_: int) -> None:
        monkeypatch.setattr(folder_stamps, "QUIET_TIME", -1.0)

    rebuild(store.home, store.index, finish_later)

    assert store.index.folders == {}
