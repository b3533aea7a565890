"""What `examine` says of each fault, that without *fix* it changes nothing, and what *fix* leaves."""

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
from livethread.rollout.item import decode_line
from livethread.types import ListThreadsParams, SearchThreadsParams
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.upkeep.doctor import DoctorReport, FaultKind, examine, full_text

ONE, TWO = thread_id(1), thread_id(2)


class Patient(Store):
    """A home with one whole thread, a name, and what makes it ill."""

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
        """Every file of the home but locks and the index's own."""
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


def lose_the_file(patient: Patient) -> None:
    patient.rollout.unlink()


def move(patient: Patient) -> None:
    patient.home.archived_sessions.mkdir(mode=0o700)
    patient.rollout.rename(patient.home.archived_sessions / patient.rollout.name)


def grow(patient: Patient) -> None:
    patient.edit(lambda lines: lines + message_line("from codex") + b"\n")


def cut(patient: Patient) -> None:
    patient.edit(lambda lines: b"".join(lines.splitlines(keepends=True)[:-1]))


def miscount(patient: Patient) -> None:
    patient.sql("UPDATE rollouts SET next_ordinal = 40")


def forget_a_message(patient: Patient) -> None:
    patient.sql("DELETE FROM messages WHERE text = 'zebra'")


def lose_full_text(patient: Patient) -> None:
    patient.index.maintain(is_idle=True)
    patient.sql(
        "INSERT INTO messages_fts (messages_fts, rowid, text) SELECT 'delete', id, text FROM messages WHERE text = 'zebra'"
    )


def lose_all_full_text(patient: Patient) -> None:
    patient.index.maintain(is_idle=True)
    patient.sql("DELETE FROM messages_fts_data WHERE id > 10")
    patient.sql("DELETE FROM listing_texts_data WHERE id > 10")


def lose_a_structure(patient: Patient) -> None:
    patient.sql("DELETE FROM messages_fts_data WHERE id = 10")
    patient.sql("DELETE FROM listing_texts_data WHERE id = 10")


def lose_a_configuration(patient: Patient) -> None:
    patient.sql("DELETE FROM messages_fts_config")


def forget_a_row(patient: Patient) -> None:
    patient.sql("DELETE FROM rollouts")


def change_a_listed_text(patient: Patient) -> None:
    patient.sql("UPDATE listing_texts SET text = 'another' WHERE text = 'a name'")


def list_nobody(patient: Patient) -> None:
    patient.sql("INSERT INTO listing_texts (rowid, text) VALUES (4000, 'of nobody')")


def change_a_word(patient: Patient) -> None:
    patient.edit(lambda lines: lines.replace(b"zebra", b"cobra"))


def misname(patient: Patient) -> None:
    patient.sql("UPDATE threads SET name = 'another'")


def name_nobody(patient: Patient) -> None:
    set_name(patient.home, TWO, "of nobody", AT)


def tear(patient: Patient) -> None:
    patient.edit(lambda lines: lines + b'{"torn": "caf\xc3')


def break_utf8(patient: Patient) -> None:
    patient.edit(lambda lines: lines.replace(b"zebra", b"z\xffbra"))


def lose_the_first_line(patient: Patient) -> None:
    patient.edit(lambda lines: b"\0\0garbage\n" + b"".join(lines.splitlines(keepends=True)[1:3]))
    patient.read_in(ONE)


def damage_compressed(patient: Patient) -> None:
    path = compress(patient.rollout)
    patient.index.set_path(ONE, patient.home.relative(path))
    path.write_bytes(path.read_bytes()[:-30])


def double(patient: Patient) -> None:
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    other.parent.mkdir(parents=True)
    for folder in other.parents[:3]:
        folder.chmod(0o700)
    other.write_bytes(patient.rollout.read_bytes())
    other.chmod(0o600)


def open_to_others(patient: Patient) -> None:
    patient.rollout.chmod(0o644)


def leave_a_copy(patient: Patient) -> None:
    """As a process that is killed while it compresses."""
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
    lose_the_file: [FaultKind.ROW_WITHOUT_FILE, FaultKind.NAME_WITHOUT_THREAD],
    move: [FaultKind.MOVED_FILE],
    grow: [FaultKind.LENGTH_MISMATCH],
    cut: [FaultKind.LENGTH_MISMATCH],
    miscount: [FaultKind.ORDINAL_MISMATCH],
    forget_a_message: [FaultKind.STALE_SEARCH],
    change_a_word: [FaultKind.STALE_SEARCH],
    lose_full_text: [FaultKind.STALE_FULL_TEXT],
    # Newer releases of SQLite look into full text themselves.
    lose_all_full_text: [
        FaultKind.DAMAGED_INDEX if sqlite3.sqlite_version_info >= (3, 44) else FaultKind.STALE_FULL_TEXT
    ],
    change_a_listed_text: [FaultKind.STALE_FULL_TEXT],
    list_nobody: [FaultKind.STALE_FULL_TEXT],
    misname: [FaultKind.STALE_NAME, FaultKind.STALE_FULL_TEXT],
    name_nobody: [FaultKind.NAME_WITHOUT_THREAD],
    tear: [FaultKind.TORN_TAIL],
    break_utf8: [FaultKind.INVALID_UTF8, FaultKind.STALE_SEARCH],
    lose_the_first_line: [FaultKind.NO_SESSION_META],
    damage_compressed: [FaultKind.DAMAGED_FILE],
    double: [FaultKind.DUPLICATE_ID],
    leave_a_copy: [FaultKind.UNFINISHED_COPY],
    open_to_others: [FaultKind.BAD_PERMISSIONS],
    damage_the_index: [FaultKind.DAMAGED_INDEX],
    delete_the_index: [FaultKind.DAMAGED_INDEX],
}
EACH_FAULT = pytest.mark.parametrize("make_ill", FAULTS, ids=lambda fault: fault.__name__)


def test_a_home_that_is_well_has_no_fault(patient: Patient) -> None:
    assert patient.examined() == DoctorReport(threads=1)


@EACH_FAULT
def test_each_fault_is_named_and_nothing_changed(patient: Patient, make_ill: Callable[[Patient], None]) -> None:
    make_ill(patient)
    before = patient.files()

    report = patient.examined()

    assert sorted({fault.kind for fault in report.faults}) == sorted(FAULTS[make_ill])
    assert not report.is_well
    assert patient.files() == before


@EACH_FAULT
def test_each_fault_is_mended_and_does_not_come_back(patient: Patient, make_ill: Callable[[Patient], None]) -> None:
    make_ill(patient)

    report = patient.examined(fix=True)

    assert report.is_well
    assert report.faults
    assert patient.examined().faults == []


@EACH_FAULT
def test_no_line_is_lost(patient: Patient, make_ill: Callable[[Patient], None]) -> None:
    """What the files held before stands in the home after, or in the quarantine."""
    make_ill(patient)
    lines = {line for content in patient.files().values() for line in content.splitlines()}

    patient.examined(fix=True)

    after = b"\n".join(patient.files().values())
    assert [line for line in lines if line not in after] == []


def test_a_thread_that_was_ill_is_searched_and_read_as_before(patient: Patient) -> None:
    before = patient.thread(patient.mail)
    in_index = (lose_full_text, lose_all_full_text, change_a_listed_text, list_nobody)
    for make_ill in (unindex, miscount, forget_a_message, misname, tear, double, *in_index):
        make_ill(patient)

        patient.examined(fix=True)

        assert patient.thread(patient.mail) == before
        assert len(patient.index.search_threads(SearchThreadsParams(search_term="zebra")).items) == 1
        assert len(patient.index.list_threads(ListThreadsParams(search_term="a name")).items) == 1


def test_a_thread_whose_words_were_changed_is_found_by_the_new_ones(patient: Patient) -> None:
    change_a_word(patient)

    patient.examined(fix=True)

    found = [
        len(patient.index.search_threads(SearchThreadsParams(search_term=term)).items) for term in ("zebra", "cobra")
    ]
    assert found == [0, 1]


def test_messages_that_are_still_to_be_indexed_are_no_fault_and_stay_so(patient: Patient) -> None:
    left = patient.index.db.table("unindexed_messages").count
    assert left > 0

    assert full_text.stale_full_texts(patient.home.index, fix=False) == []

    assert patient.index.db.table("unindexed_messages").count == left


def test_full_text_is_busy_while_another_writes_for_long_and_the_rest_is_examined(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_text, "BUSY_TIMEOUT", 0.01)
    tear(patient)
    patient.sql("BEGIN IMMEDIATE")

    report = patient.examined()

    assert report.busy == ["livethread/index.sqlite"]
    assert [fault.kind for fault in report.faults] == [FaultKind.TORN_TAIL]
    assert not report.is_well


@pytest.mark.parametrize("other", [lose_the_file, change_a_word, misname, forget_a_row])
@pytest.mark.parametrize("make_ill", [lose_full_text, lose_all_full_text, lose_a_structure, lose_a_configuration])
def test_damaged_full_text_keeps_no_other_fault_from_being_mended(
    patient: Patient, make_ill: Callable[[Patient], None], other: Callable[[Patient], None]
) -> None:
    make_ill(patient)
    other(patient)

    assert patient.examined(fix=True).is_well

    assert patient.examined().faults == []


def test_what_is_no_utf8_is_replaced_and_the_rest_of_its_line_kept(patient: Patient) -> None:
    break_utf8(patient)

    patient.examined(fix=True)

    assert patient.texts(patient.mail) == ["hello", "z\ufffdbra"]
    [kept] = patient.quarantined()
    assert b"z\xffbra" in kept


def test_lines_without_a_first_one_get_it_back(patient: Patient) -> None:
    lose_the_first_line(patient)
    before = patient.rollout.read_bytes()

    patient.examined(fix=True)

    first, *rest = [decode_line(line) for line in patient.rollout.read_bytes().splitlines()]
    assert first is not None
    assert (first["type"], first["payload"]["id"]) == ("session_meta", ONE)
    assert [line and line["payload"]["message"] for line in rest] == ["hello", "zebra"]
    assert patient.quarantined() == [before]


def test_a_rollout_of_garbage_alone_is_moved_away(patient: Patient) -> None:
    path = patient.write_rollout(TWO)
    path.write_bytes(b"garbage\n")
    path.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.NO_SESSION_META]

    assert not path.exists()
    assert patient.quarantined() == [b"garbage\n"]


def test_what_can_be_read_of_a_damaged_compressed_rollout_is_made_plain(patient: Patient) -> None:
    long = [message_line(os.urandom(2000).hex()) for _ in range(200)]
    patient.apply(patient.mail, patient.mail.append_lines(*long))
    patient.read_in(ONE)
    damage_compressed(patient)

    assert FaultKind.DAMAGED_FILE in patient.kinds(fix=True)

    assert len(patient.records(patient.mail)) > 50
    assert patient.kinds() == []


def test_of_two_rollouts_the_one_that_goes_on_is_kept(patient: Patient) -> None:
    """Whichever lies where: a copy that somebody made is shorter."""
    double(patient)
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    with other.open("ab") as file:
        file.write(message_line("further") + b"\n")

    patient.examined(fix=True)

    assert (other.exists(), patient.rollout.exists()) == (True, False)
    assert patient.thread(patient.mail).rollout_path == other


def test_of_two_rollouts_that_differ_the_one_that_the_index_knows_is_kept(patient: Patient) -> None:
    double(patient)
    other = patient.home.sessions / "2020/01/01" / patient.rollout.name
    other.write_bytes(other.read_bytes().replace(b"hello", b"adieu") * 2)

    patient.examined(fix=True)

    assert (other.exists(), patient.rollout.exists()) == (False, True)
    assert patient.texts(patient.mail) == ["hello", "zebra"]


def test_a_compressed_copy_beside_its_rollout_is_moved_away(patient: Patient) -> None:
    content = patient.rollout.read_bytes()
    compressed = compress(patient.rollout)
    patient.rollout.write_bytes(content)
    patient.rollout.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.DUPLICATE_ID]

    assert (compressed.exists(), patient.rollout.exists()) == (False, True)


def test_several_faults_of_a_compressed_rollout_are_mended(patient: Patient) -> None:
    break_utf8(patient)
    tear(patient)
    compressed = compress(patient.rollout)
    patient.index.set_path(ONE, patient.home.relative(compressed))

    assert {FaultKind.TORN_TAIL, FaultKind.INVALID_UTF8} <= set(patient.kinds(fix=True))

    assert patient.texts(patient.mail) == ["hello", "z\ufffdbra"]
    assert patient.kinds() == []


def test_a_rollout_restored_beside_a_damaged_compressed_one_is_kept(patient: Patient) -> None:
    """Though the index knows the damaged one."""
    content = patient.rollout.read_bytes()
    damage_compressed(patient)
    patient.rollout.write_bytes(content)
    patient.rollout.chmod(0o600)

    assert patient.kinds(fix=True) == [FaultKind.DUPLICATE_ID, FaultKind.MOVED_FILE]

    assert patient.rollout.read_bytes() == content
    assert patient.kinds() == []


def test_a_row_without_a_file_is_kept_in_the_quarantine(patient: Patient) -> None:
    lose_the_file(patient)

    patient.examined(fix=True)

    assert patient.index.read_thread(ONE) is None
    assert any(b"a name" in kept and ONE.encode() in kept for kept in patient.quarantined())
    assert read_names(patient.home) == {}


def test_names_of_nobody_are_kept_together_with_the_others_as_they_are(patient: Patient) -> None:
    before = patient.home.session_index.read_bytes()
    nobody = b"".join(
        b'{"id":"%b","thread_name":"n","updated_at":""}\n' % thread_id(n).encode() for n in range(2, 50)
    )
    patient.home.session_index.write_bytes(before + nobody)

    assert patient.kinds(fix=True) == [FaultKind.NAME_WITHOUT_THREAD] * 48

    assert patient.quarantined() == [nobody]
    assert patient.home.session_index.read_bytes() == before


@pytest.mark.parametrize("link", [DAY, "archived_sessions"])
def test_a_link_that_leads_out_is_told_and_left(patient: Patient, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    patient.rollout.parent.rename(outside)
    path = patient.home.root / link
    path.symlink_to(outside)

    report = patient.examined(fix=True)

    assert FaultKind.LINK_OUT in {fault.kind for fault in report.faults}
    assert not report.is_well
    assert path.is_symlink()
    assert len(list(outside.iterdir())) == 1


def test_nothing_behind_a_link_that_leads_out_is_changed(patient: Patient, tmp_path: Path) -> None:
    month = tmp_path / "outside/11"
    month.mkdir(parents=True)
    month.chmod(0o755)
    (patient.home.sessions / "2020").symlink_to(tmp_path / "outside")

    assert patient.kinds(fix=True) == [FaultKind.LINK_OUT]

    assert month.stat().st_mode & 0o777 == 0o755


def test_a_rollout_that_cannot_be_opened_is_told_and_the_others_mended(patient: Patient) -> None:
    tear(patient)
    path = patient.home.sessions / "2026/11/22" / f"rollout-2026-01-01T00-00-00-{TWO}.jsonl"
    path.mkdir(mode=0o700)

    assert patient.kinds(fix=True) == [FaultKind.UNREADABLE_FILE, FaultKind.TORN_TAIL]

    assert path.is_dir()
    assert patient.kinds() == [FaultKind.UNREADABLE_FILE]


def test_a_rollout_that_is_a_link_is_told_and_left(patient: Patient, tmp_path: Path) -> None:
    target = patient.rollout.rename(tmp_path / "elsewhere")
    patient.rollout.symlink_to(target)

    report = patient.examined(fix=True)

    assert [fault.kind for fault in report.faults] == [FaultKind.LINK_OUT]
    assert patient.rollout.is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a folder"])
def test_what_is_no_file_is_told_and_left(patient: Patient, make: Callable[[Path, int], None]) -> None:
    patient.rollout.unlink()
    make(patient.rollout, 0o700)

    report = patient.examined(fix=True)

    assert [fault.kind for fault in report.faults] == [FaultKind.UNREADABLE_FILE]
    assert patient.rollout.exists()


def test_a_link_in_a_circle_is_told_and_left(patient: Patient) -> None:
    circle = patient.home.sessions / "2020"
    circle.symlink_to(circle)

    assert patient.kinds(fix=True) == [FaultKind.LINK_OUT]

    assert circle.is_symlink()


def test_what_others_may_use_becomes_the_owners_alone(patient: Patient) -> None:
    patient.home.sessions.chmod(0o755)
    patient.home.session_index.chmod(0o664)

    assert patient.kinds(fix=True) == [FaultKind.BAD_PERMISSIONS] * 2

    assert patient.home.sessions.stat().st_mode & 0o777 == 0o700
    assert patient.home.session_index.stat().st_mode & 0o777 == 0o600


def test_a_thread_that_is_being_written_is_left_out_and_told(
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


def test_an_index_that_somebody_has_for_himself_is_not_set_aside(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "livethread_worker.store.upkeep.doctor.examine_home.BUSY_TIMEOUT", 0.0
    )  # nobody will let go here
    patient.sql("PRAGMA locking_mode = EXCLUSIVE")
    patient.sql("UPDATE threads SET name = 'mine'")

    with pytest.raises(IndexUnavailable, match="locked"):
        patient.examined(fix=True)

    assert patient.quarantined() == []
    assert patient.index.is_current()


def test_every_kind_of_fault_is_in_the_reference() -> None:
    text = (Path(__file__).parents[5] / "docs" / "reference.md").read_text(encoding="utf-8")

    assert [kind for kind in FaultKind if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("make_ill", [break_utf8, lose_the_first_line])
def test_a_rollout_mended_just_before_a_crash_is_read_again_by_the_next_process(
    patient: Patient, make_ill: Callable[[Patient], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines stand elsewhere than the index says."""
    make_ill(patient)
    with monkeypatch.context() as crash:
        crash.setattr(Index, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            patient.examined(fix=True)

    patient.apply(patient.mail, patient.mail.append("further"))

    assert patient.texts(patient.mail)[-1] == "further"
    assert patient.examined().faults == []


def test_the_command_does_not_promise_to_repair_links(
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
        "livethread doctor --fix repairs them, except links and files that cannot be opened, and loses nothing"
    )
    assert fixed.stdout.splitlines()[-1] == "not repaired: 1; see the lines above"


def test_a_copy_that_is_being_made_is_left_to_its_maker(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livethread_worker.store.upkeep.doctor.examine_home.LOCK_WAIT", 0.0)
    leave_a_copy(patient)
    with file_lock(patient.home.thread_lock(ONE)):
        assert patient.kinds(fix=True) == []

    assert len(list(patient.home.unfinished_copies())) == 1
