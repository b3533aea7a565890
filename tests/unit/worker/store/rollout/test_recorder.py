from __future__ import annotations

import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from livethread_worker.store.rollout import recorder as recorder_module
from livethread_worker.store.rollout.recorder import SYNCED_AT_ONCE, RolloutRecorder, Syncing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.worker.conftest import LimitFileSize


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


def test_lines_are_written_behind_what_stands(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        assert recorder.size == 6

        recorder.append(b"second\n")
        recorder.append(b"third\n")

        assert recorder.size == 19
    assert rollout.read_bytes() == b"first\nsecond\nthird\n"


def test_lines_are_written_at_the_good_length_over_what_is_not_good(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.size = 2

        recorder.append(b"SECOND\n")

    assert rollout.read_bytes() == b"fiSECOND\n"


def test_cutting_leaves_the_good_length(rollout: Path) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        recorder.size = 2

        recorder.cut()

    assert rollout.read_bytes() == b"fi"


def test_a_write_that_fails_half_way_leaves_nothing(rollout: Path, limit_file_size: LimitFileSize) -> None:
    with RolloutRecorder.open(rollout) as recorder:
        with limit_file_size(10), pytest.raises(OSError, match="File too large"):
            recorder.append(b"second\n" * 100)

        assert recorder.size == 6
        assert rollout.read_bytes() == b"first\n"
        recorder.append(b"second\n")
    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_write_that_is_cut_short_is_continued(rollout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    # The kernel may write less than it is asked to; no file system here does so on its own.
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data[:3]), offset))
    with RolloutRecorder.open(rollout) as recorder:
        recorder.append(b"second\n")

        assert recorder.size == 13
    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_missing_rollout_is_not_created_unasked(path: Path) -> None:
    with pytest.raises(FileNotFoundError), RolloutRecorder.open(path):
        pass

    assert not path.parent.exists()


def test_a_new_rollout_is_its_owners_alone(path: Path, umask: int) -> None:
    with RolloutRecorder.open(path, create=True) as recorder:
        recorder.append(b"first\n")
        recorder.sync()

    assert path.read_bytes() == b"first\n"
    assert mode(path) == 0o600
    home = path.parents[4]
    assert [mode(folder) for folder in (path.parent, *path.parents[1:4], home)] == [0o700] * 5


def test_creating_a_rollout_that_exists_opens_it(rollout: Path) -> None:
    with RolloutRecorder.open(rollout, create=True) as recorder:
        recorder.append(b"second\n")
        recorder.sync()

    assert rollout.read_bytes() == b"first\nsecond\n"


def test_a_link_in_the_rollouts_place_is_not_followed(rollout: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"")
    link = rollout.with_name("link.jsonl")
    link.symlink_to(target)

    with pytest.raises(OSError, match="symbolic link"), RolloutRecorder.open(link):
        pass


@pytest.mark.parametrize("count", [0, 1, 2, SYNCED_AT_ONCE + 3])
def test_rollouts_that_are_synced_together_fail_each_by_itself(tmp_path: Path, count: int) -> None:
    with ExitStack() as stack:
        recorders = [
            stack.enter_context(RolloutRecorder.open(tmp_path / f"{number}.jsonl", create=True))
            for number in range(count)
        ]
        broken = recorders[-1:]
        for recorder in broken:
            reading, writing = os.pipe()  # which nothing can force to a disk
            stack.callback(os.close, reading)
            os.dup2(writing, recorder.file.fileno())
            os.close(writing)

        errors = Syncing(recorders).wait()

    assert [type(error) for error in errors] == [type(None)] * (count - len(broken)) + [OSError] * len(broken)
    assert [recorder.is_named for recorder in recorders] == [True] * count


@pytest.mark.parametrize("count", [1, 3])
def test_where_no_thread_is_to_be_had_the_caller_syncs_itself(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as when the interpreter ends."""
    ended = ThreadPoolExecutor()
    ended.shutdown()
    monkeypatch.setattr(recorder_module, "_sync_pool", lambda: ended)
    synced: list[int] = []
    monkeypatch.setattr(recorder_module, "_datasync", synced.append)
    with ExitStack() as stack:
        paths = [tmp_path / f"{number}.jsonl" for number in range(count)]
        recorders = [stack.enter_context(RolloutRecorder.open(path, create=True)) for path in paths]

        assert Syncing(recorders).wait() == [None] * count

        assert sorted(synced) == sorted(recorder.file.fileno() for recorder in recorders)


@pytest.mark.filterwarnings(
    "ignore:.*use of fork:DeprecationWarning"
)  # whose threads are those of this test's subject
def test_a_forked_child_syncs_with_threads_of_its_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        paths = [tmp_path / f"{number}.jsonl" for number in range(2)]
        recorders = [stack.enter_context(RolloutRecorder.open(path, create=True)) for path in paths]
        assert Syncing(recorders).wait() == [None, None]

        child = os.fork()
        if child == 0:
            signal.alarm(10)  # should it wait for threads that it has not
            os._exit(0 if Syncing(recorders).wait() == [None, None] else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
