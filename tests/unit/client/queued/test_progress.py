"""When one who waits for tasks to be applied asks Redis, though nobody told of them."""

from __future__ import annotations

from livethread.queued.progress import ASK_FIRST, Liveness


def test_who_has_heard_nothing_asks() -> None:
    assert Liveness().is_silent(0, wait=60, now=5.0)


def test_publications_about_other_threads_say_that_it_is_not_its_turn() -> None:
    liveness = Liveness(heard_at=5.0)

    assert not liveness.is_silent(0, wait=1, now=5.9)
    assert liveness.is_silent(0, wait=1, now=6.0)


def test_one_asks_for_all_of_its_shard() -> None:
    liveness = Liveness(asked_at={0: 5.0})

    assert not liveness.is_silent(0, wait=1, now=5.9)
    assert liveness.is_silent(1, wait=1, now=5.9)


def test_all_ask_once_one_has_learnt_what_nobody_told() -> None:
    liveness = Liveness(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert liveness.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)
    liveness.heard_at = 5.01
    assert not liveness.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)


def test_news_that_are_about_to_be_told_are_none() -> None:
    liveness = Liveness(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert not liveness.is_silent(0, wait=1, now=5.0 + ASK_FIRST / 2)
