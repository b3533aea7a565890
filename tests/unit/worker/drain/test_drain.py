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
from livethread.queued.put_back import PutBack
from livethread_worker.drain import drain as drain_module
from livethread_worker.drain.drain import Drain
from livethread_worker.drain.mailbox import Claim, Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.store.files import home as home_module
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
        return False, [Claim(Mail().thread_id, PutBack(), entries)] if entries else []

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
