from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Mail, item_line, message_line, numbered

from livethread.errors import InvalidRequest, ThreadNotFound
from livethread.metadata import GitInfoPatch, MemoryMode, StoredThread, ThreadMetadataPatch
from livethread_worker.store.thread_state import ThreadState, WriterMark
from livethread_worker.store.write.operations import plan
from livethread_worker.store.write.thread_work import ThreadWork, number_line

LATER = AT + timedelta(hours=1)

texts = st.text(st.characters(codec="utf-8"), max_size=6)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
)


def no_meta() -> dict[str, Any]:
    raise AssertionError("the session_meta was read from the rollout")


def new_work(mail: Mail) -> ThreadWork:
    return ThreadWork(ThreadState(mail.thread_id), None, 0, no_meta)


def known_work(mail: Mail, **fields: Any) -> ThreadWork:
    thread = StoredThread(thread_id=mail.thread_id, created_at=AT, updated_at=AT, recency_at=AT, **fields)
    meta = {"id": mail.thread_id, "originator": "codex", "cwd": ""}
    return ThreadWork(ThreadState(mail.thread_id, thread, next_ordinal=5), thread, 1_000, lambda: dict(meta))


def written(work: ThreadWork) -> list[tuple[int, str, str]]:
    records = [json.loads(line) for line in work.lines]
    return [(record["ordinal"], record["seq"], record["type"]) for record in records]


def thread_of(work: ThreadWork) -> StoredThread:
    assert work.state.thread is not None
    return work.state.thread


def test_the_lines_of_a_creation_and_an_append_are_numbered() -> None:
    mail = Mail()
    work = new_work(mail)

    plan(work, [mail.create(), mail.append("a", "b")])

    assert written(work) == [(0, "w1:1", "session_meta"), (1, "w1:2", "event_msg"), (2, "w1:2", "event_msg")]
    assert (work.position, work.state.applied, work.poison) == ("1002-0", "1002-0", None)
    assert work.state.writers == {"w1": WriterMark(2, 2)}
    assert (work.state.meta_offset, work.state.meta_bytes) == (0, len(work.lines[0]))
    assert work.size == sum(map(len, work.lines))


def test_an_append_without_a_derived_patch_changes_no_metadata() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.append("a message")])

    assert work.state.thread == work.loaded
    assert written(work) == [(5, "w1:1", "event_msg")]


def test_creating_a_thread_that_exists_writes_nothing() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.create(cwd="/other")])

    assert (work.lines, work.poison, work.position) == ([], None, "1001-0")
    assert work.state.thread is work.loaded


@pytest.mark.parametrize("mark", [WriterMark(2, 2), WriterMark(7, 1)])
def test_a_task_whose_counter_is_applied_is_not_written_again(mark: WriterMark) -> None:
    mail = Mail()
    work = known_work(mail)
    work.state.writers["w1"] = mark

    plan(work, [mail.create(), mail.append("a", "b")])

    assert (work.lines, work.position, work.state.writers) == ([], "1002-0", {"w1": mark})


def test_only_the_missing_lines_of_a_half_written_task_are_written() -> None:
    mail = Mail()
    work = known_work(mail)
    work.state.writers["w1"] = WriterMark(1, 1)

    plan(work, [mail.append("written", "missing", "missing too")])

    assert [json.loads(line)["payload"]["message"] for line in work.lines] == ["missing", "missing too"]
    assert work.state.writers == {"w1": WriterMark(1, 3)}


def test_each_writer_has_its_own_counter() -> None:
    mail = Mail()
    work = known_work(mail)
    work.state.writers["w1"] = WriterMark(3, 1)

    plan(work, [mail.append("duplicate"), mail.append("new", writer="w2")])

    assert written(work) == [(5, "w2:1", "event_msg")]


# -- metadata ----------------------------------------------------------------------------------------------


def test_a_name_goes_to_the_name_index_and_to_a_metadata_line() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.patch(ThreadMetadataPatch(name="n")), mail.patch(ThreadMetadataPatch(name=None))])

    assert work.renamed == (None, AT)
    assert written(work) == [(5, "w1:1", "thread_metadata"), (6, "w1:2", "thread_metadata")]
    assert [json.loads(line)["payload"] for line in work.lines] == [{"name": "n"}, {"name": None}]
    assert thread_of(work).name is None


def test_git_and_memory_mode_go_to_a_complete_copy_of_the_session_meta() -> None:
    mail = Mail()
    work = known_work(mail, cwd="/work", source="exec")

    plan(
        work,
        [
            mail.patch(ThreadMetadataPatch(git_info=GitInfoPatch(branch="b"), memory_mode=MemoryMode.DISABLED)),
            mail.patch(ThreadMetadataPatch(git_info=GitInfoPatch(sha="s"))),
        ],
    )

    first, second = (json.loads(line)["payload"] for line in work.lines)
    assert first == {
        "id": mail.thread_id,
        "timestamp": "2026-11-22T12:00:00.000Z",
        "originator": "codex",
        "cwd": "/work",
        "source": "exec",
        "cli_version": "",
        "memory_mode": "disabled",
        "git": {"branch": "b"},
    }
    assert second == first | {"git": {"branch": "b", "commit_hash": "s"}}
    assert (work.state.meta_offset, work.state.meta_bytes) == (1_000 + len(work.lines[0]), len(work.lines[1]))


def test_git_and_memory_mode_of_a_paginated_thread_go_to_a_metadata_line() -> None:
    mail = Mail()
    work = known_work(mail, history_mode="paginated")
    patch = ThreadMetadataPatch(git_info=GitInfoPatch(branch="b"), memory_mode=MemoryMode.DISABLED, name="n")

    plan(work, [mail.patch(patch)])

    [line] = map(json.loads, work.lines)
    assert line["type"] == "thread_metadata"
    assert line["payload"] == {"name": "n", "git_info": {"branch": "b"}, "memory_mode": "disabled"}


def test_every_other_field_goes_to_a_metadata_line() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(
        work,
        [mail.patch(ThreadMetadataPatch(title="t", thread_source=None, name="n", memory_mode=MemoryMode.ENABLED))],
    )

    assert [type_ for _, _, type_ in written(work)] == ["session_meta", "thread_metadata"]
    assert json.loads(work.lines[1])["payload"] == {
        "title": "t",
        "thread_source": None,
        "name": "n",
    }


def test_a_derived_patch_takes_effect_and_leaves_no_line() -> None:
    mail = Mail()
    work, raw = known_work(mail), known_work(mail)
    context = item_line("turn_context", {"model": "m"}, LATER)

    plan(work, mail.live(context))
    plan(raw, [mail.append_lines(context)])

    assert (thread_of(work).model, thread_of(work).updated_at) == ("m", LATER)
    assert raw.loaded is not None
    assert thread_of(raw) == raw.loaded.model_copy(update={"updated_at": LATER})
    assert [type_ for _, _, type_ in written(work)] == [type_ for _, _, type_ in written(raw)] == ["turn_context"]


def test_an_explicit_patch_overrides_earlier_items_and_later_items_override_it() -> None:
    mail = Mail()
    work = known_work(mail)
    contexts = [item_line("turn_context", {"model": model, "effort": model}) for model in ("before", "after")]

    plan(
        work,
        [
            *mail.live(contexts[0]),
            mail.patch(ThreadMetadataPatch(model="asked", title="")),
            *mail.live(contexts[1]),
        ],
    )

    assert (thread_of(work).model, thread_of(work).reasoning_effort, thread_of(work).title) == ("after",) * 2 + ("",)
    assert work.state.explicit_fields == {"title"}


def test_a_poison_task_changes_no_metadata() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.append_lines(item_line("turn_context", {"model": "m"}), b"garbage")])

    assert work.poison is not None
    assert thread_of(work) == work.loaded


@pytest.mark.parametrize("time", [None, 7, "today"])
def test_a_line_without_a_time_is_poison(time: Any) -> None:
    """Readers of the rollout would have to guess the time."""
    mail = Mail()
    work = known_work(mail)
    line = json.loads(message_line("a")) | {"timestamp": time}

    plan(work, [mail.append_lines(json.dumps(line).encode())])

    assert isinstance(work.poison, InvalidRequest)
    assert "no timestamp" in str(work.poison)


def test_the_next_copy_of_the_session_meta_starts_from_an_appended_one() -> None:
    mail = Mail()
    work = known_work(mail)
    meta = {"id": mail.thread_id, "source": "exec", "only_here": True}

    plan(
        work,
        [
            *mail.live(item_line("session_meta", meta)),
            mail.patch(ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED)),
        ],
    )

    assert json.loads(work.lines[-1])["payload"]["only_here"] is True
    assert work.state.meta_bytes == len(work.lines[-1])


def test_a_half_written_patch_is_completed() -> None:
    mail = Mail()
    work = known_work(mail)
    work.state.writers["w1"] = WriterMark(1, 1)

    plan(work, [mail.patch(ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED, title="t"))])

    assert [type_ for _, _, type_ in written(work)] == ["thread_metadata"]
    assert thread_of(work).title == "t"


# -- poison ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"type":"x"}',
        b'{"payload":1}',
        b'{"type":7,"payload":1}',
        b'{"type":"x","payload":"\xff"}',
        b'{"type":"x","payload":1,"seq":"w9:1"}',
        b'{"type":"x","payload":1,"ordinal":3}',
        b'{"type":"x","payload":1,"idempotency_key":"k"}',
        b'{"type":"thread_metadata","payload":{"title":"forged"}}',
        b'{"type":"x","payload":1}\n{"type":"y","payload":2}',
    ],
)
def test_a_line_that_is_not_an_item_stops_the_thread(line: bytes) -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.append("before"), mail.append_lines(message_line("a valid line"), line), mail.append("after")])

    assert type(work.poison) is InvalidRequest
    assert written(work) == [(5, "w1:1", "event_msg")]
    assert (work.position, work.state.writers) == ("1001-0", {"w1": WriterMark(1, 1)})


def test_an_append_without_lines_stops_the_thread() -> None:
    mail = Mail()
    work = known_work(mail)

    plan(work, [mail.append_lines()])

    assert type(work.poison) is InvalidRequest
    assert (str(work.poison), work.position) == ("an append_items has no lines", None)


def test_a_creation_that_names_another_thread_stops_the_thread() -> None:
    mail = Mail(1)
    work = new_work(mail)

    plan(work, [Mail(2).create()])

    assert type(work.poison) is InvalidRequest
    assert str(work.poison) == "the session_meta of a create_thread names another thread"
    assert work.state.thread is None


@pytest.mark.parametrize("kind", ["append", "patch"])
def test_a_change_of_a_thread_that_was_never_created_stops_the_thread(kind: str) -> None:
    mail = Mail()
    work = new_work(mail)

    plan(work, [mail.append("x") if kind == "append" else mail.patch(ThreadMetadataPatch(title="t"))])

    assert type(work.poison) is ThreadNotFound
    assert work.poison.args == (mail.thread_id, "its rollout is gone, or was never created")


def test_a_patch_that_cannot_be_written_applies_no_field() -> None:
    mail = Mail()
    work = known_work(mail, title="before")
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    odd = ThreadMetadataPatch.model_construct(
        _fields_set={"title", "name", "approval_mode"}, title="half", name="half", approval_mode=deep
    )

    plan(work, [mail.append("before"), mail.patch(odd)])

    assert work.poison is not None
    assert (work.position, work.renamed) == ("1001-0", None)
    assert work.state.thread == work.loaded


# -- numbering ---------------------------------------------------------------------------------------------


def test_the_stores_fields_follow_the_timestamp() -> None:
    line = b'{"timestamp":"2026-11-22T12:00:00.000Z","type":"x","payload":1}'

    assert number_line(line, 7, numbered("1003-0", "w1", 3)) == (
        b'{"timestamp":"2026-11-22T12:00:00.000Z","ordinal":7,"seq":"w1:3","position":"1003-0","type":"x","payload":1}\n'
    )


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"x","timestamp":"2026-11-22T12:00:00.000Z","payload":1}',
        b'{ "timestamp": "2026-11-22T12:00:00.000Z", "type": "x", "payload": 1 }',
        b' {"type":"x","payload":1}',
        b'\t{"timestamp":"t","type":"x","payload":1}\r',
        b'{"timestamp":"Nov 22, 2026","type":"x","payload":1}',
        b'{"timestamp":"a\\"b,c","type":"x","payload":1}',
        b'{"payload":{},"type":"x"}',
    ],
)
def test_a_line_of_another_client_keeps_its_fields_or_is_refused(line: bytes) -> None:
    mail = Mail()
    work = known_work(mail)

    entry = mail.append_lines(line)

    plan(work, [entry])

    expected = json.loads(line) | {"ordinal": 5, "seq": "w1:1", "position": entry.position}
    assert work.poison is not None or [json.loads(numbered) for numbered in work.lines] == [expected]


@given(payload=json_values, ascii_only=st.booleans(), timestamp=st.none() | st.just("2026-11-22T12:00:00.000Z"))
def test_numbering_any_object_adds_three_fields_and_changes_none(
    payload: Any, ascii_only: bool, timestamp: Any
) -> None:
    record = {"timestamp": timestamp, "type": "x", "payload": payload}
    line = json.dumps(record, ensure_ascii=ascii_only, separators=(",", ":")).encode()

    task, ours = numbered("1001-0", "w", 1), {"ordinal": 0, "seq": "w:1", "position": "1001-0"}
    assert json.loads(number_line(line, 0, task)) == record | ours
    named = json.loads(number_line(line, 0, task, 'a "key" \\'))
    assert named == record | ours | {"idempotency_key": 'a "key" \\'}
