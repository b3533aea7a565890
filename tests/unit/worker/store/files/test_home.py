from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.unit.worker.builders import DAY, thread_id

from livethread.errors import InvalidRequest, ThreadNotFound
from livethread_worker.store.files import home as home_module
from livethread_worker.store.files.home import Home

ONE = thread_id(1)
V4 = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def put(home: Home, folder: str, id_: str) -> Path:
    path = home.root / folder / f"rollout-2026-11-22T12-00-00-{id_}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_only_the_owner_has_access_to_a_new_home(home: Home) -> None:
    folders = [home.root, home.sessions, home.locks, home.own, home.quarantine]

    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * len(folders)


def test_an_existing_home_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    Home(tmp_path).create()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_rollouts_name_holds_its_time_in_utc(home: Home) -> None:
    at = datetime(2026, 11, 23, 1, 30, tzinfo=timezone(timedelta(hours=2)))

    assert home.relative(home.new_rollout(ONE, at)) == f"{DAY}/rollout-2026-11-22T23-30-00-{ONE}.jsonl"


@pytest.mark.parametrize("id_", [ONE, V4])
@pytest.mark.parametrize(
    "folder",
    [
        *(DAY, "sessions/2020/01/31", "archived_sessions"),
        *(
            "sessions",
            "sessions/2026",
            "sessions/2026/11",
            f"{DAY}/deeper",
            "sessions/backup/.old",
            "archived_sessions/2026/11/22",
        ),
    ],
)
def test_a_rollout_is_found_in_any_folder(home: Home, id_: str, folder: str) -> None:
    path = put(home, folder, id_)
    other = put(home, folder, thread_id(2))

    assert home.find_rollout(id_) == home.require_rollout(id_) == path
    assert sorted(home.rollouts()) == sorted([(id_, path), (thread_id(2), other)])
    assert home.is_archived(path) == folder.startswith("archived_sessions")


def test_a_folder_whose_name_is_not_utf8_holds_no_rollouts(home: Home) -> None:
    put(home, os.fsdecode(b"sessions/\xff"), ONE)

    assert list(home.rollouts()) == []


def test_an_active_rollout_is_preferred_over_an_archived_one(home: Home) -> None:
    put(home, "archived_sessions", ONE)
    active = put(home, DAY, ONE)

    assert home.find_rollout(ONE) == active


def test_a_missing_rollout_is_not_found(home: Home) -> None:
    assert home.find_rollout(ONE) is None
    with pytest.raises(ThreadNotFound, match=ONE):
        home.require_rollout(ONE)


@pytest.mark.parametrize(
    "id_",
    [
        "ffffffff-ffff-7fff-bfff-ffffffffffff",  # its time is in the year 10889
        "e677d21f-dbff-7fff-bfff-ffffffffffff",  # the last millisecond of 9999
        "00000000-0000-7000-8000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_an_id_with_any_time_can_be_looked_up(home: Home, id_: str) -> None:
    assert home.find_rollout(id_) is None
    path = put(home, DAY, id_)
    assert home.find_rollout(id_) == path


def test_the_rollouts_of_a_home_are_listed_with_their_ids(home: Home) -> None:
    active, archived = put(home, DAY, ONE), put(home, "archived_sessions", V4)
    (active.parent / "rollout-notes.jsonl").touch()
    (active.parent / "notes.txt").touch()

    assert list(home.rollouts()) == [(ONE, active), (V4, archived)]


@pytest.mark.parametrize("relative", ["../outside", "/etc/passwd", "sessions/../../outside"])
def test_a_path_that_leads_out_is_refused(home: Home, relative: str) -> None:
    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve(relative)


def test_a_link_that_leads_out_is_refused(home: Home, tmp_path: Path) -> None:
    (home.sessions / "away").symlink_to(tmp_path)

    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve("sessions/away/rollout.jsonl")


def test_a_loop_of_links_is_refused(home: Home) -> None:
    loop = home.sessions / "loop"
    loop.symlink_to(loop)

    assert not home.is_within(loop)
    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve("sessions/loop/rollout.jsonl")


@pytest.mark.parametrize("form", ["", ".zst"])
@pytest.mark.parametrize("folder", ["sessions/2026/11/22", "archived_sessions"])
def test_where_it_lies_finds_either_folder_and_form(home: Home, folder: str, form: str) -> None:
    path = home.new_rollout(ONE, datetime(2026, 11, 22, 12, tzinfo=UTC))
    nowhere = home.where_it_lies(path)
    there = home.root / folder / f"{path.name}{form}"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.touch()

    assert (nowhere, home.where_it_lies(path)) == (None, there)


def test_a_folder_that_was_checked_resolves_like_any_other(home: Home, tmp_path: Path) -> None:
    (home.sessions / "away").symlink_to(tmp_path)
    (home.sessions / "within").symlink_to(home.archived_sessions, target_is_directory=True)

    for name in ("first.jsonl", "second.jsonl"):
        assert home.resolve(f"sessions/within/{name}") == home.archived_sessions / name
        for outside in (f"sessions/away/{name}", f"../{name}", f"/{name}"):
            with pytest.raises(InvalidRequest, match="leads out of"):
                home.resolve(outside)
    for folder in ("sessions/within/..", "..", "."):
        with pytest.raises(InvalidRequest):
            home.resolve(folder)


def test_a_symlink_is_found_again_after_the_interval(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.sessions / "2026"
    folder.mkdir(parents=True)
    home.resolve("sessions/2026/rollout.jsonl")
    folder.rmdir()
    folder.symlink_to(tmp_path)

    later = time.monotonic() + home_module.LINK_CHECK_INTERVAL
    monkeypatch.setattr("livethread_worker.store.files.home.time.monotonic", lambda: later)

    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve("sessions/2026/rollout.jsonl")


def test_a_path_in_the_home_is_resolved(home: Home) -> None:
    path = home.new_rollout(ONE, datetime(2026, 11, 22, tzinfo=UTC))

    assert home.resolve(home.relative(path)) == path


def test_compressed_rollouts_are_listed_after_plain_ones(home: Home) -> None:
    plain = put(home, DAY, ONE)
    compressed = plain.with_name(plain.name + ".zst")
    compressed.touch()

    assert list(home.rollouts()) == [(ONE, plain), (ONE, compressed)]
    assert home.find_rollout(ONE) == plain
    plain.unlink()
    assert home.find_rollout(ONE) == compressed


def link(home: Home, tmp_path: Path, folder: str) -> Path:
    """Have a symlink in place of *folder* lead to a rollout outside of the home; return the rollout's path."""
    outside = Home(tmp_path / "outside")
    path = put(outside, f"{folder}{DAY.removeprefix(folder)}" if DAY.startswith(folder) else folder, ONE)
    (home.root / folder).parent.mkdir(parents=True, exist_ok=True)
    if (home.root / folder).exists():
        (home.root / folder).rmdir()
    (home.root / folder).symlink_to(outside.root / folder)
    return path


def belongs_to_another_user(monkeypatch: pytest.MonkeyPatch, link: Path) -> None:
    monkeypatch.setattr(home_module, "_owner", lambda path: 12345 if path == link else 6)


@pytest.mark.parametrize("folder", ["sessions/2026", DAY])
def test_rollouts_behind_a_link_out_of_the_home_are_ignored(home: Home, tmp_path: Path, folder: str) -> None:
    link(home, tmp_path, folder)

    assert list(home.rollouts()) == []
    assert home.find_rollout(ONE) is None


@pytest.mark.parametrize("folder", ["sessions", "archived_sessions"])
def test_a_folder_of_rollouts_may_be_its_owners_link_to_another_disk(home: Home, tmp_path: Path, folder: str) -> None:
    path = home.root / link(home, tmp_path, folder).relative_to(tmp_path / "outside")

    assert list(home.rollouts()) == [(ONE, path)]
    assert home.find_rollout(ONE) == home.resolve(home.relative(path)) == path
    assert home.spelled(path.resolve()) == path
    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve(f"{folder}/../outside.jsonl")


@pytest.mark.parametrize("folder", ["sessions", "archived_sessions"])
def test_another_users_link_in_place_of_a_folder_of_rollouts_is_not_followed(
    home: Home, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home.root / link(home, tmp_path, folder).relative_to(tmp_path / "outside")
    belongs_to_another_user(monkeypatch, home.root / folder)

    assert list(home.rollouts()) == []
    assert home.find_rollout(ONE) is None
    with pytest.raises(InvalidRequest, match="leads out of"):
        home.resolve(home.relative(path))


def test_a_link_to_a_disk_that_is_not_mounted_is_named(home: Home, tmp_path: Path) -> None:
    home.sessions.rmdir()
    home.sessions.symlink_to(tmp_path / "unmounted")

    with pytest.raises(FileNotFoundError, match="unmounted, which is missing"):
        home.create()
    assert list(home.rollouts()) == []


@pytest.mark.parametrize("text", ["-" * 36, "a" * 36, ONE.upper(), ONE.replace("-", "a", 1)])
def test_a_file_without_a_uuid_in_its_name_is_not_a_rollout(home: Home, text: str) -> None:
    put(home, DAY, text)

    assert list(home.rollouts()) == []
