"""When a waiter asks Redis whether tasks are applied instead of waiting for a publication."""

from __future__ import annotations

from livethread.queued.backlog import ASK_FIRST
from livethread.queued.progress import Liveness


def test_a_waiter_asks_if_there_was_no_publication() -> None:
    assert Liveness().is_silent(0, wait=60, now=5.0)


def test_a_waiter_does_not_ask_while_publications_about_other_threads_come_in() -> None:
    liveness = Liveness(heard_at=5.0)

    assert not liveness.is_silent(0, wait=1, now=5.9)
    assert liveness.is_silent(0, wait=1, now=6.0)


def test_one_question_serves_all_waiters_of_its_shard() -> None:
    liveness = Liveness(asked_at={0: 5.0})

    assert not liveness.is_silent(0, wait=1, now=5.9)
    assert liveness.is_silent(1, wait=1, now=5.9)


def test_every_waiter_asks_once_a_question_reveals_a_lost_publication() -> None:
    liveness = Liveness(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert liveness.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)
    liveness.heard_at = 5.01
    assert not liveness.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)


def test_a_publication_that_may_still_arrive_does_not_count_as_lost() -> None:
    liveness = Liveness(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert not liveness.is_silent(0, wait=1, now=5.0 + ASK_FIRST / 2)
