from __future__ import annotations

import fcntl
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.worker.builders import thread_id
from tests.unit.worker.conftest import LimitFileSize

from livethread_worker.store.files import name_index
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.files.name_reader import NameReader

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE, TWO = thread_id(1), thread_id(2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_a_name_is_written_as_codex_writes_it(home: Home) -> None:
    set_name(home, ONE, "Größe", AT)

    text = home.session_index.read_text(encoding="utf-8")
    assert text == f'{{"id":"{ONE}","thread_name":"Größe","updated_at":"2026-11-22T12:00:00.000Z"}}\n'
    assert stat.S_IMODE(home.session_index.stat().st_mode) == 0o600


def test_the_last_line_of_a_thread_wins_regardless_of_its_time(home: Home) -> None:
    set_name(home, ONE, "new", AT)
    set_name(home, TWO, "other", AT)
    set_name(home, ONE, "last", datetime(2020, 1, 1, tzinfo=UTC))

    assert read_names(home) == {ONE: "last", TWO: "other"}


def test_removing_a_name_leaves_one_line_of_the_thread_and_all_others(home: Home) -> None:
    set_name(home, ONE, "n", AT)
    set_name(home, ONE, "m", AT)
    set_name(home, TWO, "other", AT)
    before = home.session_index.read_bytes().splitlines(keepends=True)

    set_name(home, ONE, None, AT)
    set_name(home, ONE, None, AT)

    removal = f'{{"id":"{ONE}","thread_name":null,"updated_at":"2026-11-22T12:00:00.000Z"}}\n'
    assert home.session_index.read_bytes() == removal.encode() + before[2]
    assert read_names(home) == {ONE: None, TWO: "other"}


def test_a_missing_name_index_holds_no_names(home: Home) -> None:
    assert read_names(home) == {}


def test_removing_the_name_of_a_nameless_thread_is_noted_once(home: Home) -> None:
    """Its rollout may hold a name, if the name index was lost."""
    set_name(home, ONE, None, AT)
    before = home.session_index.read_bytes()

    set_name(home, ONE, None, AT)

    assert read_names(home) == {ONE: None}
    assert home.session_index.read_bytes() == before


def test_a_thread_can_be_named_again(home: Home) -> None:
    set_name(home, ONE, "n", AT)
    set_name(home, ONE, None, AT)

    set_name(home, ONE, "again", AT)

    assert read_names(home) == {ONE: "again"}


def test_bad_lines_are_skipped(home: Home) -> None:
    good = json.dumps({"id": TWO, "thread_name": "codex's", "updated_at": "2026-11-22T17:39:40.601104562Z"})
    home.session_index.write_bytes(
        b'garbage\n\n{"id":7,"thread_name":"x"}\n{"id":"a"}\n' + good.encode() + b"\r\n" + b'{"id":"torn'
    )

    assert read_names(home) == {TWO: "codex's"}


def test_a_line_is_not_appended_to_a_torn_one(home: Home) -> None:
    home.session_index.write_bytes(b'{"id":"torn')

    set_name(home, ONE, "n", AT)

    assert home.session_index.read_bytes().startswith(b'{"id":"torn\n{"id":')
    assert read_names(home) == {ONE: "n"}


def test_a_name_that_does_not_fit_on_the_disk_is_an_error(home: Home, limit_file_size: LimitFileSize) -> None:
    """Although the kernel writes the part that fits."""
    set_name(home, ONE, "before", AT)
    size = home.session_index.stat().st_size

    with limit_file_size(size + 20), pytest.raises(OSError, match="File too large"):
        set_name(home, ONE, "after", AT)

    assert read_names(home) == {ONE: "before"}


def test_a_name_index_that_stays_locked_is_busy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_index, "LOCK_WAIT", 0.0)
    lock = home.session_index.with_name("session_index.jsonl.lock")

    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockBusy, match=r"session_index\.jsonl\.lock"):
            set_name(home, ONE, "n", AT)

    assert read_names(home) == {}


# -- reading on --------------------------------------------------------------------------------------------


def names_of(reader: NameReader) -> dict[str, str | None]:
    return {thread_id: line.name for thread_id, line in reader.read().items()}


def test_added_lines_are_read_once_they_are_complete(home: Home) -> None:
    reader = NameReader(home.session_index)
    assert names_of(reader) == {}
    set_name(home, ONE, "n", AT)
    assert names_of(reader) == {ONE: "n"}
    with home.session_index.open("ab", buffering=0) as file:
        file.write(b'{"id":"%b","thread_name":"ot' % TWO.encode())
        assert names_of(reader) == {ONE: "n"}
        file.write(b'her"}\n')

    assert names_of(reader) == {ONE: "n", TWO: "other"}


def test_a_replaced_truncated_or_deleted_name_index_is_read_again(home: Home) -> None:
    reader = NameReader(home.session_index)
    set_name(home, ONE, "n", AT)
    set_name(home, TWO, "other", AT)
    assert names_of(reader) == {ONE: "n", TWO: "other"}

    set_name(home, ONE, None, AT)
    assert names_of(reader) == {ONE: None, TWO: "other"}
    home.session_index.write_bytes(b"")
    assert names_of(reader) == {}
    set_name(home, ONE, "again", AT)
    assert names_of(reader) == {ONE: "again"}
    home.session_index.unlink()
    assert names_of(reader) == {}


def test_a_fifo_in_place_of_the_name_index_is_an_error(home: Home) -> None:
    os.mkfifo(home.session_index)

    with pytest.raises(OSError, match="seek"):
        NameReader(home.session_index).read()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T12:00:00.601104562Z", AT.replace(microsecond=601000)),
        ("soon", datetime.fromtimestamp(0, UTC)),
        (None, datetime.fromtimestamp(0, UTC)),
    ],
)
def test_a_line_holds_the_time_of_the_name(home: Home, text: str | None, at: datetime) -> None:
    line = {"id": ONE, "thread_name": "n", "updated_at": text}
    home.session_index.write_text(json.dumps(line) + "\n")

    assert NameReader(home.session_index).read()[ONE].at == at
