from __future__ import annotations

import errno
import fcntl
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from livethread_worker.store.files import locks as locking
from livethread_worker.store.files.locks import LockBusy, file_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def is_free(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_lock_is_held_until_the_end_of_its_block(path: Path) -> None:
    with file_lock(path):
        assert not is_free(path)

    assert is_free(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_lock_is_freed_by_an_error(path: Path) -> None:
    with pytest.raises(RuntimeError), file_lock(path):
        raise RuntimeError

    assert is_free(path)


def test_a_held_lock_is_busy_by_name(path: Path) -> None:
    with file_lock(path), pytest.raises(LockBusy, match=r"^a\.lock$"), file_lock(path):
        pass


def test_a_busy_lock_leaves_no_descriptor_open(path: Path) -> None:
    with file_lock(path):
        before = open_descriptors()

        for _ in range(5):
            with pytest.raises(LockBusy), file_lock(path):
                pass

        assert open_descriptors() == before


def test_a_waiting_caller_gets_the_lock_when_it_is_freed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = path.open("wb")
    fcntl.flock(holder, fcntl.LOCK_EX)
    # The holder lets go while we would wait.
    monkeypatch.setattr("livethread_worker.flock.time.sleep", lambda seconds: holder.close())

    with file_lock(path, wait_s=60.0):
        assert not is_free(path)


def test_a_lock_file_deleted_meanwhile_is_created_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a deleted file excludes no other process."""
    flock = fcntl.flock
    deleted: list[Path] = []

    def delete_then_lock(descriptor: int, operation: int) -> None:
        if not deleted:
            path.unlink()
            deleted.append(path)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", delete_then_lock)

    with file_lock(path):
        monkeypatch.undo()
        assert not is_free(path)


def test_the_lock_of_a_replaced_file_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    others: list[BinaryIO] = []

    def replace_then_lock(descriptor: int, operation: int) -> None:
        if not others:
            path.unlink()
            others.append(path.open("wb"))
            flock(others[0], fcntl.LOCK_EX)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_then_lock)

    with pytest.raises(LockBusy), file_lock(path):
        pass
    others[0].close()


def test_a_link_in_place_of_a_lock_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic link"), file_lock(path):
        pass

    assert not (tmp_path / "elsewhere").exists()


def test_the_kernel_frees_the_lock_of_a_killed_process(path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from livethread_worker.store.files.locks import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockBusy), file_lock(path):
            pass

        holder.kill()
        holder.wait()

        with file_lock(path):
            assert not is_free(path)


def test_a_failed_check_leaves_nothing_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(locking, "_is_current", fail)
        with pytest.raises(OSError, match="Stale file handle"), file_lock(path):
            pass

    with file_lock(path):
        pass
