"""Codex and livethread find the same threads by the same terms."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import Turn, begin
from tests.codex.model_server import ModelServer
from tests.codex.ours import found, go_on
from tests.nodes.items import read
from tests.nodes.literals import FOUND, TEXTS

from livethread import SearchMatch, SearchOccurrencesParams, Settings, ThreadReader
from livethread_worker.store import LocalThreadStore


@pytest.mark.parametrize("is_asked", [True, False], ids=["in questions", "in answers"])
async def test_the_same_threads_are_found(codex: Codex, serve: Serve, home: Path, is_asked: bool) -> None:
    if codex.version < (0, 169):
        pytest.skip("codex 0.138 finds text by its escaped form alone")
    async with LocalThreadStore(Settings(home=home)) as store:
        ids = []
        for n, text in enumerate(TEXTS):
            said = (text, "zz") if is_asked else ("zz", text)
            live = await begin(store, Turn(f"turn-{n}", *said), cwd="/")
            await live.shutdown()
            ids.append(live.thread_id)
        ours = {term: sorted(map(ids.index, await found(store, term, match=SearchMatch.LITERAL))) for term in FOUND}
    async with serve(home) as server:
        theirs = {term: sorted(map(ids.index, await server.found(term))) for term in FOUND}

    assert ours == FOUND
    assert theirs == FOUND


OCCURRENCES = {
    "foo": 8,
    "FOO": 8,
    "ofo": 3,
    "foofoo": 1,
    "🎉 f": 1,
    "δος": 1,
    "->": 1,
    "y": 60,
    "none": 0,
}


async def test_the_same_occurrences_are_found_in_a_paginated_thread(
    codex: Codex, serve: Serve, model: ModelServer, home: Path
) -> None:
    """Codex 0.171 does so in paginated threads, in questions and in each turn's last answer, without its Markdown."""
    if codex.version < (0, 171):
        pytest.skip("codex before 0.171 finds no occurrences")
    turns = [
        Turn("turn-a", "foo bar 🎉 Foo", "aFOOb foofoo ofoofo"),
        Turn("turn-b", "Über ΟΔΟΣ", "one foo, and -> two"),
        Turn("turn-c", "no", "z" * 50 + "foo" + "y" * 60),
    ]
    model.answers.append("begun")
    async with serve(home) as server:
        thread_id = (await server.call("thread/start", cwd=str(home)))["thread"]["id"]
        await server.run_turn(thread_id, "begin")
    async with LocalThreadStore(Settings(home=home)) as store:
        thread = await read(store, thread_id)
        assert thread.history_mode == "paginated"
        for turn in turns:
            live = await go_on(store, thread, turn)
            await live.shutdown()
        ours = {term: await occurrences(store, thread_id, term) for term in OCCURRENCES}
    async with serve(home) as server:
        await server.call("thread/resume", threadId=thread_id, excludeTurns=True)
        theirs = {term: await server.occurrences(thread_id, term) for term in OCCURRENCES}

    assert ours == theirs
    assert {term: len(places) for term, places in ours.items()} == OCCURRENCES


async def occurrences(store: ThreadReader, thread_id: str, term: str) -> list[tuple[str, str, str]]:
    """Return the turn of each occurrence, the occurrence as it is written, and up to 20 characters before it."""
    page = await store.search_occurrences(
        SearchOccurrencesParams(thread_id=thread_id, search_term=term, page_size=1000)
    )
    return [
        (each.turn_id, each.snippet[each.start : each.end], each.snippet[max(0, each.start - 20) : each.start])
        for each in page.items
    ]
