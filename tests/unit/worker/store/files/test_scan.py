from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.rollout.lines import decode_line
from livethread_worker.store.files import scan
from livethread_worker.store.files.scan import Record, scan_backward, scan_lines, scan_records, writer_mark


def scanned(data: bytes, start: int = 0) -> list[Record]:
    return list(scan_records(io.BytesIO(data), start))


def test_every_line_is_a_record_with_its_offset() -> None:
    assert scanned(b'{"a":1}\n{"b":2}\n') == [Record(0, 8, {"a": 1}), Record(8, 8, {"b": 2})]


def test_an_empty_file_has_no_record() -> None:
    assert scanned(b"") == []


@pytest.mark.parametrize("start", [8, 16])
def test_a_scan_may_start_at_any_line(start: int) -> None:
    data = b'{"a":1}\n{"b":2}\n'

    assert scanned(data, start) == [record for record in scanned(data) if record.offset >= start]


def test_a_torn_last_line_is_bad_and_incomplete() -> None:
    assert scanned(b'{"a":1}\n{"b":') == [Record(0, 8, {"a": 1}), Record(8, 5, None, is_complete=False)]


def test_a_last_line_without_a_line_end_is_read() -> None:
    assert scanned(b'{"a":1}') == [Record(0, 7, {"a": 1}, is_complete=False)]


def test_a_tear_inside_a_character_is_bad() -> None:
    data = '{"a":"é"}'.encode()

    assert scanned(data[:7]) == [Record(0, 7, None, is_complete=False)]


def test_carriage_returns_are_tolerated() -> None:
    assert scanned(b'{"a":1}\r\n\r\n') == [Record(0, 9, {"a": 1}), Record(9, 2, None)]


@pytest.mark.parametrize("bad", [b"", b" ", b"\0\0\0", b"garbage", b"[1]", b'{"a":"\xff"}', b'{"a":1}{"a":2}'])
def test_a_bad_line_does_not_stop_the_scan(bad: bytes) -> None:
    assert scanned(bad + b'\n{"a":1}\n') == [Record(0, len(bad) + 1, None), Record(len(bad) + 1, 8, {"a": 1})]


ODD_LINES = (
    *(
        b"",
        b" ",
        b"garbage",
        b"[1]",
        b"7",
        b'{"a":"\xff"}',
        b'{"a":1}',
        b'{"b":NaN}',
        b'{"b":1e999}',
        b'{"a":1}{"a":2}',
        b'{"a":"\xc3\xa9"}\r',
    ),
    *(
        b'{"n":123456789012345678901234567890}',
        b'{"n":-12345678901234567890,"m":NaN}',
        b'{"n":"12345678901234567890"}',
    ),
)


@given(lines=st.lists(st.sampled_from(ODD_LINES)), tail=st.sampled_from(ODD_LINES), read_bytes=st.integers(1, 200))
def test_lines_equal_those_of_the_records(lines: list[bytes], tail: bytes, read_bytes: int) -> None:
    data = b"".join(line + b"\n" for line in lines) + tail

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "READ_BYTES", read_bytes)
        read = list(scan_lines(io.BytesIO(data)))

    assert read == [*lines, *([tail] if tail else [])]
    assert repr(list(map(decode_line, read))) == repr([record.value for record in scanned(data)])


def test_a_tail_of_zeros_is_bad_and_incomplete() -> None:
    assert scanned(b'{"a":1}\n' + b"\0" * 4096) == [Record(0, 8, {"a": 1}), Record(8, 4096, None, is_complete=False)]


def test_a_line_longer_than_a_read_is_one_record() -> None:
    long = json.dumps({"a": "x" * (2 * scan.READ_BYTES + 17)}).encode() + b"\n"
    short = b'{"b":2}\n'

    records = scanned(short + long + short)

    assert [(r.offset, r.size, r.is_complete) for r in records] == [
        (0, 8, True),
        (8, len(long), True),
        (8 + len(long), 8, True),
    ]
    assert [r.value for r in records] == [{"b": 2}, json.loads(long), {"b": 2}]


def test_lines_across_reads_are_all_read() -> None:
    lines = [json.dumps({"n": n, "pad": "é" * (n % 700)}, ensure_ascii=False).encode() + b"\n" for n in range(3_000)]
    assert sum(map(len, lines)) > scan.READ_BYTES

    records = scanned(b"".join(lines))

    assert [record.value and record.value["n"] for record in records] == list(range(3_000))
    assert [record.size for record in records] == list(map(len, lines))


@given(st.lists(st.sampled_from([b'{"a":1}', b"\n", b"\r\n", b"garbage", b"\0", b"\xc3", b'{"b":"', b" "])))
def test_the_records_cover_the_file_without_gap_or_overlap(parts: list[bytes]) -> None:
    data = b"".join(parts)

    records = scanned(data)

    assert [r.offset for r in records] == [sum(r.size for r in records[:i]) for i in range(len(records))]
    assert sum(r.size for r in records) == len(data)
    assert all(r.is_complete for r in records[:-1])


@pytest.mark.parametrize(
    ("value", "mark"),
    [
        ({"seq": "w1:7", "ordinal": 0}, ("w1", 7)),
        ({"seq": "a:b:7", "ordinal": 3}, None),  # our writers have no colon in their names
        ({"seq": "w" * 65 + ":7", "ordinal": 3}, None),
        ({"seq": "w1:7", "ordinal": 2**62}, None),
        ({"seq": "w1:7", "ordinal": -1}, None),
        ({"seq": "w1:7", "ordinal": True}, None),
        ({"seq": "w1:7"}, None),
        ({"seq": "w1:7", "ordinal": "3"}, None),
        ({"ordinal": 3}, None),
        ({"seq": "w1:", "ordinal": 3}, None),
        ({"seq": ":7", "ordinal": 3}, None),
        ({"seq": "w1:-7", "ordinal": 3}, None),
        ({"seq": "w1:²", "ordinal": 3}, None),
        ({"seq": 7, "ordinal": 3}, None),
        ({"seq": None, "ordinal": 3}, None),
        ({"seq": "w1:" + "9" * 5_000, "ordinal": 3}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_our_lines_name_their_tasks(value: dict[str, Any], mark: tuple[str, int] | None) -> None:
    assert writer_mark(value) == mark


# -- backward ----------------------------------------------------------------------------------------------


def scanned_backward(data: bytes, end: int | None = None, start: int = 0, *, read_bytes: int = 7) -> list[Record]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "READ_BYTES", read_bytes)
        return list(scan_backward(io.BytesIO(data), len(data) if end is None else end, start))


def test_backward_the_last_line_comes_first() -> None:
    assert scanned_backward(b'{"a":1}\n{"b":2}\n') == [Record(8, 8, {"b": 2}), Record(0, 8, {"a": 1})]


def test_backward_a_torn_last_line_comes_first() -> None:
    assert scanned_backward(b'{"a":1}\n{"b":') == [Record(8, 5, None, is_complete=False), Record(0, 8, {"a": 1})]


def test_backward_an_empty_file_has_no_record() -> None:
    assert scanned_backward(b"") == []


def test_backward_a_blank_first_line_is_a_record_too() -> None:
    data = b'\n{"a":1}\n'

    assert scanned_backward(data) == scanned(data)[::-1]


def test_backward_a_line_longer_than_a_read_is_one_record() -> None:
    long = json.dumps({"a": "x" * (3 * scan.READ_BYTES + 17)}).encode() + b"\n"
    data = b'{"b":1}\n' + long + b'{"b":2}\n'

    assert scanned_backward(data, read_bytes=scan.READ_BYTES) == scanned(data)[::-1]


LINES = st.lists(
    st.sampled_from([b'{"a":1}', b"", b"\r", b"garbage", b"\0", b"\xc3", b'{"b":"\xc3\xa9"}', b"x" * 30])
)


@given(lines=LINES, torn=st.sampled_from([b"", b'{"b":', b'{"a":1}']), read_bytes=st.integers(1, 40))
def test_backward_is_forward_reversed(lines: list[bytes], torn: bytes, read_bytes: int) -> None:
    data = b'{"first":0}\n' + b"".join(line + b"\n" for line in lines) + torn

    assert scanned_backward(data, read_bytes=read_bytes) == scanned(data)[::-1]


@given(lines=LINES, data=st.data())
def test_backward_between_two_offsets_yields_the_lines_between(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines if line)
    places = [0, *(record.offset + record.size for record in scanned(whole))]
    start = data.draw(st.sampled_from(places), label="start")
    end = data.draw(st.sampled_from([place for place in places if place >= start]), label="end")
    read_bytes = data.draw(st.integers(1, 40), label="read_bytes")

    between = [record for record in scanned(whole) if start <= record.offset < end]

    assert scanned_backward(whole, end, start, read_bytes=read_bytes) == between[::-1]


@given(lines=LINES, read_bytes=st.integers(1, 40))
def test_the_size_of_reads_makes_no_difference(lines: list[bytes], read_bytes: int) -> None:
    data = b"\n".join(lines)

    whole = scanned(data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "READ_BYTES", read_bytes)
        assert scanned(data) == whole
