from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.worker.builders import Mail, Store, item_line, killed, message_line

from livethread.metadata import GitInfo, GitInfoPatch, MemoryMode, ThreadMetadataPatch
from livethread_worker.store.files import name_index
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, POISONED = OutcomeKind.DONE, OutcomeKind.POISONED


PATCHES = {
    "name": ThreadMetadataPatch(name="n"),
    "title": ThreadMetadataPatch(title="t", preview="p"),
    "git": ThreadMetadataPatch(git_info=GitInfoPatch(sha="s2", branch="b2", origin_url="u2")),
    "one git field": ThreadMetadataPatch(git_info=GitInfoPatch(branch="b2")),
    "one git field cleared": ThreadMetadataPatch(git_info=GitInfoPatch(branch=None)),
    "git cleared": ThreadMetadataPatch(git_info=GitInfoPatch(sha=None, branch=None, origin_url=None)),
    "memory mode": ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED),
    "thread source": ThreadMetadataPatch(thread_source="automation"),
    "agent": ThreadMetadataPatch(agent_nickname=None, agent_role="r", agent_path="/p"),
    "model": ThreadMetadataPatch(model="m", reasoning_effort="high", model_provider="azure"),
    "working directory, source and version": ThreadMetadataPatch(cwd="/moved", source="exec", cli_version="9"),
    "approval": ThreadMetadataPatch(approval_mode={"a": None}, permission_profile="p", token_usage={"n": 2**70}),
    "history mode": ThreadMetadataPatch(history_mode="paginated"),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=list(PATCHES))
@pytest.mark.parametrize("when", ["before the first message", "after it"])
def test_an_explicit_patch_survives_the_loss_of_the_index(
    store: Store, mail: Mail, patch: ThreadMetadataPatch, when: str
) -> None:
    store.apply(mail, mail.create(cwd="/work", git=GitInfo(commit_hash="s", branch="b"), agent_nickname="Ada"))
    if when.startswith("before"):
        store.apply(mail, mail.patch(patch))
    store.apply(mail, *mail.live(message_line("hi")))
    if when.startswith("after"):
        store.apply(mail, mail.patch(patch))
    before = store.thread(mail)

    store.drop_index()
    store.apply(mail, mail.append("later"))

    assert store.thread(mail) == before


def test_a_patch_of_a_paginated_thread_writes_no_copy_of_the_session_meta(store: Store, mail: Mail) -> None:
    """Codex reads a paginated rollout from its end back to a session_meta: the model would forget what precedes a copy."""
    meta = {"id": mail.thread_id, "history_mode": "paginated", "git": {"branch": "main", "commit_hash": "c"}}
    store.write_rollout(mail.thread_id).write_bytes(item_line("session_meta", meta) + b"\n")
    patches = [mail.patch(ThreadMetadataPatch(git_info=GitInfoPatch(branch=branch))) for branch in ("a", "b")]

    store.apply(mail, *patches)
    store.apply(mail, *patches)
    store.drop_index()
    store.read_in(mail.thread_id)

    assert [record["type"] for record in store.records(mail)] == ["session_meta", *["thread_metadata"] * 2]
    assert store.thread(mail).git_info == GitInfo(branch="b", commit_hash="c")


def test_a_patch_that_cannot_be_stored_stops_only_its_own_thread(store: Store, mail: Mail, other: Mail) -> None:
    """One client's odd value must not hold up a shard."""
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    odd = ThreadMetadataPatch.model_construct(
        _fields_set={"title", "approval_mode"}, title="half", approval_mode=deep
    )

    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append("a"), mail.patch(odd)],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes[other.thread_id] == Outcome(DONE, "1002-0")
    assert (outcomes[mail.thread_id].kind, outcomes[mail.thread_id].position) == (POISONED, "1002-0")
    assert store.thread(mail).title is None


def test_a_name_is_in_the_index_and_in_codexs_name_index(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"), mail.patch(ThreadMetadataPatch(name="n")))

    assert store.thread(mail).name == "n"
    line = json.loads(store.home.session_index.read_text(encoding="utf-8"))
    assert (line["id"], line["thread_name"]) == (mail.thread_id, "n")


@pytest.mark.parametrize("no_name", [None, ""])
def test_a_cleared_name_stays_cleared_without_the_index(store: Store, mail: Mail, no_name: str | None) -> None:
    store.apply(
        mail,
        mail.create(),
        mail.patch(ThreadMetadataPatch(name="n")),
        mail.patch(ThreadMetadataPatch(name=no_name)),
    )
    assert store.thread(mail).name is None
    assert read_names(store.home) == {mail.thread_id: None}
    store.drop_index()

    store.apply(mail, mail.append("a"))

    assert store.thread(mail).name is None


def read_the_tail(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.append("a", writer="w4"))


def read_the_whole_rollout(store: Store, mail: Mail) -> None:
    store.drop_index()
    store.apply(mail, mail.append("a", writer="w4"))


def rebuild_the_index(store: Store, mail: Mail) -> None:
    rebuild(store.home, store.index)


def refresh_the_index(store: Store, mail: Mail) -> None:
    Refresher(store.home, store.index).refresh(mail.thread_id)


@pytest.mark.parametrize(
    "recover", [read_the_tail, read_the_whole_rollout, rebuild_the_index, refresh_the_index], ids=lambda f: f.__name__
)
def test_an_earlier_name_does_not_come_back_after_two_deaths(
    store: Store, mail: Mail, recover: Callable[[Store, Mail], None]
) -> None:
    """One while the thread is named, the other while that name is removed: no line of the rollout says either."""
    store.apply(mail, mail.create(), mail.patch(ThreadMetadataPatch(name="earlier")))
    for writer, name in (("w2", "later"), ("w3", None)):
        with killed(name_index, "set_name", after=1):
            store.apply(mail, mail.patch(ThreadMetadataPatch(name=name), writer=writer))
        Refresher(store.home, store.index).refresh(mail.thread_id)

    recover(store, mail)

    assert store.thread(mail).name is None
