"""``livethread import`` as a user runs it: on recorded rollouts, and killed in the middle.

``LIVETHREAD_TEST_ROLLOUTS`` names a directory of rollout files.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.waiting import DEADLINE, wait_until

from livethread import LoadThreadHistoryParams, Settings, StoredThreadHistory
from livethread_worker.store import LocalThreadStore

ROLLOUTS = os.environ.get("LIVETHREAD_TEST_ROLLOUTS", "")

recorded = pytest.mark.skipif(not ROLLOUTS, reason="LIVETHREAD_TEST_ROLLOUTS names no directory of rollouts")

#: Enough threads that a kill comes in the middle of the import.
THREADS = 40

ID = "019a93b9-f380-7600-98ff-{:012x}"
LAST = ID.format(THREADS - 1)


class Command:
    """The command ``livethread``, with its own home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIVETHREAD_")}
        self.env = inherited | {"LIVETHREAD_HOME": str(home)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "livethread", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.env, cwd=self.home.parent, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run it and return the JSON that it prints."""
        with self.start(*arguments, "--json") as process:
            out, error = process.communicate(timeout=10 * DEADLINE)
        assert process.returncode == code, error[-3000:]
        return json.loads(out)

    def listed(self) -> list[Any]:
        return [self("ls", "--all", "--limit", "1000"), self("ls", "--all", "--limit", "1000", "--archived")]

    async def histories(self, thread_ids: Iterable[str]) -> dict[str, StoredThreadHistory]:
        """Return what the store reads that the commands use; a command for each takes long."""
        async with LocalThreadStore(Settings(home=self.home)) as store:
            return {id_: await store.load_history(LoadThreadHistoryParams(thread_id=id_)) for id_ in thread_ids}

    def drop_index(self) -> None:
        for file in (self.home / "livethread").glob("index.sqlite*"):
            file.unlink()


@pytest.fixture
def livethread(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


# -- recorded rollouts ---------------------------------------------------------------------------------------


def payloads(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"type", "payload"} <= record.keys():
            yield record["payload"]


@recorded
def test_recorded_rollouts_are_listed_and_read_in_order_and_survive_a_rebuild(livethread: Command) -> None:
    files = sorted(Path(ROLLOUTS).resolve().glob("*.jsonl"))
    before = {file: file.read_bytes() for file in files}

    report = livethread("import", ROLLOUTS)

    assert (report["imported"], report["conflicts"], report["failed"]) == (len(files), [], [])
    threads = {Path(thread["source"]): thread["thread_id"] for thread in report["threads"]}
    assert sorted(threads) == files
    dump = livethread.listed()
    assert {thread["thread_id"] for page in dump for thread in page["items"]} == set(threads.values())
    histories = asyncio.run(livethread.histories(threads.values()))
    for file, thread_id in threads.items():
        shown = [item.payload for item in histories[thread_id].items]
        expected = list(payloads(file))
        if expected[0]["id"] != thread_id:  # the recorded id is not a UUID
            assert shown.pop(0)["id"] == thread_id
        assert shown == expected, file.name

    again = livethread("import", ROLLOUTS)
    assert (again["imported"], again["grown"], again["unchanged"]) == (0, 0, len(files))
    assert {file: file.read_bytes() for file in files} == before

    livethread.drop_index()
    assert livethread("rebuild")["threads"] == len(files)
    assert livethread.listed() == dump


@recorded
def test_an_import_of_the_home_itself_indexes_it_in_place(livethread: Command) -> None:
    livethread("import", ROLLOUTS)
    dump = livethread.listed()
    livethread.drop_index()

    report = livethread("import", str(livethread.home))

    assert report["indexed"] == len(report["threads"]) == sum(len(page["items"]) for page in dump)
    assert livethread.listed() == dump


# -- a home with many small rollouts ---------------------------------------------------------------------------


@pytest.fixture
def codex(tmp_path: Path) -> Path:
    """A codex home with `THREADS` threads."""
    home = tmp_path / "codex"
    names = []
    for n in range(THREADS):
        id_ = ID.format(n)
        folder = home / ("archived_sessions" if n % 10 == 0 else f"sessions/2026/11/{n % 28 + 1:02d}")
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {"type": "session_meta", "payload": {"id": id_, "timestamp": "2026-11-22T12:00:00.000Z", "cwd": "/w"}},
            {"type": "event_msg", "payload": {"type": "user_message", "message": f"Größe {n}"}},
        ]
        stamped = [{"timestamp": f"2026-11-22T12:{n // 60:02d}:{n % 60:02d}.000Z", **line} for line in lines]
        path = folder / f"rollout-2026-11-{n % 28 + 1:02d}T12-00-00-{id_}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in stamped), encoding="utf-8")
        names.append({"id": id_, "thread_name": f"name {n}", "updated_at": "2026-11-22T12:00:00Z"})
    text = "".join(json.dumps(line) + "\n" for line in names)
    (home / "session_index.jsonl").write_text(text, encoding="utf-8")
    return home


def rollouts(home: Path) -> dict[str, bytes]:
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for folder in ("sessions", "archived_sessions")
        for path in (home / folder).rglob("*")
        if path.is_file()
    }


def has_rollouts(home: Path, count: int) -> bool:
    return sum(1 for _ in home.rglob("rollout-*.jsonl")) >= count


@contextmanager
def held(home: Path, thread_id: str) -> Iterator[None]:
    """Lock a thread as codex does, so that an import of it cannot end before it is killed."""
    locks = home / "thread-writer-locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{thread_id}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_an_import_completes_what_killed_imports_began(livethread: Command, codex: Path) -> None:
    expected = rollouts(codex)
    for share in (1, 3, 6):  # kill it after so many tenths of the threads
        with held(livethread.home, LAST), livethread.start("import", str(codex)) as process:
            wait_until(partial(has_rollouts, livethread.home, share * THREADS // 10))
            process.kill()
        whole = {name: data for name, data in rollouts(livethread.home).items() if not name.endswith(".new")}
        assert whole.items() <= expected.items()

    report = livethread("import", str(codex))

    assert report["imported"] + report["unchanged"] == THREADS
    assert 0 < report["imported"] < THREADS
    assert rollouts(livethread.home) == expected
    dump = livethread.listed()
    assert [len(page["items"]) for page in dump] == [THREADS - THREADS // 10, THREADS // 10]
    assert all(thread["name"] and thread["preview"] for page in dump for thread in page["items"])
    again = livethread("import", str(codex))
    assert (again["unchanged"], again["named"]) == (THREADS, 0)
    livethread.drop_index()
    livethread("rebuild")
    assert livethread.listed() == dump


def test_a_dry_run_creates_no_home(livethread: Command, codex: Path) -> None:
    report = livethread("import", "--dry-run", str(codex))

    assert (report["dry_run"], report["imported"], report["named"]) == (True, THREADS, THREADS)
    assert not livethread.home.exists()


def test_a_conflict_is_printed_and_sets_the_exit_code(livethread: Command, codex: Path) -> None:
    name = next(iter(rollouts(codex)))
    livethread("import", str(codex / name))
    lines = (codex / name).read_text(encoding="utf-8")
    (codex / name).write_text(lines.replace("Größe", "Grösse"), encoding="utf-8")

    with livethread.start("import", str(codex / name), str(codex / "session_index.jsonl")) as process:
        out, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode == 1
    count, conflict = out.splitlines()
    counts = "0 imported, 0 grown, 0 unchanged, 0 indexed in place, 1 conflicts, 0 left out, 0 not rollouts"
    assert count == f"{livethread.home}: {counts}"
    assert str(codex / name) in conflict
    assert str(livethread.home / name) in conflict
