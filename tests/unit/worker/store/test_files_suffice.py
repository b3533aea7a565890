"""Whatever happens to a thread, its rows in the index equal the rows of a rebuilt index."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Killed, Mail, Store, item_line
from tests.unit.worker.migration import migrate

from livethread.metadata import GitInfo, MemoryMode, ThreadMetadataPatch
from livethread.metadata_sync import ThreadMetadataSync
from livethread.ordered_tasks import MailboxEntry
from livethread.rollout.lines import decode_line
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write.outcome import OutcomeKind

SESSIONS = 3


class World:
    """One thread, its mailbox and its writers, and everything that can happen to its files."""

    def __init__(self, store: Store, *, creation: dict[str, Any]) -> None:
        self.store = store
        self.mail = Mail(1)
        self.clock = 0
        self.mailbox: list[MailboxEntry] = []
        self.settled = 0
        #: Tasks before this number are not redelivered: their lines may be cut.
        self.kept_from = 0
        self.writers = 0
        #: The index as it is on disk.
        self.on_disk: bytes | None = None
        params = self.mail.create("w0", **creation)
        self.mailbox.append(params)
        self.apply(1)
        self.sessions = [self._new_writer() for _ in range(SESSIONS)]

    # -- sessions ------------------------------------------------------------------------------------------

    def append(self, session: int, items: list[tuple[str, Any]], key: str | None = None) -> None:
        """Append *items* as a `LiveThread` does, with or without an idempotency key."""
        at = AT + timedelta(seconds=self.clock)
        lines = [item_line(kind, self._own(payload), at) for kind, payload in items]
        self.mailbox += self.mail.live(*lines, writer=self.sessions[session], key=key)

    def patch(self, session: int, patch: ThreadMetadataPatch) -> None:
        """Patch through a session; a number without a session stands for a writer of its own."""
        writer = self.sessions[session] if session < SESSIONS else self._new_writer()
        self._post(self.mail.patch(patch, writer=writer))

    def archive(self) -> None:
        at = AT + timedelta(seconds=self.clock)
        self._post(self.mail.archive(writer=self._new_writer(), at=at))

    def unarchive(self) -> None:
        at = AT + timedelta(seconds=self.clock)
        self._post(self.mail.unarchive(writer=self._new_writer(), at=at))

    def resume(self, session: int) -> None:
        """Shut down one session and open another, which reads the thread."""
        self.apply_all()
        self.refresh()
        self.sessions[session] = writer = self._new_writer()
        self.mail.syncs[writer] = ThreadMetadataSync.for_stored(self.store.thread(self.mail))

    def tick(self, seconds: int) -> None:
        self.clock += seconds

    # -- workers -------------------------------------------------------------------------------------------

    def apply(self, count: int, *, again: int = 0) -> None:
        """Apply the next *count* tasks, after the last *again* ones, which are redelivered."""
        begin, end = self._claim(max(self.kept_from, self.settled - again), self.settled + count)
        if begin == end:
            return
        outcome = self.store.apply(self.mail, *self.mailbox[begin:end])
        assert outcome.kind is OutcomeKind.DONE, outcome
        self.settled = end

    def apply_all(self) -> None:
        self.apply(len(self.mailbox))

    def crash(self, count: int) -> None:
        """Apply the next *count* tasks, with a worker that is killed before it commits."""
        begin, end = self._claim(self.settled, self.settled + count)
        batch = self.mailbox[begin:end]
        if not batch:
            return
        with pytest.MonkeyPatch.context() as patched, suppress(Killed):
            patched.setattr(self.store.index, "commit", _killed)
            self.store.apply(self.mail, *batch)

    # -- other programs ------------------------------------------------------------------------------------

    def foreign(self, item: tuple[str, Any]) -> None:
        """Have another program, such as codex, write a line."""
        kind, payload = item
        at = AT + timedelta(seconds=self.clock)
        self._write(item_line(kind, self._own(payload), at) + b"\n")

    def torn(self) -> None:
        """Have another program be killed while it writes a line."""
        self._write(b'{"timestamp":"2026-')

    def migrate(self) -> None:
        """Have codex rewrite a legacy rollout as a paginated one."""
        migrate(self.store.path(self.mail))

    def cut(self, lines: int) -> None:
        """Cut off the last *lines* and half of the line before; their writers are gone, too."""
        self.apply_all()
        path = self.store.path(self.mail)
        lines_before = path.read_bytes().splitlines(keepends=True)
        kept = lines_before[: max(1, len(lines_before) - lines)]
        tail = lines_before[len(kept)][: len(lines_before[len(kept)]) // 2] if len(kept) < len(lines_before) else b""
        if any(b'"archived_at"' in line for line in lines_before[len(kept) :]):
            return  # the folder says that the thread is archived, but nothing says since when
        path.write_bytes(b"".join(kept) + tail)
        self._touch(self._new_writer())
        self.apply_all()
        self.sessions = [self._new_writer() for _ in range(SESSIONS)]
        self.kept_from = self.settled

    def lose_index(self) -> None:
        """Delete the index; the next task reads the thread into a new one."""
        self.store.drop_index()

    def reach_the_disk(self) -> None:
        """Sync the commits of the index to disk."""
        self.on_disk = self.store.index.db.conn.serialize()

    def power_cut(self) -> None:
        """Cut the power: the rollouts are on disk, but the last commits of the index are not."""
        if self.on_disk is not None:
            self.store.index.close()
            for path in self.store.home.own.glob("index.sqlite*"):
                path.unlink()
            self.store.home.index.write_bytes(self.on_disk)
            self.store.index = Index(self.store.home)

    def rebuild(self) -> None:
        rebuild(self.store.home, self.store.index)

    def refresh(self) -> None:
        """Have a reader index the lines that the index does not know."""
        Refresher(self.store.home, self.store.index).refresh(self.mail.thread_id)

    # -- end -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Apply everything, and read the lines of other programs."""
        self._touch("last")
        self.apply_all()

    def tasks_of_keys(self) -> dict[str, set[str]]:
        """Return the tasks whose lines name each idempotency key."""
        tasks: dict[str, set[str]] = {}
        for line in self.store.path(self.mail).read_bytes().splitlines():
            record = decode_line(line) or {}
            if "idempotency_key" in record:
                tasks.setdefault(record["idempotency_key"], set()).add(record["seq"])
        return tasks

    def everything(self) -> dict[str, Any]:
        connection = self.store.index.db.conn
        return {
            **self.store.thread(self.mail).model_dump(mode="json"),
            "turns": self.store.index.turns(self.mail.thread_id, 0, 1_000, backward=False),
            "messages": [
                tuple(row)
                for row in connection.execute("SELECT ordinal, role, text FROM messages ORDER BY ordinal, digest")
            ],
        }

    def _own(self, payload: Any) -> Any:
        return payload | {"id": self.mail.thread_id} if isinstance(payload, dict) and "id" in payload else payload

    def _claim(self, begin: int, end: int) -> tuple[int, int]:
        """Return the bounds of a claim, which never parts an append from its derived patch."""
        begin, end = (n - self._is_derived(n) if n == begin else n + self._is_derived(n) for n in (begin, end))
        return begin, min(len(self.mailbox), end)

    def _is_derived(self, number: int) -> bool:
        return number < len(self.mailbox) and getattr(self.mailbox[number].task.header, "derived", False)

    def _touch(self, writer: str) -> None:
        self._post(self.mail.append_lines(item_line("response_item", {"type": "reasoning"}), writer=writer))

    def _post(self, entry: MailboxEntry) -> MailboxEntry:
        self.mailbox.append(entry)
        return entry

    def _write(self, data: bytes) -> None:
        with self.store.path(self.mail).open("ab") as file:
            file.write(data)

    def _new_writer(self) -> str:
        self.writers += 1
        return f"w{self.writers}"


def _killed(*_: Any) -> None:
    raise Killed


# -- steps -------------------------------------------------------------------------------------------------


def event(kind: str, **fields: Any) -> tuple[str, Any]:
    return "event_msg", {"type": kind, **fields}


ITEMS: list[tuple[str, Any]] = [
    *(event("user_message", message=text) for text in ("a", "b", "## My request for Codex: c", "")),
    event("user_message", message="", images=["i"]),
    event("thread_goal_updated", goal={"objective": "goal"}),
    *(("turn_context", {"model": model, "effort": "low"}) for model in "mn"),
    *(("turn_context", {"cwd": cwd, "approval_policy": "never"}) for cwd in ("/x", "/y")),
    *(event("token_count", info={"total_token_usage": {"total": n}}) for n in (1, 2)),
    event("task_started", turn_id="t"),
    event("task_complete", turn_id="t"),
    event("thread_rolled_back", num_turns=1),
    event("agent_message", message="said"),
    ("response_item", {"type": "reasoning"}),
    ("session_meta", {"id": "own", "timestamp": "2026-01-01T00:00:00Z", "source": "exec", "cwd": "/meta"}),
    ("session_meta", {"id": "own", "model_provider": "p", "git": {"branch": "meta"}, "agent_role": "meta"}),
]
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["n1", "n2", None]),
        "preview": st.sampled_from(["asked", ""]),
        "title": st.sampled_from(["asked", ""]),
        "first_user_message": st.sampled_from(["asked", ""]),
        "model": st.sampled_from(["asked", ""]),
        "model_provider": st.just("asked"),
        "created_at": st.sampled_from([AT - timedelta(days=1), AT + timedelta(days=1)]),
        "updated_at": st.sampled_from([AT - timedelta(days=1), AT + timedelta(days=1)]),
        "advance_recency_at": st.sampled_from([AT - timedelta(days=1), AT + timedelta(days=1)]),
        "source": st.sampled_from(["vscode", {"custom": "x"}]),
        "thread_source": st.sampled_from(["automation", None]),
        "agent_role": st.sampled_from(["asked", None]),
        "cwd": st.sampled_from(["/asked", ""]),
        "cli_version": st.sampled_from(["9", ""]),
        "approval_mode": st.just("on-request"),
        "token_usage": st.just({"total": 9}),
        "git_info": st.fixed_dictionaries(
            {}, optional={"sha": st.sampled_from(["s", None]), "branch": st.sampled_from(["asked", None])}
        ),
        "memory_mode": st.sampled_from(["enabled", "disabled"]),
        "history_mode": st.sampled_from(["paginated", "legacy"]),
    },
)
SESSION = st.integers(0, SESSIONS - 1)
COUNT = st.integers(1, 6)


def step(method: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(method), st.tuples(*arguments), st.fixed_dictionaries(named))


WRITING = [
    step("append", SESSION, st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3)),
    step("append", SESSION, st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3), st.sampled_from(["k1", "k2"])),
    step("patch", st.integers(0, SESSIONS), PATCHES.map(ThreadMetadataPatch.model_validate)),
    step("tick", st.integers(0, 9)),
    step("resume", SESSION),
    step("archive"),
    step("unarchive"),
    step("apply", COUNT, again=st.integers(0, 4)),
]
DAMAGE = [
    step("crash", COUNT),
    step("foreign", st.sampled_from(ITEMS)),
    step("torn"),
    step("migrate"),
    step("cut", st.integers(0, 4)),
    step("lose_index"),
    step("reach_the_disk"),
    step("power_cut"),
    step("rebuild"),
    step("refresh"),
]
CREATIONS = st.sampled_from([
    {},
    {"cwd": "/work", "git": GitInfo(branch="main"), "thread_source": "user", "memory_mode": MemoryMode.ENABLED},
])


def assert_a_rebuild_changes_nothing(steps: list[Any], creation: dict[str, Any]) -> None:
    """Run *steps*, and check that rebuilding the index changes nothing in it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            world = World(store, creation=creation)
            for method, arguments, named in steps:
                getattr(world, method)(*arguments, **named)
            world.finish()
            assert [key for key, tasks in world.tasks_of_keys().items() if len(tasks) > 1] == []
            known = world.everything()
            store.drop_index()
            rebuild(store.home, store.index)
            rebuilt = world.everything()
            assert {key: (value, rebuilt[key]) for key, value in known.items() if rebuilt[key] != value} == {}
        finally:
            store.close()


@settings(max_examples=40, derandomize=True)
@given(steps=st.lists(st.one_of(WRITING), max_size=25), creation=CREATIONS)
def test_everything_written_is_in_the_files(steps: list[Any], creation: dict[str, Any]) -> None:
    assert_a_rebuild_changes_nothing(steps, creation)


@settings(max_examples=40, derandomize=True)
@given(steps=st.lists(st.one_of(*WRITING, *DAMAGE), max_size=25), creation=CREATIONS)
def test_whatever_happens_to_the_files_the_index_follows_them(steps: list[Any], creation: dict[str, Any]) -> None:
    assert_a_rebuild_changes_nothing(steps, creation)


def turn_of(model: str) -> list[tuple[str, Any]]:
    return [("turn_context", {"model": model})]


ASKED = ThreadMetadataPatch(model="asked", history_mode="paginated")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            [("append", 0, turn_of("m")), ("patch", SESSIONS, ASKED), ("crash", 2)], id="another writer's patch"
        ),
        pytest.param([("append", 0, turn_of("m")), ("patch", 0, ASKED), ("crash", 2)], id="the writer's own patch"),
        pytest.param(
            [
                ("append", 0, turn_of("m")),
                ("patch", SESSIONS, ThreadMetadataPatch(title="asked")),
                ("crash", 2),
                ("foreign", *turn_of("n")),
            ],
            id="a foreign line",
        ),
        pytest.param(
            [
                ("append", 0, turn_of("m")),
                ("append", 1, turn_of("n")),
                ("patch", SESSIONS, ASKED),
                ("crash", 3),
                ("refresh",),
                ("apply", 1),
            ],
            id="refreshed by a reader",
        ),
        pytest.param([("unarchive",), ("archive",), ("crash", 2)], id="archived after an unarchive without effect"),
    ],
)
def test_after_a_crash_a_smaller_batch_keeps_the_metadata_of_later_lines(
    steps: list[tuple[str, Any]],
) -> None:
    """A crash leaves the lines of more tasks than the next batch redelivers."""
    assert_a_rebuild_changes_nothing(
        [*((method, arguments, {}) for method, *arguments in steps), ("apply", (1,), {})], {}
    )
