"""A drain without Redis: a fake mailbox hands out its claims."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.worker.builders import DAY, Mail, Store

from livethread import Settings
from livethread.ordered_tasks import MailboxEntry
from livethread.queued.outage import Outage
from livethread_worker.drain import drain as drain_module
from livethread_worker.drain.drain import PUT_BACK_KNOWN, Drain
from livethread_worker.drain.mailbox import Claim, Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.store.files import home as home_module
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.write.outcome import Outcome


class FakeMailbox:
    """Hands out batches of one thread, each after calling its function."""

    shard = 3
    queue = "livethread.0"

    def __init__(self, *batches: tuple[Callable[[], object], list[MailboxEntry]]) -> None:
        self._batches = iter(batches)
        self.outcomes: list[Outcome] = []
        self.is_handed_over = False

    def claim(self) -> tuple[bool, list[Claim]]:
        prepare, entries = next(self._batches, (lambda: None, []))
        prepare()
        return False, [Claim(Mail().thread_id, 0, entries)] if entries else []

    def judge(self, _: Claim, outcome: Outcome) -> Outcome:
        return outcome

    def settle(self, claims: list[Claim], outcomes: Mapping[str, Outcome]) -> int:
        self.outcomes += [outcomes[claim.thread_id] for claim in claims]
        return len(claims)

    def wait(self, _: float) -> bool:
        return False

    def rest(self) -> bool:
        return True

    def hand_over(self) -> None:
        self.is_handed_over = True

    def sweep(self) -> bool:
        return True


class Clock:
    """A drain's clock, which stands still until a test moves it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drain_module, "time", clock)
    monkeypatch.setattr(home_module, "time", clock)
    return clock


@pytest.mark.parametrize(("seconds", "is_noticed"), [(0.5, False), (2.0, True)])
def test_a_drain_notices_within_a_second_that_a_folder_became_a_link_out(
    store: Store, tmp_path: Path, clock: Clock, seconds: float, *, is_noticed: bool
) -> None:
    mail, folder = Mail(), store.home.root / DAY

    def link_out() -> None:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        clock.now += seconds

    mailbox = FakeMailbox(
        (lambda: None, [mail.create(), mail.append("first")]),
        (lambda: None, [mail.append("second")]),
        (link_out, [mail.append("third")]),
    )
    drain = Drain(
        cast("Mailbox", mailbox),
        store.home,
        lambda: store.index,
        Settings(home=store.home.root, sync="none"),
        ring=lambda: None,
        reads_wait=lambda: False,
        events=TaskEvents(None, 0),
        outage=Outage(logging.getLogger(__name__), "drain"),
    )

    counts: dict[str, Any] = drain.run()

    [rollout] = (tmp_path / "elsewhere").iterdir()
    assert (b"third" in rollout.read_bytes()) is not is_noticed
    assert counts["tasks"] == (3 if is_noticed else 4)
    assert counts["parked"] == int(is_noticed)
    assert ("leads out" in mailbox.outcomes[-1].reason) is is_noticed


def test_a_drain_hands_over_after_a_batch_if_a_read_waits(store: Store) -> None:
    mail = Mail()
    mailbox = FakeMailbox(
        (lambda: None, [mail.create(), mail.append("first")]),
        (lambda: None, [mail.append("second")]),
    )
    rung: list[int] = []
    drain = Drain(
        cast("Mailbox", mailbox),
        store.home,
        lambda: store.index,
        Settings(home=store.home.root, sync="none"),
        ring=lambda: rung.append(0),
        reads_wait=lambda: True,
        events=TaskEvents(None, 0),
        outage=Outage(logging.getLogger(__name__), "drain"),
    )

    counts = drain.run()

    assert counts["batches"] == 1
    assert mailbox.is_handed_over
    assert rung == [0]


def drain_once(store: Store, entry: MailboxEntry, put_back: dict[str, str]) -> None:
    """Drain as a process does that has put back the threads of *put_back*."""
    Drain(
        cast("Mailbox", FakeMailbox((lambda: None, [entry]))),
        store.home,
        lambda: store.index,
        Settings(home=store.home.root, sync="none"),
        ring=lambda: None,
        reads_wait=lambda: False,
        events=TaskEvents(None, 0),
        outage=Outage(logging.getLogger(__name__), "drain"),
        put_back=put_back,
    ).run()


def test_a_thread_that_is_put_back_again_and_again_is_logged_once_for_each_reason(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    mail, put_back = Mail(), dict[str, str]()
    store.apply(mail, mail.create())
    entry, lock = mail.append("first"), store.home.thread_lock(mail.thread_id)

    with file_lock(lock):
        drain_once(store, entry, put_back)
        drain_once(store, entry, put_back)
    drain_once(store, entry, put_back)
    with file_lock(lock):
        drain_once(store, mail.append("second"), put_back)

    logged = [record for record in caplog.records if getattr(record, "action", "") == "put_back"]
    assert [record.levelno for record in logged] == [logging.WARNING, logging.WARNING]
    assert [vars(record)["position"] for record in logged] == ["1002-0", "1003-0"]
    assert {vars(record)["shard"] for record in logged} == {3}
    assert logged[0].getMessage() == (
        f"thread {mail.thread_id} is put back at 1002-0: {mail.thread_id}.lock is held by another writer"
    )


def test_threads_that_another_process_applied_since_they_were_put_back_are_forgotten(store: Store) -> None:
    mail, put_back = Mail(), {f"{n}": "it was held" for n in range(PUT_BACK_KNOWN)}
    store.apply(mail, mail.create())

    with file_lock(store.home.thread_lock(mail.thread_id)):
        drain_once(store, mail.append("first"), put_back)

    assert len(put_back) == PUT_BACK_KNOWN
    assert mail.thread_id in put_back
