"""Homes damaged at random: nothing crashes, doctor names what is wrong, and no line is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st
from tests.nodes.examples import machine_settings
from tests.unit.worker.builders import AT, Mail, Store, item_line, message_line, thread_id

from livethread import types
from livethread.errors import ThreadStoreError
from livethread.metadata import ThreadMetadataPatch
from livethread.rollout.lines import decode_line
from livethread_worker.store.files import compression
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.name_index import set_name
from livethread_worker.store.read.reader import LocalReader
from livethread_worker.store.upkeep.doctor import DoctorReport, examine, undo
from livethread_worker.store.upkeep.doctor.faults import UNREPAIRABLE
from livethread_worker.store.upkeep.rebuild import rebuild

OURS, FORK, OLD, COLD, ARCHIVED = map(thread_id, range(1, 6))
USER: Final = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "an old one"}]}


def make_home(root: Path) -> Store:
    """Return an undamaged home with a rollout of each kind, and its index."""
    store = Store(root)
    ours, archived = Mail(1), Mail(5)
    patch = ThreadMetadataPatch(title="a title", thread_source="nightly")
    store.apply(
        ours, ours.create(cwd="/x"), *ours.live(message_line("hello 🌍")), ours.patch(patch), ours.append("b")
    )
    store.apply(archived, archived.create(), archived.append("c", "d"), archived.archive())
    parent = item_line("session_meta", {"id": OURS, "timestamp": "2026-11-22T12:00:00.000Z"})
    store.write_rollout(FORK, parent, message_line("copied"), message_line("forked"))
    old = b'{"id":"%b","timestamp":"2025-05-07T17:24:21.123Z","instructions":null}' % OLD.encode()
    store.write_rollout(OLD).write_bytes(b"\n".join([old, b'{"record_type":"state"}', item_line("x", {}), b""]))
    compression.compress(store.write_rollout(COLD, *(message_line(f"cold {n}" * 20) for n in range(20))))
    set_name(store.home, OURS, "a name", AT)
    assert examine(store.home, fix=True).is_well
    return store


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that happens to a file; *place* and *other* are shares of its length."""

    name: str
    file: int
    place: float
    other: float

    def happen(self, home: Home) -> None:
        """Damage a file of *home*, if one is left."""
        files = sorted(files_of(home))
        if files:
            DAMAGES[self.name](self, home, files[self.file % len(files)])

    def edit(self, path: Path, change: Callable[[list[bytes], int, int], list[bytes]]) -> None:
        """Change the lines of *path*, given two places among them."""
        lines = path.read_bytes().splitlines(keepends=True)
        if lines:
            last = len(lines) - 1
            path.write_bytes(b"".join(change(lines, round(self.place * last), round(self.other * last))))

    def cut(self, path: Path, middle: Callable[[bytes], bytes]) -> None:
        """Change the rest of *path* after a place."""
        data = path.read_bytes()
        at = int(self.place * len(data))
        path.write_bytes(data[:at] + middle(data[at:]))


def swapped(lines: list[bytes], one: int, other: int) -> list[bytes]:
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


NAMES: Final = (
    lambda name: name.replace("rollout-", ""),
    lambda name: name.replace("-", "_"),
    lambda name: f"{name}.bak",
    lambda name: name.removesuffix(".zst") if name.endswith(".zst") else f"{name}.zst",
    lambda name: name.replace("-0000000000", "-0000000001"),
    lambda name: name.replace("2026-11", "2026-99"),
    lambda name: name.upper(),
    lambda name: f".{name}",
)
FOLDERS: Final = (
    "sessions",
    "sessions/a/b/c/d",
    "sessions/2020/01/01",
    "archived_sessions",
    "archived_sessions/2026/11/22",
)

DAMAGES: Final[dict[str, Callable[[Damage, Home, Path], None]]] = {
    "truncated": lambda damage, _, path: damage.cut(path, lambda _: b""),
    "a byte flipped": lambda damage, _, path: damage.cut(
        path, lambda rest: bytes([rest[0] ^ (1 << int(damage.other * 7))]) + rest[1:] if rest else rest
    ),
    "NULs": lambda damage, _, path: damage.cut(path, lambda rest: b"\0" * 64 + rest[64:]),
    "half a pair": lambda damage, _, path: damage.cut(path, lambda rest: rest.replace(b" ", rb"\ud83d", 1)),
    "a byte order mark": lambda _, __, path: put(path, b"\xef\xbb\xbf" + path.read_bytes()),
    "garbage": lambda damage, _, path: damage.edit(path, lambda lines, at, _: [*lines[:at], b"no\n", *lines[at:]]),
    "a line lost": lambda damage, _, path: damage.edit(path, lambda lines, at, _: lines[:at] + lines[at + 1 :]),
    "a line doubled": lambda damage, _, path: damage.edit(path, lambda lines, at, _: lines[: at + 1] + lines[at:]),
    "lines swapped": lambda damage, _, path: damage.edit(path, swapped),
    "lines glued": lambda damage, _, path: damage.edit(
        path, lambda lines, at, _: [*lines[:at], lines[at].rstrip(b"\n"), *lines[at + 1 :]]
    ),
    "emptied": lambda _, __, path: put(path, b""),
    "removed": lambda _, __, path: path.unlink(),
    "renamed": lambda damage, _, path: move(path, path.with_name(NAMES[int(damage.place * 7)](path.name))),
    "copied": lambda damage, _, path: put(path.with_name(NAMES[int(damage.place * 7)](path.name)), path.read_bytes()),
    "moved": lambda damage, home, path: move(path, home.root / FOLDERS[int(damage.place * 4)] / path.name),
    "its folder moved": lambda damage, home, path: (
        move(path.parent, home.sessions / f"moved{damage.place}")
        if path.parent not in {home.sessions, home.archived_sessions}
        else None
    ),
}

damages = st.lists(
    st.builds(Damage, st.sampled_from(sorted(DAMAGES)), st.integers(0, 20), st.floats(0, 1), st.floats(0, 1)),
    min_size=1,
    max_size=4,
)


def files_of(home: Home) -> list[Path]:
    return [
        path for folder in (home.sessions, home.archived_sessions) for path in folder.rglob("*") if path.is_file()
    ]


def content(path: Path) -> bytes:
    """Return the lines of a file, decompressed as far as possible."""
    with suppress(ThreadStoreError), compression.open_rollout(path) as file:
        return file.read()
    return path.read_bytes()


def whole_lines(paths: list[Path]) -> set[bytes]:
    lines = (line for path in paths for line in content(path).split(b"\n"))
    return {line for line in lines if decode_line(line) is not None}


def bytes_of(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in [*files_of(home), *home.quarantine.iterdir(), home.session_index]}


def require_named(home: Home, report: DoctorReport, lengths: dict[str, int]) -> None:
    """Check that a fault names each file that is not a thread's, holds a line that is not a record, or changed its length."""
    named = {home.root / fault.path for fault in report.faults}
    for path in files_of(home):
        thread_id = home.thread_of(path)
        data = content(path)
        lines = data.split(b"\n")
        is_sound = all(decode_line(line) is not None or not line.strip() for line in lines)
        if thread_id is None or not is_sound or lengths.get(thread_id) != len(data):
            assert path in named, path
    present = {home.thread_of(path) for path in files_of(home)}
    assert {fault.thread_id for fault in report.faults} >= lengths.keys() - present


def read_everything(store: Store) -> None:
    """Read the home as a user does; only errors of the contract may be raised."""
    reader = LocalReader(store.home, lambda: store.index)
    for archived in (False, True):
        for thread in reader.list_threads(types.ListThreadsParams(archived=archived)).items:
            with suppress(ThreadStoreError):
                reader.load_history(types.LoadThreadHistoryParams(thread_id=thread.thread_id, include_archived=True))
            with suppress(ThreadStoreError):
                reader.list_turns(types.ListTurnsParams(thread_id=thread.thread_id, include_archived=True))
    reader.search_threads(types.SearchThreadsParams(search_term="hello"))
    reader.close()


@given(damages=damages)
@example(
    damages=[Damage("copied", 4, 0.5, 0.0), Damage("its folder moved", 1, 0.0, 0.0)]
)  # a copy with a wrong suffix
@machine_settings(examples=15, steps=1)
def test_a_damaged_home_is_read_examined_repaired_and_restored(damages: list[Damage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = make_home(Path(folder) / "home")
        home = store.home
        lengths = {thread_id: size for thread_id, (_, size) in store.index.rollouts().items()}
        for damage in damages:
            damage.happen(home)
        damaged = bytes_of(home)
        lines = whole_lines(files_of(home))

        report = examine(home, fix=False)

        assert bytes_of(home) == damaged
        require_named(home, report, lengths)

        examine(home, fix=True)
        repaired = bytes_of(home)
        again = examine(home, fix=True)

        assert bytes_of(home) == repaired
        assert {fault.kind for fault in again.faults} <= UNREPAIRABLE
        assert lines <= whole_lines([*files_of(home), *home.quarantine.iterdir()])
        read_everything(store)

        assert undo(home).kept == []
        assert lines <= whole_lines(files_of(home))
        read_everything(store)
        store.close()


@given(damages=damages)
@machine_settings(examples=15, steps=1)
def test_a_damaged_home_is_read_and_rebuilt_without_repairs(damages: list[Damage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = make_home(Path(folder) / "home")
        for damage in damages:
            damage.happen(store.home)
        damaged = bytes_of(store.home)

        read_everything(store)
        rebuild(store.home, store.index)
        read_everything(store)

        assert bytes_of(store.home) == damaged
        store.close()
