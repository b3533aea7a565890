"""Codex and livethread find the same threads by the same terms."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import Turn, begin
from tests.codex.ours import found
from tests.nodes.literals import FOUND, TEXTS

from livethread import SearchMatch, Settings
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
