from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import pytest
from tests.unit.worker.builders import AT, Store, item_line, message_line, numbered, thread_id

from livethread.metadata import GitInfo, ThreadMetadataPatch
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.files.rollout_reader import complete_from_home, read_on
from livethread_worker.store.files.scan import Record
from livethread_worker.store.thread_state import ThreadState, WriterMark
from livethread_worker.store.write.thread_work import number_line

ONE, OTHER = thread_id(1), thread_id(2)
WRITTEN_AT = datetime(2026, 11, 22, 18, tzinfo=UTC)


def meta_line(id_: str = ONE, **fields: Any) -> bytes:
    meta = {"id": id_, "timestamp": "2026-11-22T12:00:00.000Z", "cwd": "/work", "source": "cli"} | fields
    return item_line("session_meta", meta)


def foreign(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


class File:
    """A rollout on disk, since `read_on` reads its modification time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def holding(self, data: bytes) -> BinaryIO:
        self._file.write(data)
        self._file.flush()
        os.utime(self._file.fileno(), (WRITTEN_AT.timestamp(), WRITTEN_AT.timestamp()))
        return self._file


@pytest.fixture
def file() -> Iterator[File]:
    with tempfile.TemporaryFile() as opened:
        yield File(opened)


def read(file: File, data: bytes) -> ThreadState:
    state = ThreadState(ONE)
    assert read_on(state, file.holding(data)) is None
    return state


def test_a_rollout_of_ours_has_counters(file: File) -> None:
    lines = [
        number_line(meta_line(), 0, numbered("1001-0", "w1", 1)),
        number_line(message_line("hello"), 1, numbered("1002-0", "w1", 2)),
        number_line(message_line("again"), 2, numbered("1002-0", "w1", 2)),
        number_line(message_line("other"), 3, numbered("1001-0", "w2", 1)),
    ]

    state = read(file, b"".join(lines))

    assert state.writers == {"w1": WriterMark(2, 2), "w2": WriterMark(1, 1)}
    assert (state.rollout_bytes, state.next_ordinal) == (sum(map(len, lines)), 4)
    assert (state.meta_offset, state.meta_bytes) == (0, len(lines[0]))
    assert state.thread is not None
    assert (state.thread.title, state.thread.cwd, state.thread.created_at) == ("hello", "/work", AT)


def test_foreign_lines_have_ordinals_but_no_counters(file: File) -> None:
    state = read(file, foreign(meta_line(), message_line("from codex")))

    assert (state.writers, state.next_ordinal) == ({}, 2)
    assert state.thread is not None
    assert state.thread.title == "from codex"


def test_ordinals_continue_after_the_highest_one(file: File) -> None:
    paginated = json.dumps({"ordinal": 41, **json.loads(message_line("x"))}).encode()

    state = read(file, foreign(meta_line(), paginated, message_line("y")))

    assert state.next_ordinal == 43


@pytest.mark.parametrize("ordinal", [True, "7", 7.5, None, [7]])
def test_an_ordinal_that_is_not_an_integer_is_ignored(file: File, ordinal: Any) -> None:
    odd = json.dumps({"ordinal": ordinal, **json.loads(message_line("x"))}).encode()

    assert read(file, foreign(meta_line(), odd)).next_ordinal == 2


def test_a_counter_below_an_earlier_one_is_ignored(file: File) -> None:
    lines = [
        number_line(meta_line(), 0, numbered("1001-0", "w1", 1)),
        number_line(message_line("a"), 1, numbered("1003-0", "w1", 3)),
        number_line(message_line("b"), 2, numbered("1002-0", "w1", 2)),
    ]

    assert read(file, b"".join(lines)).writers == {"w1": WriterMark(3, 1)}


def test_a_torn_last_line_is_returned_and_not_read(file: File) -> None:
    whole = foreign(meta_line())
    torn = message_line("never finished")[:40]
    state = ThreadState(ONE)

    assert read_on(state, file.holding(whole + torn)) == Record(len(whole), 40, None, is_complete=False)
    assert state.rollout_bytes == len(whole)


def test_a_complete_last_line_without_a_newline_is_read(file: File) -> None:
    data = foreign(meta_line()) + message_line("whole")

    state = read(file, data)

    assert state.rollout_bytes == len(data)
    assert state.thread is not None
    assert state.thread.title == "whole"


def test_reading_continues_after_the_lines_that_the_state_covers(file: File) -> None:
    first, second = foreign(meta_line(), message_line("first")), foreign(message_line("second"))
    state = read(file, first)

    assert read_on(state, file.holding(second)) is None

    assert (state.rollout_bytes, state.next_ordinal) == (len(first + second), 3)
    assert state.thread is not None
    assert (state.thread.title, state.thread.first_user_message) == ("first", "first")


def test_a_fork_ignores_the_session_meta_that_it_copied(file: File) -> None:
    own = meta_line(forked_from_id=OTHER)
    copied = meta_line(OTHER, cwd="/elsewhere", source="exec")

    state = read(file, foreign(own, copied, message_line("x")))

    assert (state.meta_offset, state.meta_bytes) == (0, len(own) + 1)
    assert state.thread is not None
    assert (state.thread.cwd, state.thread.source, state.thread.forked_from_id) == ("/work", "cli", OTHER)


def test_a_later_session_meta_changes_the_thread_but_not_its_creation_time(file: File) -> None:
    copy = meta_line(git={"branch": "b"}, thread_source="automation", timestamp="2026-11-22T12:00:00.000Z")

    state = read(file, foreign(meta_line(), message_line("x"), copy))

    assert state.meta_offset == len(foreign(meta_line(), message_line("x")))
    assert state.thread is not None
    assert state.thread.created_at == AT
    assert (state.thread.git_info, state.thread.thread_source) == (GitInfo(branch="b"), "automation")


def test_thread_metadata_lines_are_patches(file: File) -> None:
    patch = ThreadMetadataPatch(title="given", agent_role=None, model="m")
    line = item_line("thread_metadata", patch.to_wire())

    state = read(file, foreign(meta_line(agent_role="r"), message_line("said"), line))

    assert state.thread is not None
    assert (state.thread.title, state.thread.agent_role, state.thread.model) == ("given", None, "m")


def test_a_title_set_before_the_first_message_stays(file: File) -> None:
    """It does so in a live thread, too: the first value of such a field counts."""
    line = item_line("thread_metadata", {"title": "given", "preview": "given"})

    state = read(file, foreign(meta_line(), line, message_line("said")))

    assert state.thread is not None
    assert (state.thread.title, state.thread.preview, state.thread.first_user_message) == ("given", "given", "said")


@pytest.mark.parametrize("payload", [None, [], {"from_the_future": 1}, {"thread_source": 7}, "text"])
def test_an_invalid_thread_metadata_line_is_ignored(file: File, payload: Any) -> None:
    state = read(file, foreign(meta_line(), item_line("thread_metadata", payload), message_line("x")))

    assert state.thread is not None
    assert (state.thread.title, state.next_ordinal) == ("x", 3)


def test_a_thread_was_updated_at_the_latest_time_of_its_lines(file: File) -> None:
    late, early = AT + timedelta(hours=2), AT + timedelta(hours=1)

    state = read(file, foreign(meta_line(), message_line("x", late), message_line("y", early)))

    assert state.thread is not None
    assert state.thread.updated_at == late


def test_a_line_without_a_time_has_the_time_of_the_line_before(file: File) -> None:
    """So reading it again gives the same result, even if the file's modification time changed."""
    timeless = b'{"type":"event_msg","payload":{"type":"task_started"}}'
    said = AT + timedelta(hours=1)

    state = read(file, foreign(meta_line(), message_line("x", said), timeless))

    assert state.thread is not None
    assert (state.thread.updated_at, state.thread.recency_at) == (said, said)


def test_a_first_line_without_a_time_has_the_files_modification_time(file: File) -> None:
    timeless = json.dumps({"type": "session_meta", "payload": {"id": ONE}}).encode()

    state = read(file, foreign(timeless))

    assert state.thread is not None
    assert (state.thread.created_at, state.thread.updated_at) == (WRITTEN_AT, WRITTEN_AT)


def test_a_rollout_of_another_thread_has_no_thread(file: File) -> None:
    assert read(file, foreign(meta_line(OTHER), message_line("x"))).thread is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"timestamp":"0001-01-01T00:00:00+14:00","type":"event_msg","payload":{"type":"task_started"}}',
        b'{"type":"x","payload":1,"cls":1}',
        b'{"type":"x","payload":1,"_fields_set":1}',
        b'{"type":"x","payload":12345678901234567890,"deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"seq":"w:' + b"9" * 5_000 + b'","ordinal":1,"type":"x","payload":1}',
        meta_line(memory_mode={}),
        meta_line(source=7, thread_source=["x"]),
        b'{"type":["x"],"payload":1}',
        b'{"type":"event_msg","payload":"text"}',
        b'{"type":"event_msg","payload":{"type":["user_message"]}}',
        b'{"record_type":"state"}',
    ],
    ids=lambda line: line.decode()[:70],
)
def test_no_foreign_line_makes_a_rollout_unreadable(file: File, line: bytes) -> None:
    state = read(file, foreign(meta_line(), line, message_line("after it")))

    assert state.thread is not None
    assert state.thread.title == "after it"


def test_a_home_supplies_name_path_and_archive_time(store: Store) -> None:
    path = store.home.archived_sessions / f"rollout-2026-11-22T12-00-00-{ONE}.jsonl"
    path.parent.mkdir()
    path.write_bytes(foreign(meta_line()))
    os.utime(path, (WRITTEN_AT.timestamp(), WRITTEN_AT.timestamp()))
    store.home.session_index.write_text(json.dumps({"id": ONE, "thread_name": "n"}) + "\n", encoding="utf-8")
    state = ThreadState(ONE, path=store.home.relative(path))
    with path.open("rb") as rollout:
        read_on(state, rollout)

    complete_from_home(store.home, state, read_names(store.home))

    assert state.thread is not None
    assert (state.thread.name, state.thread.rollout_path, state.thread.archived_at) == ("n", path, WRITTEN_AT)


def test_a_home_supplies_nothing_without_a_thread(store: Store) -> None:
    state = ThreadState(ONE)

    complete_from_home(store.home, state, read_names(store.home))

    assert state == ThreadState(ONE)
