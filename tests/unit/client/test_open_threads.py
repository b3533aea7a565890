from __future__ import annotations

import pytest

from livethread.errors import ThreadNotFound
from livethread.open_threads import OpenThreads

ONE, TWO = "019a93b9-f380-7600-98ff-000000000001", "019a93b9-f380-7600-98ff-000000000002"


def must_not_be_made() -> list[str]:
    raise AssertionError("the thread is open already")


def test_no_thread_is_open_at_first() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()

    assert ONE not in threads
    assert threads.get(ONE) is None
    with pytest.raises(ThreadNotFound, match="create or resume it first"):
        threads.require(ONE)


def test_handles_of_one_thread_share_its_state() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()

    first = threads.open(ONE, list)

    assert threads.open(ONE, must_not_be_made) is first
    assert threads.get(ONE) is threads.require(ONE) is first
    assert ONE in threads
    assert TWO not in threads


def test_a_thread_is_open_until_its_last_handle_is_closed() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()
    first = threads.open(ONE, list)
    threads.open(ONE, must_not_be_made)

    assert not threads.close(ONE)

    assert threads.get(ONE) is first
    assert threads.close(ONE)
    assert ONE not in threads


def test_closing_a_thread_that_is_not_open_does_nothing() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()
    threads.open(TWO, list)

    assert not threads.close(ONE)

    threads.open(ONE, list)
    assert threads.close(ONE)
    assert not threads.close(ONE)
    assert TWO in threads


def test_a_reopened_thread_has_new_state() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()
    first = threads.open(ONE, list)
    threads.close(ONE)

    again = threads.open(ONE, list)

    assert again is not first
    assert threads.close(ONE)  # it has one handle


def test_a_thread_whose_state_could_not_be_made_is_not_open() -> None:
    threads: OpenThreads[list[str]] = OpenThreads()

    with pytest.raises(AssertionError):
        threads.open(ONE, must_not_be_made)

    assert ONE not in threads
    assert not threads.close(ONE)
