"""The states that an index caches equal the states that it would load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.worker.builders import Mail, Store, item_line, message_line

from livethread.metadata import GitInfoPatch, MemoryMode, ThreadMetadataPatch
from livethread.ordered_tasks import MailboxEntry
from livethread_worker.store.index import Index, thread_writes
from livethread_worker.store.index.state_cache import (
    MAX_CHARACTERS,
    MAX_EXTRA_WRITERS,
    MAX_STATE_CHARACTERS,
    MAX_STATES,
    MAX_WRITERS,
    StateCache,
)
from livethread_worker.store.thread_state import ThreadState, WriterMark
from livethread_worker.store.upkeep.rebuild import rebuild


@pytest.fixture
def mail() -> Mail:
    return Mail(1)


def queries(store: Store) -> list[str]:
    """Return a list that collects the statements that read states."""
    statements: list[str] = []
    store.index.db.conn.set_trace_callback(
        lambda statement: statements.append(statement) if "FROM rollouts AS r JOIN" in statement else None
    )
    return statements


def cached(store: Store, mail: Mail, *writers: str) -> ThreadState:
    statements = queries(store)
    [state] = store.index.states_of_batch({mail.thread_id: set(writers)}, {mail.thread_id: set()}).values()
    assert statements == []
    return state


def loaded(store: Store, mail: Mail, *writers: str) -> ThreadState:
    with closing(Index(store.home)) as index:
        return index.load_states({mail.thread_id: set(writers)})[mail.thread_id]


CONTEXT = {"model": "m", "effort": "low", "cwd": "/x", "approval_policy": {"a": [1, None]}, "permission_profile": "p"}
CHANGES: dict[str, Callable[[Mail], list[MailboxEntry]]] = {
    "nothing more": lambda _: [],
    "appends": lambda mail: [mail.append("a", "b"), mail.append("c")],
    "appends with derived metadata": lambda mail: mail.live(
        message_line("\u2028 é"),
        item_line("turn_context", CONTEXT),
        item_line("event_msg", {"type": "task_started", "turn_id": "t"}),
        item_line("event_msg", {"type": "token_count", "info": {"total_token_usage": {"total": 2**70}}}),
    ),
    "an append with an idempotency key": lambda mail: [mail.append("a", key="k")],
    "a name and a title": lambda mail: [mail.patch(ThreadMetadataPatch(name="n", title="", preview=""))],
    "a copy of the session_meta": lambda mail: [
        mail.patch(
            ThreadMetadataPatch(
                git_info=GitInfoPatch(branch="b"), memory_mode=MemoryMode.DISABLED, source={"custom": "x"}
            )
        )
    ],
    "git cleared": lambda mail: [mail.patch(ThreadMetadataPatch(git_info=GitInfoPatch(branch=None)))],
    "archived": lambda mail: [mail.archive()],
    "archived and unarchived": lambda mail: [mail.archive(), mail.unarchive()],
}


@pytest.mark.parametrize("make", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_cached_state_equals_the_loaded_one(
    store: Store, mail: Mail, make: Callable[[Mail], list[MailboxEntry]], in_one_batch: bool
) -> None:
    entries = [mail.create(), *make(mail)]

    for batch in [entries] if in_one_batch else [[entry] for entry in entries]:
        store.apply(mail, *batch)

    state, other = cached(store, mail, "w1"), loaded(store, mail, "w1")
    assert state.thread is not None
    assert other.thread is not None
    state.thread = state.thread.model_copy(update={"rollout_path": other.thread.rollout_path})
    assert (state, state.loaded_bytes) == (other, other.loaded_bytes)


def rename_elsewhere(store: Store, mail: Mail) -> None:
    with closing(Index(store.home)) as index:
        index.rename(mail.thread_id, "theirs")


INTERVENTIONS: dict[str, Callable[[Store, Mail], Any]] = {
    "another connection": rename_elsewhere,
    "a name": lambda store, mail: store.index.rename(mail.thread_id, "ours"),
    "a fence": lambda store, mail: store.index.fence(mail.thread_id, 7),
    "a new path": lambda store, mail: store.index.set_path(mail.thread_id, "sessions/x"),
    "distrust": lambda store, mail: store.index.distrust(mail.thread_id),
    "a rebuild": lambda store, _: rebuild(store.home, store.index),
}


@pytest.mark.parametrize("intervene", INTERVENTIONS.values(), ids=list(INTERVENTIONS))
def test_a_state_that_changed_since_is_loaded_again(
    store: Store, mail: Mail, intervene: Callable[[Store, Mail], Any]
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))

    intervene(store, mail)

    [state] = store.index.states_of_batch({mail.thread_id: {"w1"}}, {mail.thread_id: set()}).values()
    assert state == loaded(store, mail, "w1")


def test_a_failed_commit_leaves_no_state_in_the_cache(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    lost = mail.append("b")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(thread_writes, "save_batch", fail)
    with pytest.raises(KeyboardInterrupt):
        store.apply(mail, lost)
    monkeypatch.undo()

    statements = queries(store)
    [state] = store.index.states_of_batch({mail.thread_id: {"w1"}}, {mail.thread_id: set()}).values()
    assert len(statements) == 1
    assert state == loaded(store, mail, "w1")
    store.apply(mail, lost)
    assert store.texts(mail) == ["a", "b"]


def test_writers_and_idempotency_keys_that_are_not_cached_are_looked_up(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a", writer="w2", key="k"), mail.append("b"))
    store.apply(mail, mail.append("c"))  # the other writer's counter may be dropped from the cache

    store.apply(mail, mail.append("again", writer="w3", key="k"), mail.append("d", writer="w2"))

    assert store.texts(mail) == ["a", "b", "c", "d"]


def test_a_deleted_thread_leaves_the_cache(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))

    store.index.commit([], [mail.thread_id])

    assert store.index.states_of_batch({mail.thread_id: {"w1"}}, {mail.thread_id: set()}) == {}


def test_the_cache_is_bounded(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    state = loaded(store, mail, "w1")
    assert state.thread is not None
    recent = StateCache(store.index.db.conn)
    recent.check_version()

    def kept(*states: ThreadState) -> set[str]:
        recent.clear()
        recent.keep(states)
        return {each.thread_id for each in states if recent.take(each.thread_id, {"w1"})}

    many = [replace(state, thread_id=f"{n}") for n in range(MAX_STATES + 2)]
    assert kept(*many) == {each.thread_id for each in many[2:]}
    long = state.thread.model_copy(update={"title": "x" * (MAX_STATE_CHARACTERS - 1_000)})
    large = [replace(each, thread=long) for each in many[: MAX_CHARACTERS // MAX_STATE_CHARACTERS + 10]]
    assert large[-1].thread_id in kept(*large)
    assert large[0].thread_id not in kept(*large)
    for too_much in (
        replace(state, thread=long.model_copy(update={"name": "x" * 1_000})),
        replace(state, thread=long.model_copy(update={"token_usage": {"x" * 1_000: 1}})),
        replace(state, writers={f"w{n}": WriterMark(1, 1) for n in range(MAX_WRITERS + 1)}),
        replace(state, writers={f"w{n}": WriterMark(1, 1) for n in range(MAX_EXTRA_WRITERS + 2)}),
    ):
        assert kept(too_much) == set()
