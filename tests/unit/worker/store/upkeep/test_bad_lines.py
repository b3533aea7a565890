from __future__ import annotations

import pytest

from livethread_worker.store.upkeep.doctor.bad_lines import BadLine, examine_line

ONE = b'{"type":"event_msg","payload":{"type":"user_message","message":"one \\\\ \\" \xc3\xa4"}}'
TWO = b'{"timestamp":"2026-11-22T12:00:00.000Z","type":"response_item","payload":{"type":"message","n":18446744073709551616}}'
TOLD = b'{"type":"event_msg","payload":{"message":"%b"}}'


@pytest.mark.parametrize("line", [ONE, TWO, ONE + b"\r", b"", b" ", b"{}", TOLD % b"\\ud83d\\ude80 \\\\ud83d"])
def test_a_record_and_a_blank_line_are_not_bad(line: bytes) -> None:
    assert examine_line(line) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"\xef\xbb\xbf" + ONE, BadLine("a byte order mark before it", [ONE])),
        (ONE + TWO, BadLine("several records, or a part of one", [ONE, TWO])),
        (ONE[:20] + TWO, BadLine("several records, or a part of one", [TWO])),
        (ONE + TWO[:50], BadLine("several records, or a part of one", [ONE])),
        (b"\0\0" + ONE + b"\0", BadLine("control characters", [ONE])),
        (b"\0\0\0", BadLine("NUL characters", [])),
        (TOLD % b"a\0b\tc", BadLine("control characters", [TOLD % b"a\\u0000b\\u0009c"])),
        (TOLD % b"\\ud83d cut", BadLine("half a surrogate pair", [TOLD % b"\xef\xbf\xbd cut"])),
        (TOLD % b"\\uDE80\\uD83D\\uDE80", BadLine("half a surrogate pair", [TOLD % b"\xef\xbf\xbd\\uD83D\\uDE80"])),
        (b"hello", BadLine("not a JSON object", [])),
        (b"[1]", BadLine("not a JSON object", [])),
        (ONE[:-1], BadLine("not a JSON object", [])),
        (b"{" * 100_000, BadLine("not a JSON object", [])),
    ],
    ids=str,
)
def test_a_bad_line_is_named_and_its_records_are_found(line: bytes, found: BadLine) -> None:
    assert examine_line(line) == found


@pytest.mark.parametrize("number", [b"NaN", b"1e999", b"-Infinity"])
def test_a_record_with_a_number_that_is_not_json_stays(number: bytes) -> None:
    bad = examine_line(b'{"type":"event_msg","payload":{"n":%b}}' % number)

    assert bad is not None
    assert bad.records is None


def test_an_object_in_a_torn_record_is_not_taken_for_a_record() -> None:
    torn = b'{"type":"response_item","payload":{"type":"message","role":"user","content":[]}'

    assert examine_line(torn) == BadLine("not a JSON object", [])
