"""A batch is synced to disk, with a call for each file or one for all."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from livethread_worker.store.files import sync, syncfs
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.sync import SYNC_THREADS, Syncing

COUNT = SYNC_THREADS + 3


def opened(stack: ExitStack, folder: Path, count: int) -> list[RolloutRecorder]:
    """Return recorders of new rollouts."""
    paths = [folder / f"{number}.jsonl" for number in range(count)]
    return [stack.enter_context(RolloutRecorder.open(path, create=True)) for path in paths]


@pytest.fixture
def new(tmp_path: Path) -> Iterator[list[RolloutRecorder]]:
    with ExitStack() as stack:
        yield opened(stack, tmp_path, COUNT)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors of the files that are synced one by one."""
    descriptors: list[int] = []
    monkeypatch.setattr(sync, "_datasync", descriptors.append)
    return descriptors


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors with which a whole file system is synced, on a machine that allows it."""
    descriptors: list[int] = []
    monkeypatch.setattr(sync, "is_cheap_to_sync", lambda _: True)
    monkeypatch.setattr(sync, "sync_filesystem", descriptors.append)
    return descriptors


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("count", [0, 1, 2, SYNC_THREADS + 3])
def test_an_error_is_reported_for_the_rollout_it_concerns(tmp_path: Path, count: int) -> None:
    with ExitStack() as stack:
        recorders = opened(stack, tmp_path, count)
        broken = recorders[-1:]
        for recorder in broken:
            reading, writing = os.pipe()  # a pipe cannot be synced
            stack.callback(os.close, reading)
            os.dup2(writing, recorder.file.fileno())
            os.close(writing)

        errors = Syncing(recorders).wait()

    assert [type(error) for error in errors] == [type(None)] * (count - len(broken)) + [OSError] * len(broken)
    assert [recorder.is_named for recorder in recorders] == [True] * count


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("count", [1, 3])
def test_the_caller_syncs_if_no_thread_can_start(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, while the interpreter shuts down."""
    pool = ThreadPoolExecutor()
    pool.shutdown()
    monkeypatch.setattr(sync, "_sync_pool", lambda: pool)
    synced: list[int] = []
    monkeypatch.setattr(sync, "_datasync", synced.append)
    with ExitStack() as stack:
        recorders = opened(stack, tmp_path, count)

        assert Syncing(recorders).wait() == [None] * count

        assert sorted(synced) == sorted(recorder.file.fileno() for recorder in recorders)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # it warns of the very threads under test
def test_a_forked_child_syncs_with_its_own_threads(tmp_path: Path) -> None:
    with ExitStack() as stack:
        recorders = opened(stack, tmp_path, 2)
        assert Syncing(recorders).wait() == [None, None]

        child = os.fork()
        if child == 0:
            signal.alarm(10)  # it would wait forever for threads that the fork did not copy
            os._exit(0 if Syncing(recorders).wait() == [None, None] else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- in one call -------------------------------------------------------------------------------------------


def test_one_call_syncs_all_files_and_their_names(
    new: list[RolloutRecorder], together: list[int], synced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(sync, "sync_directory", folders.append)

    assert Syncing(new).wait() == [None] * COUNT

    # With the file that was opened before any was written to, which reports every error since.
    assert (together, synced, folders) == ([new[0].file.fileno()], [], [])
    assert {recorder.is_named for recorder in new} == {True}


def test_each_file_is_synced_if_the_one_call_fails(
    new: list[RolloutRecorder], together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = OSError(errno.EIO, "Input/output error")
    folders: list[Path] = []

    def fail(descriptor: int) -> None:
        if descriptor == new[-1].file.fileno():
            raise broken

    def fail_together(_: int) -> None:
        raise broken

    monkeypatch.setattr(sync, "sync_filesystem", fail_together)
    monkeypatch.setattr(sync, "_datasync", fail)
    monkeypatch.setattr(sync, "sync_directories", folders.append)

    assert Syncing(new).wait() == [None] * (COUNT - 1) + [broken]

    assert folders == [new[0].path.parent]
    assert together == []


def test_files_of_two_file_systems_are_synced_one_by_one(
    new: list[RolloutRecorder], together: list[int], synced: list[int]
) -> None:
    new[3].device += 1

    assert Syncing(new).wait() == [None] * COUNT

    assert (together, len(synced)) == ([], COUNT)


def test_files_that_other_processes_wrote_to_are_synced_one_by_one(
    new: list[RolloutRecorder], together: list[int], synced: list[int]
) -> None:
    """``syncfs`` may have reported the error to another caller already; ``fdatasync`` reports it again."""
    new[3].is_all_ours = False

    assert Syncing(new).wait() == [None] * COUNT

    assert (together, len(synced)) == ([], COUNT)


def test_a_file_that_a_crash_may_have_left_is_not_all_ours(tmp_path: Path) -> None:
    path = tmp_path / "left.jsonl"
    with ExitStack() as stack:
        recorders = [stack.enter_context(RolloutRecorder.open(path, create=create)) for create in (True, True, False)]

        assert [recorder.is_all_ours for recorder in recorders] == [True, False, True]


def test_a_single_file_is_synced_alone(new: list[RolloutRecorder], together: list[int], synced: list[int]) -> None:
    assert Syncing(new[:1]).wait() == [None]

    assert (together, synced) == ([], [new[0].file.fileno()])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine on which one call for all files is reliable."""
    syncfs._is_reliable.cache_clear()
    release = os.uname_result(("Linux", "host", "5.17.0-1-amd64", "#1", "x86_64"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(syncfs, "_libc", lambda: type("Libc", (), {"syncfs": None}))
    monkeypatch.setattr(os, "uname", lambda: release)
    monkeypatch.setattr(syncfs, "_type_of", lambda _: "ext4")
    monkeypatch.setattr(syncfs, "_dirty", lambda: 64 * 1024)
    yield monkeypatch
    syncfs._is_reliable.cache_clear()


def test_one_call_is_cheap_on_a_reliable_file_system(known: pytest.MonkeyPatch, new: list[RolloutRecorder]) -> None:
    assert syncfs.is_cheap_to_sync(new[0].file.fileno())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sys.platform", "darwin"),
        ("_libc", object),
        ("os.uname", lambda: os.uname_result(("Linux", "host", "5.16.20", "#1", "x86_64"))),
        ("os.uname", lambda: os.uname_result(("Linux", "host", "unknown", "#1", "x86_64"))),
        ("_type_of", lambda _: "fuse.sshfs"),
        ("_type_of", lambda _: None),
        ("_dirty", lambda: 64 * 1024 + 1),
    ],
    ids=["macOS", "no syncfs", "old kernel", "no version", "in user space", "unknown", "too much dirty"],
)
def test_one_call_is_not_made_unless_it_is_known_to_be_reliable(
    known: pytest.MonkeyPatch, new: list[RolloutRecorder], name: str, value: object
) -> None:
    known.setattr(f"livethread_worker.store.files.syncfs.{name}", value)

    assert not syncfs.is_cheap_to_sync(new[0].file.fileno())


@pytest.mark.parametrize("error", [FileNotFoundError("/proc/meminfo"), ValueError("no such line")])
def test_one_call_is_not_made_if_the_dirty_amount_is_unknown(
    known: pytest.MonkeyPatch, new: list[RolloutRecorder], error: Exception
) -> None:
    def hidden() -> int:
        raise error

    known.setattr(syncfs, "_dirty", hidden)

    assert not syncfs.is_cheap_to_sync(new[0].file.fileno())


def test_the_disk_is_flushed_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal, ext4 writes inodes after its own flush."""
    calls: list[str] = []
    monkeypatch.setattr(syncfs, "_syncfs", lambda _: calls.append("syncfs"))
    monkeypatch.setattr(os, "fdatasync", lambda _: calls.append("fdatasync"), raising=False)

    syncfs.sync_filesystem(7)

    assert calls == ["syncfs", "fdatasync"]


def test_the_file_system_type_is_found_beside_odd_mount_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not escape carriage returns or the other line ends of `str.splitlines`."""
    mounts = (
        "22 1 0:30 / /a\r\rb\u2028c\x0cd rw - tmpfs tmpfs rw\n23 1 8:1 / /my\\040home rw shared:1 - ext4 /dev/a rw\n"
    )
    monkeypatch.setattr(Path, "read_bytes", lambda _: mounts.encode())

    assert syncfs._type_of(os.makedev(8, 1)) == "ext4"
    assert syncfs._type_of(os.makedev(0, 30)) == "tmpfs"
    assert syncfs._type_of(os.makedev(8, 2)) is None


on_linux = pytest.mark.skipif(not hasattr(syncfs._libc(), "syncfs"), reason="no syncfs")


@on_linux
def test_the_kernel_has_syncfs(new: list[RolloutRecorder]) -> None:
    syncfs.sync_filesystem(new[0].file.fileno())

    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        syncfs.sync_filesystem(-1)
    assert caught.value.errno == errno.EBADF


@on_linux
def test_the_kernel_reports_file_system_types_and_the_dirty_amount() -> None:
    assert syncfs._type_of(Path("/proc").stat().st_dev) == "proc"
    assert syncfs._type_of(os.makedev(4095, 1)) is None
    assert syncfs._dirty() >= 0
