from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest
from livethread.metadata import GitInfoPatch, MemoryMode, ThreadMetadataPatch
from livethread.ordered_tasks import AppendItems, CreateThread, OrderedTask, UpdateThreadMetadata, encode_append

AT = datetime(2026, 11, 22, 12, 0, 0, 123_000, tzinfo=UTC)

TASKS = [
    OrderedTask(CreateThread(at=AT, session_meta={"id": "x", "n": 2**70, "null": None, "text": "naïve"})),
    OrderedTask(AppendItems(at=AT), (b'{"a":1}',)),
    OrderedTask(AppendItems(at=AT, idempotency_key='"é" 🎉'), (b'{"a":1}',)),
    OrderedTask(AppendItems(at=AT), ('{"a":"é"}'.encode(), b"not checked here", b'{"b":2}')),
]

PATCHES = [
    ThreadMetadataPatch(),
    ThreadMetadataPatch(name=None),
    ThreadMetadataPatch(name=None, title="t", thread_source=None, agent_role="r"),
    ThreadMetadataPatch(git_info=GitInfoPatch()),
    ThreadMetadataPatch(git_info=GitInfoPatch(branch=None)),
    ThreadMetadataPatch(git_info=GitInfoPatch(sha="s", branch=None, origin_url="u"), memory_mode=MemoryMode.DISABLED),
    ThreadMetadataPatch(
        source={"custom": "x"},
        created_at=AT,
        advance_recency_at=AT,
        approval_mode={"granular": None},
        permission_profile="p",
        token_usage={"total": 2**70, "rate": 0.1, "none": None},
    ),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.header.op)
def test_a_task_survives_the_wire(task: OrderedTask) -> None:
    assert OrderedTask.from_wire(*task.to_wire()) == task


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: str(patch.to_wire()))
def test_a_patch_survives_the_wire_and_absent_stays_absent(patch: ThreadMetadataPatch) -> None:
    task = OrderedTask(UpdateThreadMetadata(at=AT, patch=patch))

    copy = OrderedTask.from_wire(*task.to_wire())

    assert copy == task
    assert isinstance(copy.header, UpdateThreadMetadata)
    assert copy.header.patch.to_wire() == patch.to_wire()


def test_equal_append_headers_are_parsed_once() -> None:
    """A header with mutable content is not shared."""
    append, creation = AppendItems(at=AT), CreateThread(at=AT, session_meta={"id": "x"})

    appends = [OrderedTask.from_wire(*OrderedTask(append, (line,)).to_wire()) for line in (b"1", b"2")]
    creations = [OrderedTask.from_wire(*OrderedTask(creation).to_wire()) for _ in range(2)]

    assert appends[0].header is appends[1].header
    assert (appends[0].lines, appends[1].lines) == ((b"1",), (b"2",))
    assert creations[0].header is not creations[1].header


def test_header_and_lines_are_separate_fields_on_the_wire() -> None:
    task = OrderedTask(AppendItems(at=AT), (b'{"a":1}', b'{"b":2}'))

    header, lines = task.to_wire()

    assert header == b'{"op":"append_items","at":"2026-11-22T12:00:00.123000Z"}'
    assert lines == b'{"a":1}\n{"b":2}'
    assert task.size == 14


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.header.op)
def test_encode_returns_the_wire_form_with_op_size_and_idempotency_key(task: OrderedTask) -> None:
    encoded = task.encode()

    assert (encoded.header, encoded.lines) == task.to_wire()
    assert (encoded.op, encoded.size) == (task.header.op, sum(map(len, task.to_wire())))
    assert encoded.key == getattr(task.header, "idempotency_key", None)


def test_a_task_that_is_not_json_cannot_be_encoded() -> None:
    patch = ThreadMetadataPatch.model_construct(_fields_set={"approval_mode"}, approval_mode=object())
    header = UpdateThreadMetadata.model_construct(op="update_thread_metadata", at=AT, patch=patch)

    with pytest.raises(InvalidRequest):
        OrderedTask(header).encode()


@given(
    at=st.datetimes(timezones=st.just(UTC)),
    lines=st.lists(st.binary(max_size=20), min_size=1),
    key=st.none() | st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=200),
)
def test_encode_append_equals_encoding_the_task(at: datetime, lines: list[bytes], key: str | None) -> None:
    header = AppendItems(at=at, idempotency_key=key)

    assert encode_append(header.at, tuple(lines), key) == OrderedTask(header, tuple(lines)).encode()


GARBAGE: list[bytes] = [
    b"",
    b"\0",
    b"garbage",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"append_items"',
    b"{}",
    b'{"op":"from_the_future","at":"2026-11-22T12:00:00Z"}',
    b'{"op":["append_items"],"at":"2026-11-22T12:00:00Z"}',
    b'{"op":"append_items"}',
    b'{"op":"append_items","at":"2026-11-22T12:00:00Z","idempotency_key":""}',
    b'{"op":"append_items","at":"yesterday"}',
    b'{"op":"append_items","at":"2026-11-22T12:00:00"}',
    b'{"op":"append_items","at":"0001-01-01T00:00:00+14:00"}',
    b'{"op":"append_items","at":"2026-11-22T12:00:00Z","surprise":1}',
    b'{"op":"create_thread","at":"2026-11-22T12:00:00Z","session_meta":[]}',
    b'{"op":"update_thread_metadata","at":"2026-11-22T12:00:00Z"}',
    b'{"op":"update_thread_metadata","at":"2026-11-22T12:00:00Z","patch":{"thread_source":{"a":1}}}',
    b'{"op":"update_thread_metadata","at":"2026-11-22T12:00:00Z","patch":{},"observed_from":"here"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("header", GARBAGE, ids=lambda header: repr(header[:60]))
def test_a_malformed_task_is_an_invalid_request(header: bytes) -> None:
    with pytest.raises(InvalidRequest):
        OrderedTask.from_wire(header, b"")


@pytest.mark.parametrize(
    "header",
    [
        b"my secret",
        b'{"text": "my secret", "broken',
        b'{"op":"my secret"}',
        b'{"op":"from_the_future","text":"my secret"}',
        b'{"op":"append_items","at":"my secret"}',
        b'{"op":"append_items","at":"2026-11-22T12:00:00Z","patch":"my secret"}',
    ],
)
def test_the_reason_never_quotes_the_task(header: bytes) -> None:
    """The reason reaches logs, Redis and Celery's events."""
    with pytest.raises(InvalidRequest) as refused:
        OrderedTask.from_wire(header, b"")

    assert "secret" not in str(refused.value)
