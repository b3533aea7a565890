"""Rollouts from before September 2025: today's codex finds them empty, we show their history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import Mail, Store, message_line

from livethread import types
from livethread.metadata import GitInfo, MemoryMode, ThreadMetadataPatch
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.list_turns import list_turns
from livethread_worker.store.read.read_thread import read_thread
from livethread_worker.store.read.thread_file import load_history
from livethread_worker.store.write.outcome import OutcomeKind

STATE = {"record_type": "state"}


def message(role: str, text: str) -> dict[str, Any]:
    part = "input_text" if role == "user" else "output_text"
    return {"type": "message", "id": None, "role": role, "content": [{"type": part, "text": text}]}


CALL = {"type": "function_call", "id": None, "name": "shell", "arguments": "{}", "call_id": "c1"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture
def old(store: Store, mail: Mail) -> Path:
    """Write an old rollout, which the index does not know."""
    meta = {
        "id": mail.thread_id,
        "timestamp": "2025-08-05T10:00:00.000Z",
        "instructions": "be kind",
        "git": {"branch": "main"},
    }
    records = (
        meta,
        STATE,
        message("user", "<environment_context>\n  <cwd>/x</cwd>\n</environment_context>"),
        STATE,
        message("user", "count the zebras"),
        CALL,
        OUTPUT,
        STATE,
        message("assistant", "seven zebras"),
        message("user", "and the gnus"),
        message("assistant", "none"),
    )
    path = store.home.sessions / f"2025/08/05/rollout-2025-08-05T10-00-00-{mail.thread_id}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


def test_an_old_rollout_has_metadata(store: Store, mail: Mail, old: Path) -> None:
    thread = read_thread(store.home, store.index, types.ReadThreadParams(thread_id=mail.thread_id))

    assert thread.created_at.isoformat() == "2025-08-05T10:00:00+00:00"
    assert (thread.preview, thread.title, thread.rollout_path) == ("count the zebras", "count the zebras", old)
    assert thread.git_info == GitInfo(branch="main")


def test_its_history_leaves_out_the_state_records(store: Store, mail: Mail, old: Path) -> None:
    params = types.LoadThreadHistoryParams(thread_id=mail.thread_id)

    items = load_history(store.home, store.index, params).items

    assert [item.type for item in items] == ["session_meta"] + ["response_item"] * 7
    assert [item.payload for item in items][2:5] == [message("user", "count the zebras"), CALL, OUTPUT]


def test_its_items_come_in_pages_from_the_end(store: Store, mail: Mail, old: Path) -> None:
    params = types.ListItemsParams(thread_id=mail.thread_id, page_size=2, sort_direction=types.SortDirection.DESC)

    page = list_items(store.home, store.index, params)

    assert [item.payload for item in page.items] == [message("assistant", "none"), message("user", "and the gnus")]


@pytest.mark.parametrize("is_indexed", [True, False])
def test_its_turns_begin_with_user_messages(store: Store, mail: Mail, old: Path, is_indexed: bool) -> None:
    if is_indexed:
        store.read_in(mail.thread_id)

    turns = list_turns(store.home, store.index, types.ListTurnsParams(thread_id=mail.thread_id)).turns

    assert [[item.payload for item in turn.items] for turn in turns] == [
        [message("user", "count the zebras"), message("assistant", "seven zebras")],
        [message("user", "and the gnus"), message("assistant", "none")],
    ]


def test_a_full_turn_holds_its_function_calls(store: Store, mail: Mail, old: Path) -> None:
    params = types.ListTurnsParams(thread_id=mail.thread_id, items_view=types.StoredTurnItemsView.FULL)

    turns = list_turns(store.home, store.index, params).turns

    assert [len(turn.items) for turn in turns] == [4, 2]


@pytest.mark.parametrize(("term", "count"), [("zebras", 1), ("gnus", 1), ("environment_context", 0)])
def test_it_is_found_by_its_messages(store: Store, mail: Mail, old: Path, term: str, count: int) -> None:
    store.read_in(mail.thread_id)

    found = store.index.search_threads(types.SearchThreadsParams(search_term=term))

    assert len(found.items) == count


def test_reading_it_changes_nothing(store: Store, mail: Mail, old: Path) -> None:
    before = old.read_bytes()

    store.read_in(mail.thread_id)
    load_history(store.home, store.index, types.LoadThreadHistoryParams(thread_id=mail.thread_id))

    assert old.read_bytes() == before


@pytest.mark.parametrize("is_indexed", [True, False])
def test_it_continues_in_todays_format(store: Store, mail: Mail, old: Path, is_indexed: bool) -> None:
    if is_indexed:
        store.read_in(mail.thread_id)
    before = old.read_bytes()
    patch = ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED)

    outcome = store.apply(mail, mail.append("and the lions"), mail.patch(patch))

    assert outcome.kind is OutcomeKind.DONE
    assert old.read_bytes().startswith(before)
    thread = store.thread(mail)
    assert (thread.preview, thread.memory_mode) == ("count the zebras", MemoryMode.DISABLED)
    assert store.records(mail)[-1]["payload"]["instructions"] == "be kind"
    turns = list_turns(store.home, store.index, types.ListTurnsParams(thread_id=mail.thread_id)).turns
    assert [turn.items[0].payload.get("message") for turn in turns] == [None, None, "and the lions"]
    store.read_in(mail.thread_id)
    again = store.thread(mail)
    assert again == thread.model_copy(update={"updated_at": again.updated_at})  # the append had no derived patch


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":[]}',
        b'{"type":{}}',
        b'{"type":"message","role":[]}',
        b'{"type":"response_item","payload":{"type":"message","role":["user"]}}',
        b'{"type":"response_item","payload":[1]}',
        b'{"type":"response_item","payload":"text"}',
    ],
)
def test_an_odd_line_in_the_old_format_does_not_hide_the_others(store: Store, mail: Mail, line: bytes) -> None:
    path = store.write_rollout(mail.thread_id, message_line("hello"), line)

    outcome = store.apply(mail, mail.append("and on"))

    assert (outcome.kind, store.thread(mail).preview) == (OutcomeKind.DONE, "hello")
    store.read_in(mail.thread_id)
    history = load_history(store.home, store.index, types.LoadThreadHistoryParams(thread_id=mail.thread_id))
    turns = list_turns(store.home, store.index, types.ListTurnsParams(thread_id=mail.thread_id)).turns
    assert [turn.items[0].payload["message"] for turn in turns] == ["hello", "and on"]
    assert history.items[-1].payload["message"] == "and on"
    assert path.read_bytes().count(b"\n") == 4
