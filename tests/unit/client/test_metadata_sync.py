from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.metadata import FIRST_WINS, MetadataUpdate, StoredThread
from livethread.metadata_sync import ThreadMetadataSync
from livethread.rollout.item import RolloutItem
from livethread.rollout.permissions import READ_ONLY
from livethread.rollout.user_message import user_request
from livethread.types import CreateThreadParams

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
OTHER = "019a93b9-f380-7600-98ff-940e6b99603d"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 13, tzinfo=UTC)
MARKED = "# Context from my IDE\n\n## Open tabs: a.py\n\n## My request for Codex:\nfix it\n"


def derive(*items: tuple[str, Any], sync: ThreadMetadataSync | None = None) -> dict[str, Any]:
    """Return the patch derived from *items*, as JSON; no patch is an empty object."""
    update = update_of(*items, sync=sync)
    return update.patch.to_wire() if update else {}


def update_of(*items: tuple[str, Any], sync: ThreadMetadataSync | None = None) -> MetadataUpdate | None:
    sync = sync or ThreadMetadataSync(THREAD)
    for kind, payload in items:
        sync.add(kind, payload, AT)
    return sync.take()


def stored(**fields: Any) -> StoredThread:
    return StoredThread(thread_id=THREAD, created_at=AT, updated_at=AT, recency_at=AT, **fields)


def event(kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "event_msg", {"type": kind, **fields}


def meta(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "session_meta", {"id": THREAD, "timestamp": "2026-11-22T10:11:12.345Z", **fields}


def settings(**fields: Any) -> tuple[str, dict[str, Any]]:
    return event("thread_settings_applied", thread_settings=fields)


SETTINGS = {
    "model": "m-set",
    "model_provider_id": "prov-set",
    "reasoning_effort": "low",
    "cwd": "/set",
    "approval_policy": "on-request",
    "permission_profile": {"type": "disabled"},
}

#: The patch derived from a thread's own session_meta with nothing but an id and a time.
BARE = {
    "created_at": "2026-11-22T10:11:12.345000Z",
    "source": "vscode",
    "thread_source": None,
    "agent_nickname": None,
    "agent_role": None,
    "agent_path": None,
}


# -- session_meta ------------------------------------------------------------------------------------------


def test_a_threads_own_session_meta_sets_its_fields() -> None:
    fields = {
        "cwd": "/work",
        "originator": "codex_cli_rs",
        "cli_version": "0.138.0",
        "source": "cli",
        "thread_source": "automation",
        "model_provider": "openai",
        "agent_nickname": "Ada",
        "agent_role": "reviewer",
        "agent_path": "/root/ada",
        "memory_mode": "disabled",
        "history_mode": "paginated",
        "git": {"commit_hash": "s", "branch": "b", "repository_url": "u"},
    }

    derived = derive(meta(**fields))

    assert derived == {
        "created_at": "2026-11-22T10:11:12.345000Z",
        "source": "cli",
        "thread_source": "automation",
        "model_provider": "openai",
        "agent_nickname": "Ada",
        "agent_role": "reviewer",
        "agent_path": "/root/ada",
        "cwd": "/work",
        "cli_version": "0.138.0",
        "memory_mode": "disabled",
        "history_mode": "paginated",
        "git_info": {"sha": "s", "branch": "b", "origin_url": "u"},
    }


def test_a_bare_session_meta_clears_labels_and_keeps_git_and_memory_mode() -> None:
    assert derive(meta()) == BARE


def test_an_empty_git_clears_git() -> None:
    assert derive(meta(git={})) == BARE | {"git_info": {"sha": None, "branch": None, "origin_url": None}}


def test_a_git_object_replaces_all_git_fields() -> None:
    """A field that a copy of session_meta lacks was cleared. codex also takes the object as a whole."""
    assert derive(meta(git={"commit_hash": "s"})) == BARE | {
        "git_info": {"sha": "s", "branch": None, "origin_url": None}
    }


@pytest.mark.parametrize("label", ["", " ", "x" * 1000])
def test_any_text_is_a_label(label: str) -> None:
    derived = derive(meta(source=label, thread_source=label))

    assert (derived["source"], derived["thread_source"]) == (label, label)


def test_older_codex_called_the_role_agent_type() -> None:
    assert derive(meta(agent_type="explorer"))["agent_role"] == "explorer"


def test_codexs_second_form_of_a_time_is_read() -> None:
    assert derive(meta(timestamp="2026-11-22T10-11-12"))["created_at"] == "2026-11-22T10:11:12Z"


@pytest.mark.parametrize("timestamp", [None, 7, "long ago", ""])
def test_an_invalid_time_is_ignored(timestamp: Any) -> None:
    assert "created_at" not in derive(meta(timestamp=timestamp))


def test_a_session_meta_copied_by_a_fork_states_no_facts() -> None:
    copied = ("session_meta", {"id": OTHER, "cwd": "/elsewhere", "source": "exec", "model_provider": "other"})

    assert derive(meta(source="cli", cwd="/work"), copied) == BARE | {"source": "cli", "cwd": "/work"}
    assert derive(copied) == {}


# -- turn_context ------------------------------------------------------------------------------------------


def test_a_turn_context_sets_the_settings_and_the_first_directory() -> None:
    context = {
        "cwd": "/work",
        "model": "gpt-5",
        "effort": "high",
        "approval_policy": "on-request",
        "permission_profile": {"type": "managed"},
        "sandbox_policy": {"mode": "read-only"},
        "summary": "auto",
    }

    assert derive(("turn_context", context)) == {
        "cwd": "/work",
        "model": "gpt-5",
        "reasoning_effort": "high",
        "approval_mode": "on-request",
        "permission_profile": {"type": "managed"},
    }


def test_the_first_directory_and_the_last_model_count() -> None:
    first = ("turn_context", {"cwd": "/first", "model": "a"})
    second = ("turn_context", {"cwd": "/second", "model": "b"})

    assert derive(first, second) == {"cwd": "/first", "model": "b", "reasoning_effort": None}
    assert derive(meta(cwd="/own"), first) == BARE | {"cwd": "/own", "model": "a", "reasoning_effort": None}
    assert derive(first, sync=ThreadMetadataSync(THREAD, {"cwd"})) == {"model": "a", "reasoning_effort": None}


@pytest.mark.parametrize("source", [meta(cwd="/later"), settings(cwd="/later")], ids=["session_meta", "settings"])
@pytest.mark.parametrize("known", [(), ("cwd",)])
def test_the_directory_of_a_session_or_of_settings_replaces_an_earlier_one(
    source: tuple[str, dict[str, Any]], known: tuple[str, ...]
) -> None:
    first = ("turn_context", {"cwd": "/first"})

    update = update_of(first, source, first, sync=ThreadMetadataSync(THREAD, known))

    assert update is not None
    assert (update.patch.cwd, update.only_if_unset) == ("/later", frozenset())


def test_the_next_patch_again_sets_a_turns_directory_only_if_it_is_unset() -> None:
    sync = ThreadMetadataSync(THREAD)
    update_of(settings(cwd="/set"), sync=sync)

    update = update_of(("turn_context", {"cwd": "/turn"}), sync=sync)

    assert update is not None
    assert (update.patch.cwd, update.only_if_unset) == ("/turn", frozenset({"cwd"}))


def test_a_turn_without_an_effort_clears_it() -> None:
    first = ("turn_context", {"model": "a", "effort": "high"})

    assert derive(first, ("turn_context", {"model": "a"}))["reasoning_effort"] is None
    assert derive(first, ("turn_context", {"cwd": "/x"}))["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"type": "danger-full-access"}, {"type": "disabled"}),
        ({"type": "read-only"}, READ_ONLY),
        ({"type": "read-only", "network_access": True}, READ_ONLY | {"network": "enabled"}),
        ({"type": "external-sandbox"}, {"type": "external", "network": "restricted"}),
        (
            {"type": "external-sandbox", "network_access": "enabled"},
            {"type": "external", "network": "enabled"},
        ),
    ],
    ids=str,
)
def test_a_sandbox_policy_of_older_codex_is_a_permission_profile(policy: Any, expected: Any) -> None:
    assert derive(("turn_context", {"sandbox_policy": policy}))["permission_profile"] == expected


@pytest.mark.parametrize("policy", [None, "read-only", {}, {"type": "weird"}, {"mode": "read-only"}], ids=str)
def test_a_sandbox_policy_that_codex_does_not_know_states_no_facts(policy: Any) -> None:
    assert derive(("turn_context", {"sandbox_policy": policy})) == {}


def test_a_writable_workspace_protects_what_codex_protects() -> None:
    policy = {"type": "workspace-write", "writable_roots": ["/w"], "exclude_slash_tmp": True}

    profile = derive(("turn_context", {"cwd": "/repo", "sandbox_policy": policy}))["permission_profile"]

    paths = [(entry["access"], entry["path"]) for entry in profile["file_system"]["entries"]]
    assert [
        path["value"]["kind"] if "value" in path else path["path"] for access, path in paths if access == "write"
    ] == [
        "project_roots",
        "/w",
        "tmpdir",
    ]
    assert ("read", {"type": "path", "path": "/repo/.codex"}) in paths
    assert profile["network"] == "restricted"


# -- thread_settings_applied -------------------------------------------------------------------------------


def test_settings_replace_those_of_the_turn() -> None:
    context = ("turn_context", {"cwd": "/r", "model": "m1", "effort": "high", "approval_policy": "never"})

    assert derive(context, settings(**SETTINGS)) == {
        "model": "m-set",
        "model_provider": "prov-set",
        "reasoning_effort": "low",
        "cwd": "/set",
        "approval_mode": "on-request",
        "permission_profile": {"type": "disabled"},
    }
    assert derive(context, settings(**SETTINGS | {"reasoning_effort": None}))["reasoning_effort"] is None


@pytest.mark.parametrize("value", [None, "odd", [], {}])
def test_an_event_without_settings_states_no_facts(value: Any) -> None:
    assert derive(event("thread_settings_applied", thread_settings=value)) == {}


def test_a_turn_context_leaves_fields_without_a_valid_value() -> None:
    assert derive(("turn_context", {"model": None, "effort": 7, "cwd": ""})) == {}


# -- messages ----------------------------------------------------------------------------------------------


def test_the_first_message_with_text_names_the_thread() -> None:
    derived = derive(event("user_message", message="  hello \n"), event("user_message", message="again"))

    assert derived == {"first_user_message": "hello", "preview": "hello", "title": "hello"}


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        (MARKED, "fix it"),
        ("## My request for Codex: fix it", "fix it"),
        ("## My request for Codex:\n## My request for Codex: twice", "## My request for Codex: twice"),
        ("## My request for Codex:", ""),
        ("no marker ", "no marker"),
        ("", ""),
    ],
)
def test_a_users_request_follows_the_editors_marker(message: str, request_: str) -> None:
    assert user_request(message) == request_


def test_a_marked_message_names_the_thread_by_the_request() -> None:
    assert derive(event("user_message", message=MARKED)) == {
        "first_user_message": "fix it",
        "preview": "fix it",
        "title": "fix it",
    }


@pytest.mark.parametrize(
    "sound",
    [
        event("user_message", message="", audio=["data:audio/wav;base64,"]),
        event("user_message", message=" ", local_audio=["/a.wav"]),
        event("item_completed", item={"type": "UserMessage", "content": [{"type": "audio", "audio_url": "data:"}]}),
        event("item_completed", item={"type": "UserMessage", "content": [{"type": "local_audio", "path": "/a.wav"}]}),
    ],
)
def test_a_message_of_audio_alone_gives_the_preview(sound: tuple[str, dict[str, Any]]) -> None:
    assert derive(sound) == {"first_user_message": "[Audio]", "preview": "[Audio]"}


@pytest.mark.parametrize("images", [{"images": ["data:image/png;base64,"]}, {"local_images": ["/a.png"]}])
def test_an_image_gives_the_preview_and_the_first_text_after_it_the_title(images: dict[str, Any]) -> None:
    sync = ThreadMetadataSync(THREAD)

    alone = derive(event("user_message", message=" ", **images), sync=sync)
    sync.confirm(MetadataUpdate.model_validate({"patch": alone, "only_if_unset": alone.keys()}))
    after = derive(event("user_message", message="what is it?"), sync=sync)

    assert alone == {"first_user_message": "[Image]", "preview": "[Image]"}
    assert after == {"title": "what is it?"}


@pytest.mark.parametrize("message", ["", "   ", None, 7, ["text"]])
def test_a_message_without_text_and_image_states_no_facts(message: Any) -> None:
    assert derive(event("user_message", message=message, images=[], local_images=None)) == {}


def test_a_users_message_of_a_paginated_thread_states_the_same_facts() -> None:
    content = [
        {"type": "text", "text": "fix "},
        {"type": "local_image", "path": "/a.png"},
        {"type": "text", "text": "it"},
    ]
    facts = {"first_user_message": "fix it", "preview": "fix it", "title": "fix it"}

    for each in (content, tuple(content)):  # JSON has one array; Python's callers have two
        assert derive(event("item_completed", item={"type": "UserMessage", "content": each})) == facts
    alone = event("item_completed", item={"type": "UserMessage", "content": content[1:2]})
    assert derive(alone) == {"first_user_message": "[Image]", "preview": "[Image]"}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "AgentMessage", "content": [{"type": "Text", "text": "done"}]},
        {"type": "UserMessage", "content": "text"},
        {"type": "UserMessage", "content": [7, {"type": "text", "text": 7}]},
        {"type": ["UserMessage"]},
        "UserMessage",
        None,
    ],
)
def test_a_completed_item_that_is_not_a_users_message_states_no_facts(item: Any) -> None:
    assert derive(event("item_completed", item=item)) == {}


# -- when facts are sent -----------------------------------------------------------------------------------


def test_first_wins_facts_are_sent_as_set_only_if_unset() -> None:
    update = update_of(event("user_message", message="hello"), ("turn_context", {"model": "m", "cwd": "/work"}))

    assert update is not None
    assert update.only_if_unset == FIRST_WINS
    assert update.patch.model == "m"


def test_a_first_wins_fact_is_sent_until_it_is_known_to_take_effect() -> None:
    """An append may be refused, or repeat an idempotency key."""
    sync, hello = ThreadMetadataSync(THREAD), event("user_message", message="hello")
    unconfirmed, update = update_of(hello, sync=sync), update_of(hello, sync=sync)
    assert unconfirmed == update is not None

    sync.confirm(update)

    assert update_of(hello, event("user_message", message="again"), sync=sync) is None


def test_a_last_wins_fact_is_sent_whenever_an_item_states_it() -> None:
    """Another writer may have changed it since, and only the order of the tasks decides."""
    sync, context = ThreadMetadataSync(THREAD), ("turn_context", {"model": "m"})

    for _ in range(2):
        update = update_of(context, sync=sync)
        assert update is not None
        sync.confirm(update)
        assert update.patch.to_wire() == {"model": "m", "reasoning_effort": None}


def test_take_returns_facts_once() -> None:
    sync = ThreadMetadataSync(THREAD)
    update_of(("turn_context", {"model": "m"}), sync=sync)

    assert sync.take() is None


def test_a_resumed_thread_starts_with_the_stored_facts() -> None:
    sync = ThreadMetadataSync.for_stored(stored(cwd="/work", preview="p", first_user_message="f", title="t"))

    assert derive(event("user_message", message="later"), ("turn_context", {"cwd": "/x"}), sync=sync) == {}


def test_a_stored_thread_without_values_sends_every_first_wins_fact() -> None:
    sync = ThreadMetadataSync.for_stored(stored())

    derived = derive(event("user_message", message="hi"), ("turn_context", {"cwd": "/x"}), sync=sync)

    assert derived.keys() == FIRST_WINS


@pytest.mark.parametrize(("created_in", "sent"), [("/work", {}), (None, {"cwd": "/x"}), ("", {"cwd": "/x"})])
def test_a_new_thread_knows_the_directory_of_its_creation(created_in: str | None, sent: dict[str, Any]) -> None:
    sync = ThreadMetadataSync.for_new(CreateThreadParams(thread_id=THREAD, cwd=created_in))

    assert derive(("turn_context", {"cwd": "/x"}), sync=sync) == sent


def test_an_items_own_time_overrides_the_time_of_the_append() -> None:
    started = RolloutItem(type="event_msg", payload={"type": "task_started"}, timestamp="2026-11-22T13:00:00Z")
    sync = ThreadMetadataSync(THREAD)

    own = sync.derive([started], AT)
    of_append = sync.derive([replace(started, timestamp=None)], AT)

    assert own is not None
    assert of_append is not None
    assert (own.patch.advance_recency_at, of_append.patch.advance_recency_at) == (LATER, AT)


@pytest.mark.parametrize(
    "lines",
    [
        [("session_meta", {"id": THREAD, "source": source}) for source in ("exec", {"a": 1, "b": 2})],
        [("session_meta", {"id": THREAD, "thread_source": label}) for label in ("auto", {"custom": "x"})],
        [("turn_context", {"approval_policy": policy}) for policy in ("never", {"a": float("inf")})],
    ],
    ids=["source", "thread source", "approval policy"],
)
def test_an_invalid_value_does_not_displace_a_valid_one(lines: list[tuple[str, Any]]) -> None:
    derived = derive(*lines)

    assert {"exec", "auto", "never"} & {str(value) for value in derived.values()} != set()
    assert derive(lines[0]) == derived


# -- the other events --------------------------------------------------------------------------------------


def test_a_token_count_with_info_sets_the_usage() -> None:
    usage = {"total_tokens": 7, "input_tokens": 2**70}

    derived = derive(event("token_count", info={"total_token_usage": usage, "last_token_usage": {}}))

    assert derived == {"token_usage": usage}


@pytest.mark.parametrize("info", [None, {}, {"total_token_usage": None}, 7, {"total_token_usage": 7}])
def test_a_token_count_without_info_states_no_facts(info: Any) -> None:
    assert derive(event("token_count", info=info)) == {}


def test_a_goal_is_the_preview_if_there_is_none_yet() -> None:
    goal = event("thread_goal_updated", goal={"objective": " reach it "})
    message = event("user_message", message="hello")

    assert derive(goal) == {"preview": "reach it"}
    assert derive(goal, message) == {"preview": "reach it", "first_user_message": "hello", "title": "hello"}
    assert derive(message, goal) == {"preview": "hello", "first_user_message": "hello", "title": "hello"}


@pytest.mark.parametrize("goal", [None, {}, {"objective": "  "}, {"objective": 7}, "reach it"])
def test_a_goal_without_objective_states_no_facts(goal: Any) -> None:
    assert derive(event("thread_goal_updated", goal=goal)) == {}


@pytest.mark.parametrize("kind", ["task_started", "turn_started"])
def test_the_start_of_a_turn_advances_recency_to_its_lines_time(kind: str) -> None:
    sync = ThreadMetadataSync(THREAD)

    for at in (LATER, AT):
        sync.add("event_msg", {"type": kind}, at)

    update = sync.take()
    assert update is not None
    assert update.patch.changes() == {"advance_recency_at": LATER}


@pytest.mark.parametrize(
    "item",
    [
        event("task_complete"),
        event("agent_message", message="hi"),
        event("thread_name_updated", thread_name="n"),
        ("response_item", {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}),
        ("compacted", {"message": "m"}),
        ("from_the_future", {"id": THREAD, "cwd": "/x", "model": "m"}),
    ],
)
def test_every_other_item_states_no_facts(item: tuple[str, dict[str, Any]]) -> None:
    assert derive(item) == {}


# -- invalid items -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_mode": {}},
        {"memory_mode": []},
        {"memory_mode": "polluted"},
        {"source": 7},
        {"source": ["cli"]},
        {"source": {"a": 1, "b": 2}},
        {"thread_source": {"custom": "x"}},
        {"git": []},
        {"timestamp": "0001-01-01T00:00:00+14:00"},
    ],
    ids=str,
)
def test_a_session_meta_with_an_invalid_field_still_states_the_rest(fields: dict[str, Any]) -> None:
    """Another program or a newer codex may have written it; the thread must stay readable."""
    assert derive(meta(cwd="/work", **fields))["cwd"] == "/work"


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KNOWN_FIELDS = [
    *("timestamp", "source", "thread_source", "agent_role", "history_mode", "cwd", "git", "memory_mode"),
    *("model", "effort", "approval_policy", "permission_profile", "message", "images", "info", "goal", "item"),
    *("sandbox_policy", "thread_settings", "audio", "agent_type"),
]


@given(
    type_=st.sampled_from(["session_meta", "turn_context", "event_msg", "response_item", "x"]),
    kind=st.sampled_from([
        "user_message",
        "item_completed",
        "token_count",
        "thread_goal_updated",
        "thread_settings_applied",
    ]),
    fields=st.dictionaries(st.sampled_from(KNOWN_FIELDS), json_values, max_size=4),
)
def test_no_item_makes_deriving_fail(type_: str, kind: str, fields: dict[str, Any]) -> None:
    derive((type_, {"id": THREAD, "type": kind, **fields}))


@given(payload=json_values)
def test_a_payload_that_is_not_an_object_states_no_facts(payload: Any) -> None:
    if not isinstance(payload, dict):
        assert derive(("turn_context", payload)) == {}
