from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.worker.conftest import LimitFileSize

from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.sync import sync_now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "sessions" / "2026" / "11" / "22" / "rollout.jsonl"


@pytest.fixture
def rollout(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first\n")
    return path


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lines_are_written_after_existing_ones(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        assert recorder.size == 6

        recorder.append(b"second\n")
        recorder.append(b"third\n")

        assert recorder.size == 19
    assert rollout.read_bytes() == b"first\nsecond\nthird\n"


def test_everything_that_was_appended_is_taken_back(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.append(b"second\n")
        recorder.append(b"third\n")

        recorder.take_back()

        assert recorder.size == 6
    assert rollout.read_bytes() == b"first\n"


def test_what_was_cut_off_does_not_come_back(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.size = 2
        recorder.cut()
        recorder.append(b"nal\n")

        recorder.take_back()

    assert rollout.read_bytes() == b"fi"


def test_lines_overwrite_whatever_follows_the_good_length(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.size = 2

        recorder.append(b"SECOND\n")

    assert rollout.read_bytes() == b"fiSECOND\n"


def test_cut_truncates_the_file_to_the_good_length(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.size = 2

        recorder.cut()

    assert rollout.read_bytes() == b"fi"


def test_a_write_that_fails_halfway_leaves_the_file_unchanged(rollout: Path, limit_file_size: LimitFileSize) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        with limit_file_size(10), pytest.raises(OSError, match="File too large"):
            recorder.append(b"second\n" * 100)

        assert recorder.size == 6
        assert rollout.read_bytes() == b"first\n"
        recorder.append(b"second\n")
    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_write_that_is_cut_short_is_continued(rollout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    # The kernel may write less than requested, which no file system here does by itself.
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data[:3]), offset))
    with RolloutRecorder.open(rollout) as recorder:
        recorder.append(b"second\n")

        assert recorder.size == 13
    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_missing_rollout_is_created_only_if_asked_for(path: Path) -> None:
    with pytest.raises(FileNotFoundError), RolloutRecorder.open(path):
        pass

    assert not path.parent.exists()


def test_only_the_owner_has_access_to_a_new_rollout(path: Path, umask: int) -> None:
    with RolloutRecorder.open(path, create=True) as recorder:
        recorder.append(b"first\n")
        sync_now(recorder)

    assert path.read_bytes() == b"first\n"
    assert mode(path) == 0o600
    home = path.parents[4]
    assert [mode(folder) for folder in (path.parent, *path.parents[1:4], home)] == [0o700] * 5


def test_open_with_create_opens_an_existing_rollout(rollout: Path) -> None:
    with RolloutRecorder.open(rollout, create=True) as recorder:
        recorder.append(b"second\n")
        sync_now(recorder)

    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_link_in_place_of_a_rollout_is_not_followed(rollout: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"")
    link = rollout.with_name("link.jsonl")
    link.symlink_to(target)

    with pytest.raises(OSError, match="symbolic link"), RolloutRecorder.open(link):
        pass
