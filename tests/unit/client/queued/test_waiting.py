"""When one who waits for tasks to be applied asks Redis, though nobody told of them."""

from __future__ import annotations

from livethread.queued.waiting import ASK_FIRST, Signs


def test_who_has_heard_nothing_asks() -> None:
    assert Signs().is_silent(0, wait=60, now=5.0)


def test_publications_about_other_threads_say_that_it_is_not_its_turn() -> None:
    signs = Signs(heard_at=5.0)

    assert not signs.is_silent(0, wait=1, now=5.9)
    assert signs.is_silent(0, wait=1, now=6.0)


def test_one_asks_for_all_of_its_shard() -> None:
    signs = Signs(asked_at={0: 5.0})

    assert not signs.is_silent(0, wait=1, now=5.9)
    assert signs.is_silent(1, wait=1, now=5.9)


def test_all_ask_once_one_has_learnt_what_nobody_told() -> None:
    signs = Signs(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert signs.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)
    signs.heard_at = 5.01
    assert not signs.is_silent(0, wait=1, now=5.0 + 2 * ASK_FIRST)


def test_news_that_are_about_to_be_told_are_none() -> None:
    signs = Signs(heard_at=1.0, asked_at={0: 5.0}, news_at={0: 5.0})

    assert not signs.is_silent(0, wait=1, now=5.0 + ASK_FIRST / 2)
