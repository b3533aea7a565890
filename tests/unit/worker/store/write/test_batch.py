from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import AT, DAY, ODD_ITEMS, Mail, Store, item_line, message_line
from tests.unit.worker.conftest import LimitFileSize

from livethread.errors import Conflict, InvalidRequest, ThreadNotFound
from livethread.metadata import GitInfo, GitInfoPatch, MemoryMode, ThreadMetadataPatch
from livethread.model import format_time
from livethread_worker.flock import flock
from livethread_worker.store.files import sync
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.upkeep.rebuild import read_state
from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write import archive_thread, delete_thread
from livethread_worker.store.write import batch as batch_module
from livethread_worker.store.write.batch import apply_batch
from livethread_worker.store.write.outcome import Outcome, OutcomeKind
from livethread_worker.store.write.thread_work import number_line

DONE, POISONED, FAILED, BUSY = OutcomeKind.DONE, OutcomeKind.POISONED, OutcomeKind.FAILED, OutcomeKind.BUSY


@pytest.fixture
def mail() -> Mail:
    return Mail(1)


@pytest.fixture
def other() -> Mail:
    return Mail(2)


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


# -- in order, exactly once --------------------------------------------------------------------------------


def test_a_threads_tasks_become_its_rollout_and_its_row(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(cwd="/work"), mail.append("a", "b"), mail.append("c"))

    assert outcome == Outcome(DONE, "1003-0")
    assert store.home.relative(store.path(mail)) == f"{DAY}/rollout-2026-11-22T12-00-00-{mail.thread_id}.jsonl"
    assert store.texts(mail) == ["a", "b", "c"]
    assert store.numbering(mail) == [(0, "w1:1"), (1, "w1:2"), (2, "w1:2"), (3, "w1:3")]
    assert (store.thread(mail).cwd, store.thread(mail).rollout_path) == ("/work", store.path(mail))
    assert stat.S_IMODE(store.path(mail).stat().st_mode) == 0o600


def test_a_batch_applies_every_thread_and_says_how_far(store: Store, mail: Mail, other: Mail) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a")],
        other.thread_id: [other.create(), other.append("b"), other.append("c")],
    })

    assert outcomes == {mail.thread_id: Outcome(DONE, "1002-0"), other.thread_id: Outcome(DONE, "1003-0")}
    assert (store.texts(mail), store.texts(other)) == (["a"], ["b", "c"])


def test_applying_the_same_entries_again_changes_no_byte(store: Store, mail: Mail) -> None:
    entries = [mail.create(), mail.append("a", "b"), mail.patch(ThreadMetadataPatch(title="t")), mail.append("c")]
    store.apply(mail, *entries)
    before, thread = store.path(mail).read_bytes(), store.thread(mail)

    for part in (entries, entries[1:], entries[-1:]):
        assert store.apply(mail, *part) == Outcome(DONE, "1004-0")

    assert store.path(mail).read_bytes() == before
    assert store.thread(mail) == thread


def test_a_redelivered_task_between_new_ones_is_passed_over(store: Store, mail: Mail) -> None:
    create, first = mail.create(), mail.append("first")
    store.apply(mail, create, first)

    store.apply(mail, first, mail.append("second"))

    assert store.texts(mail) == ["first", "second"]


def test_tasks_of_two_writers_keep_the_order_of_the_mailbox(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("1"), mail.append("2", writer="w2"), mail.append("3"))
    store.apply(mail, mail.append("4", writer="w2"))

    assert store.texts(mail) == ["1", "2", "3", "4"]
    assert [seq for _, seq in store.numbering(mail)] == ["w1:1", "w1:2", "w2:1", "w1:3", "w2:2"]


# -- crashes -----------------------------------------------------------------------------------------------


def test_a_crash_at_any_byte_of_a_write_is_made_good(store: Store) -> None:
    """What stands is recognised line by line, what is torn is set aside, what is missing is written."""
    first, second = message_line("héllo"), message_line("world")
    expected = number_line(first, 1, "w1:2") + number_line(second, 2, "w1:2")

    for written in range(len(expected) + 1):
        mail = Mail(1_000 + written)
        store.apply(mail, mail.create())
        size = store.path(mail).stat().st_size
        add(store.path(mail), expected[:written])

        outcome = store.apply(mail, mail.append("héllo", "world"))

        assert outcome == Outcome(DONE, "1002-0")
        assert store.path(mail).read_bytes()[size:] == expected, f"after {written} bytes"


def test_a_torn_tail_goes_to_the_quarantine_and_nowhere_else(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    torn = '{"timestamp":"2026-11-22T12:00:00.000Z","type":"event_msg","payload":"é'.encode()[:-1]
    add(store.path(mail), torn)

    outcome = store.apply(mail, mail.append("b"))

    assert outcome.kind is DONE
    assert store.texts(mail) == ["a", "b"]
    assert store.quarantined() == [torn]
    assert [stat.S_IMODE(path.stat().st_mode) for path in store.home.quarantine.iterdir()] == [0o600]


def test_a_creation_that_crashed_half_way_is_made_good(store: Store, mail: Mail) -> None:
    create = mail.create()
    store.apply(mail, create)
    whole = store.path(mail).read_bytes()
    store.drop_index()
    store.path(mail).write_bytes(whole[:50])

    outcome = store.apply(mail, create, mail.append("a"))

    assert outcome == Outcome(DONE, "1002-0")
    assert store.path(mail).read_bytes().startswith(whole)
    assert (store.texts(mail), store.quarantined()) == (["a"], [whole[:50]])


def test_an_empty_file_in_a_new_rollouts_place_is_written(store: Store, mail: Mail) -> None:
    create = mail.create()
    store.apply(mail, create)
    store.drop_index()
    store.path(mail).write_bytes(b"")

    assert store.apply(mail, create, mail.append("a")) == Outcome(DONE, "1002-0")

    assert store.texts(mail) == ["a"]


def test_a_rollout_that_was_cut_within_a_line_does_not_get_ours_glued_on(store: Store, mail: Mail) -> None:
    """Without fdatasync, a machine that loses power can come back with less than the index knows."""
    store.apply(mail, mail.create(), mail.append("kept"), mail.append("lost"))
    os.truncate(store.path(mail), store.path(mail).stat().st_size - 10)

    outcome = store.apply(mail, mail.append("after"))

    assert outcome.kind is DONE
    lines = store.path(mail).read_bytes().splitlines()
    assert json.loads(lines[-1])["payload"]["message"] == "after"


# -- the index is disposable -------------------------------------------------------------------------------


def test_an_index_that_is_deleted_between_batches_loses_nothing(store: Store, mail: Mail) -> None:
    entries = [mail.create(cwd="/work"), mail.append("a"), mail.append("b", writer="w2")]
    store.apply(mail, *entries)
    store.drop_index()

    outcome = store.apply(mail, *entries, mail.append("c"))

    assert outcome == Outcome(DONE, "1004-0")
    assert store.texts(mail) == ["a", "b", "c"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, 2, 3]


PATCHES = {
    "name": ThreadMetadataPatch(name="n"),
    "title": ThreadMetadataPatch(title="t", preview="p"),
    "git": ThreadMetadataPatch(git_info=GitInfoPatch(sha="s2", branch="b2", origin_url="u2")),
    "one git field": ThreadMetadataPatch(git_info=GitInfoPatch(branch="b2")),
    "one git field cleared": ThreadMetadataPatch(git_info=GitInfoPatch(branch=None)),
    "git cleared": ThreadMetadataPatch(git_info=GitInfoPatch(sha=None, branch=None, origin_url=None)),
    "memory mode": ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED),
    "thread source": ThreadMetadataPatch(thread_source="automation"),
    "agent": ThreadMetadataPatch(agent_nickname=None, agent_role="r", agent_path="/p"),
    "model": ThreadMetadataPatch(model="m", reasoning_effort="high", model_provider="azure"),
    "place": ThreadMetadataPatch(cwd="/moved", source="exec", cli_version="9"),
    "approval": ThreadMetadataPatch(approval_mode={"a": None}, permission_profile="p", token_usage={"n": 2**70}),
    "history mode": ThreadMetadataPatch(history_mode="paginated"),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=list(PATCHES))
@pytest.mark.parametrize("when", ["before the first message", "after it"])
def test_what_somebody_asked_for_is_in_the_files_alone(
    store: Store, mail: Mail, patch: ThreadMetadataPatch, when: str
) -> None:
    store.apply(mail, mail.create(cwd="/work", git=GitInfo(commit_hash="s", branch="b"), agent_nickname="Ada"))
    if when.startswith("before"):
        store.apply(mail, mail.patch(patch))
    store.apply(mail, *mail.live(message_line("hi")))
    if when.startswith("after"):
        store.apply(mail, mail.patch(patch))
    before = store.thread(mail)

    store.drop_index()
    store.apply(mail, mail.append("later"))

    assert store.thread(mail) == before


# -- others in the home ------------------------------------------------------------------------------------


def test_foreign_lines_are_adopted_and_ordinals_go_on(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("ours"))
    add(store.path(mail), message_line("codex's") + b"\n" + message_line("codex's too") + b"\n")

    outcome = store.apply(mail, mail.append("ours again"))

    assert outcome.kind is DONE
    assert store.texts(mail) == ["ours", "codex's", "codex's too", "ours again"]
    assert store.numbering(mail) == [(0, "w1:1"), (1, "w1:2"), (None, None), (None, None), (4, "w1:3")]


def test_what_foreign_lines_say_is_taken(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    add(store.path(mail), message_line("from codex") + b"\n" + item_line("turn_context", {"model": "m"}) + b"\n")

    store.apply(mail, mail.append("ours"))

    assert (store.thread(mail).title, store.thread(mail).model) == ("from codex", "m")


def test_no_copy_of_the_session_meta_is_written_into_a_paginated_thread(store: Store, mail: Mail) -> None:
    """Codex reads such a rollout from its end to a session_meta: the model would forget what stands before a copy."""
    meta = {"id": mail.thread_id, "history_mode": "paginated", "git": {"branch": "main", "commit_hash": "c"}}
    store.write_rollout(mail.thread_id).write_bytes(item_line("session_meta", meta) + b"\n")
    patches = [mail.patch(ThreadMetadataPatch(git_info=GitInfoPatch(branch=branch))) for branch in ("a", "b")]

    store.apply(mail, *patches)
    store.apply(mail, *patches)
    store.drop_index()
    store.read_in(mail.thread_id)

    assert [record["type"] for record in store.records(mail)] == ["session_meta", *["thread_metadata"] * 2]
    assert store.thread(mail).git_info == GitInfo(branch="b", commit_hash="c")


def test_a_foreign_last_line_without_its_end_gets_one(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    add(store.path(mail), message_line("codex's"))

    store.apply(mail, mail.append("ours"))

    assert (store.texts(mail), store.quarantined()) == (["codex's", "ours"], [])


def test_a_foreign_last_line_without_its_end_gets_one_also_after_a_reader_took_it_in(
    store: Store, mail: Mail
) -> None:
    """The index then has the whole file: nothing stands beyond the committed length."""
    store.apply(mail, mail.create())
    add(store.path(mail), message_line("codex's"))
    Refresher(store.home, store.index).refresh(mail.thread_id)

    store.apply(mail, mail.append("ours"))

    assert (store.texts(mail), store.quarantined()) == (["codex's", "ours"], [])
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, None, 2]


def test_a_thread_of_codex_is_written_on(store: Store, mail: Mail) -> None:
    path = store.home.sessions / "2025" / "01" / "02" / f"rollout-2025-01-02T03-04-05-{mail.thread_id}.jsonl"
    path.parent.mkdir(parents=True)
    meta = {"id": mail.thread_id, "timestamp": "2025-01-02T03:04:05.000Z", "cwd": "/c", "source": "vscode"}
    path.write_bytes(item_line("session_meta", meta) + b"\n" + message_line("codex's") + b"\n")

    outcome = store.apply(mail, mail.append("ours"))

    assert outcome == Outcome(DONE, "1001-0")
    assert (store.texts(mail), store.thread(mail).title) == (["codex's", "ours"], "codex's")
    assert store.numbering(mail)[-1] == (2, "w1:1")


def test_a_rollout_that_somebody_moved_is_found_again(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    store.home.archived_sessions.mkdir()
    moved = store.path(mail).rename(store.home.archived_sessions / store.path(mail).name)

    outcome = store.apply(mail, mail.append("b"))

    assert outcome.kind is DONE
    assert (store.path(mail), store.texts(mail)) == (moved, ["a", "b"])
    assert store.thread(mail).rollout_path == moved


def test_a_rollout_that_is_gone_stops_its_thread_and_no_other(store: Store, mail: Mail, other: Mail) -> None:
    store.apply(mail, mail.create())
    store.path(mail).unlink()

    outcomes = store.apply_batch({
        mail.thread_id: [mail.append("a")],
        other.thread_id: [other.create()],
    })

    assert (outcomes[mail.thread_id].kind, outcomes[mail.thread_id].position) == (POISONED, None)
    assert "holds no rollout of it" in outcomes[mail.thread_id].reason
    assert outcomes[other.thread_id] == Outcome(DONE, "1001-0")


ODD_LINES = {
    "a number beyond 64 bits as ordinal": b'{"ordinal":%d,"type":"x","payload":1}' % 10**30,
    "a number beyond 64 bits as counter": b'{"ordinal":3,"seq":"w1:%d","type":"x","payload":1}' % 10**30,
    "a counter that Python cannot read": b'{"ordinal":3,"seq":"w1:' + b"9" * 5_000 + b'","type":"x","payload":1}',
    "a time beyond the calendar": b'{"timestamp":"0001-01-01T00:00:00+14:00","type":"event_msg","payload":{"type":"x"}}',
    "a field named cls": b'{"type":"x","payload":1,"cls":1}',
    "a memory mode that is an object": b'{"type":"session_meta","payload":{"id":"%b","memory_mode":{}}}'
    % Mail(1).thread_id.encode(),
    "absurd nesting beside a long number": b'{"n":12345678901234567890,"d":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "half a character beside a long number": b'{"type":"event_msg","n":12345678901234567890,'
    b'"payload":{"type":"user_message","message":"\\ud800"}}',
    "half a character as a turn's id": b'{"type":"event_msg","n":12345678901234567890,'
    b'"payload":{"type":"task_started","turn_id":"\\ud800"}}',
    "half a character as a model": b'{"type":"turn_context","n":12345678901234567890,"payload":{"model":"\\ud800"}}',
    "text that is no UTF-8": b'{"type":"x","payload":"\xff"}',
    "garbage": b"\0garbage",
}


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=list(ODD_LINES))
def test_no_foreign_line_holds_up_its_thread_or_another(store: Store, mail: Mail, other: Mail, line: bytes) -> None:
    store.apply(mail, mail.create())
    add(store.path(mail), line + b"\n")

    outcomes = store.apply_batch({
        mail.thread_id: [mail.append("a")],
        other.thread_id: [other.create()],
    })

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert message_line("a")[50:] in store.path(mail).read_bytes()


# -- poison ------------------------------------------------------------------------------------------------


def test_poison_stops_its_thread_there_and_no_other(store: Store, mail: Mail, other: Mail) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a"), mail.append_lines(b"garbage"), mail.append("never")],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes == {
        mail.thread_id: Outcome(
            POISONED,
            "1002-0",
            "InvalidRequest: a line of an append_items holds no item",
            outcomes[mail.thread_id].error,
        ),
        other.thread_id: Outcome(DONE, "1002-0"),
    }
    assert type(outcomes[mail.thread_id].error) is InvalidRequest
    assert (store.texts(mail), store.texts(other)) == (["a"], ["b"])


def test_a_thread_that_was_never_created_is_poison(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.append("a"))

    assert (outcome.kind, outcome.position) == (POISONED, None)
    assert outcome.reason.startswith("ThreadNotFound: ")
    assert type(outcome.error) is ThreadNotFound
    assert store.index.read_thread(mail.thread_id) is None


def test_a_poisoned_creation_leaves_nothing_and_is_poison_again_when_it_is_retried(store: Store, mail: Mail) -> None:
    misnamed = Mail(7).create()

    outcomes = [store.apply(mail, misnamed, mail.append("a")) for _ in range(2)]

    assert [(outcome.kind, outcome.position) for outcome in outcomes] == [(POISONED, None)] * 2
    assert [path for path in store.home.sessions.rglob("*") if path.is_file()] == []
    assert store.index.rollout(mail.thread_id) is None
    assert store.apply(mail, mail.create()).kind is DONE


@pytest.mark.parametrize("line", ODD_ITEMS.values(), ids=list(ODD_ITEMS))
def test_no_item_whatever_holds_up_its_thread_or_another(store: Store, mail: Mail, other: Mail, line: bytes) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append_lines(line), mail.append("a")],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes == {mail.thread_id: Outcome(DONE, "1003-0"), other.thread_id: Outcome(DONE, "1002-0")}


def test_a_patch_that_cannot_be_stored_stops_its_thread_and_no_other(store: Store, mail: Mail, other: Mail) -> None:
    """One client's odd value must never hold up a shard."""
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    odd = ThreadMetadataPatch.model_construct(
        _fields_set={"title", "approval_mode"}, title="half", approval_mode=deep
    )

    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a"), mail.patch(odd)],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes[other.thread_id] == Outcome(DONE, "1002-0")
    assert (outcomes[mail.thread_id].kind, outcomes[mail.thread_id].position) == (POISONED, "1002-0")
    assert store.thread(mail).title is None


def test_a_thread_id_whose_time_is_absurd_stops_itself_and_no_other(store: Store, other: Mail) -> None:
    absurd = Mail(1)
    absurd.thread_id = "ffffffff-ffff-7fff-bfff-ffffffffffff"

    outcomes = store.apply_batch({
        absurd.thread_id: [absurd.append("a")],
        other.thread_id: [other.create()],
    })

    assert (outcomes[absurd.thread_id].kind, outcomes[other.thread_id].kind) == (POISONED, DONE)


# -- what may pass -----------------------------------------------------------------------------------------


def test_a_thread_that_somebody_writes_is_busy_and_the_others_go_on(store: Store, mail: Mail, other: Mail) -> None:
    lock = Path(store.home.thread_lock(mail.thread_id))
    with lock.open("wb") as codex:
        fcntl.flock(codex, fcntl.LOCK_EX)

        outcomes = store.apply_batch({
            mail.thread_id: [mail.create()],
            other.thread_id: [other.create()],
        })

    assert outcomes == {
        mail.thread_id: Outcome(OutcomeKind.LOCKED, reason=f"{mail.thread_id}.lock is held by another writer"),
        other.thread_id: Outcome(DONE, "1001-0"),
    }
    assert store.home.find_rollout(mail.thread_id) is None


def test_a_busy_thread_is_applied_once_it_is_free(store: Store, mail: Mail) -> None:
    create, append = mail.create(), mail.append("a")
    with Path(store.home.thread_lock(mail.thread_id)).open("wb") as codex:
        fcntl.flock(codex, fcntl.LOCK_EX)
        store.apply(mail, create, append)

    assert store.apply(mail, create, append) == Outcome(DONE, "1002-0")
    assert store.texts(mail) == ["a"]


def test_no_lock_is_held_after_a_batch(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append_lines(b"garbage"))

    with Path(store.home.thread_lock(mail.thread_id)).open("rb") as lock:
        assert flock(lock.fileno())


def test_a_full_disk_fails_the_thread_and_leaves_no_half_a_line(
    store: Store, mail: Mail, limit_file_size: LimitFileSize
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    before = store.path(mail).read_bytes()
    long = mail.append("x" * 100_000)
    with limit_file_size(50_000):
        outcome = store.apply(mail, long)

    assert (outcome.kind, outcome.position) == (FAILED, None)
    assert "File too large" in outcome.reason
    assert store.path(mail).read_bytes() == before
    assert store.apply(mail, long) == Outcome(DONE, "1003-0")
    assert store.texts(mail) == ["a", "x" * 100_000]


@pytest.mark.usefixtures("one_by_one")
def test_a_rollout_that_cannot_be_forced_to_the_disk_fails_its_thread_alone(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create(), each.append("a")] for each in (mail, other)}
    synced = []

    def force(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if os.path.samestat(os.fstat(descriptor), store.path(other).stat()):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(sync, "_datasync", force)
        outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert outcomes[mail.thread_id] == Outcome(DONE, "1002-0")
    assert (outcomes[other.thread_id].kind, outcomes[other.thread_id].position) == (FAILED, None)
    assert "Input/output error" in outcomes[other.thread_id].reason
    assert sorted(synced) == sorted(store.path(each).stat().st_ino for each in (mail, other))
    assert store.index.read_thread(other.thread_id) is None
    assert (
        store.path(other).read_bytes() == b""
    )  # the kernel takes its pages for written: they are to be written again
    assert {outcome.kind for outcome in apply_batch(store.home, store.index, batch, sync=True).values()} == {DONE}
    assert store.texts(mail) == store.texts(other) == ["a"]


def test_nothing_is_committed_before_its_rollout_is_on_the_disk(
    store: Store, mail: Mail, other: Mail, forcing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def force(_: int) -> None:
        time.sleep(0.02)  # long enough for a commit that does not wait
        steps.append("synced")

    monkeypatch.setattr(sync, forcing, force)
    store.index.db.conn.set_trace_callback(steps.append)

    apply_batch(store.home, store.index, {each.thread_id: [each.create()] for each in (mail, other)}, sync=True)

    calls = 2 if forcing == "_datasync" else 1
    assert [step for step in steps if step in {"synced", "COMMIT"}] == [*["synced"] * calls, "COMMIT"]


def steps_beside_a_slow_disk(store: Store, monkeypatch: pytest.MonkeyPatch, slow: str) -> list[str]:
    """Have *slow*, which forces something to the disk, wait until the index is let go; return what is done, in order."""
    steps: list[str] = []
    let_go = threading.Event()

    def force(_: object) -> None:
        let_go.wait(60)
        steps.append("synced")

    def note(statement: str) -> None:
        steps.append(statement)
        if statement == "ROLLBACK":
            let_go.set()

    monkeypatch.setattr(sync, slow, force)
    monkeypatch.setattr(batch_module, "HELD_FOR_DISK", 0.01)
    store.index.db.conn.set_trace_callback(note)
    return steps


def waited(calls: int) -> list[str]:
    return ["BEGIN IMMEDIATE", "ROLLBACK", *["synced"] * calls, "BEGIN IMMEDIATE", "COMMIT"]


def test_a_disk_that_takes_its_time_does_not_hold_up_the_index(
    store: Store, mail: Mail, other: Mail, forcing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create(), each.append("a")] for each in (mail, other)}
    steps = steps_beside_a_slow_disk(store, monkeypatch, forcing)

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    expected = waited(2 if forcing == "_datasync" else 1)
    assert [step for step in steps if step in expected] == expected


@pytest.mark.usefixtures("one_by_one")
def test_a_folder_that_takes_its_time_does_not_hold_up_the_index(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {each.thread_id: [each.create()] for each in (mail, other)}
    steps = steps_beside_a_slow_disk(store, monkeypatch, "sync_directories")

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert [step for step in steps if step in waited(1)] == waited(1)


def test_a_rollout_that_cannot_be_synced_says_so_though_the_index_is_locked(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says it once."""
    store.apply(mail, mail.create(), mail.append("a"))
    before = store.path(mail).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def locked(*_: object) -> None:
        raise IndexUnavailable("locked")

    late = mail.append("late")
    with monkeypatch.context() as patched:
        patched.setattr(sync, "_datasync", fail)
        patched.setattr(store.index, "commit", locked)
        outcome = apply_batch(store.home, store.index, {mail.thread_id: [late]}, sync=True)[mail.thread_id]

    assert (outcome.kind, store.path(mail).read_bytes()) == (FAILED, before)
    assert store.apply(mail, late).kind is DONE
    assert store.texts(mail) == ["a", "late"]


def test_what_others_wrote_is_forced_to_the_disk_file_by_file(
    store: Store, mail: Mail, other: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another call for the whole file system may have been told of an error: ``fdatasync`` tells again."""
    store.apply_batch({each.thread_id: [each.create()] for each in (mail, other)})
    with store.path(mail).open("ab") as file:
        file.write(message_line("theirs") + b"\n")
    synced: list[int] = []
    monkeypatch.setattr(sync, "is_cheap_to_sync", lambda _: True)
    monkeypatch.setattr(sync, "_datasync", synced.append)
    batch = {each.thread_id: [each.append("ours")] for each in (mail, other)}

    outcomes = apply_batch(store.home, store.index, batch, sync=True)

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert len(synced) == 2
    assert store.texts(mail) == ["theirs", "ours"]


def test_the_name_of_a_rollout_that_a_crash_left_is_forced_to_the_disk_too(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = mail.create()
    with killed(sync, "_sync_data"):
        apply_batch(store.home, store.index, {mail.thread_id: [create]}, sync=True)
    folders: list[Path] = []
    monkeypatch.setattr(sync, "sync_directories", folders.append)

    apply_batch(store.home, store.index, {mail.thread_id: [create]}, sync=True)

    assert folders == [store.path(mail).parent]


def test_a_locked_index_does_not_fail_tasks_and_their_lines_are_recognised(
    store: Store, mail: Mail, other: Mail
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    append = mail.append("b")
    batch = {mail.thread_id: [append], other.thread_id: [other.create()]}
    store.index.db.conn.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(store.home.index, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")

        outcomes = store.apply_batch(batch)
        again = store.apply_batch(batch)

    assert outcomes == again == dict.fromkeys(batch, Outcome(BUSY, reason="the index: database is locked"))
    assert store.thread(mail).title is None
    assert store.index.read_thread(other.thread_id) is None
    standing = store.path(mail).read_bytes(), store.path(other).read_bytes()
    assert {outcome.kind for outcome in store.apply_batch(batch).values()} == {DONE}
    assert (store.path(mail).read_bytes(), store.path(other).read_bytes()) == standing
    assert (store.texts(mail), store.numbering(other)) == (["a", "b"], [(0, "w1:1")])


def test_what_was_written_and_not_committed_is_recognised(store: Store, mail: Mail) -> None:
    """A kill -9 between the write and the commit."""
    store.apply(mail, mail.create())
    append = mail.append("a", "b")

    with killed(store.index, "commit"):
        store.apply(mail, append)
    assert store.texts(mail) == ["a", "b"]

    assert store.apply(mail, append, mail.append("c")) == Outcome(DONE, "1003-0")

    assert store.texts(mail) == ["a", "b", "c"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, 2, 3]


def test_of_a_foreign_line_and_those_that_a_crash_left_the_first_decides(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    add(store.path(mail), message_line("foreign") + b"\n")
    batch = [entry for text in ("ours", "others") for entry in mail.live(message_line(text), writer=text)]
    with killed(store.index, "commit"):
        store.apply(mail, *batch)

    store.apply(mail, *batch)

    assert store.thread(mail).title == "foreign"


@pytest.mark.parametrize("cut", [1, 5, 40, 200, 400])
def test_a_rollout_that_somebody_cut_is_known_as_what_is_left_of_it(store: Store, mail: Mail, cut: int) -> None:
    events = [
        item_line("event_msg", {"type": kind, "turn_id": f"t{n}", **({"message": f"m{n}"} if "user" in kind else {})})
        for n in range(3)
        for kind in ("task_started", "user_message", "task_complete")
    ]
    store.apply(mail, mail.create(), *(mail.append_lines(event) for event in events))
    os.truncate(store.path(mail), store.path(mail).stat().st_size - cut)

    assert store.apply(mail, mail.append("new")).kind is DONE

    ordinals = [ordinal for ordinal, _ in store.numbering(mail)]
    assert ordinals == list(range(len(ordinals)))
    known = store.thread(mail), store.index.turns(mail.thread_id, 0, 10, backward=False)
    store.drop_index()
    store.read_in(mail.thread_id)
    assert (store.thread(mail), store.index.turns(mail.thread_id, 0, 10, backward=False)) == known


# -- names -------------------------------------------------------------------------------------------------


def test_a_name_is_in_the_index_and_in_codexs_name_index(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))

    assert store.thread(mail).name == "n"
    line = json.loads(store.home.session_index.read_text(encoding="utf-8"))
    assert (line["id"], line["thread_name"]) == (mail.thread_id, "n")


def test_a_cleared_name_stays_cleared_without_the_index(store: Store, mail: Mail) -> None:
    store.apply(
        mail,
        mail.create(),
        mail.patch(ThreadMetadataPatch(name="n")),
        mail.patch(ThreadMetadataPatch(name=None)),
    )
    store.drop_index()

    store.apply(mail, mail.append("a"))

    assert store.thread(mail).name is None


# -- archiving and deleting --------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed(target: object, name: str, *, after: int | None = None) -> Iterator[None]:
    """End the process instead of a call of *name*; or behind its call number *after*."""
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


MOVING: dict[str, tuple[str, str, int | None]] = {
    "before its line": ("recorder", "append", None),
    "behind its line": ("recorder", "append", 1),
    "before the move": ("archive", "make_directory", None),
    "behind the move": ("archive", "sync_directory", None),
    "between the two folders": ("archive", "sync_directory", 1),
    "before the commit": ("index", "commit", None),
    "behind the commit": ("index", "commit", 1),
}
DELETING: dict[str, tuple[str, str, int | None]] = {
    "behind the file": ("delete", "sync_directory", None),
    "before its names": ("delete", "forget_names", None),
    "behind its names": ("delete", "forget_names", 1),
    "before the commit": ("index", "commit", None),
    "behind the commit": ("index", "commit", 1),
}


def place(store: Store, where: str) -> object:
    places: dict[str, object] = {
        "archive": archive_thread,
        "delete": delete_thread,
        "recorder": RolloutRecorder,
        "index": store.index,
    }
    return places[where]


def dated(store: Store, mail: Mail) -> Path:
    return store.home.root / DAY / f"rollout-2026-11-22T12-00-00-{mail.thread_id}.jsonl"


def archived(store: Store, mail: Mail) -> Path:
    return store.home.archived_sessions / dated(store, mail).name


def test_an_archived_thread_lies_among_the_archived_and_says_since_when(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.append("a"), mail.archive())

    assert outcome == Outcome(DONE, "1003-0")
    assert store.path(mail) == archived(store, mail) == store.thread(mail).rollout_path
    assert store.thread(mail).archived_at == AT
    assert not dated(store, mail).exists()
    assert store.records(mail)[-1]["payload"] == {"archived_at": "2026-11-22T12:00:00.000Z"}
    assert store.numbering(mail)[-1] == (2, "w1:3")


def test_an_unarchived_thread_is_back_where_it_was(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"), mail.archive())

    outcome = store.apply(mail, mail.unarchive(), mail.append("b"))

    assert outcome == Outcome(DONE, "1005-0")
    assert store.path(mail) == dated(store, mail) == store.thread(mail).rollout_path
    assert store.thread(mail).archived_at is None
    assert store.texts(mail) == ["a", "b"]


def test_a_thread_that_is_archived_and_unarchived_in_one_batch_stays_where_it_is(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.archive(), mail.append("a"), mail.unarchive())

    assert outcome == Outcome(DONE, "1004-0")
    assert (store.path(mail), store.thread(mail).archived_at) == (dated(store, mail), None)


def test_archiving_twice_archives_once(store: Store, mail: Mail) -> None:
    """The second leaves a line of its own, so that it is known to be applied, which says when the first was."""
    store.apply(mail, mail.create(), mail.archive())

    outcome = store.apply(mail, mail.archive(writer="w2", at=AT + timedelta(days=1)))

    assert outcome.kind is DONE
    assert store.thread(mail).archived_at == AT
    assert [record["payload"]["archived_at"] for record in store.records(mail)[1:]] == [format_time(AT)] * 2


def test_a_change_without_effect_is_not_applied_again_when_delivered_again(store: Store, mail: Mail) -> None:
    """A kill -9 between the commit and the settlement."""
    store.apply(mail, mail.create())
    batch = (mail.unarchive(writer="w2"), mail.archive(writer="w3"))
    store.apply(mail, *batch)
    before = store.path(mail).read_bytes(), store.thread(mail)

    assert store.apply(mail, *batch).kind is DONE

    assert (store.path(mail).read_bytes(), store.thread(mail)) == before


@pytest.mark.parametrize("sizes", [(2,), (1, 1)], ids=str)
def test_a_change_that_changed_nothing_is_not_applied_behind_the_next_after_a_crash(
    store: Store, mail: Mail, sizes: tuple[int, ...]
) -> None:
    """A kill -9 between the write and the commit: the retry, in batches of any size, must not undo what stands."""
    store.apply(mail, mail.create())
    batch = [mail.unarchive(writer="w2"), mail.archive(writer="w3")]
    with killed(store.index, "commit"):
        store.apply(mail, *batch)
    before = store.path(mail).read_bytes()

    for size in sizes:
        assert store.apply(mail, *batch[:size]).kind is DONE
        batch = batch[size:]

    assert store.path(mail).read_bytes() == before
    assert store.thread(mail).archived_at == AT


def test_a_crash_is_made_good_by_batches_of_any_size(store: Store, mail: Mail) -> None:
    """The next claim may take fewer tasks than the one that was killed."""
    store.apply(mail, mail.create())
    batch = (mail.archive(writer="w2"), mail.append("a"), mail.unarchive(writer="w3"))
    with killed(store.index, "commit"):
        store.apply(mail, *batch)

    outcomes = [store.apply(mail, entry).kind for entry in batch]

    assert outcomes == [DONE] * 3
    assert (store.path(mail), store.thread(mail).archived_at) == (dated(store, mail), None)
    assert store.texts(mail) == ["a"]


@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_thread_that_was_moved_in_the_batch_that_created_it_is_found(
    store: Store, mail: Mail, is_index_lost: bool
) -> None:
    batch = (mail.create(), mail.append("a"), mail.archive())
    with killed(store.index, "commit"):
        store.apply(mail, *batch)
    if is_index_lost:
        store.drop_index()

    assert store.apply(mail, *batch).kind is DONE

    assert (store.path(mail), store.texts(mail)) == (archived(store, mail), ["a"])
    assert not dated(store, mail).exists()


def test_unarchiving_what_is_not_archived_changes_nothing(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    before = store.path(mail), store.thread(mail)

    assert store.apply(mail, mail.unarchive()).kind is DONE

    assert (store.path(mail), store.thread(mail)) == before


def test_an_archived_thread_can_be_written_on(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.archive())

    store.apply(mail, mail.append("a"))

    assert (store.path(mail), store.texts(mail)) == (archived(store, mail), ["a"])
    assert store.thread(mail).archived_at == AT


def test_a_place_that_is_taken_stops_the_thread_until_it_is_free(store: Store, mail: Mail, other: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    archive = mail.archive()
    store.home.archived_sessions.mkdir()
    archived(store, mail).write_bytes(b"precious")

    outcomes = store.apply_batch({mail.thread_id: [archive], other.thread_id: [other.create()]})

    assert (outcomes[mail.thread_id].kind, outcomes[other.thread_id].kind) == (POISONED, DONE)
    assert type(outcomes[mail.thread_id].error) is Conflict
    assert archived(store, mail).read_bytes() == b"precious"
    assert dated(store, mail).exists()
    archived(store, mail).unlink()
    assert store.apply(mail, archive) == Outcome(DONE, "1003-0")
    assert [record["type"] for record in store.records(mail)].count("thread_metadata") == 1


@pytest.mark.parametrize("crash", MOVING.values(), ids=list(MOVING))
@pytest.mark.parametrize("direction", ["archive", "unarchive"])
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_anywhere_in_a_move_is_made_good(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], direction: str, is_index_lost: bool
) -> None:
    where, name, after = crash
    history = [mail.create(), mail.append("a")]
    if direction == "unarchive":
        history.append(mail.archive())
    store.apply(mail, *history)
    move = mail.archive() if direction == "archive" else mail.unarchive()
    with killed(place(store, where), name, after=after):
        store.apply(mail, move)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, move, mail.append("b"))

    assert (outcome.kind, outcome.position) == (DONE, f"{1_000 + len(history) + 2}-0")
    assert store.path(mail) == (archived if direction == "archive" else dated)(store, mail)
    assert store.thread(mail).rollout_path == store.path(mail)
    assert store.thread(mail).archived_at == (AT if direction == "archive" else None)
    assert store.texts(mail) == ["a", "b"]
    moves = [r for r in store.records(mail) if r["type"] == "thread_metadata"]
    assert len(moves) == (1 if direction == "archive" else 2)
    assert [ordinal for ordinal, _ in store.numbering(mail)] == list(range(len(store.records(mail))))


def rows_of(store: Store, mail: Mail) -> dict[str, int]:
    """What the index holds of a thread, by table."""
    tables = ("threads", "rollouts", "writers", "turns", "messages")
    return {
        table: store.index.db.execute(
            f"SELECT count(*) FROM {table} WHERE thread_id = ?",
            [mail.thread_id],
        ).fetchone()[0]
        for table in tables
    }


def assert_nothing_left(store: Store, mail: Mail) -> None:
    assert set(rows_of(store, mail).values()) == {0}
    assert store.home.find_rollout(mail.thread_id) is None
    assert mail.thread_id not in store.home.session_index.read_text(encoding="utf-8")
    assert not Path(store.home.thread_lock(mail.thread_id)).exists()
    assert [path for path in store.home.root.rglob("*") if mail.thread_id in path.name] == []


def test_of_a_deleted_thread_nothing_is_left_and_the_others_stay(store: Store, mail: Mail, other: Mail) -> None:
    name = ThreadMetadataPatch(name="n")
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(name))
    store.apply(other, other.create(), other.append("b"), other.patch(name))
    before = store.path(other).read_bytes(), store.thread(other), rows_of(store, other)

    outcome = store.apply(mail, mail.append("c"), mail.delete())

    assert outcome == Outcome(OutcomeKind.DELETED, "1005-0")
    assert_nothing_left(store, mail)
    assert (store.path(other).read_bytes(), store.thread(other), rows_of(store, other)) == before
    assert read_names(store.home) == {other.thread_id: "n"}


def test_an_archived_thread_is_deleted_too(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")), mail.archive())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_every_rollout_of_a_deleted_thread_goes(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    store.home.archived_sessions.mkdir()
    archived(store, mail).write_bytes(store.path(mail).read_bytes())

    assert store.apply(mail, mail.delete()).kind is OutcomeKind.DELETED

    assert_nothing_left(store, mail)


def test_deleting_what_was_created_in_the_same_batch_leaves_nothing(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.create(), mail.append("a"), mail.delete())

    assert outcome.kind is OutcomeKind.DELETED
    assert store.home.find_rollout(mail.thread_id) is None
    assert set(rows_of(store, mail).values()) == {0}


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_anywhere_in_a_deletion_is_made_good(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    where, name, after = crash
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))
    deletion = mail.delete()
    with killed(place(store, where), name, after=after):
        store.apply(mail, deletion)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, deletion)

    assert outcome == Outcome(OutcomeKind.DELETED, "1004-0")
    assert_nothing_left(store, mail)


def test_a_thread_that_a_reader_took_in_meanwhile_is_tried_again_and_applied_once(store: Store, mail: Mail) -> None:
    """codex let go of the lock while a reader, that had read without it, stored what it had read."""
    store.apply(mail, mail.create(), mail.append("one"))
    codex = message_line("from codex") + b"\n"
    with store.path(mail).open("ab") as file:
        file.write(codex)
    commit, append = store.index.commit, mail.append("two")

    def after_a_reader(*arguments: Any) -> set[str] | None:
        state = read_state(store.home, mail.thread_id, store.path(mail), {})
        store.index.replace([thread_rows(state, None)])
        return commit(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.index, "commit", after_a_reader)
        assert store.apply(mail, append).kind is BUSY

    assert store.apply(mail, append).kind is DONE
    assert store.texts(mail) == ["one", "from codex", "two"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, None, 3]


@pytest.mark.parametrize("crash", DELETING.values(), ids=list(DELETING))
@pytest.mark.parametrize("is_index_lost", [False, True], ids=["with the index", "without the index"])
def test_a_crash_in_a_deletion_behind_other_tasks_is_made_good(
    store: Store, mail: Mail, crash: tuple[str, str, int | None], is_index_lost: bool
) -> None:
    where, name, after = crash
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="n")))
    entries = [
        mail.append("a"),
        mail.patch(ThreadMetadataPatch(title="t"), writer="w2"),
        mail.archive(),
        mail.delete(),
    ]
    with killed(place(store, where), name, after=after):
        store.apply(mail, *entries)
    if is_index_lost:
        store.drop_index()

    outcome = store.apply(mail, *entries)

    assert outcome == Outcome(OutcomeKind.DELETED, "1006-0")
    assert_nothing_left(store, mail)
