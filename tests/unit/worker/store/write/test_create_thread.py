from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.worker.builders import DAY, Mail, Store

from livethread.errors import ThreadNotFound
from livethread_worker.store.files import home as home_module
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, POISONED = OutcomeKind.DONE, OutcomeKind.POISONED


def test_a_half_written_creation_is_repaired(store: Store, mail: Mail) -> None:
    create = mail.create()
    store.apply(mail, create)
    whole = store.path(mail).read_bytes()
    store.drop_index()
    store.path(mail).write_bytes(whole[:50])

    outcome = store.apply(mail, create, mail.append("a"))

    assert outcome == Outcome(DONE, "1002-0")
    assert store.path(mail).read_bytes().startswith(whole)
    assert (store.texts(mail), store.quarantined()) == (["a"], [whole[:50]])


def test_an_empty_file_at_a_new_rollouts_path_is_filled(store: Store, mail: Mail) -> None:
    create = mail.create()
    store.apply(mail, create)
    store.drop_index()
    store.path(mail).write_bytes(b"")

    assert store.apply(mail, create, mail.append("a")) == Outcome(DONE, "1002-0")

    assert store.texts(mail) == ["a"]


def test_appending_to_a_thread_that_was_never_created_is_poison(store: Store, mail: Mail) -> None:
    outcome = store.apply(mail, mail.append("a"))

    assert (outcome.kind, outcome.position) == (POISONED, None)
    assert outcome.reason.startswith("ThreadNotFound: ")
    assert type(outcome.error) is ThreadNotFound
    assert store.index.read_thread(mail.thread_id) is None


def test_a_poisoned_creation_stores_nothing_and_stays_poison_when_retried(store: Store, mail: Mail) -> None:
    misnamed = Mail(7).create()

    outcomes = [store.apply(mail, misnamed, mail.append("a")) for _ in range(2)]

    assert [(outcome.kind, outcome.position) for outcome in outcomes] == [(POISONED, None)] * 2
    assert [path for path in store.home.sessions.rglob("*") if path.is_file()] == []
    assert store.index.rollout(mail.thread_id) is None
    assert store.apply(mail, mail.create()).kind is DONE


def test_a_thread_id_with_an_impossible_time_stops_only_its_own_thread(store: Store, other: Mail) -> None:
    absurd = Mail(1)
    absurd.thread_id = "ffffffff-ffff-7fff-bfff-ffffffffffff"

    outcomes = store.apply_batch({
        absurd.thread_id: [absurd.append("a")],
        other.thread_id: [other.create()],
    })

    assert (outcomes[absurd.thread_id].kind, outcomes[other.thread_id].kind) == (POISONED, DONE)


@pytest.mark.parametrize("link", ["sessions", "sessions/2026", DAY])
def test_a_thread_is_not_created_through_a_link_out_of_the_home(
    store: Store, mail: Mail, tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.home.root / link
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rmdir()
    (tmp_path / "outside").mkdir()
    path.symlink_to(tmp_path / "outside")
    monkeypatch.setattr(home_module, "_owner", lambda each: 12345 if each == path else 6)

    outcome = store.apply(mail, mail.create(), mail.append("a"))

    assert outcome.kind is POISONED
    assert "leads out of" in str(outcome.reason)
    assert [*(tmp_path / "outside").iterdir()] == []
