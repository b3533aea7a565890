"""Several stores on one home, killed anywhere, compared with a model.

Three stores stand for three processes. An operation may die at any change that it makes to a file or to the index: then
the model holds every state that the thread may have. What a store shows must be one of them, and becomes the only one.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.nodes import items as items_module
from tests.nodes.examples import assert_finds_a_fault, machine_settings
from tests.nodes.killing import DEATHS, Death, Killed, Killer
from tests.unit.worker.builders import AT, item_line, thread_id

from livethread import types
from livethread.errors import ThreadNotFound
from livethread.metadata import MemoryMode, ThreadMetadataPatch
from livethread.rollout.lines import decode_line
from livethread_config import Settings
from livethread_worker.store.files import home
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.files.rollout_reader import read_on
from livethread_worker.store.index import connection
from livethread_worker.store.local import LocalThreadStore
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep import refresh
from livethread_worker.store.upkeep.doctor import Fault, FaultKind, examine
from livethread_worker.store.upkeep.index_handle import IndexHandle
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write import batch, open_rollout

STORE: Final = st.integers(0, 2)
THREAD: Final = st.integers(0, 3)
#: Most operations survive.
DEATH: Final = st.none() | st.none() | DEATHS
#: Fields that a patch sets, with their values; None clears a field.
PATCHES: Final = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["one", "two", None]),
        "title": st.sampled_from(["a title", ""]),
        "model": st.sampled_from(["m1", "m2"]),
        "thread_source": st.sampled_from(["user", None]),
        "memory_mode": st.sampled_from([MemoryMode.ENABLED, MemoryMode.DISABLED]),
        "branch": st.sampled_from(["main", None]),
    },
).filter(bool)


@dataclass(frozen=True, slots=True)
class State:
    """A state that a thread may have."""

    #: Whether it has a rollout with a session_meta.
    is_stored: bool = False
    #: The text of its items; all differ.
    items: tuple[str, ...] = ()
    #: The fields that were patched.
    fields: frozenset[tuple[str, Any]] = frozenset()
    is_archived: bool = False

    def patched(self, changes: dict[str, Any]) -> State:
        fields = dict(self.fields) | changes
        return replace(self, fields=frozenset((name, value) for name, value in fields.items() if value is not None))


NOTHING: Final = State()
#: What an operation does to a state: the states that a death may leave, and the final state.
Effect = Callable[[State], tuple[set[State], State]]


@dataclass(slots=True)
class Thread:
    """What the model knows about a thread."""

    thread_id: str
    #: The store that created it, until its first task.
    creator: int | None
    #: The states that it may have: several after a death, until a store reads the thread.
    states: set[State] = field(default_factory=lambda: {NOTHING})
    #: Whether its last line may be torn: a process was killed, and no process has written since.
    may_be_torn: bool = False
    #: Whether the index or the names may hold it though it is not stored: after a death, or in an old index.
    may_haunt: bool = False
    #: Whether codex's name index certainly has the thread's name: no process was killed while naming it.
    is_surely_named: bool = True
    #: How many torn lines another program ended.
    garbage: int = 0

    @property
    def is_stored(self) -> bool:
        """Whether it certainly has a rollout."""
        return all(state.is_stored for state in self.states)

    def see(self, fits: Callable[[State], bool], what: Any) -> None:
        """Keep the states that fit what a store showed; at least one must."""
        seen = set(filter(fits, self.states))
        assert seen, f"a store shows thread {self.thread_id} with {what}, which is not one of {self.states}"
        self.states = seen

    def become(self, effect: Effect, *, is_done: bool) -> None:
        """Apply *effect* to each state; an operation that is not done may have got anywhere."""
        ends: set[State] = set()
        for state in self.states:
            between, end = effect(state)
            ends |= {end} if is_done else {state, *between, end}
        self.states = ends


class Stores(RuleBasedStateMachine):
    """Everything that stores do to a home, and everything that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.settings = Settings(home=self.root / "home", redis_url=None)
        self.home = home.Home(self.settings.home)
        self.killer = Killer()
        self.stack.enter_context(self.killer.installed())
        # A store rests between two refreshes of all threads; no time passes here.
        self.stack.enter_context(pytest.MonkeyPatch.context()).setattr(refresh, "REST_FACTOR", 0)
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.stores = [LocalThreadStore(self.settings) for _ in range(3)]
        self.opened: list[set[str]] = [set() for _ in self.stores]
        self.threads: list[Thread] = []
        self.said = 0
        #: The threads in the index when it was saved.
        self.saved: set[str] | None = None

    def teardown(self) -> None:
        try:
            self.look_at_all(0)
            self.examine()
        finally:
            for store in self.stores:
                self.runner.run(store.aclose())
            self.stack.close()
            # A process keeps its connections to replaced indexes: usually few, here thousands.
            while connection._left_open:
                connection._left_open.pop().close()

    # -- sessions ------------------------------------------------------------------------------------------

    @initialize(stores=st.lists(STORE, min_size=1, max_size=2))
    def begin(self, stores: list[int]) -> None:
        """Start with threads that have an item: other threads are rarely interesting."""
        for store in stores:
            self.create(store)
            self.append(store, len(self.threads) - 1, ["m"], None)

    @precondition(lambda self: len(self.threads) < 4)
    @rule(store=STORE)
    def create(self, store: int) -> None:
        params = types.CreateThreadParams(thread_id=thread_id(len(self.threads) + 1), created_at=AT, cwd="/work")
        self.runner.run(self.stores[store].create_thread(params))
        self.threads.append(Thread(params.thread_id, store))
        self.opened[store].add(params.thread_id)

    @rule(store=STORE, thread=THREAD, kinds=st.lists(st.sampled_from("mmtr"), min_size=1, max_size=3), death=DEATH)
    def append(self, store: int, thread: int, kinds: list[str], death: Death | None) -> None:
        known, store = self.pick(thread, store)
        items = [self.item(kind) for kind in kinds]
        said = tuple(map(says, items))
        if self.resume(store, known):
            self.change(
                store,
                known,
                items_module.append(self.stores[store], known.thread_id, *items),
                lambda state: (
                    {replace(state, items=state.items + said[:count]) for count in range(len(said))},
                    replace(state, items=state.items + said),
                ),
                death,
            )

    @rule(store=STORE, thread=THREAD, death=DEATH)
    def persist(self, store: int, thread: int, death: Death | None) -> None:
        known, store = self.pick(thread, store)
        if known.thread_id in self.opened[store]:
            params = types.PersistThreadParams(thread_id=known.thread_id)
            work = self.stores[store].persist_thread(params)
            if known.creator == store:
                self.change(store, known, work, lambda state: (set(), state), death)
            else:
                self.runner.run(work)

    @rule(store=STORE, thread=THREAD, changes=PATCHES, death=DEATH)
    def patch(self, store: int, thread: int, changes: dict[str, Any], death: Death | None) -> None:
        known, store = self.pick(thread, store)
        given = {name: value for name, value in changes.items() if name != "branch"}
        if "branch" in changes:
            given["git_info"] = {"branch": changes["branch"]}
        patch = ThreadMetadataPatch.model_validate(given)
        parts = [
            dict(part) for count in range(len(changes)) for part in itertools.combinations(changes.items(), count)
        ]
        self.change(
            store,
            known,
            items_module.update(self.stores[store], known.thread_id, patch),
            lambda state: ({state.patched(part) for part in parts}, state.patched(changes)),
            death,
        )
        if "name" in changes:
            known.is_surely_named = self.killer.killed_at is None

    @rule(store=STORE, thread=THREAD, death=DEATH)
    def archive(self, store: int, thread: int, death: Death | None) -> None:
        known, store = self.pick(thread, store)
        work = self.stores[store].archive_thread(types.ArchiveThreadParams(thread_id=known.thread_id))
        self.change(store, known, work, lambda state: (set(), replace(state, is_archived=True)), death)

    @rule(store=STORE, thread=THREAD, death=DEATH)
    def unarchive(self, store: int, thread: int, death: Death | None) -> None:
        known, store = self.pick(thread, store)
        work = self.stores[store].unarchive_thread(types.ArchiveThreadParams(thread_id=known.thread_id))
        self.change(store, known, work, lambda state: (set(), replace(state, is_archived=False)), death)

    @rule(store=STORE, thread=THREAD, death=DEATH)
    def delete(self, store: int, thread: int, death: Death | None) -> None:
        known, store = self.pick(thread, store)
        work = self.stores[store].delete_thread(types.DeleteThreadParams(thread_id=known.thread_id))
        self.change(store, known, work, lambda state: (set(), NOTHING), death)

    @rule(store=STORE, thread=THREAD)
    def discard(self, store: int, thread: int) -> None:
        known, _ = self.pick(thread)
        self.runner.run(self.stores[store].discard_thread(types.DiscardThreadParams(thread_id=known.thread_id)))
        self.closed(store, known.thread_id)

    @rule(store=STORE)
    def reopen(self, store: int) -> None:
        self.runner.run(self.stores[store].aclose())
        self.new_process(store)

    # -- damage --------------------------------------------------------------------------------------------

    @rule(garbage=st.none() | st.sampled_from([b"", b"garbage", b"SQLite format 3\0" + b"\xff" * 5000]))
    def lose_index(self, garbage: bytes | None) -> None:
        """Delete the index, or replace it with garbage."""
        if garbage is None:
            for path in self.home.own.glob("index.sqlite*"):
                path.unlink()
        elif self.home.own.is_dir():
            self.put_in_place(lambda path: path.write_bytes(garbage))

    @precondition(lambda self: self.home.index.exists() and self.home.index.stat().st_size)
    @rule()
    def save_index(self) -> None:
        (self.root / "saved").unlink(missing_ok=True)
        try:
            with (
                closing(sqlite3.connect(self.home.index)) as present,
                closing(sqlite3.connect(self.root / "saved")) as copy,
            ):
                present.backup(copy)
                self.saved = {row[0] for row in copy.execute("SELECT thread_id FROM threads")}
        except sqlite3.DatabaseError:  # garbage, or not created yet
            self.saved = None

    @precondition(lambda self: self.saved is not None)
    @rule()
    def put_back_index(self) -> None:
        """Restore the saved copy of the index."""
        assert self.saved is not None
        self.put_in_place(lambda path: shutil.copyfile(self.root / "saved", path))
        for thread in self.threads:
            thread.may_haunt |= thread.thread_id in self.saved

    @rule(death=DEATH)
    def rebuild(self, death: Death | None) -> None:
        self.home.create()
        with self.killer.killing_at(death), suppress(Killed), closing(IndexHandle(self.home)) as handle:
            rebuild(self.home, handle.get())

    @rule(thread=THREAD, torn=st.none() | st.integers(1, 80), is_ended=st.booleans())
    def write_foreign(self, thread: int, torn: int | None, is_ended: bool) -> None:
        """Have another program, such as codex, write a line under the lock; it may be killed, too."""
        known, _ = self.pick(thread)
        path = self.home.find_rollout(known.thread_id)
        if path is None or not known.is_stored:
            return
        item = self.item("m")
        line = item_line(item["type"], item["payload"])
        with file_lock(self.home.thread_lock(known.thread_id)), path.open("r+b") as file:
            if not file.seek(0, 2) or not path.read_bytes().endswith(b"\n"):
                known.garbage += 1
                line = b"\n" + line
            file.write(line[:torn] if torn is not None else line + b"\n" * is_ended)
        known.may_be_torn = torn is not None
        if torn is None:
            known.states = {replace(state, items=(*state.items, says(item))) for state in known.states}

    # -- reads ---------------------------------------------------------------------------------------------

    @rule(store=STORE, thread=THREAD, death=DEATH)
    def look(self, store: int, thread: int, death: Death | None) -> None:
        """Read a whole thread."""
        known, _ = self.pick(thread)
        try:
            with self.killer.killing_at(death):
                self.look_at(store, known)
        except Killed:
            self.kill(store)

    @rule(store=STORE)
    def look_at_all(self, store: int) -> None:
        """List the archived and the other threads, and read each thread."""
        listed = {archived: self.listed(store, archived=archived) for archived in (False, True)}
        assert set().union(*listed.values()) <= {thread.thread_id for thread in self.threads}
        for thread in self.threads:
            where = {archived for archived, ids in listed.items() if thread.thread_id in ids}
            thread.see(
                lambda state: (
                    where == {state.is_archived} if state.is_stored else not where or thread.may_haunt  # noqa: B023 - called at once
                ),
                {"listed as archived": where},
            )
        for thread in self.threads:
            self.look_at(store, thread)
        self.look_at_full_text()

    def look_at_full_text(self) -> None:
        """Check that each message is in the full text once, or listed as unindexed."""
        with closing(IndexHandle(self.home)) as handle:
            database = handle.get().db
            count = database.execute(
                "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM messages_fts_docsize),"
                " (SELECT count(*) FROM unindexed_messages)"
            )
            messages, indexed, unindexed = count.fetchone()
            handle.get().maintain(is_idle=True)
            database.execute("INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)")
        assert indexed + unindexed == messages

    @rule(fix=st.booleans())
    def examine(self, fix: bool = True) -> None:
        """Check that doctor finds only what deaths leave, and that fixing it leaves no fault."""
        self.look_at_all(0)
        faults = examine(self.home, fix=fix).faults if self.home.index.exists() else []
        for fault in faults:
            [known] = [thread for thread in self.threads if thread.thread_id in (fault.thread_id or fault.detail)]
            assert self.is_expected(known, fault), fault
        if fix and faults:
            assert examine(self.home, fix=False).faults == []
        self.look_at_all(0)
        for thread in self.threads:
            if thread.is_stored:
                self.check_numbering(thread)
                [state] = thread.states
                if thread.is_surely_named:
                    assert read_names(self.home).get(thread.thread_id) == dict(state.fields).get("name")
            if fix:
                thread.may_be_torn = thread.may_haunt = False

    # -- helpers -------------------------------------------------------------------------------------------

    def pick(self, n: int, store: int = 0) -> tuple[Thread, int]:
        """Return a thread and the store that changes it: only its creator can until its first task."""
        thread = self.threads[n % len(self.threads)]
        return thread, store if thread.creator is None else thread.creator

    def item(self, kind: str) -> dict[str, Any]:
        """Return a new item: a message, the start of a turn, or a rollback of the last turn."""
        self.said += 1
        match kind:
            case "m":
                return items_module.message(f"m{self.said}")
            case "t":
                payload: dict[str, Any] = {"type": "task_started", "turn_id": f"t{self.said}"}
            case _:
                payload = {"type": "thread_rolled_back", "num_turns": 1, "id": f"r{self.said}"}
        return {"type": "event_msg", "payload": payload}

    def resume(self, store: int, thread: Thread) -> bool:
        """Open the thread in the store if it has a rollout; return whether it is open."""
        if thread.thread_id in self.opened[store]:
            return True
        params = types.ResumeThreadParams(thread_id=thread.thread_id, include_archived=True)
        try:
            self.runner.run(self.stores[store].resume_thread(params))
        except ThreadNotFound:
            thread.see(lambda state: not state.is_stored, "no rollout")
            return False
        thread.see(lambda state: state.is_stored, "a rollout")
        self.opened[store].add(thread.thread_id)
        return True

    def change(
        self, store: int, thread: Thread, work: Coroutine[Any, Any, Any], effect: Effect, death: Death | None
    ) -> None:
        """Run *work* in the store, and apply *effect* to the model."""
        is_creation = thread.creator == store

        def effect_once_created(state: State) -> tuple[set[State], State]:
            if state.is_stored:
                return effect(state)
            if not is_creation:
                return set(), state
            created = State(is_stored=True)
            between, end = effect(created)
            return {created, *between}, end

        try:
            with self.killer.killing_at(death):
                self.runner.run(work)
        except Killed:
            thread.become(effect_once_created, is_done=False)
            thread.may_be_torn = True
            thread.may_haunt |= not thread.is_stored
            self.kill(store)
            return
        except ThreadNotFound:
            thread.see(lambda state: not state.is_stored and not is_creation, "no rollout")
            return
        thread.see(lambda state: state.is_stored or is_creation, "a rollout")
        thread.become(effect_once_created, is_done=True)
        thread.may_be_torn = False
        if is_creation:
            thread.creator = None

    def kill(self, store: int) -> None:
        """End a store's process, which frees its locks, and start another."""
        note(f"killed at {self.killer.killed_at}")
        self.reopen(store)

    def new_process(self, store: int) -> None:
        for id_ in tuple(self.opened[store]):
            self.closed(store, id_)
        self.stores[store] = LocalThreadStore(self.settings)

    def closed(self, store: int, thread_id: str) -> None:
        self.opened[store].discard(thread_id)
        for thread in self.threads:
            if thread.thread_id == thread_id and thread.creator == store:
                thread.creator = None

    def put_in_place(self, make: Callable[[Path], Any]) -> None:
        """Replace the index with the file that *make* writes."""
        new = self.home.own / "new"
        make(new)
        new.chmod(0o600)
        for suffix in ("-wal", "-shm"):
            self.home.index.with_name(self.home.index.name + suffix).unlink(missing_ok=True)
        new.replace(self.home.index)

    def look_at(self, store: int, thread: Thread) -> None:
        seen = self.runner.run(self.seen(self.stores[store], thread.thread_id))
        thread.see(lambda state: state == seen, seen)

    async def seen(self, store: LocalThreadStore, thread_id: str) -> State:
        """Return the thread as *store* shows it."""
        try:
            read = await store.read_thread(types.ReadThreadParams(thread_id=thread_id))
        except ThreadNotFound:
            with suppress(ThreadNotFound):  # a death may have left a rollout with a torn first line
                assert not (await store.load_history(types.LoadThreadHistoryParams(thread_id=thread_id))).items
            return NOTHING
        history = await items_module.history(store, thread_id)
        # A patch of git or memory mode copies the session_meta, as in codex.
        items = tuple(says({"payload": item.payload}) for item in history if item.type != "session_meta")
        page = await store.list_turns(types.ListTurnsParams(thread_id=thread_id, page_size=1_000))
        assert [turn.turn_id for turn in page.turns] == turns_of(items)
        fields = {name: getattr(read, name) for name in ("name", "title", "model", "thread_source", "memory_mode")}
        fields["branch"] = read.git_info.branch if read.git_info else None
        given = frozenset((name, value) for name, value in fields.items() if value is not None)
        return State(is_stored=True, items=items, fields=given, is_archived=read.archived_at is not None)

    def listed(self, store: int, *, archived: bool) -> set[str]:
        page = self.runner.run(
            self.stores[store].list_threads(types.ListThreadsParams(include_without_preview=True, archived=archived))
        )
        ids = [thread.thread_id for thread in page.items]
        assert len(ids) == len(set(ids))
        return set(ids)

    @staticmethod
    def is_expected(thread: Thread, fault: Fault) -> bool:
        """Whether the doctor may find *fault*."""
        match fault.kind:
            case FaultKind.TORN_TAIL | FaultKind.NO_SESSION_META:
                return thread.may_be_torn
            case FaultKind.ROW_WITHOUT_FILE | FaultKind.NAME_WITHOUT_THREAD:
                return thread.may_haunt and not thread.is_stored
            case FaultKind.BAD_LINE:
                return thread.garbage > 0
            case _:
                return False

    def check_numbering(self, thread: Thread) -> None:
        """Check that our lines are numbered, and that each writer's tasks are in order."""
        path = self.home.require_rollout(thread.thread_id)
        lines = [decode_line(line) for line in path.read_bytes().splitlines()]
        whole = [line for line in lines if line is not None]
        assert len(lines) - len(whole) <= thread.garbage + thread.may_be_torn
        counters: dict[str, int] = {}
        for number, line in enumerate(whole):
            assert line.get("ordinal", number) == number
            if "seq" in line:
                writer, _, n = line["seq"].rpartition(":")
                assert counters.get(writer, 0) <= int(n)
                counters[writer] = int(n)


def says(item: dict[str, Any]) -> str:
    """Return the text that identifies an item."""
    payload = item["payload"]
    return str(payload.get("turn_id") or payload.get("id") or payload["content"][0]["text"])


def turns_of(items: tuple[str, ...]) -> list[str]:
    """Return the turns in *items*, without those that were rolled back."""
    turns: list[str] = []
    for item in items:
        if item[0] == "t":
            turns.append(item)
        elif item[0] == "r":
            del turns[-1:]
    return turns


TestStores = Stores.TestCase
TestStores.settings = machine_settings(examples=35, steps=30)


# -- planted faults ----------------------------------------------------------------------------------------


def test_the_machine_catches_a_store_that_keeps_torn_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_on_without_the_torn_line(state: ThreadState, file: BinaryIO) -> None:
        read_on(state, file)

    monkeypatch.setattr(open_rollout, "read_on", read_on_without_the_torn_line)

    assert_finds_a_fault(Stores)


def test_the_machine_catches_a_store_that_does_not_end_foreign_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_rollout, "_end_last_line", lambda _state, _recorder: None)

    assert_finds_a_fault(Stores)


def test_the_machine_catches_a_store_that_does_not_move_archived_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "move_rollout", lambda _home, _state, _path: None)

    assert_finds_a_fault(Stores)
