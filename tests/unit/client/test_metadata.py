from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest
from livethread.metadata import GitInfo, GitInfoPatch, MemoryMode, StoredThread, ThreadMetadataPatch

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 13, tzinfo=UTC)
CLEARABLE = ["name", "reasoning_effort", "thread_source", "agent_nickname", "agent_role", "agent_path"]
NOT_CLEARABLE = sorted(ThreadMetadataPatch.model_fields.keys() - set(CLEARABLE))

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
objects = st.dictionaries(texts, st.integers() | texts, max_size=2)


def present(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


git_patches = present({name: st.none() | texts for name in GitInfoPatch.model_fields}).map(
    lambda fields: GitInfoPatch(**fields)
)
patches = present({
    **{name: st.none() | texts for name in ("name", "thread_source", "agent_nickname", "agent_role", "agent_path")},
    **{name: st.none() | texts for name in ("preview", "title", "model", "cwd", "model_provider", "history_mode")},
    **{name: st.none() | times for name in ("created_at", "updated_at", "advance_recency_at")},
    "source": st.none() | texts | texts.map(lambda text: {"custom": text}),
    "approval_mode": st.none() | texts | objects,
    "permission_profile": st.none() | objects,
    "token_usage": st.none() | objects,
    "git_info": st.none() | git_patches,
    "memory_mode": st.none() | st.sampled_from(MemoryMode),
}).map(lambda fields: ThreadMetadataPatch(**fields))
gits = st.none() | present(dict.fromkeys(GitInfo.model_fields, texts)).filter(bool).map(lambda git: GitInfo(**git))


def thread(**fields: Any) -> StoredThread:
    at = {"created_at": AT, "updated_at": AT, "recency_at": AT}
    return StoredThread.model_validate({"thread_id": "019a93b9-f380-7600-98ff-940e6b99603c"} | at | fields)


# -- leave, set and clear ----------------------------------------------------------------------------------


def test_an_empty_patch_changes_nothing() -> None:
    before = thread(name="n", git_info=GitInfo(branch="b"))

    patch = ThreadMetadataPatch()

    assert patch.is_empty()
    assert patch.changes() == {}
    assert before.patched(patch) == before


def test_a_present_value_is_set_and_other_fields_are_left() -> None:
    before = thread(name="n", title="t", model="m")

    after = before.patched(ThreadMetadataPatch(title="new"))

    assert after == before.model_copy(update={"title": "new"})


@pytest.mark.parametrize("name", CLEARABLE)
def test_null_clears_a_clearable_field(name: str) -> None:
    patch = ThreadMetadataPatch(**{name: None})

    assert patch.changes() == {name: None}
    assert not patch.is_empty()
    assert thread(**{name: "old"}).patched(patch) == thread()


@pytest.mark.parametrize("name", NOT_CLEARABLE)
def test_null_leaves_a_field_that_cannot_be_cleared(name: str) -> None:
    patch = ThreadMetadataPatch(**{name: None})

    assert patch.is_empty()
    assert patch.changes() == patch.to_wire() == {}


def test_recency_advances_and_never_goes_back() -> None:
    assert thread(recency_at=AT).patched(ThreadMetadataPatch(advance_recency_at=LATER)) == thread(recency_at=LATER)
    assert thread(recency_at=LATER).patched(ThreadMetadataPatch(advance_recency_at=AT)) == thread(recency_at=LATER)


@pytest.mark.parametrize(
    ("git", "patch", "expected"),
    [
        (None, GitInfoPatch(), None),
        (None, GitInfoPatch(sha="s"), GitInfo(commit_hash="s")),
        (None, GitInfoPatch(sha=None), None),
        (
            GitInfo(commit_hash="s", branch="b", repository_url="u"),
            GitInfoPatch(branch="new"),
            GitInfo(commit_hash="s", branch="new", repository_url="u"),
        ),
        (GitInfo(commit_hash="s", branch="b"), GitInfoPatch(branch=None), GitInfo(commit_hash="s")),
        (GitInfo(repository_url="u"), GitInfoPatch(origin_url=None), None),
        (
            GitInfo(commit_hash="s"),
            GitInfoPatch(sha=None, branch="b", origin_url="u"),
            GitInfo(branch="b", repository_url="u"),
        ),
    ],
)
def test_git_is_patched_field_by_field(git: GitInfo | None, patch: GitInfoPatch, expected: GitInfo | None) -> None:
    assert patch.apply_to(git) == expected


def test_an_empty_git_patch_leaves_git() -> None:
    before = thread(git_info=GitInfo(branch="b"))

    assert before.patched(ThreadMetadataPatch(git_info=GitInfoPatch())) == before


# -- merging -----------------------------------------------------------------------------------------------


def test_merging_keeps_a_clear_and_lets_the_later_value_win() -> None:
    first = ThreadMetadataPatch(name="n", title="t", agent_role="r")
    later = ThreadMetadataPatch(name=None, title="u")

    assert first.merge(later).changes() == {"name": None, "title": "u", "agent_role": "r"}
    assert later.merge(first).changes() == {"name": "n", "title": "t", "agent_role": "r"}


def test_merging_combines_git_field_by_field() -> None:
    first = ThreadMetadataPatch(git_info=GitInfoPatch(sha="s", branch="b"))
    later = ThreadMetadataPatch(git_info=GitInfoPatch(branch=None, origin_url="u"))

    merged = first.merge(later).git_info

    assert merged is not None
    assert merged.changes() == {"sha": "s", "branch": None, "origin_url": "u"}


@given(first=patches, later=patches, git=gits, recency_at=times)
def test_a_merged_patch_has_the_effect_of_both_in_order(
    first: ThreadMetadataPatch, later: ThreadMetadataPatch, git: GitInfo | None, recency_at: datetime
) -> None:
    before = thread(name="n", title="t", agent_role="r", git_info=git, recency_at=recency_at)

    assert before.patched(first.merge(later)) == before.patched(first).patched(later)


@given(patch=patches)
def test_applying_a_patch_twice_has_the_effect_of_applying_it_once(patch: ThreadMetadataPatch) -> None:
    once = thread(name="n").patched(patch)

    assert once.patched(patch) == once


def test_a_merged_patch_has_the_effect_of_both_if_a_git_field_is_empty() -> None:
    first = ThreadMetadataPatch(git_info=GitInfoPatch(sha=""))
    later = ThreadMetadataPatch(git_info=GitInfoPatch(branch="b"))

    assert thread().patched(first.merge(later)) == thread().patched(first).patched(later)


# -- the wire ----------------------------------------------------------------------------------------------


def test_the_wire_form_tells_absent_from_null() -> None:
    patch = ThreadMetadataPatch(name=None, git_info=GitInfoPatch(branch=None), updated_at=AT)

    assert patch.to_wire() == {"name": None, "git_info": {"branch": None}, "updated_at": "2026-11-22T12:00:00Z"}


@given(patch=patches)
def test_a_patch_survives_the_wire(patch: ThreadMetadataPatch) -> None:
    copy = ThreadMetadataPatch.model_validate(patch.to_wire())

    assert copy.changes() == patch.changes()
    assert copy.to_wire() == patch.to_wire()


@given(patch=patches)
def test_a_patch_survives_its_own_json(patch: ThreadMetadataPatch) -> None:
    copy = ThreadMetadataPatch.model_validate_json(patch.model_dump_json(exclude_unset=True))

    assert copy.changes() == patch.changes()


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, float("nan"), {"a": [float("inf")]}, "\ud800"])
def test_a_patch_that_is_not_json_is_refused_when_it_is_made(value: object) -> None:
    with pytest.raises(InvalidRequest):
        ThreadMetadataPatch(approval_mode=value)


# -- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label", ["user", "subagent", "memory_consolidation", "automation", "", " ", "x" * 1000, "Größe"]
)
def test_a_thread_source_is_any_label(label: str) -> None:
    assert ThreadMetadataPatch(thread_source=label).thread_source == label
    assert thread(thread_source=label).thread_source == label


@pytest.mark.parametrize("value", [{"custom": "x"}, 7, True, ["user"], "\ud800"])
def test_a_thread_source_that_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"ThreadMetadataPatch: .*thread_source: "):
        ThreadMetadataPatch.model_validate({"thread_source": value})


@pytest.mark.parametrize("source", ["cli", "vscode", "exec", {"custom": "x"}, {"subagent": {"thread_spawn": {}}}])
def test_a_session_source_is_a_name_or_an_object_with_one_key(source: Any) -> None:
    assert thread(source=source).source == source


@pytest.mark.parametrize("source", ["", "weird", "CLI", "x" * 1000])
def test_a_session_source_that_codex_does_not_know_is_patched_in_as_unknown(source: str) -> None:
    patch = ThreadMetadataPatch(source=source)

    assert patch.to_wire() == {"source": source}
    assert thread().patched(patch).source == "unknown"


@pytest.mark.parametrize("source", [{}, {"a": 1, "b": 2}, 7, ["cli"]])
def test_any_other_session_source_is_refused(source: object) -> None:
    with pytest.raises(InvalidRequest, match=r"ThreadMetadataPatch: source"):
        ThreadMetadataPatch.model_validate({"source": source})


def test_an_unknown_field_of_a_patch_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="ThreadMetadataPatch: titel: "):
        ThreadMetadataPatch.model_validate({"titel": "t"})


def test_the_repr_of_a_thread_omits_its_history() -> None:
    items = [{"type": "x", "payload": "a secret"}]
    whole = thread(history={"thread_id": thread().thread_id, "items": items, "position": "0-0"})

    assert "a secret" not in repr(whole)
