"""`examine` reports each fault, changes nothing without *fix*, and repairs it with *fix*."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.worker.builders import AT, DAY, Mail, Store, message_line, thread_id

from livethread.cli import main
from livethread.metadata import ThreadMetadataPatch
from livethread.rollout.lines import decode_line
from livethread.types import ListThreadsParams, SearchThreadsParams
from livethread_worker.store.files import home as home_module
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.upkeep.doctor import DoctorReport, FaultKind, examine, full_text

ONE, TWO = thread_id(1), thread_id(2)


class Patient(Store):
    """A home with one sound thread that has a name, which the functions below damage."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.index.mark_complete()
        self.mail = Mail(1)
        self.apply(self.mail, self.mail.create(), self.mail.append("hello", "zebra"))
        self.apply(self.mail, self.mail.patch(ThreadMetadataPatch(name="a name")))
        self.read_in(ONE)
        self.rollout = self.path(self.mail)

    def examined(self, *, fix: bool = False) -> DoctorReport:
        return examine(self.home, fix=fix)

    def kinds(self, *, fix: bool = False) -> list[FaultKind]:
        return [fault.kind for fault in self.examined(fix=fix).faults]

    def sql(self, statement: str, *arguments: Any) -> None:
        self.index.db.conn.execute(statement, arguments)

    def edit(self, change: Callable[[bytes], bytes]) -> None:
        self.rollout.write_bytes(change(self.rollout.read_bytes()))

    def files(self) -> dict[str, bytes]:
        """Return all files of the home except locks and the index."""
        return {
            str(path.relative_to(self.home.root)): path.read_bytes()
            for path in sorted(self.home.root.rglob("*"))
            if path.is_file() and "index.sqlite" not in path.name and path.parent != self.home.locks
        }


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    patient = Patient(tmp_path / "home")
    yield patient
    patient.close()


def unindex(patient: Patient) -> None:
    patient.forget(ONE)


def delete_the_rollout(patient: Patient) -> None:
    patient.rollout.unlink()


def move(patient: Patient) -> None:
    patient.home.archived_sessions.mkdir(mode=0o700)
    patient.rollout.rename(patient.home.archived_sessions / patient.rollout.name)


def grow(patient: Patient) -> None:
    patient.edit(lambda lines: lines + message_line("from codex") + b"\n")


def cut(patient: Patient) -> None:
    patient.edit(lambda lines: b"".join(lines.splitlines(keepends=True)[:-1]))


def change_the_record_count(patient: Patient) -> None:
    patient.sql("UPDATE rollouts SET next_ordinal = 40")


def delete_a_message(patient: Patient) -> None:
    patient.sql("DELETE FROM messages WHERE text = 'zebra'")


def delete_full_text_of_a_message(patient: Patient) -> None:
    patient.index.maintain(is_idle=True)
    patient.sql(
        "INSERT INTO messages_fts (messages_fts, rowid, text) SELECT 'delete', id, text FROM messages WHERE text = 'zebra'"
    )


def delete_trigrams_of_a_message(patient: Patient) -> None:
    while patient.index.maintain(is_idle=True):
        pass
    patient.index.db.execute(
        "INSERT INTO messages_trigrams (messages_trigrams, rowid, text)"
        " SELECT 'delete', id, text FROM messages ORDER BY id LIMIT 1"
    )


def delete_all_full_text(patient: Patient) -> None:
    patient.index.maintain(is_idle=True)
    patient.sql("DELETE FROM messages_fts_data WHERE id > 10")
    patient.sql("DELETE FROM listing_texts_data WHERE id > 10")


def delete_fts_structure(patient: Patient) -> None:
    patient.sql("DELETE FROM messages_fts_data WHERE id = 10")
    patient.sql("DELETE FROM listing_texts_data WHERE id = 10")


def delete_fts_configuration(patient: Patient) -> None:
    patient.sql("DELETE FROM messages_fts_config")


def delete_a_row(patient: Patient) -> None:
    patient.sql("DELETE FROM rollouts")


def change_a_listed_text(patient: Patient) -> None:
    patient.sql("UPDATE listing_texts SET text = 'another' WHERE text = 'a name'")


def add_an_orphan_text(patient: Patient) -> None:
    patient.sql("INSERT INTO listing_texts (rowid, text) VALUES (4000, 'orphan')")


def change_a_word(patient: Patient) -> None:
    patient.edit(lambda lines: lines.replace(b"zebra", b"cobra"))


def rename_in_the_index(patient: Patient) -> None:
    patient.sql("UPDATE threads SET name = 'another'")


def name_a_missing_thread(patient: Patient) -> None:
    set_name(patient.home, TWO, "orphan", AT)


def tear(patient: Patient) -> None:
    patient.edit(lambda lines: lines + b'{"torn": "caf\xc3')


def break_utf8(patient: Patient) -> None:
    patient.edit(lambda lines: lines.replace(b"zebra", b"z\xffbra"))


def garble_the_first_line(patient: Patient) -> None:
    patient.edit(lambda lines: b"\0\0garbage\n" + b"".join(lines.splitlines(keepends=True)[1:3]))
    patient.read_in(ONE)


def damage_compressed(patient: Patient) -> None:
    path = compress(patient.rollout)
    patient.index.set_path(ONE, patient.home.relative(path))
    path.write_bytes(path.read_bytes()[:-30])


def duplicate(patient: Patient) -> None:
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    other.parent.mkdir(parents=True)
    for folder in other.parents[:3]:
        folder.chmod(0o700)
    other.write_bytes(patient.rollout.read_bytes())
    other.chmod(0o600)


def give_others_access(patient: Patient) -> None:
    patient.rollout.chmod(0o644)


def leave_an_unfinished_copy(patient: Patient) -> None:
    """Leave what a process leaves if it is killed while it compresses."""
    path = patient.rollout.with_name(f".{patient.rollout.name}.zst.new")
    path.write_bytes(patient.rollout.read_bytes().splitlines(keepends=True)[0])
    path.chmod(0o600)


def damage_the_index(patient: Patient) -> None:
    patient.close()
    size = patient.home.index.stat().st_size
    patient.home.index.write_bytes(os.urandom(size))


def delete_the_index(patient: Patient) -> None:
    patient.close()
    for path in patient.home.own.glob("index.sqlite*"):
        path.unlink()


FAULTS: dict[Callable[[Patient], None], list[FaultKind]] = {
    unindex: [FaultKind.UNINDEXED_FILE],
    delete_the_rollout: [
        FaultKind.ROW_WITHOUT_FILE,
        FaultKind.NAME_WITHOUT_THREAD,
        FaultKind.ORIGINAL_WITHOUT_FILE,
    ],
    move: [FaultKind.MOVED_FILE],
    grow: [FaultKind.LENGTH_MISMATCH],
    cut: [FaultKind.LENGTH_MISMATCH],
    change_the_record_count: [FaultKind.ORDINAL_MISMATCH],
    delete_a_message: [FaultKind.STALE_SEARCH],
    change_a_word: [FaultKind.STALE_SEARCH],
    delete_full_text_of_a_message: [FaultKind.STALE_FULL_TEXT],
    delete_trigrams_of_a_message: [FaultKind.STALE_FULL_TEXT],
    # Newer releases of SQLite check full text in `quick_check`.
    delete_all_full_text: [
        FaultKind.DAMAGED_INDEX if sqlite3.sqlite_version_info >= (3, 44) else FaultKind.STALE_FULL_TEXT
    ],
    change_a_listed_text: [FaultKind.STALE_FULL_TEXT],
    add_an_orphan_text: [FaultKind.STALE_FULL_TEXT],
    rename_in_the_index: [FaultKind.STALE_NAME, FaultKind.STALE_FULL_TEXT],
    name_a_missing_thread: [FaultKind.NAME_WITHOUT_THREAD],
    tear: [FaultKind.TORN_TAIL],
    break_utf8: [FaultKind.INVALID_UTF8, FaultKind.STALE_SEARCH],
    garble_the_first_line: [FaultKind.BAD_LINE, FaultKind.NO_SESSION_META, FaultKind.STALE_NAME],
    damage_compressed: [FaultKind.DAMAGED_FILE],
    duplicate: [FaultKind.DUPLICATE_ID],
    leave_an_unfinished_copy: [FaultKind.UNFINISHED_COPY],
    give_others_access: [FaultKind.BAD_PERMISSIONS],
    damage_the_index: [FaultKind.DAMAGED_INDEX],
    delete_the_index: [FaultKind.DAMAGED_INDEX],
}
EACH_FAULT = pytest.mark.parametrize("break_it", FAULTS, ids=lambda fault: fault.__name__)


def test_a_sound_home_has_no_fault(patient: Patient) -> None:
    assert patient.examined() == DoctorReport(threads=1)


@EACH_FAULT
def test_each_fault_is_reported_without_changing_anything(
    patient: Patient, break_it: Callable[[Patient], None]
) -> None:
    break_it(patient)
    before = patient.files()

    report = patient.examined()

    assert sorted({fault.kind for fault in report.faults}) == sorted(FAULTS[break_it])
    assert not report.is_well
    assert patient.files() == before


@EACH_FAULT
def test_each_fault_is_repaired_for_good(patient: Patient, break_it: Callable[[Patient], None]) -> None:
    break_it(patient)

    report = patient.examined(fix=True)

    assert report.is_well
    assert report.faults
    assert patient.examined().faults == []


@EACH_FAULT
def test_no_line_is_lost(patient: Patient, break_it: Callable[[Patient], None]) -> None:
    """Each line is in the home or in the quarantine afterwards, except lines that another program deleted."""
    break_it(patient)
    files = {
        name: content for name, content in patient.files().items() if not name.startswith("livethread/originals/")
    }
    lines = {line for content in files.values() for line in content.splitlines()}

    patient.examined(fix=True)

    after = b"\n".join(patient.files().values())
    assert [line for line in lines if line not in after] == []


def test_a_repaired_thread_is_searched_and_read_as_before(patient: Patient) -> None:
    before = patient.thread(patient.mail)
    in_index = (
        delete_full_text_of_a_message,
        delete_trigrams_of_a_message,
        delete_all_full_text,
        change_a_listed_text,
        add_an_orphan_text,
    )
    for break_it in (
        unindex,
        change_the_record_count,
        delete_a_message,
        rename_in_the_index,
        tear,
        duplicate,
        *in_index,
    ):
        break_it(patient)

        patient.examined(fix=True)

        assert patient.thread(patient.mail) == before
        assert len(patient.index.search_threads(SearchThreadsParams(search_term="zebra")).items) == 1
        assert (
            len(
                patient.index.list_threads(
                    ListThreadsParams(include_without_preview=True, search_term="a name")
                ).items
            )
            == 1
        )


def test_an_edited_thread_is_found_by_its_new_words(patient: Patient) -> None:
    change_a_word(patient)

    patient.examined(fix=True)

    found = [
        len(patient.index.search_threads(SearchThreadsParams(search_term=term)).items) for term in ("zebra", "cobra")
    ]
    assert found == [0, 1]


def test_messages_that_wait_for_indexing_are_not_a_fault_and_are_left(patient: Patient) -> None:
    left = patient.index.db.table("unindexed_messages").count
    assert left > 0

    assert full_text.stale_full_texts(patient.home.index, fix=False) == []

    assert patient.index.db.table("unindexed_messages").count == left


def test_the_rest_is_examined_while_full_text_stays_locked(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_text, "BUSY_TIMEOUT", 0.01)
    tear(patient)
    patient.sql("BEGIN IMMEDIATE")

    report = patient.examined()

    assert report.busy == ["livethread/index.sqlite"]
    assert [fault.kind for fault in report.faults] == [FaultKind.TORN_TAIL]
    assert not report.is_well


@pytest.mark.parametrize("other", [delete_the_rollout, change_a_word, rename_in_the_index, delete_a_row])
@pytest.mark.parametrize(
    "break_it", [delete_full_text_of_a_message, delete_all_full_text, delete_fts_structure, delete_fts_configuration]
)
def test_other_faults_are_repaired_beside_damaged_full_text(
    patient: Patient, break_it: Callable[[Patient], None], other: Callable[[Patient], None]
) -> None:
    break_it(patient)
    other(patient)

    assert patient.examined(fix=True).is_well

    assert patient.examined().faults == []


def test_invalid_bytes_are_replaced_and_the_rest_of_the_line_is_kept(patient: Patient) -> None:
    break_utf8(patient)

    patient.examined(fix=True)

    assert patient.texts(patient.mail) == ["hello", "z\ufffdbra"]
    [kept] = patient.quarantined()
    assert b"z\xffbra" in kept


def test_a_rollout_without_session_meta_gets_one(patient: Patient) -> None:
    garble_the_first_line(patient)
    before = patient.rollout.read_bytes()

    patient.examined(fix=True)

    first, *rest = [decode_line(line) for line in patient.rollout.read_bytes().splitlines()]
    assert first is not None
    assert (first["type"], first["payload"]["id"]) == ("session_meta", ONE)
    assert [line and line["payload"]["message"] for line in rest] == ["hello", "zebra"]
    assert before in patient.quarantined()


def test_a_rollout_with_nothing_but_garbage_is_quarantined(patient: Patient) -> None:
    path = patient.write_rollout(TWO)
    path.write_bytes(b"garbage\n")
    path.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.NO_SESSION_META]

    assert not path.exists()
    assert patient.quarantined() == [b"garbage\n"]


def test_the_readable_part_of_a_damaged_compressed_rollout_is_decompressed(patient: Patient) -> None:
    long = [message_line(os.urandom(2000).hex()) for _ in range(200)]
    patient.apply(patient.mail, patient.mail.append_lines(*long))
    patient.read_in(ONE)
    damage_compressed(patient)

    assert FaultKind.DAMAGED_FILE in patient.kinds(fix=True)

    assert len(patient.records(patient.mail)) > 50
    assert patient.kinds() == []


def test_the_longer_of_two_rollouts_that_begin_alike_is_kept(patient: Patient) -> None:
    """Wherever they are: a user's backup copy is shorter."""
    duplicate(patient)
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    with other.open("ab") as file:
        file.write(message_line("further") + b"\n")

    patient.examined(fix=True)

    assert (other.exists(), patient.rollout.exists()) == (True, False)
    assert patient.thread(patient.mail).rollout_path == other


def test_the_indexed_one_of_two_rollouts_that_differ_is_kept(patient: Patient) -> None:
    duplicate(patient)
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    other.write_bytes(other.read_bytes().replace(b"hello", b"adieu") * 2)

    patient.examined(fix=True)

    assert (other.exists(), patient.rollout.exists()) == (False, True)
    assert patient.texts(patient.mail) == ["hello", "zebra"]


def test_a_compressed_copy_beside_its_rollout_is_quarantined(patient: Patient) -> None:
    content = patient.rollout.read_bytes()
    compressed = compress(patient.rollout)
    patient.rollout.write_bytes(content)
    patient.rollout.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.DUPLICATE_ID]

    assert (compressed.exists(), patient.rollout.exists()) == (False, True)


def test_several_faults_of_a_compressed_rollout_are_repaired(patient: Patient) -> None:
    break_utf8(patient)
    tear(patient)
    compressed = compress(patient.rollout)
    patient.index.set_path(ONE, patient.home.relative(compressed))

    assert {FaultKind.TORN_TAIL, FaultKind.INVALID_UTF8} <= set(patient.kinds(fix=True))

    assert patient.texts(patient.mail) == ["hello", "z\ufffdbra"]
    assert patient.kinds() == []


def test_a_rollout_restored_beside_a_damaged_compressed_one_is_kept(patient: Patient) -> None:
    """Even if the index has the damaged one."""
    content = patient.rollout.read_bytes()
    damage_compressed(patient)
    patient.rollout.write_bytes(content)
    patient.rollout.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.DUPLICATE_ID, FaultKind.MOVED_FILE]

    assert patient.rollout.read_bytes() == content
    assert patient.kinds() == []


def test_a_row_without_a_file_is_kept_in_the_quarantine(patient: Patient) -> None:
    delete_the_rollout(patient)

    patient.examined(fix=True)

    assert patient.index.read_thread(ONE) is None
    assert any(b"a name" in kept and ONE.encode() in kept for kept in patient.quarantined())
    assert read_names(patient.home) == {}


def test_orphan_names_are_quarantined_in_one_file_and_the_others_left(patient: Patient) -> None:
    before = patient.home.session_index.read_bytes()
    orphans = b"".join(
        b'{"id":"%b","thread_name":"n","updated_at":""}\n' % thread_id(n).encode() for n in range(2, 50)
    )
    patient.home.session_index.write_bytes(before + orphans)

    assert patient.kinds(fix=True) == [FaultKind.NAME_WITHOUT_THREAD] * 48

    assert patient.quarantined() == [orphans]
    assert patient.home.session_index.read_bytes() == before


@pytest.mark.parametrize("link", [DAY, "archived_sessions"])
def test_a_link_out_of_the_home_is_reported_and_left(
    patient: Patient, tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    patient.rollout.parent.rename(outside)
    path = patient.home.root / link
    path.symlink_to(outside)
    monkeypatch.setattr(home_module, "_owner", lambda each: 12345 if each == path else 6)

    report = patient.examined(fix=True)

    assert FaultKind.LINK_OUT in {fault.kind for fault in report.faults}
    assert not report.is_well
    assert path.is_symlink()
    assert len(list(outside.iterdir())) == 1


def test_an_owners_link_to_another_disk_is_no_fault(patient: Patient, tmp_path: Path) -> None:
    patient.home.sessions.rename(tmp_path / "disk")
    patient.home.sessions.symlink_to(tmp_path / "disk")

    assert patient.kinds() == []


def test_nothing_behind_a_link_out_of_the_home_is_changed(patient: Patient, tmp_path: Path) -> None:
    month = tmp_path / "outside/11"
    month.mkdir(parents=True)
    month.chmod(0o755)
    (patient.home.sessions / "2020").symlink_to(tmp_path / "outside")

    assert patient.kinds(fix=True) == [FaultKind.LINK_OUT]

    assert month.stat().st_mode & 0o777 == 0o755


def test_a_rollout_that_cannot_be_opened_is_reported_and_others_repaired(patient: Patient) -> None:
    tear(patient)
    path = patient.home.sessions / "2026/11/22" / f"rollout-2026-01-01T00-00-00-{TWO}.jsonl"
    path.mkdir(mode=0o700)

    assert patient.kinds(fix=True) == [FaultKind.UNREADABLE_FILE, FaultKind.TORN_TAIL]

    assert path.is_dir()
    assert patient.kinds() == [FaultKind.UNREADABLE_FILE]


def test_a_rollout_that_is_a_link_is_reported_and_left(patient: Patient, tmp_path: Path) -> None:
    target = patient.rollout.rename(tmp_path / "elsewhere")
    patient.rollout.symlink_to(target)

    report = patient.examined(fix=True)

    assert [fault.kind for fault in report.faults] == [FaultKind.LINK_OUT]
    assert patient.rollout.is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a folder"])
def test_anything_but_a_regular_file_is_reported_and_left(
    patient: Patient, make: Callable[[Path, int], None]
) -> None:
    patient.rollout.unlink()
    make(patient.rollout, 0o700)

    report = patient.examined(fix=True)

    assert [fault.kind for fault in report.faults] == [FaultKind.UNREADABLE_FILE]
    assert patient.rollout.exists()


def test_a_loop_of_links_is_reported_and_left(patient: Patient) -> None:
    loop = patient.home.sessions / "2020"
    loop.symlink_to(loop)

    assert patient.kinds(fix=True) == [FaultKind.LINK_OUT]

    assert loop.is_symlink()


def test_access_of_other_users_is_removed(patient: Patient) -> None:
    patient.home.sessions.chmod(0o755)
    patient.home.session_index.chmod(0o664)

    assert patient.kinds(fix=True) == [FaultKind.BAD_PERMISSIONS] * 2

    assert patient.home.sessions.stat().st_mode & 0o777 == 0o700
    assert patient.home.session_index.stat().st_mode & 0o777 == 0o600


def test_a_thread_whose_lock_stays_held_is_reported_as_busy(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livethread_worker.store.upkeep.doctor.examine_home.LOCK_WAIT", 0.0)
    tear(patient)
    with file_lock(patient.home.thread_lock(ONE)):
        report = patient.examined(fix=True)

    assert (report.busy, report.faults, report.is_well) == ([ONE], [], False)


def test_a_damaged_page_of_the_index_is_found(patient: Patient) -> None:
    for n in range(2, 200):
        mail = Mail(n)
        patient.apply(mail, mail.create(), mail.append("x" * 500))
    patient.close()
    with closing(sqlite3.connect(patient.home.index)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with patient.home.index.open("r+b") as file:
        file.seek(patient.home.index.stat().st_size // 2)
        file.write(b"\xff" * 20_000)

    report = patient.examined(fix=True)

    assert report.faults[0].kind is FaultKind.DAMAGED_INDEX
    assert report.is_well
    assert patient.kinds() == []


def test_a_locked_index_is_not_set_aside(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livethread_worker.store.upkeep.doctor.examine_home.BUSY_TIMEOUT", 0.0)
    patient.sql("PRAGMA locking_mode = EXCLUSIVE")
    patient.sql("UPDATE threads SET name = 'mine'")

    with pytest.raises(IndexUnavailable, match="locked"):
        patient.examined(fix=True)

    assert patient.quarantined() == []
    assert patient.index.is_current()


def put(patient: Patient, name: str, content: bytes, folder: str = DAY) -> Path:
    path = patient.home.root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"rollout-2026-11-22T12-00-00-{TWO.upper()}.jsonl", "livethread import"),
        (f"rollout-2026-11-22T12-00-00-{TWO}.jsonl.bak", "move it out"),
        ("chat.jsonl", "livethread import"),
        (".DS_Store", "move it out"),
        (os.fsdecode(b"\xff.jsonl"), "its name is not UTF-8"),
    ],
)
@pytest.mark.parametrize("folder", ["sessions", f"{DAY}/deeper", "archived_sessions"])
def test_a_file_whose_name_is_not_a_rollouts_is_reported_and_left(
    patient: Patient, name: str, reason: str, folder: str
) -> None:
    path = put(patient, name, b"{}\n", folder)

    report = patient.examined(fix=True)

    [fault] = [fault for fault in report.faults if fault.kind is not FaultKind.BAD_PERMISSIONS]
    assert (fault.kind, fault.repair) == (FaultKind.UNRECOGNIZED_FILE, None)
    assert reason in fault.detail
    assert path.read_bytes() == b"{}\n"


def test_a_symlink_that_is_not_followed_is_reported(patient: Patient) -> None:
    (patient.home.sessions / "again").symlink_to(patient.rollout.parent)

    assert patient.kinds(fix=True) == [FaultKind.UNRECOGNIZED_FILE]


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain as .zst", "zstd as .jsonl"])
def test_a_misnamed_rollout_is_renamed_and_stays_a_thread(patient: Patient, is_plain: bool) -> None:
    compressed = patient.rollout.with_name(f"{patient.rollout.name}.zst")
    misnamed, right = (compressed, patient.rollout) if is_plain else (patient.rollout, compressed)
    if is_plain:
        patient.rollout.rename(compressed)
    else:
        compress(patient.rollout).rename(patient.rollout)

    assert set(patient.kinds()) >= {FaultKind.MISNAMED_FILE}
    assert set(patient.kinds(fix=True)) >= {FaultKind.MISNAMED_FILE}

    assert right.exists()
    assert not misnamed.exists()
    assert patient.kinds() == []
    assert [thread.preview for thread in patient.index.list_threads(ListThreadsParams()).items] == ["hello"]


def test_a_rollout_of_another_thread_than_its_name_says_is_reported_and_left(patient: Patient) -> None:
    path = put(patient, patient.rollout.name.replace(ONE, TWO), patient.rollout.read_bytes())

    assert patient.kinds(fix=True) == [FaultKind.WRONG_NAME]

    assert path.read_bytes() == patient.rollout.read_bytes()
    assert patient.kinds() == [FaultKind.WRONG_NAME]


def test_a_rollout_in_utf16_is_reported_and_left(patient: Patient) -> None:
    content = patient.rollout.read_bytes().decode().encode("utf-16")
    path = put(patient, patient.rollout.name.replace(ONE, TWO), content)

    assert patient.kinds(fix=True) == [FaultKind.UNREADABLE_FILE]
    assert path.read_bytes() == content


def test_a_session_meta_from_further_down_is_put_first(patient: Patient) -> None:
    meta, *rest = patient.rollout.read_bytes().splitlines(keepends=True)
    patient.edit(lambda _: b"".join((*rest, meta)))

    patient.examined(fix=True)

    assert patient.rollout.read_bytes() == b"".join((meta, *rest, meta))
    assert patient.kinds() == []


def test_a_lost_first_line_is_made_from_the_other_lines(patient: Patient) -> None:
    patient.edit(lambda content: b"".join(content.splitlines(keepends=True)[1:]))
    patient.read_in(ONE)
    before = patient.thread(patient.mail).model_dump()

    patient.examined(fix=True)

    assert patient.thread(patient.mail).model_dump() == before | {"name": "a name", "originator": ""}
    assert patient.kinds() == []


def test_every_kind_of_fault_is_in_the_reference() -> None:
    text = (Path(__file__).parents[5] / "docs" / "reference.md").read_text(encoding="utf-8")

    assert [kind for kind in FaultKind if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("break_it", [break_utf8, garble_the_first_line])
def test_a_rollout_repaired_just_before_a_crash_is_read_again(
    patient: Patient, break_it: Callable[[Patient], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offsets in the index are wrong by then."""
    break_it(patient)
    with monkeypatch.context() as crash:
        crash.setattr(Index, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            patient.examined(fix=True)

    patient.apply(patient.mail, patient.mail.append("further"))

    assert patient.texts(patient.mail)[-1] == "further"
    assert patient.examined().faults == []


def test_the_command_does_not_claim_to_repair_links(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVETHREAD_HOME", str(patient.home.root))
    (patient.home.sessions / "2020").symlink_to(tmp_path)

    only_link = CliRunner().invoke(main, ["doctor"])
    patient.edit(lambda data: data + b"torn")
    both = CliRunner().invoke(main, ["doctor"])
    fixed = CliRunner().invoke(main, ["doctor", "--fix"])

    assert [result.exit_code for result in (only_link, both, fixed)] == [1, 1, 1]
    assert only_link.stdout.splitlines()[-1] == "livethread doctor --fix leaves them as they are; see the lines above"
    assert both.stdout.splitlines()[-1] == (
        "livethread doctor --fix repairs them, except those whose lines say what to do, and loses nothing; --undo reverts it"
    )
    assert fixed.stdout.splitlines()[-1] == "not repaired: 1; see the lines above"


def test_an_unfinished_copy_of_a_locked_thread_is_left(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livethread_worker.store.upkeep.doctor.examine_home.LOCK_WAIT", 0.0)
    leave_an_unfinished_copy(patient)
    with file_lock(patient.home.thread_lock(ONE)):
        assert patient.kinds(fix=True) == []

    assert len(list(patient.home.unfinished_copies())) == 1


def test_the_undo_command_restores_what_was_removed(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    tear(patient)
    before = patient.rollout.read_bytes()
    monkeypatch.setenv("LIVETHREAD_HOME", str(patient.home.root))
    CliRunner().invoke(main, ["doctor", "--fix"])

    undone = CliRunner().invoke(main, ["doctor", "--undo"])

    assert (undone.exit_code, patient.rollout.read_bytes()) == (0, before)
    assert undone.stdout.splitlines()[-1] == "1 restored, 0 kept in the quarantine"
    assert CliRunner().invoke(main, ["doctor", "--fix", "--undo"]).exit_code == 2
