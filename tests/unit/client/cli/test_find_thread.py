"""A thread is named by its id, the beginning of one, or its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.nodes.items import said, update
from tests.store_spec.operations import archive, stored

from livethread import InvalidRequest, Settings, ThreadMetadataPatch, ThreadNotFound
from livethread.cli.find_thread import find_thread
from livethread_worker.store import LocalThreadStore

FIRST, SECOND = "fade0000-0000-7000-8000-000000000001", "fade0001-0000-7000-8000-000000000002"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalThreadStore]:
    async with LocalThreadStore(Settings(home=tmp_path, redis_url=None)) as store:
        await stored(store, said("Fix the build"), thread_id=FIRST)
        await stored(store, thread_id=SECOND, name="Release 1")
        await archive(store, SECOND)
        yield store


@pytest.mark.parametrize(
    ("text", "thread_id"),
    [
        (FIRST, FIRST),
        (FIRST.upper(), FIRST),
        ("fade0000", FIRST),
        ("FADE0001-", SECOND),
        ("Release 1", SECOND),
    ],
)
async def test_a_thread_is_found(store: LocalThreadStore, text: str, thread_id: str) -> None:
    assert (await find_thread(store, text)).thread_id == thread_id


@pytest.mark.parametrize(
    "text", ["fade0002", "fad", "release 1", "Release", "Fix the build", FIRST.replace("1", "2")]
)
async def test_what_no_thread_is_called_is_not_found(store: LocalThreadStore, text: str) -> None:
    with pytest.raises(ThreadNotFound, match=text):
        await find_thread(store, text)


async def test_an_empty_text_is_refused(store: LocalThreadStore) -> None:
    with pytest.raises(InvalidRequest, match="the text is empty"):
        await find_thread(store, " ")


async def test_of_many_threads_a_refusal_says_that_there_are_more(store: LocalThreadStore) -> None:
    ids = [f"{FIRST[:-1]}{n}" for n in range(2, 7)]
    for thread_id in ids[:-1]:
        await stored(store, thread_id=thread_id)
    with pytest.raises(InvalidRequest, match=r"\(nothing was asked\)$"):
        await find_thread(store, "fade0000")

    await stored(store, thread_id=ids[-1])
    with pytest.raises(InvalidRequest, match=r"\(nothing was asked\), … and more$"):
        await find_thread(store, "fade0000")


async def test_what_may_mean_several_threads_is_refused_with_all_of_them(store: LocalThreadStore) -> None:
    both = f"write more of the id: .*{FIRST} \\(nothing was asked\\), {SECOND} \\(Release 1\\)"
    with pytest.raises(InvalidRequest, match=both):
        await find_thread(store, "fade")

    await update(store, SECOND, ThreadMetadataPatch(name="fade0000"))
    with pytest.raises(InvalidRequest, match="fade0000 may mean several threads"):
        await find_thread(store, "fade0000")
