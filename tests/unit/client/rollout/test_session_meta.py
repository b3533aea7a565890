from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pytest

from livethread.metadata import GitInfo, MemoryMode, StoredThread
from livethread.metadata_sync import ThreadMetadataSync, thread_of_meta
from livethread.model import format_time
from livethread.rollout.session_meta import session_meta, with_present_values
from livethread.types import CreateThreadParams

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
OTHER = "019a93b9-f380-7600-98ff-940e6b99603d"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 13, tzinfo=UTC)

FULL = CreateThreadParams(
    thread_id=THREAD,
    session_id=OTHER,
    forked_from_id=OTHER,
    parent_thread_id=OTHER,
    cwd="/work",
    model_provider="azure",
    source={"custom": "x"},
    thread_source="automation",
    originator="me",
    cli_version="1.2.3",
    base_instructions="be kind",
    dynamic_tools=({"name": "t"},),
    agent_nickname="Ada",
    agent_role="reviewer",
    agent_path="/root/ada",
    memory_mode=MemoryMode.DISABLED,
    multi_agent_version="v2",
    git=GitInfo(commit_hash="s", branch="b"),
    created_at=AT,
)
FULL_META: dict[str, Any] = {
    "id": THREAD,
    "session_id": OTHER,
    "forked_from_id": OTHER,
    "parent_thread_id": OTHER,
    "timestamp": "2026-11-22T12:00:00.000Z",
    "cwd": "/work",
    "originator": "me",
    "cli_version": "1.2.3",
    "source": {"custom": "x"},
    "thread_source": "automation",
    "agent_nickname": "Ada",
    "agent_role": "reviewer",
    "agent_path": "/root/ada",
    "model_provider": "azure",
    "base_instructions": {"text": "be kind"},
    "dynamic_tools": [{"name": "t"}],
    "memory_mode": "disabled",
    "multi_agent_version": "v2",
    "git": {"commit_hash": "s", "branch": "b"},
}
FULL_THREAD = StoredThread(
    thread_id=THREAD,
    session_id=OTHER,
    forked_from_id=OTHER,
    parent_thread_id=OTHER,
    model_provider="azure",
    created_at=AT,
    updated_at=AT,
    recency_at=AT,
    cwd="/work",
    cli_version="1.2.3",
    originator="me",
    source={"custom": "x"},
    thread_source="automation",
    agent_nickname="Ada",
    agent_role="reviewer",
    agent_path="/root/ada",
    git_info=GitInfo(commit_hash="s", branch="b"),
    memory_mode=MemoryMode.DISABLED,
)


def test_the_first_line_holds_every_parameter() -> None:
    assert session_meta(FULL) == FULL_META


def test_the_first_line_has_every_field_that_codex_requires_and_no_null() -> None:
    assert session_meta(CreateThreadParams(thread_id=THREAD, created_at=AT)) == {
        "id": THREAD,
        "session_id": THREAD,
        "timestamp": "2026-11-22T12:00:00.000Z",
        "cwd": "",
        "originator": "livethread",
        "cli_version": version("livethread"),
        "source": "cli",
        "model_provider": "openai",
    }


def test_a_thread_has_the_metadata_of_its_first_line() -> None:
    assert thread_of_meta(THREAD, FULL_META, LATER) == FULL_THREAD


def test_a_bare_first_line_gives_a_thread_with_the_lines_time() -> None:
    assert thread_of_meta(THREAD, {}, LATER) == StoredThread(
        thread_id=THREAD, created_at=LATER, updated_at=LATER, recency_at=LATER, source="vscode"
    )


def test_a_spawned_thread_has_the_parent_in_its_source() -> None:
    """codex reads nickname, role and path from the line alone."""
    spawn = {"parent_thread_id": OTHER, "depth": 1, "agent_nickname": "Nick", "agent_role": "explorer"}
    meta = {"source": {"subagent": {"thread_spawn": spawn}}}

    thread = thread_of_meta(THREAD, meta, LATER)

    assert (thread.parent_thread_id, thread.agent_nickname, thread.agent_role) == (OTHER, None, None)


def test_the_first_line_of_a_spawned_thread_takes_over_what_its_source_says() -> None:
    spawn = {"parent_thread_id": OTHER, "agent_nickname": "Nick", "agent_type": "explorer", "agent_path": "/root/a"}
    source = {"subagent": {"thread_spawn": spawn}}

    meta = session_meta(CreateThreadParams(source=source, agent_nickname="Own"))

    assert {
        key: meta[key] for key in ("source", "parent_thread_id", "agent_nickname", "agent_role", "agent_path")
    } == {
        "source": source,
        "parent_thread_id": OTHER,
        "agent_nickname": "Own",
        "agent_role": "explorer",
        "agent_path": "/root/a",
    }


def test_values_that_are_not_strings_are_ignored() -> None:
    meta = {"session_id": 7, "originator": None, "parent_thread_id": ["x"], "cwd": 7}

    assert thread_of_meta(THREAD, meta, LATER) == thread_of_meta(THREAD, {}, LATER)


def test_a_copy_has_the_threads_present_values_and_keeps_the_rest() -> None:
    now = FULL_THREAD.model_copy(
        update={
            "created_at": LATER,
            "history_mode": "paginated",
            "cwd": "/moved",
            "source": "exec",
            "thread_source": None,
            "agent_role": None,
            "memory_mode": MemoryMode.ENABLED,
            "git_info": GitInfo(branch="new"),
        }
    )

    copy = with_present_values(FULL_META, now)

    changed = {
        "timestamp": format_time(LATER),
        "history_mode": "paginated",
        "cwd": "/moved",
        "source": "exec",
        "memory_mode": "enabled",
        "git": {"branch": "new"},
    }
    kept = {key: value for key, value in FULL_META.items() if key not in {"thread_source", "agent_role"}}
    assert copy == kept | changed


@pytest.mark.parametrize(
    "odd",
    [
        {"source": "weird", "thread_source": ""},
        {"source": "", "thread_source": "x" * 1000},
        {"source": 7, "thread_source": {"custom": "x"}},
        {"agent_role": None, "agent_type": "explorer"},
        {"git": {"commit_hash": "s", "branch": "b", "dirty": True}, "memory_mode": "polluted"},
        {"model_provider": "", "creator_user_id": "u", "history_base": {"thread_id": OTHER}},
    ],
    ids=str,
)
def test_a_copy_keeps_what_we_read_otherwise_or_do_not_know(odd: dict[str, Any]) -> None:
    meta = FULL_META | odd
    thread = thread_of_meta(THREAD, meta, AT)

    assert with_present_values(meta, thread) == meta
    assert with_present_values(meta, thread.model_copy(update={"cwd": "/moved"})) == meta | {"cwd": "/moved"}


def test_a_copy_with_a_new_role_has_no_other_name_of_it() -> None:
    """codex cannot read a line with both."""
    meta = {key: value for key, value in FULL_META.items() if key != "agent_role"} | {"agent_type": "explorer"}

    copy = with_present_values(meta, FULL_THREAD)

    assert copy == FULL_META


def test_a_copy_with_another_branch_keeps_unknown_fields_of_git() -> None:
    meta = FULL_META | {"git": {"branch": "b", "dirty": True}}
    now = FULL_THREAD.model_copy(update={"git_info": GitInfo(branch="new")})

    assert with_present_values(meta, now)["git"] == {"branch": "new", "dirty": True}


def test_a_copy_of_an_unchanged_thread_is_equal() -> None:
    assert with_present_values(FULL_META, FULL_THREAD) == FULL_META


def test_a_cleared_git_is_copied_as_an_empty_object() -> None:
    cleared = FULL_THREAD.model_copy(update={"git_info": None})

    assert with_present_values(FULL_META, cleared)["git"] == {}


def test_says_git_copies_an_empty_object_if_there_was_no_git() -> None:
    meta = {key: value for key, value in FULL_META.items() if key != "git"}

    copy = with_present_values(meta, FULL_THREAD.model_copy(update={"git_info": None}), says_git=True)

    assert copy["git"] == {}


def test_a_copy_omits_git_if_there_was_none() -> None:
    meta = {key: value for key, value in FULL_META.items() if key != "git"}

    assert with_present_values(meta, FULL_THREAD.model_copy(update={"git_info": None})) == meta


@pytest.mark.parametrize(
    "git",
    [
        None,
        GitInfo(branch="b"),
        GitInfo(commit_hash="s"),
        GitInfo(commit_hash="s", branch="b", repository_url="u"),
    ],
)
def test_reading_the_copy_after_the_first_line_gives_the_same_thread(git: GitInfo | None) -> None:
    """Cleared fields stay cleared when only the rollout is read."""
    now = FULL_THREAD.model_copy(update={"git_info": git, "thread_source": None, "memory_mode": MemoryMode.ENABLED})
    copy = with_present_values(FULL_META, now)

    sync = ThreadMetadataSync(THREAD, {"cwd"})
    sync.add("session_meta", copy, AT)
    update = sync.take()

    assert update is not None
    assert thread_of_meta(THREAD, FULL_META, AT).patched(update.patch) == now
