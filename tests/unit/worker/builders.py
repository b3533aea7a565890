"""Builders for mailbox entries, and a home to apply them to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.metadata_sync import ThreadMetadataSync
from livethread.model import parse_time
from livethread.ordered_tasks import (
    AppendItems,
    ArchiveThread,
    CreateThread,
    DeleteThread,
    MailboxEntry,
    OrderedTask,
    UnarchiveThread,
    UpdateThreadMetadata,
)
from livethread.position import START
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import encode_line
from livethread.rollout.session_meta import session_meta
from livethread.types import CreateThreadParams
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.rebuild import read_state
from livethread_worker.store.write.batch import apply_batch
from livethread_worker.store.write.outcome import Outcome

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = "sessions/2026/11/22"


def thread_id(n: int) -> str:
    return f"019a93b9-f380-7600-98ff-{n:012x}"


def item_line(type_: str, payload: Any, at: datetime = AT) -> bytes:
    return encode_line(RolloutItem(type=type_, payload=payload), at, max_bytes=1_000_000)


def message_line(text: str, at: datetime = AT) -> bytes:
    return item_line("event_msg", {"type": "user_message", "message": text}, at)


def numbered(position: str, writer: str, n: int) -> MailboxEntry:
    """Return an append with this position and counter; its lines come from elsewhere."""
    return MailboxEntry(position, writer, n, OrderedTask(AppendItems(at=AT), (message_line("elsewhere"),)))


def append_bytes(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


#: Valid items with odd values in the fields that the store reads.
ODD_ITEMS = {
    "a rollback of 10**30 turns": item_line("event_msg", {"type": "thread_rolled_back", "num_turns": 10**30}),
    "a rollback of -10**30 turns": item_line("event_msg", {"type": "thread_rolled_back", "num_turns": -(10**30)}),
    "a turn with an odd id": item_line("event_msg", {"type": "task_started", "turn_id": "\0" * 3 + "x" * 10_000}),
    "a message that is an object": item_line("event_msg", {"type": "user_message", "message": {"a": 2**70}}),
    "a message of NUL characters": item_line("event_msg", {"type": "user_message", "message": "\0\0"}),
    "a role that is a list": item_line("response_item", {"type": "message", "role": ["user"], "content": []}),
    "content parts without text": item_line(
        "response_item", {"type": "message", "role": "user", "content": [[7], {"text": 7}]}
    ),
    "a payload that is a list": item_line("turn_context", [1]),
}


class Mail:
    """Makes the mailbox entries of one thread, in order, with a counter for each writer."""

    def __init__(self, n: int = 1) -> None:
        self.thread_id = thread_id(n)
        self.counters: Counter[str] = Counter()
        #: What each writer's `LiveThread` derives patches from.
        self.syncs: dict[str, ThreadMetadataSync] = {}
        self._positions = 1_000

    def create(self, writer: str = "w1", **params: Any) -> MailboxEntry:
        created = CreateThreadParams.model_validate({"thread_id": self.thread_id, "created_at": AT} | params)
        return self._entry(
            writer, OrderedTask(CreateThread(at=created.created_at, session_meta=session_meta(created)))
        )

    def append(self, *texts: str, writer: str = "w1", key: str | None = None) -> MailboxEntry:
        return self.append_lines(*map(message_line, texts), writer=writer, key=key)

    def append_lines(self, *lines: bytes, writer: str = "w1", key: str | None = None) -> MailboxEntry:
        return self._entry(writer, OrderedTask(AppendItems(at=AT, idempotency_key=key), lines))

    def live(self, *lines: bytes, writer: str = "w1", key: str | None = None) -> list[MailboxEntry]:
        """Append *lines* as a `LiveThread` does: with the derived patch, if there is one."""
        sync = self.syncs.setdefault(writer, ThreadMetadataSync(self.thread_id))
        for line in lines:
            record = json.loads(line)
            sync.add(record["type"], record["payload"], parse_time(record["timestamp"]) or AT)
        entries = [self.append_lines(*lines, writer=writer, key=key)]
        if (update := sync.take()) is not None:
            if key is None:
                sync.confirm(update)
            entries.append(self._entry(writer, OrderedTask(UpdateThreadMetadata.of(update, at=AT, derived=True))))
        return entries

    def patch(self, patch: ThreadMetadataPatch, *, writer: str = "w1") -> MailboxEntry:
        return self._entry(writer, OrderedTask(UpdateThreadMetadata(at=AT, patch=patch)))

    def archive(self, *, writer: str = "w1", at: datetime = AT) -> MailboxEntry:
        return self._entry(writer, OrderedTask(ArchiveThread(at=at)))

    def unarchive(self, *, writer: str = "w1", at: datetime = AT) -> MailboxEntry:
        return self._entry(writer, OrderedTask(UnarchiveThread(at=at)))

    def delete(self, *, writer: str = "w1") -> MailboxEntry:
        return self._entry(writer, OrderedTask(DeleteThread(at=AT)))

    def _entry(self, writer: str, task: OrderedTask) -> MailboxEntry:
        self.counters[writer] += 1
        self._positions += 1
        return MailboxEntry(f"{self._positions}-0", writer, self.counters[writer], task)


class Store:
    """A home with its index, as a drain uses them."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.create()
        self.index = Index(self.home)

    def close(self) -> None:
        self.index.close()

    def commit(self, *states: ThreadState, loaded: StoredThread | None = None) -> None:
        """Store *states*; *loaded* is what the index holds of their threads."""
        for state in states:
            known = self.index.rollout(state.thread_id)
            state.loaded_bytes = known[1] if known else None
        assert self.index.commit([thread_rows(state, loaded) for state in states]) == set()

    def drop_index(self) -> None:
        """Delete the index and make an empty one."""
        self.index.close()
        for path in self.home.own.glob("index.sqlite*"):
            path.unlink()
        self.index = Index(self.home)

    def apply(self, mail: Mail, *entries: MailboxEntry) -> Outcome:
        return self.apply_batch({mail.thread_id: entries})[mail.thread_id]

    def apply_batch(self, batch: Mapping[str, Sequence[MailboxEntry]]) -> dict[str, Outcome]:
        return apply_batch(self.home, self.index, batch, sync=False)

    def write_rollout(self, thread_id: str, *lines: bytes, tail: bytes = b"") -> Path:
        """Write a rollout as another program would: the index does not know it."""
        path = self.home.new_rollout(thread_id, AT)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = item_line("session_meta", {"id": thread_id, "timestamp": "2026-11-22T12:00:00.000Z"})
        path.write_bytes(b"".join(line + b"\n" for line in (meta, *lines)) + tail)
        return path

    def read_in(self, *thread_ids: str) -> None:
        """Read the rollouts of *thread_ids* into the index."""
        states = [read_state(self.home, id_, self.home.require_rollout(id_), {}) for id_ in thread_ids]
        self.index.replace([thread_rows(state, None) for state in states])

    def forget(self, *thread_ids: str) -> None:
        """Delete the rows of *thread_ids* from the index."""
        self.index.commit((), thread_ids)

    def path(self, mail: Mail) -> Path:
        return self.home.require_rollout(mail.thread_id)

    def records(self, mail: Mail) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path(mail).read_bytes().splitlines()]

    def texts(self, mail: Mail) -> list[str]:
        """Return the user messages in the rollout."""
        return [r["payload"]["message"] for r in self.records(mail) if r["payload"].get("type") == "user_message"]

    def numbering(self, mail: Mail) -> list[tuple[int | None, str | None]]:
        """Return each line's ordinal and seq."""
        return [(record.get("ordinal"), record.get("seq")) for record in self.records(mail)]

    def thread(self, mail: Mail) -> StoredThread:
        """Return the thread without its position: no rollout holds it, so a rebuild forgets it."""
        thread = self.index.read_thread(mail.thread_id)
        assert thread is not None
        return thread.model_copy(update={"position": START})

    def quarantined(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.home.quarantine.iterdir())]


def opened_store(root: Path) -> Iterator[Store]:
    store = Store(root)
    yield store
    store.close()


class Killed(BaseException):
    """The process dies here."""


@contextmanager
def killed(target: object, name: str, *, after: int | None = None) -> Iterator[None]:
    """Kill the process instead of a call of *name*; with *after*, once that many calls have returned."""
    original = getattr(target, name)
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if after is None:
            raise Killed
        result = original(*args, **kwargs)
        calls += 1
        if calls == after:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target, name, call)
        with pytest.raises(Killed):
            yield
