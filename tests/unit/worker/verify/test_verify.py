"""The checker, on a correct home with its journals, and on the same home with planted faults."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.nodes.items import message, payloads
from tests.unit.worker import paginated
from tests.unit.worker.builders import thread_id

from livethread import (
    ArchiveThreadParams,
    Conflict,
    CreateThreadParams,
    DeleteThreadParams,
    DiscardThreadParams,
    InvalidRequest,
    LiveThread,
    ReadThreadParams,
    ResumeThreadParams,
    Settings,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
)
from livethread.cli import main
from livethread.journal import journaled
from livethread.rollout.item import parse_items
from livethread.types import AppendThreadItemsParams
from livethread_config.deployment import Deployment, HomeIdentity, ShardEpochs
from livethread_config.names import shard_of
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.identity import identify, remember_deployment
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.verify import verify

Lines = list[bytes]


class Audited:
    """A home in which two processes wrote one thread, and their journals."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = Home(tmp_path / "home")
        self.settings = Settings(home=self.home.root)
        self.folder = tmp_path
        self.thread_id = ""

    @property
    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    async def open(self, stack: AsyncExitStack, process: str) -> ThreadStore:
        store = await stack.enter_async_context(LocalThreadStore(self.settings))
        return stack.enter_context(journaled(store, self.folder / f"{process}.jsonl", process))

    async def write(self) -> None:
        """Append alternately, two items at a time; patch and read; have one append refused."""
        async with AsyncExitStack() as stack:
            one = await self.open(stack, "one")
            two = await self.open(stack, "two")
            a = await LiveThread.create(one, CreateThreadParams(cwd="/repo"))
            self.thread_id = a.thread_id
            await a.append_items([message("a0"), message("a0, too")])
            b = await LiveThread.resume(two, ResumeThreadParams(thread_id=self.thread_id))
            for n in range(1, 4):
                await b.append_items([message(f"b{n}"), message(f"b{n}, too")])
                await a.append_items([message(f"a{n}"), message(f"a{n}, too")])
                await a.load_history()
            [item] = parse_items([message("refused")])
            with pytest.raises(Conflict):
                await one.append_items(
                    AppendThreadItemsParams(thread_id=self.thread_id, items=(item,), expected_position="1-0")
                )
            await b.update_metadata(ThreadMetadataPatch(name="first"))
            await a.update_metadata(ThreadMetadataPatch(name="last"))
            await one.archive_thread(ArchiveThreadParams(thread_id=self.thread_id))
            await one.unarchive_thread(ArchiveThreadParams(thread_id=self.thread_id))
            await a.shutdown()
            await b.shutdown()

    def edit(self, change: Callable[[Lines], None], *, is_numbered: bool = True) -> None:
        """Change the rollout's lines, number them, and rebuild the index."""
        [path] = (path for _, path in self.home.rollouts())
        lines = path.read_bytes().splitlines(keepends=True)
        change(lines)
        if is_numbered:
            lines = [re.sub(rb'"ordinal":\d+', b'"ordinal":%d' % n, line, count=1) for n, line in enumerate(lines)]
        path.write_bytes(b"".join(lines))
        index = Index(self.home)
        rebuild(self.home, index)
        index.close()

    def edit_journal(self, process: str, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.folder / f"{process}.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for event in events:
            change(event)
        path.write_text("".join(f"{json.dumps(event)}\n" for event in events))

    def kinds(self, **options: bool) -> set[str]:
        """Return the kinds of violations, without doctor's faults, which have a test of their own."""
        report = verify(self.home, self.journals, **options)
        return {str(violation.kind) for violation in report.violations} - {"fault"}


@pytest.fixture
async def audited(tmp_path: Path) -> Audited:
    audited = Audited(tmp_path)
    await audited.write()
    return audited


@pytest.mark.parametrize("history_mode", ["paginated", None])
async def test_forks_keep_every_promise(tmp_path: Path, history_mode: str | None) -> None:
    audited = Audited(tmp_path)
    async with AsyncExitStack() as stack:
        manager = ThreadManager(await audited.open(stack, "one"))
        source = await manager.create_thread(CreateThreadParams(history_mode=history_mode))
        await source.append_items([message("shared")])
        fork = await manager.fork_thread(source.thread_id)
        await fork.append_items([message("its own")])
        await source.append_items([message("not shared")])
        await manager.shutdown()

    report = verify(audited.home, audited.journals)

    assert report.violations == []
    assert report.threads == 2


def at(lines: Lines, text: str) -> int:
    """Return the number of the line that contains *text*."""
    return next(n for n, line in enumerate(lines) if f'"{text}"'.encode() in line)


async def test_a_correct_home_has_no_violation(audited: Audited) -> None:
    report = verify(audited.home, audited.journals)

    assert report.violations == []
    assert (report.threads, report.applied) == (1, 7)
    assert report.calls == {"ok": 7 + 3 + 2 + 2 + 2, "fail": 1, "info": 0}


@pytest.mark.parametrize("is_fork", [True, False])
async def test_a_thread_that_codex_reverted_or_forked_has_no_violation(tmp_path: Path, *, is_fork: bool) -> None:
    audited = Audited(tmp_path)
    audited.home.create()
    rollout = paginated.begin(audited.home, thread_id(1)).turn("t1", "one", "two").turn("t2", "three", "four")
    live = rollout.forked(thread_id(2), before="t2") if is_fork else rollout
    async with AsyncExitStack() as stack:
        store = await audited.open(stack, "one")
        thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=live.thread_id))
        await thread.append_items([message("before")])
        await thread.load_history()
        live.reverted("t2") if not is_fork else live.turn("t3", "five", "six")
        await thread.append_items([message("after")])
        await thread.load_history()
        await thread.shutdown()

    report = verify(audited.home, audited.journals)

    assert ([each for each in report.violations if each.thread_id], report.applied) == ([], 2)


def swap(one: str, other: str) -> Callable[[Lines], None]:
    """Swap two appends of two lines each."""

    def change(lines: Lines) -> None:
        i, j = at(lines, one), at(lines, other)
        lines[i : i + 2], lines[j : j + 2] = lines[j : j + 2], lines[i : i + 2]

    return change


def drop(*texts: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        for text in texts:
            del lines[at(lines, text)]

    return change


def repeat(lines: Lines) -> None:
    """Repeat all lines of one task at the end, as if it had been applied twice."""
    i = at(lines, "b2")
    lines += lines[i : i + 2]


def repeat_a_line(lines: Lines) -> None:
    i = at(lines, "b2")
    lines.insert(i, lines[i])


def forge(lines: Lines) -> None:
    lines.append(lines[at(lines, "b3")].replace(b'"b3"', b'"never appended"').replace(b'"seq":"', b'"seq":"x'))


def apply_a_refused_append(lines: Lines) -> None:
    lines.append(lines[at(lines, "b3")].replace(b'"b3"', b'"refused"').replace(b'"seq":"', b'"seq":"x'))


READS = {"read_contradicted"}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        pytest.param(
            swap("a2", "a3"), {"writer_order", "thread_order", "real_time_order"} | READS, id="swapped, one writer"
        ),
        pytest.param(swap("b3", "a3"), {"thread_order", "real_time_order"} | READS, id="swapped, two writers"),
        pytest.param(drop("a3", "a3, too"), {"lost"} | READS, id="dropped"),
        pytest.param(drop("b3, too"), {"partly_applied"} | READS, id="partly dropped"),
        pytest.param(repeat, {"applied_twice"}, id="repeated at the end"),
        pytest.param(repeat_a_line, {"applied_twice"} | READS, id="a repeated line"),
        pytest.param(forge, {"not_accepted"}, id="never appended"),
        pytest.param(apply_a_refused_append, {"not_accepted"}, id="refused but applied"),
    ],
)
async def test_a_planted_fault_is_caught(audited: Audited, change: Callable[[Lines], None], kinds: set[str]) -> None:
    audited.edit(change)

    assert audited.kinds() == kinds


@pytest.mark.parametrize("number", [5, 99], ids=["repeated", "with a gap"])
async def test_a_wrong_ordinal_is_caught(audited: Audited, number: int) -> None:
    def change(lines: Lines) -> None:
        i = at(lines, "b2")
        lines[i] = re.sub(rb'"ordinal":\d+', b'"ordinal":%d' % number, lines[i])

    audited.edit(change, is_numbered=False)

    assert audited.kinds() == {"numbering"}


async def test_each_writers_order_is_checked_even_if_redis_lost_data(audited: Audited) -> None:
    audited.edit(swap("b3", "a3"))
    assert audited.kinds(redis_lost_data=True) == READS

    audited.edit(swap("a1", "a2"))
    assert audited.kinds(redis_lost_data=True) == {"writer_order"} | READS


@pytest.mark.parametrize("is_applied", [True, False])
async def test_an_append_without_an_answer_may_be_applied_or_not(audited: Audited, is_applied: bool) -> None:
    """The process was killed before the answer arrived."""

    audited.edit_journal("two", lose_answer(3))
    if not is_applied:
        audited.edit(drop("b3", "b3, too"))

    assert audited.kinds() == (set() if is_applied else READS)


def lose_answer(call: int) -> Callable[[dict[str, Any]], None]:
    def change(event: dict[str, Any]) -> None:
        if (event["type"], event["call"]) == ("ok", call):
            event.update(type="info", position=None)

    return change


async def test_an_append_whose_answer_was_lost_is_not_applied_twice(audited: Audited) -> None:
    audited.edit_journal("two", lose_answer(2))
    audited.edit(repeat)

    assert audited.kinds() == {"applied_twice"}


@pytest.mark.parametrize("lost", [(), (1,), (2,), (1, 2)], ids=["none", "the first", "the second", "both"])
async def test_one_append_per_idempotency_key_is_applied_whichever_answers_were_lost(
    audited: Audited, lost: tuple[int, ...]
) -> None:
    async with AsyncExitStack() as stack:
        store = await audited.open(stack, "three")
        thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=audited.thread_id))
        for _ in range(2):
            await thread.append_items([message("keyed")], idempotency_key="k")
        await thread.shutdown()
    for call in lost:
        audited.edit_journal("three", lose_answer(call))

    assert audited.kinds() == set()

    audited.edit(lambda lines: lines.append(lines[at(lines, "keyed")].replace(b'"seq":"', b'"seq":"x')))
    assert audited.kinds() == {"applied_twice"}

    audited.edit(drop("keyed", "keyed"))
    assert audited.kinds() == (set() if lost == (1, 2) else {"lost"})


async def test_a_read_that_misses_items_is_caught(audited: Audited) -> None:
    """The process had appended the missing items itself."""
    shown: list[dict[str, Any]] = []
    audited.edit_journal("one", lambda event: shown.append(event) if "count" in event else None)

    audited.edit_journal(
        "one",
        lambda event: event.update(count=shown[0]["count"], digest=shown[0]["digest"]) if "count" in event else None,
    )

    assert audited.kinds() == {"stale_read"}


async def test_a_name_other_than_the_last_one_is_caught(audited: Audited) -> None:
    connection = sqlite3.connect(audited.home.index)
    connection.execute("UPDATE threads SET name = 'first'")
    connection.commit()
    connection.close()

    assert audited.kinds() == {"metadata"}


async def test_an_archived_state_other_than_the_last_one_is_caught(audited: Audited) -> None:
    async with LocalThreadStore(audited.settings) as store:
        await store.archive_thread(ArchiveThreadParams(thread_id=audited.thread_id))

    assert audited.kinds() == {"metadata"}


async def test_a_row_that_differs_from_the_rollout_is_caught(audited: Audited) -> None:
    connection = sqlite3.connect(audited.home.index)
    connection.execute("UPDATE threads SET cwd = '/elsewhere'")
    connection.commit()
    connection.close()

    assert audited.kinds() == {"metadata"}


@pytest.mark.parametrize("column", ["updated_at", "recency_at"])
async def test_a_time_that_differs_from_the_rollout_is_caught(audited: Audited, column: str) -> None:
    with closing(sqlite3.connect(audited.home.index)) as connection, connection:
        slot = column.replace("_at", "_slot")
        connection.execute(f"UPDATE threads SET {column} = '2030-01-01T00:00:00.000Z', {slot} = '2030-01-01T00:00:0'")

    assert audited.kinds() == {"metadata"}


async def test_the_row_may_differ_if_an_append_came_without_a_derived_patch(audited: Audited) -> None:
    audited.edit_journal("one", lambda event: event.update(raw=True) if "raw" in event else None)
    with closing(sqlite3.connect(audited.home.index)) as connection, connection:
        connection.execute("UPDATE threads SET cwd = '/elsewhere'")

    assert audited.kinds() == set()


@pytest.mark.parametrize("place", ["here", "a copy", "elsewhere"])
async def test_a_thread_whose_shard_another_home_serves_is_left_to_that_home(audited: Audited, place: str) -> None:
    """A copy of the home that serves the shard is judged like it."""
    [path] = (path for _, path in audited.home.rollouts())
    path.unlink()
    mine = identify(audited.home, "livethread")
    serving = {
        "here": mine,
        "a copy": HomeIdentity(mine.id, "1"),
        "elsewhere": HomeIdentity("other", "1"),
    }
    remember_deployment(audited.home, Deployment(ShardEpochs.of((0, 1)), {0: serving[place]}))

    report = verify(audited.home, audited.journals)

    assert (report.threads, report.elsewhere) == ((0, 1) if place == "elsewhere" else (1, 0))
    assert audited.kinds() == (set() if place == "elsewhere" else {"deletion"})


async def test_a_copy_that_serves_some_of_its_originals_shards_is_not_judged_for_the_others(audited: Audited) -> None:
    [path] = (path for _, path in audited.home.rollouts())
    path.unlink()
    mine = identify(audited.home, "livethread")
    shard = shard_of(audited.thread_id, 2)
    serving = {shard: HomeIdentity(mine.id, "1"), 1 - shard: mine}
    remember_deployment(audited.home, Deployment(ShardEpochs.of((0, 2)), serving))

    report = verify(audited.home, audited.journals)

    assert (report.threads, report.elsewhere) == (0, 1)


async def test_a_missing_rollout_is_caught(audited: Audited) -> None:
    [path] = (path for _, path in audited.home.rollouts())
    path.unlink()

    assert audited.kinds() == {"deletion"}


async def test_a_deleted_thread_that_is_back_is_caught(audited: Audited) -> None:
    [path] = (path for _, path in audited.home.rollouts())
    content = path.read_bytes()
    async with AsyncExitStack() as stack:
        store = await audited.open(stack, "three")
        await store.delete_thread(DeleteThreadParams(thread_id=audited.thread_id))
    assert audited.kinds() == set()

    path.write_bytes(content)

    assert audited.kinds() == {"deletion"}


async def test_a_fault_that_doctor_finds_is_a_violation(audited: Audited) -> None:
    [path] = (path for _, path in audited.home.rollouts())
    path.chmod(0o644)

    [violation] = verify(audited.home, audited.journals).violations

    assert (violation.kind, "bad_permissions" in violation.detail) == ("fault", True)


async def test_a_torn_line_of_a_journal_is_ignored(audited: Audited) -> None:
    with (audited.folder / "one.jsonl").open("ab") as file:
        file.write(b'{"process":"one","cal')

    assert audited.kinds() == set()


@pytest.mark.parametrize("line", [b"{}\n", b"garbage\n", b'{"type":"ok","process":"x","call":1,"at":1}\n'])
async def test_a_file_that_is_not_a_journal_is_refused(audited: Audited, line: bytes) -> None:
    (audited.folder / "other.jsonl").write_bytes(line)

    with pytest.raises(InvalidRequest, match=r"other\.jsonl:1 is not an event"):
        audited.kinds()


async def test_a_journaled_store_behaves_like_the_store(tmp_path: Path) -> None:
    """Operations that it does not record reach the store; errors pass through, recorded as failed or unknown."""
    async with LocalThreadStore(Settings(home=tmp_path / "home")) as local:
        with journaled(local, tmp_path / "one.jsonl", "one") as store:
            thread = await LiveThread.create(store, CreateThreadParams())
            await thread.append_items([message("said")])
            with pytest.raises(InvalidRequest):
                await thread.append_items([message("bad", value=float("nan"))])
            stored = await store.read_thread(ReadThreadParams(thread_id=thread.thread_id))
            said = await payloads(store, thread.thread_id)
            await store.discard_thread(DiscardThreadParams(thread_id=thread.thread_id))
            with pytest.raises(ThreadNotFound):
                await thread.append_items([message("late")])

            assert store.observers is local.observers
    events = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert (stored.thread_id, said) == (thread.thread_id, [message("said")["payload"]])
    assert [event["type"] for event in events] == ["invoke", "ok", "invoke", "fail", "invoke", "ok", "invoke", "info"]


async def test_the_command_prints_violations_and_fails_if_there_are_any(audited: Audited) -> None:
    def run(*options: str) -> tuple[int, list[str]]:
        arguments = ["verify", *options, *map(str, audited.journals)]
        result = CliRunner().invoke(main, arguments, env={"LIVETHREAD_HOME": str(audited.home.root)})
        return result.exit_code, result.output.splitlines()

    counts = "1 thread: 16 calls accepted, 1 refused, 0 unknown; 7 appends in the rollouts"
    assert run() == (0, [counts, "every promise was kept"])

    audited.edit(swap("b3", "a3"))

    code, lines = run()
    assert (code, lines[-2]) == (1, counts)
    assert {"thread_order", "real_time_order", "read_contradicted"} <= set(re.findall(r"[a-z_]+", lines[-1]))
    assert "thread_order" not in run("--redis-lost-data")[1][-1]
