"""`HomePoller`: what it notices, and how little it asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.nodes.waiting import DEADLINE, eventually
from tests.nodes.watchers import watching
from tests.unit.worker.builders import Mail, Store, append_bytes, message_line

from livethread import Settings
from livethread.changes import Changes
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.read import home_poller
from livethread_worker.store.read.home_poller import ROUNDS_NOTED, HomePoller, home_source
from livethread_worker.store.upkeep import refresh


@pytest.fixture
def poller(store: Store) -> HomePoller:
    return HomePoller(store.home)


@pytest.fixture
def mails(store: Store) -> list[Mail]:
    mails = [Mail(n) for n in range(1, 4)]
    for mail in mails:
        store.apply(mail, mail.create(), mail.append("a"))
    return mails


def test_each_thread_is_noted_once_and_then_when_it_changes(
    store: Store, poller: HomePoller, mails: list[Mail]
) -> None:
    ids = [mail.thread_id for mail in mails]

    assert poller.look(ids[:2], at_rollouts=True) == set(ids[:2])
    assert poller.look(ids[:2], at_rollouts=True) == set()
    store.apply(mails[1], mails[1].append("b"))
    store.apply(mails[2], mails[2].append("b"))
    assert poller.look(ids[:2], at_rollouts=False) == {ids[1]}
    assert poller.look(ids[:2], at_rollouts=True) == set()
    assert poller.look(ids, at_rollouts=False) == {ids[2]}
    store.apply(mails[0], mails[0].archive())
    assert poller.look(ids, at_rollouts=False) == {ids[0]}
    store.apply(mails[0], mails[0].delete())
    assert poller.look(ids, at_rollouts=False) == {ids[0]}


def test_what_another_program_appends_is_noticed(store: Store, poller: HomePoller, mails: list[Mail]) -> None:
    ids = {mail.thread_id for mail in mails}
    poller.look(ids, at_rollouts=True)

    append_bytes(store.path(mails[0]), message_line("foreign") + b"\n")

    assert poller.look(ids, at_rollouts=False) == set()
    for _ in range(ROUNDS_NOTED):
        assert poller.look(ids, at_rollouts=True) == {mails[0].thread_id}
    assert poller.look(ids, at_rollouts=True) == set()


def test_a_compressed_rollout_is_not_noticed_for_ever(store: Store, poller: HomePoller, mails: list[Mail]) -> None:
    ids = {mail.thread_id for mail in mails}
    compressed = compress(store.path(mails[0]))
    store.index.set_path(mails[0].thread_id, store.home.relative(compressed))

    assert poller.look(ids, at_rollouts=True) == ids
    for _ in range(ROUNDS_NOTED - 1):
        assert poller.look(ids, at_rollouts=True) <= {mails[0].thread_id}
    assert poller.look(ids, at_rollouts=True) == set()


def replace_index(store: Store) -> None:
    store.drop_index()


def delete_index(store: Store) -> None:
    store.home.index.unlink()


def damage_index(store: Store) -> None:
    for path in store.home.own.glob("index.sqlite*"):
        path.write_bytes(b"x" * 5_000)


@pytest.mark.parametrize("lose", [replace_index, delete_index, damage_index])
def test_without_an_index_each_look_at_the_rollouts_notes_every_thread(
    store: Store, poller: HomePoller, mails: list[Mail], lose: Callable[[Store], None]
) -> None:
    ids = {mail.thread_id for mail in mails}
    poller.look(ids, at_rollouts=True)

    lose(store)

    for _ in range(2):
        assert poller.look(ids, at_rollouts=True) == ids
    if lose is replace_index:
        store.read_in(*ids)
        poller.look(ids, at_rollouts=True)
        assert poller.look(ids, at_rollouts=True) == set()


def test_a_missing_home_is_no_error(tmp_path: Path) -> None:
    assert HomePoller(Home(tmp_path / "none")).look({"x"}, at_rollouts=True) == {"x"}


async def test_the_event_loop_goes_on_while_a_look_waits_for_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_went_on = threading.Event()

    def look(*_: object, **__: object) -> set[str]:
        assert loop_went_on.wait(DEADLINE)
        return {"x"}

    monkeypatch.setattr(HomePoller, "look", look)
    changes = Changes(home_source(Home(tmp_path)))

    with changes.watching("x") as changed:
        await asyncio.sleep(0)  # a look has begun
        loop_went_on.set()
        await changed.wait()
        changes.require_ongoing()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of all pollers."""
    found: list[str] = []
    connect = home_poller.HomePoller._open

    def connect_and_trace(poller: HomePoller) -> None:
        connect(poller)
        if poller._connection is not None:
            poller._connection.set_trace_callback(found.append)

    monkeypatch.setattr(HomePoller, "_open", connect_and_trace)
    return found


async def test_what_codex_appends_to_its_locked_thread_reaches_a_watcher(
    store: Store, mails: list[Mail], statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read does not wait for the lock. A later one reads without it."""
    monkeypatch.setattr(home_poller, "INTERVAL", 0.02)
    monkeypatch.setattr(refresh, "HELD_FOR_LONG", 0.05)
    mail = mails[0]
    async with (
        LocalThreadStore(Settings(home=store.home.root)) as watched,
        watching(watched, mail.thread_id) as watcher,
    ):
        await eventually(lambda: len(watcher.items) == 2)
        await eventually(lambda: len(statements) >= 40, "a watch at rest")
        with file_lock(store.home.thread_lock(mail.thread_id)):
            append_bytes(store.path(mail), message_line("foreign") + b"\n")

            await eventually(lambda: len(watcher.items) == 3, "the line")


# -- many watchers -----------------------------------------------------------------------------------------

WATCHERS = 1_000


async def test_a_thousand_idle_watchers_cost_one_statement_a_look(
    store: Store, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mails = [Mail(n) for n in range(WATCHERS)]
    store.apply_batch({mail.thread_id: [mail.create(), mail.append("a")] for mail in mails})
    reads: list[str] = []
    list_items = LocalThreadStore.list_items

    async def counted(self: LocalThreadStore, params: object) -> object:
        reads.append(params.thread_id)  # type: ignore[attr-defined]
        return await list_items(self, params)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalThreadStore, "list_items", counted)
    monkeypatch.setattr(home_poller, "INTERVAL", 0.01)
    async with LocalThreadStore(Settings(home=store.home.root)) as watched, AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(watching(watched, mail.thread_id)) for mail in mails]
        await eventually(lambda: all(len(watcher.items) == 2 for watcher in watchers))
        await eventually(lambda: len(statements) > 3 and "data_version" in statements[-1])
        await eventually(lambda: len(reads) >= 2 * WATCHERS)  # each is noted once

        async def is_idle() -> bool:
            reads.clear()
            statements.clear()
            await eventually(lambda: len(statements) >= 20)
            return not reads and set(statements) == {"PRAGMA data_version"}

        idle: bool = await eventually(is_idle, "twenty looks without a read")
        assert idle
        store.apply(mails[7], mails[7].append("b"))
        await eventually(lambda: len(watchers[7].items) == 3)
        assert reads == [mails[7].thread_id]
