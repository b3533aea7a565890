"""A thread with several rollouts is one thread: codex's ``thread/revert`` and its forks continue other rollouts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest
from tests.nodes.items import append, message, read, update
from tests.store_spec.operations import archive, delete, unarchive
from tests.store_spec.turns import DESC, item_page, turns_of
from tests.unit.worker import paginated
from tests.unit.worker.builders import Mail, Store, killed, thread_id
from tests.unit.worker.paginated import Rollout, began_at

from livethread import (
    ArchiveThreadParams,
    Conflict,
    DeleteThreadsParams,
    InvalidRequest,
    ListThreadsParams,
    LoadThreadHistoryParams,
    ReadThreadByRolloutPathParams,
    ReadThreadParams,
    ResumeThreadParams,
    RolloutItem,
    SearchThreadsParams,
    Settings,
    StoredTurnItemsView,
    ThreadMetadataPatch,
    ThreadNotFound,
)
from livethread.rollout.lines import decode_line, items_of
from livethread.thread_id import thread_of_rollout_name
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.read.reader import LocalReader
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.doctor import examine
from livethread_worker.store.upkeep.doctor.faults import FaultKind
from livethread_worker.store.upkeep.importing.rollouts import import_rollouts
from livethread_worker.store.upkeep.importing.sources import Search
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write import archive_thread, delete_thread
from livethread_worker.store.write.outcome import OutcomeKind

A, FORK, OTHER = thread_id(1), thread_id(2), thread_id(3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
async def store(home: Home) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=home.root)) as store:
        yield store


@pytest.fixture
def original(home: Home) -> Rollout:
    """A thread of two turns."""
    rollout = paginated.begin(home, A)
    return rollout.turn("t1", "keep apples", "apples kept").turn("t2", "discard zucchini", "zucchini discarded")


@pytest.fixture
def reverted(original: Rollout) -> Rollout:
    """The same thread, whose second turn codex replaced by another."""
    return original.reverted("t2").turn("t3", "keep pears", "pears kept")


def texts_of(items: tuple[RolloutItem, ...]) -> list[str]:
    return [
        part["text"] for item in items if item.kind == "item_completed" for part in item.payload["item"]["content"]
    ]


async def said(store: LocalThreadStore, thread_id: str) -> list[tuple[str, ...]]:
    turns = await turns_of(store, thread_id, items_view=StoredTurnItemsView.SUMMARY)
    return [tuple(texts_of(turn.items)) for turn in turns]


async def found(store: LocalThreadStore, term: str, **params: bool) -> list[str]:
    page = await store.search_threads(SearchThreadsParams.model_validate({"search_term": term} | params))
    return sorted(hit.thread.thread_id for hit in page.items)


async def listed(store: LocalThreadStore, **params: object) -> list[str]:
    page = await store.list_threads(ListThreadsParams.model_validate(params))
    return sorted(thread.thread_id for thread in page.items)


def search_of(path: Path) -> Search:
    search = Search()
    search.look(path)
    return search


KEPT = ("keep apples", "apples kept")
SAID = [KEPT, ("keep pears", "pears kept")]


# -- reading -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("reverted")
async def test_a_reverted_thread_shows_what_was_kept_and_what_was_said_since(store: LocalThreadStore) -> None:
    assert await said(store, A) == SAID
    assert await found(store, "pears") == [A]
    assert await found(store, "apples") == [A]
    assert await found(store, "zucchini") == []
    items = (await store.load_history(LoadThreadHistoryParams(thread_id=A))).items
    assert texts_of(items) == [text for turn in SAID for text in turn]
    assert [item.type for item in items].count("session_meta") == 1


async def test_a_reverted_thread_is_listed_once_as_it_was_begun(
    store: LocalThreadStore, original: Rollout, reverted: Rollout
) -> None:
    [thread] = (await store.list_threads(ListThreadsParams())).items

    assert (thread.thread_id, thread.preview, thread.title) == (A, "keep apples", "keep apples")
    assert (thread.created_at, thread.rollout_path) == (began_at(original), reverted.path)


async def test_pages_of_items_and_turns_cross_rollouts_in_both_directions(
    store: LocalThreadStore, reverted: Rollout
) -> None:
    items = (await store.load_history(LoadThreadHistoryParams(thread_id=A))).items
    forward: list[RolloutItem] = []
    cursor = None
    while True:
        page = await item_page(store, A, page_size=2, cursor=cursor)
        forward += page.items
        if (cursor := page.next_cursor) is None:
            break
    backward: list[RolloutItem] = []
    cursor = None
    while True:
        page = await item_page(store, A, page_size=2, cursor=cursor, sort_direction=DESC)
        backward += page.items
        if (cursor := page.next_cursor) is None:
            break

    assert tuple(forward) == items == tuple(reversed(backward))
    [_, newest] = await turns_of(store, A, items_view=StoredTurnItemsView.FULL)
    assert (await item_page(store, A, turn_id="t3")).items == newest.items
    assert reverted.path.exists()


async def test_a_thread_reverted_twice_continues_the_turn_that_is_left(
    store: LocalThreadStore, original: Rollout, reverted: Rollout
) -> None:
    assert await said(store, A) == SAID
    again = reverted.reverted("t3", n=2).turn("t4", "keep plums", "plums kept")
    assert await said(store, A) == [KEPT, ("keep plums", "plums kept")]

    original.reverted("t1", n=3).turn("t5", "begin again", "begun")

    assert await said(store, A) == [("begin again", "begun")]
    assert (await read(store, A)).title == "keep apples"  # as in codex: a revert takes back turns, not metadata
    assert again.path.exists()


async def test_a_revert_while_the_store_is_open_shows_at_once(store: LocalThreadStore, original: Rollout) -> None:
    assert await said(store, A) == [KEPT, ("discard zucchini", "zucchini discarded")]
    assert await found(store, "zucchini") == [A]

    original.reverted("t2").turn("t3", "keep pears", "pears kept")

    assert await said(store, A) == SAID
    assert await found(store, "zucchini") == []


async def test_a_fork_shows_its_parents_turns_and_only_the_shared_ones(
    store: LocalThreadStore, original: Rollout
) -> None:
    original.forked(FORK, before="t2").turn("f1", "keep figs", "figs kept")
    original.turn("t9", "not in the fork", "no")

    assert await said(store, FORK) == [KEPT, ("keep figs", "figs kept")]
    thread = await read(store, FORK)
    assert (thread.title, thread.preview, thread.forked_from_id) == ("keep apples", "keep apples", A)
    assert await found(store, "figs") == [FORK]
    assert await found(store, "apples") == [A, FORK]
    assert await found(store, "zucchini") == [A]


async def test_a_fork_of_a_reverted_thread_that_is_reverted_itself(
    store: LocalThreadStore, reverted: Rollout
) -> None:
    fork = reverted.forked(FORK).turn("f1", "keep figs", "figs kept")
    assert await said(store, FORK) == [*SAID, ("keep figs", "figs kept")]

    fork.reverted("f1", n=7).turn("f2", "keep dates", "dates kept")

    assert await said(store, FORK) == [*SAID, ("keep dates", "dates kept")]
    assert await said(store, A) == SAID
    assert (await read(store, FORK)).created_at == began_at(fork)


def test_the_path_of_a_reverted_rollout_names_its_thread() -> None:
    path = f"sessions/2026/11/22/rollout-2026-11-22T12-00-00-{A}_{OTHER}.jsonl.zst"

    assert thread_of_rollout_name(path) == A


async def test_any_rollout_of_a_thread_leads_to_it(
    store: LocalThreadStore, original: Rollout, reverted: Rollout
) -> None:
    for rollout in (original, reverted):
        params = ReadThreadByRolloutPathParams(rollout_path=str(rollout.path), include_history=True)
        thread = await store.read_thread_by_rollout_path(params)
        assert (thread.thread_id, thread.rollout_path) == (A, reverted.path)
        assert thread.history is not None
        assert "zucchini discarded" not in texts_of(thread.history.items)


async def test_without_an_index_the_same_is_read(home: Home, reverted: Rollout) -> None:
    reverted.forked(FORK)
    async with LocalThreadStore(Settings(home=home.root), index=None) as store:
        assert await said(store, A) == await said(store, FORK) == SAID
        assert await listed(store) == [A, FORK]
        assert await found(store, "zucchini") == []


async def test_pages_of_lines_make_up_the_history(store: LocalThreadStore, home: Home, reverted: Rollout) -> None:
    params = LoadThreadHistoryParams(thread_id=A)
    whole = await store.load_history(params)
    lines = b""
    start: int | None = 0
    with closing(Index(home)) as index:
        reader = LocalReader(home, lambda: index)
        while start is not None:
            page, start, _ = reader.read_lines(params, start, 100)
            lines += page

    assert items_of(map(decode_line, lines.split(b"\n"))) == whole.items
    assert reverted.path.exists()


# -- writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_known", [True, False])
async def test_an_append_goes_to_the_live_rollout_with_the_next_ordinal(
    store: LocalThreadStore, original: Rollout, *, is_known: bool
) -> None:
    if is_known:  # the index then knows the first rollout
        await store.resume_thread(ResumeThreadParams(thread_id=A))
    before = original.path.read_bytes()
    reverted = original.reverted("t2").turn("t3", "keep pears", "pears kept")
    if not is_known:
        await store.resume_thread(ResumeThreadParams(thread_id=A))

    next_ordinal = reverted.next_ordinal

    await append(store, A, message("ours"))

    assert original.path.read_bytes() == before
    last = json.loads(reverted.path.read_bytes().splitlines()[-1])
    assert ("ours" in str(last["payload"]), last["ordinal"]) == (True, next_ordinal)
    assert [turn.turn_id for turn in await turns_of(store, A)][:2] == ["t1", "t3"]
    assert await found(store, "ours") == [A]


async def test_an_append_finds_the_live_rollout_of_a_thread_that_became_paginated(
    store: LocalThreadStore, home: Home
) -> None:
    rollout = paginated.begin(home, A, history_mode="legacy").turn("t1", "keep apples", "apples kept")
    await store.resume_thread(ResumeThreadParams(thread_id=A))
    rollout.path.write_text(rollout.path.read_text().replace('"legacy"', '"paginated"'))
    rollout.note("t2")
    reverted = rollout.reverted("t2")
    before = rollout.path.read_bytes()

    await append(store, A, message("ours"))

    assert rollout.path.read_bytes() == before
    assert "ours" in reverted.path.read_text()
    assert await found(store, "ours") == [A]


async def test_turns_that_we_append_to_a_fork_are_read_where_they_stand(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    fork = original.forked(FORK, before="t2")
    await store.resume_thread(ResumeThreadParams(thread_id=FORK))
    lines = original.path.read_text().splitlines()[1:6]
    for line in lines:
        item = json.loads(line.replace("t1", "ours").replace("apples", "figs"))
        await append(store, FORK, {"type": item["type"], "payload": item["payload"]})

    assert await said(store, FORK) == [KEPT, ("keep figs", "figs kept")]
    with closing(Index(home)) as index:
        before = index.messages_and_turns(FORK)
        rebuild(home, index)
        assert index.messages_and_turns(FORK) == before
    assert fork.path.read_bytes().count(b'"ordinal":') == 6


async def test_counters_keys_and_our_metadata_survive_a_revert_and_a_rebuild(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    await store.resume_thread(ResumeThreadParams(thread_id=A))
    await append(store, A, message("once"), key="k1")
    await update(store, A, ThreadMetadataPatch(thread_source="nightly"))
    original.reverted("t2").turn("t3", "keep pears", "pears kept")
    with closing(Index(home)) as index:
        rebuild(home, index)

    await append(store, A, message("once"), key="k1")

    assert (await read(store, A)).thread_source == "nightly"
    assert await found(store, "once") == []
    assert await said(store, A) == SAID


async def test_archiving_moves_every_rollout_and_back(
    store: LocalThreadStore, home: Home, original: Rollout, reverted: Rollout
) -> None:
    await archive(store, A)

    assert sorted(path.name for path in home.archived_sessions.iterdir()) == [original.path.name, reverted.path.name]
    assert not original.path.exists()
    assert await listed(store) == []
    assert await listed(store, archived=True) == [A]
    assert await said(store, A) == SAID

    await unarchive(store, A)

    assert list(home.archived_sessions.iterdir()) == []
    assert original.path.exists() and reverted.path.exists()  # noqa: PT018
    assert await said(store, A) == SAID


@pytest.mark.parametrize("after", [1, 2])
def test_an_archiving_that_was_killed_between_two_moves_is_completed(home: Home, after: int) -> None:
    original = paginated.begin(home, A).turn("t1", "keep apples", "apples kept")
    reverted = original.reverted("t1")
    mail = Mail()
    with closing(Store(home.root)) as store:
        entry = mail.archive()
        with killed(archive_thread, "_move", after=after):
            store.apply(mail, entry)

        assert store.apply(mail, entry).kind is OutcomeKind.DONE

        assert {path.name for path in home.archived_sessions.iterdir()} == {original.path.name, reverted.path.name}
        assert reverted.path.name in str(store.thread(mail).rollout_path)


def test_a_deletion_that_was_killed_between_two_files_is_completed(home: Home) -> None:
    original = paginated.begin(home, A).turn("t1", "keep apples", "apples kept")
    reverted = original.reverted("t1")
    mail = Mail()
    with closing(Store(home.root)) as store:
        entry = mail.delete()
        with killed(delete_thread, "sync_directory", after=1):
            store.apply(mail, entry)
        assert reverted.path.exists()

        assert store.apply(mail, entry).kind is OutcomeKind.DELETED

        assert list(home.root.rglob("rollout-*")) == []


def test_a_deletion_that_is_refused_in_a_batch_keeps_what_was_appended_before(home: Home) -> None:
    original = paginated.begin(home, A).turn("t1", "keep apples", "apples kept")
    original.forked(FORK)
    mail = Mail()
    with closing(Store(home.root)) as store:
        kept = mail.append("kept")

        outcome = store.apply(mail, kept, mail.delete())

        assert (outcome.kind, outcome.position) == (OutcomeKind.POISONED, kept.position)
        assert store.texts(mail) == ["kept"]


async def test_deleting_removes_every_rollout(
    store: LocalThreadStore, home: Home, original: Rollout, reverted: Rollout
) -> None:
    await delete(store, A)

    assert not original.path.exists() and not reverted.path.exists()  # noqa: PT018
    assert home.find_rollout(A) is None
    with pytest.raises(ThreadNotFound):
        await read(store, A)


async def test_a_thread_is_not_deleted_while_a_fork_continues_it(store: LocalThreadStore, reverted: Rollout) -> None:
    assert await listed(store) == [A]
    reverted.forked(FORK).turn("f1", "keep figs", "figs kept")

    with pytest.raises(Conflict, match=f"thread {FORK} was forked from it"):
        await delete(store, A)
    with pytest.raises(Conflict, match="cannot delete"):
        await store.read_thread(ReadThreadParams(thread_id=A, is_deletable=True))

    assert await said(store, FORK) == [*SAID, ("keep figs", "figs kept")]
    await delete(store, FORK)
    await delete(store, A)
    assert await listed(store) == []


@pytest.mark.parametrize("order", list(permutations([A, FORK, OTHER])), ids=str)
async def test_a_thread_and_its_forks_are_deleted_in_any_order(
    store: LocalThreadStore, home: Home, original: Rollout, order: tuple[str, ...]
) -> None:
    fork = original.forked(FORK).turn("f1", "keep figs", "figs kept")
    fork.forked(OTHER, attached_thread=True).turn("g1", "keep grapes", "grapes kept")

    results = await store.delete_threads(DeleteThreadsParams(thread_ids=order))

    assert (set(results.done), results.failed) == ({A, FORK, OTHER}, {})
    assert list(home.rollouts()) == []


async def test_an_earlier_rollout_of_a_fork_keeps_its_parent_too(store: LocalThreadStore, original: Rollout) -> None:
    fork = original.forked(FORK, before="t2").turn("f1", "keep figs", "figs kept")
    heir = fork.reverted("f1", n=9)
    heir.path.write_text(heir.path.read_text().replace('"history_base"', '"not_any_more"'))

    with pytest.raises(Conflict, match="cannot delete"):
        await delete(store, A)


async def test_attached_forks_are_hidden_unless_asked_for(store: LocalThreadStore, original: Rollout) -> None:
    original.forked(FORK, attached_thread=True).turn("f1", "attached figs", "figs kept")

    assert await listed(store) == [A]
    assert await listed(store, attached_to_thread_id=A) == [FORK]
    assert await listed(store, include_attached_threads=True) == [A, FORK]
    assert await found(store, "figs") == []
    assert await found(store, "figs", include_attached_threads=True) == [FORK]
    assert (await read(store, FORK)).attached_to_thread_id == A
    with pytest.raises(Conflict, match=f"while attached thread {FORK} exists"):
        await delete(store, A)


# -- broken lineages ---------------------------------------------------------------------------------------


async def test_a_fork_whose_parent_is_missing_is_listed_and_refused_until_it_is_restored(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    fork = original.forked(FORK).turn("f1", "keep figs", "figs kept")
    aside = original.path.rename(home.root / "aside")

    assert await listed(store) == [FORK]
    before = fork.path.read_bytes()
    with pytest.raises(InvalidRequest, match=rf"continues .* rollout {A}, which is missing"):
        await store.load_history(LoadThreadHistoryParams(thread_id=FORK))
    await store.resume_thread(ResumeThreadParams(thread_id=FORK))
    with pytest.raises(InvalidRequest, match="which is missing"):
        await append(store, FORK, message("ours"))
    assert fork.path.read_bytes() == before
    [fault] = (fault for fault in examine(home, fix=True).faults if fault.thread_id)
    assert (fault.kind, fault.repair) == (FaultKind.BROKEN_LINEAGE, None)

    aside.rename(original.path)

    assert await said(store, FORK) == [KEPT, ("discard zucchini", "zucchini discarded"), ("keep figs", "figs kept")]
    await append(store, FORK, message("ours"))
    assert FORK in await found(store, "zucchini")


async def test_a_place_within_a_line_does_not_join_it_to_the_next(
    store: LocalThreadStore, original: Rollout, reverted: Rollout
) -> None:
    end = f'"end_byte_offset": {original.starts["t2"][1]}'
    text = reverted.path.read_text()
    assert end in text
    reverted.path.write_text(text.replace(end, end.replace(str(original.starts["t2"][1]), "1434")))

    assert await said(store, A) == SAID
    assert [turn.turn_id for turn in await turns_of(store, A)] == ["t1", "t3"]


@pytest.mark.parametrize("problem", ["cut", "loop", "nonsense"])
async def test_a_lineage_that_cannot_be_read_is_refused(
    store: LocalThreadStore, original: Rollout, reverted: Rollout, problem: str
) -> None:
    if problem == "cut":
        original.path.write_bytes(original.path.read_bytes()[:300])
    else:
        text = reverted.path.read_text()
        end = {"loop": reverted.rollout_id, "nonsense": "x"}[problem]
        reverted.path.write_text(text.replace(f'"thread_id": "{A}", "end_ord', f'"thread_id": "{end}", "end_ord'))

    with pytest.raises(InvalidRequest, match="restore that rollout"):
        await said(store, A)


# -- upkeep ------------------------------------------------------------------------------------------------


async def test_a_rebuild_equals_what_grew_step_by_step(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    for _ in range(2):
        await said(store, A)
        original.reverted("t2").turn("t3", "keep pears", "pears kept").forked(FORK).turn("f1", "figs", "kept")
    grown = [await read(store, A), await read(store, FORK)]
    with closing(Index(home)) as index:
        lines = [index.messages_and_turns(id_) for id_ in (A, FORK)]
        rebuild(home, index)
        assert [index.messages_and_turns(id_) for id_ in (A, FORK)] == lines
    assert [await read(store, A), await read(store, FORK)] == grown


async def test_doctor_finds_no_fault_in_a_lineage(store: LocalThreadStore, home: Home, reverted: Rollout) -> None:
    reverted.forked(FORK)
    assert await listed(store) == [A, FORK]

    assert [fault.kind for fault in examine(home, fix=False).faults if fault.thread_id] == []


async def test_doctor_repairs_what_a_revert_left_if_no_rollout_continues_it(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    reverted = original.reverted("t1").turn("t3", "keep pears", "pears kept")
    reverted.path.write_text(reverted.path.read_text().replace('"history_base"', '"without_base"'))
    original.path.write_bytes(original.path.read_bytes().replace(b"zucchini discarded", b"zucchini\xffdiscarded"))
    assert await said(store, A) == [("keep pears", "pears kept")]

    faults = [fault for fault in examine(home, fix=True).faults if fault.kind is FaultKind.INVALID_UTF8]

    assert [fault.path for fault in faults] == [home.relative(original.path)]
    assert "zucchini\ufffddiscarded" in original.path.read_text()
    assert [fault.kind for fault in examine(home, fix=False).faults if fault.thread_id] == []


async def test_doctor_moves_no_bytes_that_another_rollout_refers_to(
    store: LocalThreadStore, home: Home, original: Rollout
) -> None:
    original.forked(FORK)
    assert await listed(store) == [A, FORK]
    damaged = original.path.read_bytes().replace(b"zucchini discarded", b"zucchini\xffdiscarded")
    original.path.write_bytes(damaged)

    report = examine(home, fix=True)

    assert original.path.read_bytes() == damaged
    [fault] = (fault for fault in report.faults if fault.kind is FaultKind.INVALID_UTF8)
    assert (fault.thread_id, fault.repair) == (A, None)
    assert len(await said(store, FORK)) == 2


@pytest.mark.parametrize("order", [1, -1])
async def test_an_import_copies_each_rollout_of_a_thread(
    tmp_path: Path, home: Home, original: Rollout, reverted: Rollout, order: int
) -> None:
    fork = reverted.forked(FORK).turn("f1", "keep figs", "figs kept")
    other = Home(tmp_path / "other")
    other.create()
    with closing(Index(other)) as index:
        for rollout in (original, reverted, fork)[::order]:
            report = import_rollouts(other, index, search_of(rollout.path))
            assert (report.imported, report.is_whole) == (1, True)
        again = import_rollouts(other, index, search_of(home.root))
        assert (again.unchanged, again.is_whole) == (3, True)

    async with LocalThreadStore(Settings(home=other.root)) as store:
        assert await said(store, A) == SAID
        assert await said(store, FORK) == [*SAID, ("keep figs", "figs kept")]


async def test_compression_spares_what_others_continue(
    store: LocalThreadStore, home: Home, original: Rollout, reverted: Rollout
) -> None:
    fork = reverted.forked(FORK).turn("f1", "keep figs", "figs kept")
    assert await listed(store) == [A, FORK]

    with closing(Index(home)) as index:
        counts = compress_cold(home, index, datetime.now(UTC) + timedelta(days=1))

    assert counts["threads"] == 1
    assert original.path.exists() and reverted.path.exists()  # noqa: PT018
    assert not fork.path.exists()
    assert await said(store, FORK) == [*SAID, ("keep figs", "figs kept")]
    await store.archive_thread(ArchiveThreadParams(thread_id=FORK))
    assert await said(store, FORK) == [*SAID, ("keep figs", "figs kept")]
