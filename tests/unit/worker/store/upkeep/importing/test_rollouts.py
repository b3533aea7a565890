"""An import copies, extends or leaves the rollouts of a home, and never changes its sources."""

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
from livethread_config.deployment import Deployment, HomeIdentity, ShardEpochs
from livethread_worker.store.files import compression
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.identity import identify, remember_deployment
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.files.name_index import read_names, set_name
from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.read.read_thread import read_thread
from livethread_worker.store.read.thread_file import load_history
from livethread_worker.store.upkeep.importing import rollouts as import_module
from livethread_worker.store.upkeep.importing.plan import Outcome
from livethread_worker.store.upkeep.importing.rollouts import Conflict, ImportedThread, ImportReport, import_rollouts
from livethread_worker.store.upkeep.importing.sources import Refusal, Search, as_thread_id
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write.outcome import OutcomeKind

ONE = thread_id(1)
NAME = f"rollout-2026-11-22T12-00-00-{ONE}.jsonl"
META = item_line("session_meta", {"id": ONE, "timestamp": "2026-11-22T12:00:00.000Z", "git": {"branch": "b"}}) + b"\n"
A, B, C = (message_line(text) + b"\n" for text in "abc")


@pytest.fixture(autouse=True)
def no_lock_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module, "LOCK_WAIT", 0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty codex home."""
    folder = tmp_path.resolve() / "codex"
    (folder / DAY).mkdir(parents=True)
    return folder


@pytest.fixture
def rollout(source: Path) -> Path:
    """The rollout of thread `ONE` in the source, which a test may change."""
    path = source / DAY / NAME
    path.write_bytes(META + A)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def import_from(store: Store, *sources: Path, dry_run: bool = False) -> ImportReport:
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
    """Return time, mode and bytes of every file, except where SQLite notes its readers."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def write_names(source: Path, *entries: tuple[str, str | None, str]) -> None:
    lines = [{"id": id_, "thread_name": name, "updated_at": at} for id_, name, at in entries]
    (source / "session_index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# -- copying -----------------------------------------------------------------------------------------------


def test_a_rollout_is_copied_with_its_time_and_indexed(store: Store, source: Path, rollout: Path) -> None:
    data = META + b'{"broken\n\xff\xfe invalid UTF-8\n\n' + A + b"\r\n" + b'{"type":"event_msg","payl'
    rollout.write_bytes(data)
    os.utime(rollout, (1_700_000_000, 1_700_000_000))
    before = everything_in(source)

    report = import_from(store, source)

    assert report == ImportReport(imported=1, threads=[ImportedThread(str(rollout), ONE, Outcome.IMPORTED)])
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


def test_a_second_import_changes_nothing(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00.601104562Z"))
    import_from(store, source)
    before = everything_in(store.home.root)

    report = import_from(store, source)

    assert report == ImportReport(unchanged=1)
    assert everything_in(store.home.root) == before


def test_a_dry_run_reports_the_same_and_changes_nothing(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00Z"))
    (source / "archived_sessions").mkdir()
    (source / "archived_sessions" / NAME).write_bytes(META + A)
    before = everything_in(store.home.root)

    dry_run = import_from(store, source, dry_run=True)

    assert everything_in(store.home.root) == before
    assert not store.index.thread_ids()
    assert dry_run == import_from(store, source)
    assert (dry_run.imported, dry_run.unchanged, dry_run.named) == (1, 1, 1)


def test_a_read_only_source_is_imported(store: Store, source: Path, rollout: Path) -> None:
    rollout.chmod(0o400)
    for folder in (rollout.parent, source):
        folder.chmod(0o500)

    assert import_from(store, source).imported == 1

    assert stat.S_IMODE(ours(store).stat().st_mode) == 0o600


def test_an_archived_thread_stays_archived(store: Store, source: Path, rollout: Path) -> None:
    (source / "archived_sessions").mkdir()
    rollout.rename(source / "archived_sessions" / NAME)

    import_from(store, source)

    assert ours(store) == store.home.archived_sessions / NAME
    page = store.index.list_threads(types.ListThreadsParams(include_without_preview=True, archived=True))
    assert [thread.thread_id for thread in page.items] == [ONE]


def test_a_compressed_rollout_stays_compressed(store: Store, source: Path, rollout: Path) -> None:
    data = compress(rollout).read_bytes()

    assert import_from(store, source).imported == 1

    assert (ours(store).name, ours(store).read_bytes()) == (f"{NAME}.zst", data)
    assert (ours(store).stat().st_mtime, texts(store)) == (1_700_000_000, ["a"])
    assert import_from(store, source) == ImportReport(unchanged=1)


def test_a_thread_found_twice_is_imported_once(store: Store, source: Path, rollout: Path) -> None:
    (source / "archived_sessions").mkdir()
    (source / "archived_sessions" / NAME).write_bytes(META + A + B)
    (rollout.parent / f"{NAME}.zst").write_bytes(zstandard.compress(META))

    report = import_from(store, source)

    assert (report.imported, report.unchanged, report.grown) == (1, 1, 1)
    assert texts(store) == ["a", "b"]


def test_an_imported_thread_can_be_changed(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    mail = Mail(1)

    outcome = store.apply(mail, mail.append("ours"), mail.patch(ThreadMetadataPatch(name="mine")))

    assert outcome.kind is OutcomeKind.DONE
    assert texts(store) == ["a", "ours"]
    assert import_from(store, source) == ImportReport(unchanged=1)
    assert store.thread(mail).name == "mine"


def test_many_rollouts_are_indexed_in_batches(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module, "BATCH_THREADS", 2)
    for n in range(5):
        line = item_line("session_meta", {"id": thread_id(n)}) + b"\n"
        (source / DAY / f"rollout-2026-11-22T12-00-00-{thread_id(n)}.jsonl").write_bytes(line)
    search = Search()
    search.look(source)
    steps: list[int] = []

    assert import_rollouts(store.home, store.index, search, steps.append).imported == 5

    assert (indexed(store), steps) == ([thread_id(n) for n in range(5)], [1] * 5)


def test_a_rebuild_after_an_import_gives_the_same_index(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", "2026-11-22T12:00:00Z"))
    rollout.write_bytes(META + A + b'{"torn')
    import_from(store, source)
    before = store.index.read_thread(ONE)

    store.drop_index()
    rebuild(store.home, store.index)

    assert before is not None
    assert store.index.read_thread(ONE) == before
    assert before.name == "n"


# -- ids that are not UUIDs --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_a_thread_without_a_uuid_gets_one_in_a_new_first_line(store: Store, source: Path, suffix: str) -> None:
    lines = item_line("session_meta", {"id": "child", "forked_from_id": "parent"}) + b"\n" + A
    path = source / "archived_sessions" / f"child{suffix}"
    path.parent.mkdir()
    path.write_bytes(zstandard.compress(lines) if suffix.endswith("zst") else lines)
    write_names(source, ("child", "a child", "2026-11-22T12:00:00Z"))
    id_ = as_thread_id("child")

    report = import_from(store, source)

    assert report == ImportReport(imported=1, named=1, threads=[ImportedThread(str(path), id_, Outcome.IMPORTED)])
    history = load_history(store.home, store.index, types.LoadThreadHistoryParams(thread_id=id_))
    assert [item.payload.get("id") for item in history.items] == [id_, "child", None]
    thread = store.index.read_thread(id_)
    assert thread is not None
    assert (thread.forked_from_id, thread.name) == (as_thread_id("parent"), "a child")
    assert ours(store, id_).name.endswith(f"{id_}{suffix}")
    assert texts(store, id_) == ["a"]
    assert import_from(store, source) == ImportReport(unchanged=1)


def test_a_thread_without_a_uuid_grows_like_any_other(store: Store, source: Path) -> None:
    path = source / "archived_sessions" / "child.jsonl"
    path.parent.mkdir()
    path.write_bytes(item_line("session_meta", {"id": "child"}) + b"\n" + A)
    import_from(store, source)

    path.write_bytes(path.read_bytes() + B)

    assert import_from(store, source).grown == 1
    assert texts(store, as_thread_id("child")) == ["a", "b"]


# -- threads that the home has -----------------------------------------------------------------------------


def test_further_lines_of_a_source_are_appended(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    rollout.write_bytes(META + A + B + C)
    os.utime(rollout, (1_800_000_000, 1_800_000_000))

    report = import_from(store, source)

    assert report == ImportReport(grown=1, threads=[ImportedThread(str(rollout), ONE, Outcome.GROWN)])
    assert ours(store).read_bytes() == rollout.read_bytes()
    assert ours(store).stat().st_mtime == 1_800_000_000
    assert store.index.rollout(ONE) == (f"{DAY}/{NAME}", rollout.stat().st_size)
    found = store.index.search_threads(types.SearchThreadsParams(search_term="c"))
    assert [result.thread.thread_id for result in found.items] == [ONE]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((META + A, META + A + B[:-9], META + A), id="an unfinished line is left"),
        pytest.param(
            (META + A, META + A + B[:-1], META + A + B[:-1]), id="a complete line without its end is appended"
        ),
        pytest.param((META + A[:-9], META + A + B, META + A + B), id="our torn line is completed"),
        pytest.param((META + A[:-9], META + A[:-4], META + A[:-9]), id="but not by another torn line"),
        pytest.param((META + A[:-1], META + A + B, META + A + B), id="our missing line end is added"),
        pytest.param((META + A + b'{"to', META + A + B, META + A + B), id="our torn line is replaced"),
        pytest.param((META + A + B, META + A, META + A + B), id="ours is longer"),
        pytest.param((META + A + B, META + A[:-1], META + A + B), id="ours is longer than a line without its end"),
        pytest.param((META + A + B, META + A + b'{"torn', META + A + B), id="ours is longer and theirs is torn"),
    ],
)
def test_lines_are_compared_to_their_ends(
    store: Store, source: Path, rollout: Path, lines: tuple[bytes, bytes, bytes]
) -> None:
    here, there, after = lines
    rollout.write_bytes(here)
    import_from(store, source)
    rollout.write_bytes(there)

    report = import_from(store, source)

    assert ours(store).read_bytes() == after
    assert (report.grown, report.unchanged, report.conflicts) == (int(after != here), int(after == here), [])
    assert import_from(store, source) == ImportReport(unchanged=1)


def test_a_replaced_torn_line_is_quarantined(store: Store, source: Path, rollout: Path) -> None:
    rollout.write_bytes(META + A + b'{"to')
    import_from(store, source)
    rollout.write_bytes(META + A + B)

    import_from(store, source)

    assert store.quarantined() == [b'{"to']


@pytest.mark.parametrize("other", [META + B, META + B + C, META.replace(b'"b"', b'"c"') + A, META + A + C])
def test_a_thread_that_differs_is_a_conflict_and_neither_changes(
    store: Store, source: Path, rollout: Path, other: bytes
) -> None:
    rollout.write_bytes(META + A + B)
    import_from(store, source)
    rollout.write_bytes(other)
    write_names(source, (ONE, "theirs", "2026-11-22T12:00:00Z"))
    before = everything_in(store.home.root)

    report = import_from(store, source)

    assert report == ImportReport(conflicts=[Conflict(str(rollout), str(ours(store)))])
    assert not report.is_whole
    assert everything_in(store.home.root) == before


def test_further_lines_in_both_are_a_conflict(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    mail = Mail(1)
    store.apply(mail, mail.append("ours"))
    rollout.write_bytes(META + A + B)

    assert len(import_from(store, source).conflicts) == 1

    assert texts(store) == ["a", "ours"]


def test_plain_and_compressed_are_compared_by_their_lines(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    compress(ours(store))

    assert import_from(store, source) == ImportReport(unchanged=1)
    rollout.write_bytes(META + A + B)
    compress(rollout)
    assert import_from(store, source).grown == 1

    assert (ours(store).name, ours(store).read_bytes()) == (NAME, META + A + B)
    assert [path.name for path in ours(store).parent.iterdir()] == [NAME]
    assert store.index.rollout(ONE) == (f"{DAY}/{NAME}", len(META + A + B))
    assert import_from(store, source) == ImportReport(unchanged=1)


def test_a_thread_archived_in_the_home_stays_archived_and_grows(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    store.home.archived_sessions.mkdir()
    ours(store).rename(store.home.archived_sessions / NAME)
    rollout.write_bytes(META + A + B)

    assert import_from(store, source).grown == 1

    assert ours(store) == store.home.archived_sessions / NAME
    assert ours(store).read_bytes() == META + A + B


def test_a_rollout_that_an_earlier_import_did_not_index_is_indexed(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)
    store.forget(ONE)

    assert import_from(store, source) == ImportReport(unchanged=1)

    assert indexed(store) == [ONE]


def test_the_unfinished_copy_of_a_killed_import_is_overwritten(store: Store, source: Path, rollout: Path) -> None:
    half = store.home.root / DAY / f".{NAME}.new"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 10_000)

    assert import_from(store, source).imported == 1

    assert [path.name for path in half.parent.iterdir()] == [NAME]
    assert ours(store).read_bytes() == META + A


# -- in place ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [".", "sessions", DAY, f"{DAY}/{NAME}"])
def test_rollouts_in_the_home_are_indexed_in_place(store: Store, part: str) -> None:
    path = store.write_rollout(ONE, message_line("a"))
    before = everything_in(store.home.sessions)

    report = import_from(store, store.home.root / part)

    assert report == ImportReport(indexed=1, threads=[ImportedThread(str(path), ONE, Outcome.INDEXED)])
    assert indexed(store) == [ONE]
    assert import_from(store, store.home.root / part) == ImportReport(unchanged=1)
    assert everything_in(store.home.sessions) == before


def test_a_rollout_outside_the_homes_rollout_folders_is_refused(store: Store) -> None:
    path = store.home.root / "backup" / NAME
    path.parent.mkdir()
    path.write_bytes(META)

    report = import_from(store, path.parent)

    assert [refused.path for refused in report.left_out] == [str(path)]
    assert "move it out, then import it" in report.left_out[0].reason
    assert (report.is_whole, indexed(store)) == (False, [])


def test_a_rollout_in_the_home_with_another_id_is_refused(store: Store) -> None:
    store.write_rollout(ONE).write_bytes(item_line("session_meta", {"id": ONE.upper()}) + b"\n")
    store.write_rollout(thread_id(2)).write_bytes(META)

    report = import_from(store, store.home.root)

    assert len(report.left_out) == 2
    assert (report.indexed, report.is_whole, indexed(store)) == (0, False, [])


def test_a_rollout_behind_the_owners_link_is_indexed_in_place(store: Store, tmp_path: Path) -> None:
    path = store.write_rollout(ONE)
    store.home.sessions.rename(tmp_path / "disk")
    store.home.sessions.symlink_to(tmp_path / "disk")

    report = import_from(store, store.home.root)

    assert (report.indexed, report.is_whole, indexed(store)) == (1, True, [ONE])
    assert store.home.require_rollout(ONE) == path


# -- names -------------------------------------------------------------------------------------------------

EARLY, LATE = "2026-11-22T11:00:00.601104562Z", "2026-11-22T13:00:00Z"


def test_the_last_line_of_a_name_is_imported(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "new", LATE), (thread_id(2), "not here", LATE), (ONE, "last", EARLY))

    assert import_from(store, source).named == 1

    assert read_names(store.home) == {ONE: "last"}
    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert thread.name == "last"


@pytest.mark.parametrize(("at", "name"), [(EARLY, "ours"), (LATE, "theirs"), ("", "ours")])
def test_the_newer_name_wins(store: Store, source: Path, rollout: Path, at: str, name: str) -> None:
    import_from(store, source)
    mail = Mail(1)
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="ours")))
    write_names(source, (ONE, "theirs", at))

    report = import_from(store, source)

    assert (report.named, report.unchanged) == (int(name == "theirs"), 1)
    assert (store.thread(mail).name, read_names(store.home)) == (name, {ONE: name})


@pytest.mark.parametrize(("at", "name"), [(EARLY, None), (LATE, "theirs")])
def test_a_name_cleared_in_the_home_does_not_come_back(
    store: Store, source: Path, rollout: Path, at: str, name: str | None
) -> None:
    write_names(source, (ONE, "theirs", at))
    import_from(store, source)
    mail = Mail(1)
    store.apply(mail, mail.patch(ThreadMetadataPatch(name=None)))

    import_from(store, source)

    assert store.thread(mail).name == name


@pytest.mark.parametrize(("at", "name"), [(EARLY, "ours"), (LATE, None)])
def test_a_later_removal_of_a_name_is_imported(
    store: Store, source: Path, rollout: Path, at: str, name: str | None
) -> None:
    import_from(store, source)
    mail = Mail(1)
    store.apply(mail, mail.patch(ThreadMetadataPatch(name="ours")))
    write_names(source, (ONE, None, at))

    assert import_from(store, source).named == 0

    assert (store.thread(mail).name, read_names(store.home)) == (name, {ONE: name})


def test_an_imported_thread_does_not_get_a_removed_name_back(store: Store, source: Path, rollout: Path) -> None:
    """Its rollout may not say that the name was removed: see `set_name`."""
    rollout.write_bytes(META + A + item_line("thread_metadata", {"name": "earlier"}) + b"\n")
    write_names(source, (ONE, None, LATE))

    import_from(store, source)

    assert store.thread(Mail(1)).name is None


def test_an_empty_name_is_not_imported(store: Store, source: Path, rollout: Path) -> None:
    write_names(source, (ONE, "n", LATE), (ONE, "", LATE))

    assert import_from(store, source).named == 0


def test_a_name_index_that_is_a_symlink_is_not_read(
    store: Store, source: Path, rollout: Path, tmp_path: Path
) -> None:
    write_names(tmp_path, (ONE, "n", LATE))
    (source / "session_index.jsonl").symlink_to(tmp_path / "session_index.jsonl")

    report = import_from(store, source)

    assert (report.imported, report.named) == (1, 0)
    reason = "it is a symlink; its names were not imported"
    assert report.failed == [Refusal(str(source / "session_index.jsonl"), reason)]


# -- errors ------------------------------------------------------------------------------------------------


@pytest.fixture
def good(source: Path) -> str:
    """A sound thread after `ONE` in the same source."""
    id_ = thread_id(9)
    line = item_line("session_meta", {"id": id_}) + b"\n"
    (source / DAY / f"rollout-2026-11-22T12-00-00-{id_}.jsonl").write_bytes(line)
    return id_


def test_a_file_that_is_not_a_rollout_does_not_stop_the_others(
    store: Store, source: Path, rollout: Path, good: str
) -> None:
    (source / DAY / "log.jsonl").write_bytes(b'{"level":"info"}\n')

    report = import_from(store, source)

    assert report.not_rollouts == [Refusal(f"{source}/{DAY}/log.jsonl", "it has no readable session_meta")]
    assert (report.imported, report.is_whole, indexed(store)) == (2, True, [ONE, good])


@pytest.mark.parametrize("is_mine", [True, False])
def test_a_thread_of_another_homes_shard_is_left_out(
    store: Store, source: Path, rollout: Path, *, is_mine: bool
) -> None:
    mine, other = identify(store.home, "livethread"), HomeIdentity("other", "1", "there", "/srv/other")
    remember_deployment(store.home, Deployment(ShardEpochs.of((0, 1)), {0: mine if is_mine else other}))

    report = import_from(store, source)

    reason = "its shard 0 is served by the home other (there:/srv/other): import it there"
    assert report.left_out == ([] if is_mine else [Refusal(str(rollout), reason)])
    assert indexed(store) == ([ONE] if is_mine else [])


LEFT_OUT = {
    "garbage under a rollout's name": (NAME, b"no\n"),
    "another thread's id": (NAME, META.replace(ONE.encode(), thread_id(7).encode())),
    "no id at all": ("chat.jsonl", A),
    "another suffix": (f"{NAME}.bak", META),
}


@pytest.mark.parametrize(("name", "content"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_conversation_that_is_left_out_is_reported_with_advice(
    store: Store, source: Path, good: str, name: str, content: bytes
) -> None:
    (source / DAY / name).write_bytes(content)

    report = import_from(store, source)

    [refused] = report.left_out
    assert refused.path == f"{source}/{DAY}/{name}"
    assert "rename it" in refused.reason or "backup" in refused.reason
    assert (report.imported, report.is_whole, indexed(store)) == (1, False, [good])


@pytest.mark.parametrize("name", [NAME, f"{NAME}.zst"])
def test_a_lost_first_line_and_a_wrong_suffix_leave_nothing_out(store: Store, source: Path, name: str) -> None:
    """The name tells the thread's id, and the content its form."""
    (source / DAY).mkdir(parents=True, exist_ok=True)
    (source / DAY / name).write_bytes(A + B)

    report = import_from(store, source)

    assert (report.imported, report.is_whole, indexed(store)) == (1, True, [ONE])
    assert ours(store).read_bytes() == A + B
    assert import_from(store, source).unchanged == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="there every name is UTF-8")
def test_file_names_that_are_not_utf8_are_reported(store: Store, source: Path) -> None:
    folder = source / "archived_sessions" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "no.jsonl").write_bytes(b"")
    (folder / "yes.jsonl").write_bytes(META + A)
    (folder / os.fsdecode(b"\xe9.jsonl.zst")).write_bytes(b"damaged")

    report = import_from(store, source)

    printed = json.dumps(asdict(report), ensure_ascii=False).encode()
    assert [refused.path for refused in report.not_rollouts] == [f"{source}/archived_sessions/caf\\xe9/no.jsonl"]
    assert printed.count(rb"caf\\xe9") == 3
    assert report.failed[0].reason.startswith("\\xe9.jsonl.zst is damaged")
    assert texts(store) == ["a"]


def test_a_full_disk_leaves_no_unfinished_copy(
    store: Store, source: Path, rollout: Path, good: str, limit_file_size: LimitFileSize
) -> None:
    rollout.write_bytes(META + 2 * (message_line("x" * 900_000) + b"\n"))

    with limit_file_size(1_000_000):
        report = import_from(store, source)

    assert report.failed == [Refusal(str(rollout), "File too large")]
    assert (report.imported, report.is_whole, indexed(store)) == (1, False, [good])
    assert store.home.find_rollout(ONE) is None
    assert not list(store.home.root.rglob("*.new"))
    assert import_from(store, source).imported == 1
    assert ours(store).read_bytes() == rollout.read_bytes()


def test_a_full_disk_leaves_a_growing_thread_unchanged(
    store: Store, source: Path, rollout: Path, limit_file_size: LimitFileSize
) -> None:
    import_from(store, source)
    rollout.write_bytes(META + A + 4 * (message_line("x" * 900_000) + b"\n"))

    with limit_file_size(2_000_000):
        report = import_from(store, source)

    assert report.failed == [Refusal(str(rollout), "File too large")]
    assert ours(store).read_bytes() == META + A
    assert import_from(store, source).grown == 1


def test_a_damaged_rollout_does_not_stop_the_others(store: Store, source: Path, good: str) -> None:
    path = source / DAY / f"{NAME}.zst"
    path.write_bytes(zstandard.compress(META + A)[:-3])

    report = import_from(store, source)

    assert [refused.path for refused in report.failed] == [str(path)]
    assert "truncated" in report.failed[0].reason
    assert indexed(store) == [good]


@pytest.mark.parametrize("closed", [".", DAY, f"{DAY}/{NAME}"])
def test_unreadable_files_and_folders_are_reported(store: Store, source: Path, rollout: Path, closed: str) -> None:
    (source / closed).chmod(0)
    if os.access(source / closed, os.R_OK):
        pytest.skip("the superuser may read everything")
    try:
        report = import_from(store, source)
    finally:
        (source / closed).chmod(0o700)

    assert [refused.reason for refused in report.failed] == ["Permission denied"]


def test_a_busy_thread_is_left_to_the_next_import(store: Store, source: Path, rollout: Path, good: str) -> None:
    with file_lock(store.home.thread_lock(ONE)):
        report = import_from(store, source)

        assert report.busy == [Refusal(str(rollout), "its thread is busy; import it again")]
        assert (report.imported, report.is_whole, indexed(store)) == (1, False, [good])
        assert store.home.find_rollout(ONE) is None

    assert import_from(store, source).imported == 1


def test_a_thread_released_in_time_is_imported(
    store: Store, source: Path, rollout: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search()
    search.look(source)
    with ExitStack() as writer:
        writer.enter_context(file_lock(store.home.thread_lock(ONE)))
        # The second step follows the last of the other threads: then the writer releases its lock.
        steps = iter([lambda: None, writer.close])
        report = import_rollouts(store.home, store.index, search, lambda _: next(steps)())

    assert (report.imported, report.busy) == (2, [])


def test_an_import_does_not_wait_for_a_busy_thread_without_changes(store: Store, source: Path, rollout: Path) -> None:
    import_from(store, source)

    with file_lock(store.home.thread_lock(ONE)):
        assert import_from(store, source) == ImportReport(unchanged=1)


def test_a_busy_name_index_is_reported_like_a_busy_thread(
    store: Store, source: Path, rollout: Path, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livethread_worker.store.files.name_index.LOCK_WAIT", 0.0)
    write_names(source, (ONE, "n", LATE))

    with file_lock(store.home.root / "session_index.jsonl.lock"):
        report = import_from(store, source)

    assert [refused.path for refused in report.busy] == [str(rollout)]
    assert indexed(store) == [good]


def test_only_one_import_runs_at_a_time(store: Store, source: Path, rollout: Path) -> None:
    with file_lock(store.home.own / "import.lock"), pytest.raises(LockBusy):
        import_from(store, source)


def test_nothing_is_written_to_a_folder_that_leads_out_of_the_home(
    store: Store, source: Path, rollout: Path, good: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.home.sessions / "2026").symlink_to(outside)

    report = import_from(store, source)

    assert len(report.failed) == 2
    assert "leads out of" in report.failed[0].reason
    assert not list(outside.iterdir())


def test_rollouts_are_copied_even_if_the_index_fails(
    store: Store, source: Path, rollout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexUnavailable("the index: disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(store.index, "replace", fail)
        report = import_from(store, source)

    assert ours(store).read_bytes() == META + A
    assert [refused.path for refused in report.failed] == [str(store.home.index)]
    assert import_from(store, source) == ImportReport(unchanged=1)
    assert indexed(store) == [ONE]


def test_a_rollout_that_changes_during_the_import_is_busy(
    store: Store, source: Path, rollout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """codex before 0.160 writes without the lock."""
    import_from(store, source)
    rollout.write_bytes(META + A + B)
    path = ours(store)

    def write_meanwhile(_: Path) -> Path:
        with path.open("ab") as file:
            file.write(C)
        return path

    monkeypatch.setattr(compression, "plain_form", write_meanwhile)

    report = import_from(store, source)

    assert (report.grown, len(report.busy) + len(report.conflicts)) == (0, 1)
    assert path.read_bytes() == META + A + C


def test_an_import_is_logged(store: Store, source: Path, rollout: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger=import_module.__name__):
        import_from(store, source)

    (record,) = caplog.records
    logged = {key: vars(record)[key] for key in ("message", "action", "imported", "grown", "conflicts")}
    assert logged == {"message": "rollouts imported", "action": "import", "imported": 1, "grown": 0, "conflicts": 0}


def test_a_newer_name_in_the_home_is_kept_for_a_new_rollout(store: Store, source: Path, rollout: Path) -> None:
    set_name(store.home, ONE, "before", AT)
    write_names(source, (ONE, "theirs", EARLY))

    assert import_from(store, source).named == 0

    thread = read_thread(store.home, store.index, types.ReadThreadParams(thread_id=ONE))
    assert thread.name == "before"
