"""Rollouts are brought into a home: copied, grown, left alone, and never changed where they come from."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.unit.worker.builders import AT, DAY, Mail, Store, item_line, message_line, thread_id
from tests.unit.worker.conftest import LimitFileSize

from livethread import types
from livethread.metadata import GitInfo, ThreadMetadataPatch
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.read.load_history import load_history
from livethread_worker.store.read.read_thread import read_thread
from livethread_worker.store.upkeep.importing import rollouts as import_module
from livethread_worker.store.upkeep.importing.plan import Outcome
from livethread_worker.store.upkeep.importing.rollouts import Conflict, ImportReport, Taken, import_rollouts
from livethread_worker.store.upkeep.importing.sources import Refused, Search, as_thread_id
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write.outcome import OutcomeKind

ONE = thread_id(1)
NAME = f"rollout-2026-11-22T12-00-00-{ONE}.jsonl"
META = item_line("session_meta", {"id": ONE, "timestamp": "2026-11-22T12:00:00.000Z", "git": {"branch": "b"}}) + b"\n"
A, B, C = (message_line(text) + b"\n" for text in "abc")


@pytest.fixture(autouse=True)
def nobody_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module, "LOCK_WAIT", 0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A codex home with nothing in it."""
    folder = tmp_path.resolve() / "codex"
    (folder / DAY).mkdir(parents=True)
    return folder


@pytest.fixture
def rollout(source: Path) -> Path:
    """The rollout of the thread `ONE` in it, which a test may change."""
    path = source / DAY / NAME
    path.write_bytes(META + A)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def bring(store: Store, *sources: Path, dry_run: bool = False) -> ImportReport:
    search = Search()
    for each in sources:
        search.look(each)
    return import_rollouts(store.home, store.index, search, dry_run=dry_run)


def ours(store: Store, id_: str = ONE) -> Path:
    return store.home.require_rollout(id_)


def texts(store: Store, id_: str = ONE) -> list[Any]:
    """The user messages of a thread, as a reader gets them."""
    history = load_history(store.home, store.index, types.LoadThreadHistoryParams(thread_id=id_))
    return [item.payload["message"] for item in history.items if item.kind == "user_message"]


def indexed(store: Store) -> list[str]:
    return sorted(store.index.thread_ids())


def everything_in(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Time, mode and bytes of every file; SQLite notes its readers in one of its own."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def write_names(source: Path, *entries: tuple[str, str, str]) -> None:
    lines = [{"id": id_, "thread_name": name, "updated_at": at} for id_, name, at in entries]
    (source / "session_index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# -- copying -----------------------------------------------------------------------------------------------


def test_a_rollout_is_copied_with_its_time_for_its_owner_alone_and_indexed(
    store: Store, source: Path, rollout: Path
) -> None:
    data = META + b'{"broken\n\xff\xfe invalid UTF-8\n\n' + A + b"\r\n" + b'{"type":"event_msg","payl'
    rollout.write_bytes(data)
    os.utime(rollout, (1_700_000_000, 1_700_000_000))
    before = everything_in(source)

    report = bring(store, source)

    assert report == ImportReport(imported=1, threads=[Taken(str(rollout), ONE, Outcome.IMPORTED)])
    path = store.home.root / DAY / NAME
    assert ours(store) == path
    assert path.read_bytes() == data
    assert (path.stat().st_mtime, stat.S_IMODE(path.stat().st_mode)) == (1_700_000_000, 0o600)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:4]] == [0o700] * 4
    assert (indexed(store), texts(store)) == ([ONE], ["a"])
    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert (thread.git_info, thread.preview, thread.rollout_path) == (GitInfo(branch="b"), "a", path)
    assert everything_in(source) == before


def test_a_second_run_does_nothing(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00.601104562Z"))
    bring(store, source)
    before = everything_in(store.home.root)

    report = bring(store, source)

    assert report == ImportReport(unchanged=1)
    assert everything_in(store.home.root) == before


def test_a_dry_run_says_the_same_and_does_nothing(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00Z"))
    (source / "archived_sessions").mkdir()
    (source / "archived_sessions" / NAME).write_bytes(META + A)
    before = everything_in(store.home.root)

    would = bring(store, source, dry_run=True)

    assert everything_in(store.home.root) == before
    assert not store.index.thread_ids()
    assert would == bring(store, source)
    assert (would.imported, would.unchanged, would.named) == (1, 1, 1)


def test_what_cannot_be_written_can_be_imported(store: Store, source: Path, rollout: Path) -> None:
    rollout.chmod(0o400)
    for folder in (rollout.parent, source):
        folder.chmod(0o500)

    assert bring(store, source).imported == 1

    assert stat.S_IMODE(ours(store).stat().st_mode) == 0o600


def test_an_archived_thread_is_archived_here(store: Store, source: Path, rollout: Path) -> None:
    (source / "archived_sessions").mkdir()
    rollout.rename(source / "archived_sessions" / NAME)

    bring(store, source)

    assert ours(store) == store.home.archived_sessions / NAME
    page = store.index.list_threads(types.ListThreadsParams(archived=True))
    assert [thread.thread_id for thread in page.items] == [ONE]


def test_a_compressed_rollout_stays_compressed(store: Store, source: Path, rollout: Path) -> None:
    data = compress(rollout).read_bytes()

    assert bring(store, source).imported == 1

    assert (ours(store).name, ours(store).read_bytes()) == (f"{NAME}.zst", data)
    assert (ours(store).stat().st_mtime, texts(store)) == (1_700_000_000, ["a"])
    assert bring(store, source) == ImportReport(unchanged=1)


def test_a_thread_found_twice_is_imported_once(store: Store, source: Path, rollout: Path) -> None:
    (source / "archived_sessions").mkdir()
    (source / "archived_sessions" / NAME).write_bytes(META + A + B)
    (rollout.parent / f"{NAME}.zst").write_bytes(zstandard.compress(META))

    report = bring(store, source)

    assert (report.imported, report.unchanged, report.grown) == (1, 1, 1)
    assert texts(store) == ["a", "b"]


def test_it_goes_on_here(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    mail = Mail(1)

    outcome = store.apply(mail, mail.append("ours"), mail.patch(ThreadMetadataPatch(name="mine")))

    assert outcome.kind is OutcomeKind.DONE
    assert texts(store) == ["a", "ours"]
    assert bring(store, source) == ImportReport(unchanged=1)
    assert store.thread(mail).name == "mine"


def test_many_are_indexed_in_batches(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module, "BATCH_THREADS", 2)
    for n in range(5):
        line = item_line("session_meta", {"id": thread_id(n)}) + b"\n"
        (source / DAY / f"rollout-2026-11-22T12-00-00-{thread_id(n)}.jsonl").write_bytes(line)
    search = Search()
    search.look(source)
    steps: list[int] = []

    assert import_rollouts(store.home, store.index, search, steps.append).imported == 5

    assert (indexed(store), steps) == ([thread_id(n) for n in range(5)], [1] * 5)


def test_after_a_rebuild_the_index_is_the_same(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00Z"))
    rollout.write_bytes(META + A + b'{"torn')
    bring(store, source)
    before = store.index.read_thread(ONE)

    store.drop_index()
    rebuild(store.home, store.index)

    assert before is not None
    assert store.index.read_thread(ONE) == before
    assert before.name == "n"


# -- ids that are no UUID ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_a_thread_without_a_uuid_gets_one_and_a_line_that_says_so(store: Store, source: Path, suffix: str) -> None:
    lines = item_line("session_meta", {"id": "child", "forked_from_id": "parent"}) + b"\n" + A
    path = source / "archived_sessions" / f"child{suffix}"
    path.parent.mkdir()
    path.write_bytes(zstandard.compress(lines) if suffix.endswith("zst") else lines)
    write_names(source, ("child", "a child", "2026-11-22T12:00:00Z"))
    id_ = as_thread_id("child")

    report = bring(store, source)

    assert report == ImportReport(imported=1, named=1, threads=[Taken(str(path), id_, Outcome.IMPORTED)])
    history = load_history(store.home, store.index, types.LoadThreadHistoryParams(thread_id=id_))
    assert [item.payload.get("id") for item in history.items] == [id_, "child", None]
    thread = store.index.read_thread(id_)
    assert thread is not None
    assert (thread.forked_from_id, thread.name) == (as_thread_id("parent"), "a child")
    assert ours(store, id_).name.endswith(f"{id_}{suffix}")
    assert texts(store, id_) == ["a"]
    assert bring(store, source) == ImportReport(unchanged=1)


def test_it_grows_as_any_other(store: Store, source: Path) -> None:
    path = source / "archived_sessions" / "child.jsonl"
    path.parent.mkdir()
    path.write_bytes(item_line("session_meta", {"id": "child"}) + b"\n" + A)
    bring(store, source)

    path.write_bytes(path.read_bytes() + B)

    assert bring(store, source).grown == 1
    assert texts(store, as_thread_id("child")) == ["a", "b"]


# -- what is there already ---------------------------------------------------------------------------------


def test_what_a_source_has_more_is_appended(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    rollout.write_bytes(META + A + B + C)
    os.utime(rollout, (1_800_000_000, 1_800_000_000))

    report = bring(store, source)

    assert report == ImportReport(grown=1, threads=[Taken(str(rollout), ONE, Outcome.GROWN)])
    assert ours(store).read_bytes() == rollout.read_bytes()
    assert ours(store).stat().st_mtime == 1_800_000_000
    assert store.index.rollout(ONE) == (f"{DAY}/{NAME}", rollout.stat().st_size)
    found = store.index.search_threads(types.SearchThreadsParams(search_term="c"))
    assert [result.thread.thread_id for result in found.items] == [ONE]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((META + A, META + A + B[:-9], META + A), id="a line that is still being written is left"),
        pytest.param((META + A, META + A + B[:-1], META + A + B[:-1]), id="a whole line without its end is taken"),
        pytest.param((META + A[:-9], META + A + B, META + A + B), id="a line that was torn here is completed"),
        pytest.param((META + A[:-9], META + A[:-4], META + A[:-9]), id="but not by another torn one"),
        pytest.param((META + A[:-1], META + A + B, META + A + B), id="an end that was missing here is written"),
        pytest.param((META + A + b'{"to', META + A + B, META + A + B), id="a torn line that nobody goes on with"),
        pytest.param((META + A + B, META + A, META + A + B), id="ours goes on"),
        pytest.param((META + A + B, META + A[:-1], META + A + B), id="ours goes on behind a line without its end"),
        pytest.param((META + A + B, META + A + b'{"torn', META + A + B), id="ours goes on where theirs is torn"),
    ],
)
def test_lines_are_compared_to_their_ends(
    store: Store, source: Path, rollout: Path, lines: tuple[bytes, bytes, bytes]
) -> None:
    here, there, after = lines
    rollout.write_bytes(here)
    bring(store, source)
    rollout.write_bytes(there)

    report = bring(store, source)

    assert ours(store).read_bytes() == after
    assert (report.grown, report.unchanged, report.conflicts) == (int(after != here), int(after == here), [])
    assert bring(store, source) == ImportReport(unchanged=1)


def test_a_torn_line_of_ours_that_is_replaced_is_kept_in_quarantine(
    store: Store, source: Path, rollout: Path
) -> None:
    rollout.write_bytes(META + A + b'{"to')
    bring(store, source)
    rollout.write_bytes(META + A + B)

    bring(store, source)

    assert store.quarantined() == [b'{"to']


@pytest.mark.parametrize("other", [META + B, META + B + C, META.replace(b'"b"', b'"c"') + A, META + A + C])
def test_a_thread_that_differs_is_a_conflict_and_both_stay(
    store: Store, source: Path, rollout: Path, other: bytes
) -> None:
    rollout.write_bytes(META + A + B)
    bring(store, source)
    rollout.write_bytes(other)
    write_names(source, (ONE, "theirs", "2026-11-22T12:00:00Z"))
    before = everything_in(store.home.root)

    report = bring(store, source)

    assert report == ImportReport(conflicts=[Conflict(str(rollout), str(ours(store)))])
    assert not report.is_whole
    assert everything_in(store.home.root) == before


def test_both_wrote_on_is_a_conflict(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    mail = Mail(1)
    store.apply(mail, mail.append("ours"))
    rollout.write_bytes(META + A + B)

    assert len(bring(store, source).conflicts) == 1

    assert texts(store) == ["a", "ours"]


def test_plain_and_compressed_are_compared_by_their_lines(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    compress(ours(store))

    assert bring(store, source) == ImportReport(unchanged=1)
    rollout.write_bytes(META + A + B)
    compress(rollout)
    assert bring(store, source).grown == 1

    assert (ours(store).name, ours(store).read_bytes()) == (NAME, META + A + B)
    assert [path.name for path in ours(store).parent.iterdir()] == [NAME]
    assert store.index.rollout(ONE) == (f"{DAY}/{NAME}", len(META + A + B))
    assert bring(store, source) == ImportReport(unchanged=1)


def test_a_thread_that_was_archived_here_stays_so_and_grows(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    store.home.archived_sessions.mkdir()
    ours(store).rename(store.home.archived_sessions / NAME)
    rollout.write_bytes(META + A + B)

    assert bring(store, source).grown == 1

    assert ours(store) == store.home.archived_sessions / NAME
    assert ours(store).read_bytes() == META + A + B


def test_what_an_earlier_import_did_not_index_is_indexed(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)
    store.forget(ONE)

    assert bring(store, source) == ImportReport(unchanged=1)

    assert indexed(store) == [ONE]


def test_what_a_killed_import_left_is_overwritten(store: Store, source: Path, rollout: Path) -> None:
    half = store.home.root / DAY / f".{NAME}.new"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 10_000)

    assert bring(store, source).imported == 1

    assert [path.name for path in half.parent.iterdir()] == [NAME]
    assert ours(store).read_bytes() == META + A


# -- in place ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [".", "sessions", DAY, f"{DAY}/{NAME}"])
def test_what_lies_in_the_home_is_indexed_in_place(store: Store, part: str) -> None:
    path = store.write_rollout(ONE, message_line("a"))
    before = everything_in(store.home.sessions)

    report = bring(store, store.home.root / part)

    assert report == ImportReport(indexed=1, threads=[Taken(str(path), ONE, Outcome.INDEXED)])
    assert indexed(store) == [ONE]
    assert bring(store, store.home.root / part) == ImportReport(unchanged=1)
    assert everything_in(store.home.sessions) == before


def test_what_lies_elsewhere_in_the_home_is_no_rollout_of_it(store: Store) -> None:
    path = store.home.root / "backup" / NAME
    path.parent.mkdir()
    path.write_bytes(META)

    report = bring(store, path.parent)

    assert [refused.path for refused in report.not_rollouts] == [str(path)]
    assert not indexed(store)


def test_a_home_is_no_source_of_its_other_threads(store: Store) -> None:
    store.write_rollout(ONE).write_bytes(item_line("session_meta", {"id": ONE.upper()}) + b"\n")
    stranger = store.write_rollout(thread_id(2))
    stranger.write_bytes(META)

    report = bring(store, store.home.root)

    assert len(report.not_rollouts) == 2
    assert (report.indexed, indexed(store)) == (0, [])


# -- names -------------------------------------------------------------------------------------------------

EARLY, LATE = "2026-11-22T11:00:00.601104562Z", "2026-11-22T13:00:00Z"


def test_the_last_line_of_a_name_is_carried_over(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "new", LATE), (thread_id(2), "not here", LATE), (ONE, "last", EARLY))

    assert bring(store, source).named == 1

    assert read_names(store.home) == {ONE: "last"}
    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert thread.name == "last"


@pytest.mark.parametrize(("at", "name"), [(EARLY, "ours"), (LATE, "theirs"), ("", "ours")])
def test_the_newer_name_counts(store: Store, source: Path, rollout: Path, at: str, name: str) -> None:
    bring(store, source)
    mail = Mail(1)
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="ours")))
    write_names(source, (ONE, "theirs", at))

    report = bring(store, source)

    assert (report.named, report.unchanged) == (int(name == "theirs"), 1)
    assert (store.thread(mail).name, read_names(store.home)) == (name, {ONE: name})


@pytest.mark.parametrize(("at", "name"), [(EARLY, None), (LATE, "theirs")])
def test_a_name_that_was_taken_away_here_does_not_come_back(
    store: Store, source: Path, rollout: Path, at: str, name: str | None
) -> None:
    write_names(source, (ONE, "theirs", at))
    bring(store, source)
    mail = Mail(1)
    store.apply(mail, mail.patch(ThreadMetadataPatch(name=None)))

    bring(store, source)

    assert store.thread(mail).name == name


def test_an_empty_name_is_none(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", LATE), (ONE, "", LATE))

    assert bring(store, source).named == 0


def test_names_that_lie_elsewhere_are_not_taken(store: Store, source: Path, rollout: Path, tmp_path: Path) -> None:
    write_names(tmp_path, (ONE, "n", LATE))
    (source / "session_index.jsonl").symlink_to(tmp_path / "session_index.jsonl")

    report = bring(store, source)

    assert (report.imported, report.named) == (1, 0)
    reason = "a symlink: no name is taken from it"
    assert report.failed == [Refused(str(source / "session_index.jsonl"), reason)]


# -- what fails --------------------------------------------------------------------------------------------


@pytest.fixture
def good(source: Path) -> str:
    """A thread that nothing is wrong with, in the same source, behind `ONE`."""
    id_ = thread_id(9)
    line = item_line("session_meta", {"id": id_}) + b"\n"
    (source / DAY / f"rollout-2026-11-22T12-00-00-{id_}.jsonl").write_bytes(line)
    return id_


def test_what_is_no_rollout_does_not_stop_the_others(store: Store, source: Path, rollout: Path, good: str) -> None:
    rollout.write_bytes(b"no\n")

    report = bring(store, source)

    assert report.not_rollouts == [Refused(str(rollout), "it has no readable session_meta")]
    assert (report.imported, report.is_whole, indexed(store)) == (1, True, [good])


@pytest.mark.skipif(sys.platform == "darwin", reason="there every name is UTF-8")
def test_a_name_that_is_no_utf8_can_be_said(store: Store, source: Path) -> None:
    folder = source / "archived_sessions" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "no.jsonl").write_bytes(b"")
    (folder / "yes.jsonl").write_bytes(META + A)
    (folder / os.fsdecode(b"\xe9.jsonl.zst")).write_bytes(b"damaged")

    report = bring(store, source)

    said = json.dumps(asdict(report), ensure_ascii=False).encode()
    assert [refused.path for refused in report.not_rollouts] == [f"{source}/archived_sessions/caf\\xe9/no.jsonl"]
    assert said.count(rb"caf\\xe9") == 3
    assert report.failed[0].reason.startswith("\\xe9.jsonl.zst is damaged")
    assert texts(store) == ["a"]


def test_a_full_disk_leaves_nothing_half_made(
    store: Store, source: Path, rollout: Path, good: str, limit_file_size: LimitFileSize
) -> None:
    rollout.write_bytes(META + 2 * (message_line("x" * 900_000) + b"\n"))

    with limit_file_size(1_000_000):
        report = bring(store, source)

    assert report.failed == [Refused(str(rollout), "File too large")]
    assert (report.imported, report.is_whole, indexed(store)) == (1, False, [good])
    assert store.home.find_rollout(ONE) is None
    assert not list(store.home.root.rglob("*.new"))
    assert bring(store, source).imported == 1
    assert ours(store).read_bytes() == rollout.read_bytes()


def test_a_full_disk_leaves_a_thread_that_grows_as_it_was(
    store: Store, source: Path, rollout: Path, limit_file_size: LimitFileSize
) -> None:
    bring(store, source)
    rollout.write_bytes(META + A + 4 * (message_line("x" * 900_000) + b"\n"))

    with limit_file_size(2_000_000):
        report = bring(store, source)

    assert report.failed == [Refused(str(rollout), "File too large")]
    assert ours(store).read_bytes() == META + A
    assert bring(store, source).grown == 1


def test_a_damaged_rollout_does_not_stop_the_others(store: Store, source: Path, good: str) -> None:
    path = source / DAY / f"{NAME}.zst"
    path.write_bytes(zstandard.compress(META + A)[:-3])

    report = bring(store, source)

    assert [refused.path for refused in report.failed] == [str(path)]
    assert "cut short" in report.failed[0].reason
    assert indexed(store) == [good]


@pytest.mark.parametrize("closed", [".", DAY, f"{DAY}/{NAME}"])
def test_what_may_not_be_read_is_said(store: Store, source: Path, rollout: Path, closed: str) -> None:
    (source / closed).chmod(0)
    if os.access(source / closed, os.R_OK):
        pytest.skip("the superuser may read everything")
    try:
        report = bring(store, source)
    finally:
        (source / closed).chmod(0o700)

    assert [refused.reason for refused in report.failed] == ["Permission denied"]


def test_a_thread_that_is_being_written_is_left_to_the_next_import(
    store: Store, source: Path, rollout: Path, good: str
) -> None:
    with file_lock(store.home.thread_lock(ONE)):
        report = bring(store, source)

        assert report.busy == [Refused(str(rollout), "its thread is being written; import it again")]
        assert (report.imported, report.is_whole, indexed(store)) == (1, False, [good])
        assert store.home.find_rollout(ONE) is None

    assert bring(store, source).imported == 1


def test_a_thread_that_is_let_go_in_time_is_imported(
    store: Store, source: Path, rollout: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search()
    search.look(source)
    with ExitStack() as writer:
        writer.enter_context(file_lock(store.home.thread_lock(ONE)))
        # The others come first: after the last of them the writer lets go.
        steps = iter([lambda: None, writer.close])
        report = import_rollouts(store.home, store.index, search, lambda _: next(steps)())

    assert (report.imported, report.busy) == (2, [])


def test_a_busy_thread_that_has_all_lines_is_not_waited_for(store: Store, source: Path, rollout: Path) -> None:
    bring(store, source)

    with file_lock(store.home.thread_lock(ONE)):
        assert bring(store, source) == ImportReport(unchanged=1)


def test_a_busy_name_index_is_as_a_busy_thread(
    store: Store, source: Path, rollout: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livethread_worker.store.files.name_index._LOCK_WAIT", 0.0)
    write_names(source, (ONE, "n", LATE))

    with file_lock(store.home.root / "session_index.jsonl.lock"):
        report = bring(store, source)

    assert [refused.path for refused in report.busy] == [str(rollout)]
    assert indexed(store) == [good]


def test_a_second_import_is_refused_while_one_is_at_work(store: Store, source: Path, rollout: Path) -> None:
    with file_lock(store.home.own / "import.lock"), pytest.raises(LockBusy):
        bring(store, source)


def test_a_folder_of_ours_that_leads_out_is_not_written_to(
    store: Store, source: Path, rollout: Path, good: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.home.sessions / "2026").symlink_to(outside)

    report = bring(store, source)

    assert len(report.failed) == 2
    assert "leads out of" in report.failed[0].reason
    assert not list(outside.iterdir())


def test_without_an_index_the_files_are_brought_all_the_same(
    store: Store, source: Path, rollout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexUnavailable("the index: disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(store.index, "replace", fail)
        report = bring(store, source)

    assert ours(store).read_bytes() == META + A
    assert [refused.path for refused in report.failed] == [str(store.home.index)]
    assert bring(store, source) == ImportReport(unchanged=1)
    assert indexed(store) == [ONE]


def test_a_rollout_that_changes_under_the_import_is_busy(
    store: Store, source: Path, rollout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """codex before 0.160 takes no lock."""
    bring(store, source)
    rollout.write_bytes(META + A + B)
    path = ours(store)

    def write_meanwhile(_: Path) -> bool:
        with path.open("ab") as file:
            file.write(C)
        return False

    monkeypatch.setattr(import_module, "is_compressed", write_meanwhile)

    report = bring(store, source)

    assert (report.grown, len(report.busy) + len(report.conflicts)) == (0, 1)
    assert path.read_bytes() == META + A + C


def test_the_log_says_what_was_done(
    store: Store, source: Path, rollout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger=import_module.__name__):
        bring(store, source)

    (record,) = caplog.records
    said = {key: vars(record)[key] for key in ("message", "action", "imported", "grown", "conflicts")}
    assert said == {"message": "rollouts imported", "action": "import", "imported": 1, "grown": 0, "conflicts": 0}


def test_the_name_of_a_thread_set_here_is_seen_while_importing(store: Store, source: Path, rollout: Path) -> None:
    set_name(store.home, ONE, "before", AT)
    write_names(source, (ONE, "theirs", EARLY))

    assert bring(store, source).named == 0

    thread = read_thread(store.home, store.index, types.ReadThreadParams(thread_id=ONE))
    assert thread.name == "before"
