"""An import finds rollouts and identifies their threads."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import DAY, item_line, message_line, thread_id

from livethread_worker.store.files import home as home_module
from livethread_worker.store.files.home import Home
from livethread_worker.store.upkeep.importing.sources import (
    Candidate,
    LeftOut,
    NotRollout,
    Search,
    Source,
    as_thread_id,
    identify,
)

ONE = thread_id(1)
NAMED = f"rollout-2026-11-22T12-00-00-{ONE}.jsonl"


def meta_line(id_: str, **fields: Any) -> bytes:
    return item_line("session_meta", {"id": id_, "timestamp": "2026-11-20T23:30:00.000Z", **fields}) + b"\n"


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names_of(search: Search, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in search.found]


def search_in(*sources: Path) -> Search:
    search = Search()
    for source in sources:
        search.look(source)
    return search


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


# -- finding -----------------------------------------------------------------------------------------------


def test_a_home_is_searched_in_its_two_rollout_folders(source: Path) -> None:
    wanted = [
        f"sessions/2026/11/22/{NAMED}",
        f"sessions/2026/11/22/{NAMED}.zst",
        "sessions/notes.jsonl",
        "archived_sessions/child.jsonl",
        f"archived_sessions/{NAMED}",
    ]
    for name in (*wanted, "history.jsonl", "session_index.jsonl", "archived_sessions/a.txt"):
        write(source / name)

    search = search_in(source)

    assert names_of(search, source) == wanted
    assert (search.not_rollouts, search.failed) == ([], [])


def test_any_other_folder_is_searched_for_rollout_suffixes(source: Path) -> None:
    for name in ("b.jsonl", "a/b/c.jsonl.zst", "a/session_index.jsonl", "a/d.json", "a/.rollout.jsonl.new"):
        write(source / name)

    assert names_of(search_in(source), source) == ["a/b/c.jsonl.zst", "b.jsonl"]


def test_each_file_is_found_once(source: Path) -> None:
    file = write(source / "a.jsonl")

    search = search_in(file, source, file)

    assert list(search.found) == [file]


def test_a_file_with_another_suffix_is_refused(source: Path) -> None:
    search = search_in(write(source / "a.json"))

    assert [(refused.path, refused.reason) for refused in search.left_out] == [
        (str(source / "a.json"), "its name does not end in .jsonl or .jsonl.zst: rename it")
    ]


def test_a_rollout_with_another_suffix_is_refused(source: Path) -> None:
    path = write(source / f"{NAMED}.bak")
    write(source / "notes.txt")

    assert [refused.path for refused in search_in(source).left_out] == [str(path)]


def test_a_fifo_is_refused_without_waiting(source: Path) -> None:
    os.mkfifo(source / "a.jsonl")

    search = search_in(source)

    assert (search.found, [refused.reason for refused in search.not_rollouts]) == ({}, ["it is not a regular file"])


def test_a_symlink_out_of_the_source_is_refused(source: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside/secret.jsonl").resolve()
    (source / "file.jsonl").symlink_to(outside)
    (source / "folder").symlink_to(outside.parent)
    (source / "passwd").symlink_to("/etc/passwd")

    search = search_in(source)

    assert not search.found
    reason = f"it is a symlink that leads out of {source}: import its target"
    assert [(refused.path, refused.reason) for refused in search.left_out] == [
        (str(source / "file.jsonl"), reason),
        (str(source / "folder"), reason),
    ]


@pytest.mark.parametrize("folder", ["sessions", "archived_sessions"])
def test_a_homes_rollout_folder_may_be_its_owners_symlink(source: Path, tmp_path: Path, folder: str) -> None:
    outside = write(tmp_path / f"outside/2026/11/22/{NAMED}").resolve()
    (source / folder).symlink_to(outside.parents[3])

    [found] = search_in(source).found.values()

    assert found == Candidate(outside, source / "session_index.jsonl", is_archived=folder == "archived_sessions")


def test_a_homes_rollout_folder_that_is_another_users_symlink_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = write(tmp_path / f"outside/2026/11/22/{NAMED}").resolve()
    link = source / "sessions"
    link.symlink_to(outside.parents[3])
    monkeypatch.setattr(home_module, "_owner", lambda path: 12345 if path == link else 6)

    search = search_in(source)

    assert not search.found
    assert [refused.path for refused in search.left_out] == [str(link)]


def test_a_symlink_within_the_source_does_not_repeat_a_file(source: Path) -> None:
    write(source / "a/b.jsonl")
    (source / "a/around").symlink_to(source)
    (source / "c.jsonl").symlink_to(source / "a/b.jsonl")

    search = search_in(source)

    assert (names_of(search, source), search.not_rollouts) == (["a/b.jsonl"], [])


def test_a_source_may_be_a_symlink_itself(source: Path, tmp_path: Path) -> None:
    file = write(source / "a.jsonl")
    (tmp_path / "link").symlink_to(source)

    assert list(search_in(tmp_path / "link").found) == [file]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        (f"sessions/2026/11/22/{NAMED}", "session_index.jsonl"),
        ("archived_sessions/a.jsonl", "session_index.jsonl"),
        ("backup/a.jsonl", "session_index.jsonl"),
        ("backup/home/sessions/a.jsonl", "backup/home/session_index.jsonl"),
    ],
)
def test_the_name_index_is_in_the_home_or_in_the_source(source: Path, name: str, names: str) -> None:
    file = write(source / name)
    search = Search()

    search.look(source if not name.startswith("sessions") else file)

    assert search.found[file].names == source / names


# -- identifying -------------------------------------------------------------------------------------------


def identified(home: Home, path: Path) -> Source:
    return identify(search_in(path).found[path], home)


def test_a_rollout_keeps_its_name_and_goes_to_the_folder_of_its_date(home: Home, source: Path) -> None:
    path = write(source / NAMED, meta_line(ONE) + message_line("a"))

    identity = identified(home, path)

    assert (identity.thread_id, identity.original_id, identity.first) == (ONE, ONE, b"")
    assert identity.target == home.root / DAY / NAMED


def test_an_archived_rollout_stays_archived(home: Home, source: Path) -> None:
    plain = write(source / f"archived_sessions/{NAMED}", meta_line(ONE))
    odd = write(source / "archived_sessions/odd.jsonl", meta_line(ONE))

    assert identified(home, plain).target == home.archived_sessions / NAMED
    assert identified(home, odd).target == home.archived_sessions / f"rollout-2026-11-20T23-30-00-{ONE}.jsonl"


def test_a_file_with_another_name_is_named_after_its_first_session_meta(home: Home, source: Path) -> None:
    path = write(source / "odd.jsonl", meta_line(ONE) + meta_line(thread_id(2)))

    identity = identified(home, path)

    assert identity.thread_id == ONE
    assert identity.target == home.sessions / f"2026/11/20/rollout-2026-11-20T23-30-00-{ONE}.jsonl"


def test_the_time_falls_back_to_the_line_and_then_to_the_file(home: Home, source: Path) -> None:
    payload = {"id": ONE}
    lines = {
        "a.jsonl": {"timestamp": "2025-01-02T03:04:05Z", "type": "session_meta", "payload": payload},
        "b.jsonl": {"timestamp": "[trimmed]", "type": "session_meta", "payload": payload},
    }
    for name, line in lines.items():
        os.utime(write(source / name, json.dumps(line).encode()), (0, 0))

    targets = [identified(home, source / name).target.name for name in lines]

    assert targets == [f"rollout-2025-01-02T03-04-05-{ONE}.jsonl", f"rollout-1970-01-01T00-00-00-{ONE}.jsonl"]


def test_the_session_meta_of_the_thread_in_the_file_name_is_used(home: Home, source: Path) -> None:
    path = write(source / NAMED, message_line("a") + b"\n" + meta_line(thread_id(2)) + meta_line(ONE))

    assert identified(home, path).thread_id == ONE


def test_an_old_rollout_is_identified_by_its_bare_first_line(home: Home, source: Path) -> None:
    line = json.dumps({"id": ONE, "timestamp": "2025-05-07T17:24:21.597Z", "instructions": None})
    path = write(source / "old.jsonl", line.encode() + b'\n{"record_type":"state"}\n')

    identity = identified(home, path)

    assert (identity.thread_id, identity.first) == (ONE, b"")
    assert identity.target == home.sessions / f"2025/05/07/rollout-2025-05-07T17-24-21-{ONE}.jsonl"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", b"", "it has no readable session_meta"),
        ("a.jsonl", b"\xff\xfe\n\0\n{}\n[1]\nnull\n", "it has no readable session_meta"),
        ("a.jsonl", b'{"type":["message"],"id":{}}\n', "it has no readable session_meta"),
        ("a.jsonl", b'{"session_id":"x","ts":1,"text":"history"}\n', "it has no readable session_meta"),
        ("a.jsonl", b'{"id":"7","timestamp":"2026-01-01T00:00:00Z"}\n', "it has no readable session_meta"),
    ],
)
def test_a_file_that_is_not_a_rollout_is_refused_with_the_reason(
    home: Home, source: Path, name: str, data: bytes, reason: str
) -> None:
    path = write(source / name, data)

    with pytest.raises(NotRollout) as caught:
        identified(home, path)

    assert (str(caught.value), caught.value.holds_conversation) == (reason, False)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", b'{"type":"session_meta","payload":[1]}\n', "it has no readable session_meta: rename it"),
        ("a.jsonl", b'{"type":"session_meta","payload":{"id":""}}\n', "it has no readable session_meta: rename it"),
        ("a.jsonl", b'{"type":"message","role":"user","content":[]}\n', "it has no readable session_meta: rename it"),
        (NAMED, meta_line(thread_id(2)), f"thread id {ONE}, but its session_meta '{thread_id(2)}': rename it"),
        (NAMED, "{}\n".encode("utf-16"), "no line of it can be read"),
    ],
)
def test_a_conversation_of_an_unknown_thread_is_refused_with_advice(
    home: Home, source: Path, name: str, data: bytes, reason: str
) -> None:
    path = write(source / name, data)

    with pytest.raises(LeftOut, match=re.escape(reason)):
        identified(home, path)


def test_an_id_that_is_not_a_uuid_always_becomes_the_same_uuid(home: Home, source: Path) -> None:
    spawned = {"subagent": {"thread_spawn": {"parent_thread_id": "root", "depth": 1}}}
    meta = {"cwd": "/w", "forked_from_id": thread_id(7), "parent_thread_id": "root", "session_id": "root"}
    path = write(source / "child.jsonl", meta_line("child", **meta, source=spawned))

    identity = identified(home, path)

    child, root = as_thread_id("child"), as_thread_id("root")
    # If this changed, imported threads would be imported again.
    assert child == "729b5d40-1e1d-5125-996b-3feed5b209d6"
    assert (identity.thread_id, identity.original_id, uuid.UUID(child).version) == (child, "child", 5)
    line = json.loads(identity.first)
    assert identity.first.endswith(b"\n")
    assert (line["type"], line["timestamp"]) == ("session_meta", "2026-11-22T12:00:00.000Z")
    assert line["payload"] == {
        "id": child,
        "timestamp": "2026-11-20T23:30:00.000Z",
        "cwd": "/w",
        "originator": "",
        "cli_version": "",
        "forked_from_id": thread_id(7),
        "parent_thread_id": root,
        "session_id": root,
        "source": {"subagent": {"thread_spawn": {"parent_thread_id": root, "depth": 1}}},
    }


def test_an_uppercase_id_is_the_same_thread(home: Home, source: Path) -> None:
    identity = identified(home, write(source / "a.jsonl", meta_line(ONE.upper())))

    assert identity.thread_id == ONE
    assert json.loads(identity.first)["payload"]["id"] == ONE


@pytest.mark.parametrize("id_", ["../../../../etc/cron.d/x", "/etc/passwd", "a\0b", "x" * 100_000, "rollout-*"])
def test_no_path_is_built_from_an_id(home: Home, source: Path, id_: str) -> None:
    identity = identified(home, write(source / "a.jsonl", meta_line(id_)))

    assert identity.target.parent == home.sessions / "2026/11/20"
    assert home.thread_of(identity.target) == identity.thread_id == as_thread_id(id_)
