from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from livethread.errors import Internal, InvalidRequest
from livethread_worker.store.files.compression import compress, decompress, open_rollout, right_name

LINES = b"".join(b'{"type":"event_msg","payload":{"n":%d}}\n' % n for n in range(20_000))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(LINES)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def read(path: Path) -> bytes:
    with open_rollout(path) as file:
        return file.read()


def test_a_rollout_is_compressed_in_place_and_reads_the_same(plain: Path) -> None:
    compressed = compress(plain)

    assert compressed.name == "rollout.jsonl.zst"
    assert [path.name for path in plain.parent.iterdir()] == [compressed.name]
    assert compressed.stat().st_size < len(LINES) / 10
    assert read(compressed) == LINES


def test_a_compressed_rollout_is_decompressed_in_place(plain: Path) -> None:
    assert decompress(compress(plain)) == plain

    assert plain.read_bytes() == LINES
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]


def test_the_modification_time_and_the_mode_are_kept(plain: Path) -> None:
    plain.chmod(0o600)

    compressed = compress(plain)

    assert (compressed.stat().st_mtime, compressed.stat().st_mode & 0o777) == (1_700_000_000, 0o600)
    with open_rollout(compressed) as file:
        assert os.fstat(file.fileno()).st_mtime == 1_700_000_000
    assert decompress(compressed).stat().st_mtime == 1_700_000_000


def test_either_name_opens_the_existing_form(plain: Path) -> None:
    compressed = compress(plain)

    assert read(plain) == LINES
    decompress(compressed)
    assert read(compressed) == LINES


def test_all_frames_of_a_rollout_are_read(plain: Path) -> None:
    frames = [zstandard.compress(LINES[:1000]), zstandard.compress(b""), zstandard.compress(LINES[1000:])]
    compressed = plain.with_suffix(".jsonl.zst")
    compressed.write_bytes(b"".join(frames))
    plain.unlink()

    assert read(compressed) == LINES


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
def test_lines_that_are_named_as_compressed_are_read_and_renamed(plain: Path, bom: bytes) -> None:
    plain.write_bytes(bom + LINES)
    misnamed = plain.rename(plain.with_name(plain.name + ".zst"))

    assert read(misnamed) == bom + LINES
    assert right_name(misnamed) == plain
    assert decompress(misnamed) == plain
    assert read(plain) == bom + LINES
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]


def test_a_compressed_rollout_that_is_named_as_plain_is_read_and_decompressed(plain: Path) -> None:
    compress(plain).rename(plain)

    assert read(plain) == LINES
    assert right_name(plain).name == f"{plain.name}.zst"
    assert decompress(plain) == plain
    assert plain.read_bytes() == LINES


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a folder"])
@pytest.mark.parametrize("name", ["rollout.jsonl", "rollout.jsonl.zst"])
def test_anything_but_a_regular_file_is_refused_without_waiting(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    make(tmp_path / name)

    with pytest.raises(InvalidRequest, match="is not a regular file"):
        read(tmp_path / name)


def test_a_decompression_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    size = 150_000_000
    (tmp_path / "rollout.jsonl.zst").write_bytes(zstandard.compress(b"\0" * size, 3))

    tracemalloc.start()
    try:
        with open_rollout(tmp_path / "rollout.jsonl") as file:
            assert file.seek(0, os.SEEK_END) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < size * 2 / 3


def test_decompress_never_replaces_a_plain_rollout(plain: Path) -> None:
    compressed = compress(plain)
    plain.write_bytes(LINES + b"{}\n")

    with pytest.raises(FileExistsError):
        decompress(compressed)

    assert plain.read_bytes() == LINES + b"{}\n"
    assert compressed.exists()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: data[: len(data) // 2], "is truncated; livethread doctor --fix"),
        (lambda data: data[:-4] + b"\0\0\0\0", r"is damaged \(.+\); livethread doctor --fix"),
        (lambda data: b"garbage" + data, r"is damaged \(.+\); livethread doctor --fix"),
        (lambda data: data + b"garbage!", r"is damaged \(.+\); livethread doctor --fix"),
    ],
    ids=["truncated", "checksum", "garbage before", "garbage after"],
)
def test_damage_is_reported_and_the_file_kept(plain: Path, damage: object, complaint: str) -> None:
    compressed = compress(plain)
    damaged = damage(compressed.read_bytes())  # type: ignore[operator]
    compressed.write_bytes(damaged)

    with pytest.raises(Internal, match=complaint):
        read(compressed)
    with pytest.raises(Internal, match=complaint):
        decompress(compressed)

    assert [path.name for path in plain.parent.iterdir()] == [compressed.name]
    assert compressed.read_bytes() == damaged


@pytest.mark.parametrize("make", [compress, decompress, read])
def test_a_symlink_is_refused(tmp_path: Path, make: object) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(LINES)
    link = tmp_path / ("rollout.jsonl.zst" if make is decompress else "rollout.jsonl")
    link.symlink_to(target)

    with pytest.raises(InvalidRequest, match="symlink"):
        make(link)  # type: ignore[operator]

    assert target.read_bytes() == LINES
    assert link.is_symlink()


def test_a_failed_compression_keeps_the_rollout(plain: Path, limit_file_size: object) -> None:
    with limit_file_size(100), pytest.raises(OSError, match="File too large"):  # type: ignore[operator]
        compress(plain)

    assert [path.name for path in plain.parent.iterdir()] == [plain.name]
    assert plain.read_bytes() == LINES
