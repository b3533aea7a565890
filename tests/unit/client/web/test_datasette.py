"""The plugin in Datasette's own server, over the index of a home."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from datasette.app import Datasette
from tests.nodes.items import append, new_thread, said
from tests.unit.worker.builders import Store

from livethread.web import datasette as plugin
from livethread_config import Settings
from livethread_worker.store import LocalThreadStore

OTHER = "01a22a7c-0503-7d53-89cd-f0d479041e9c"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LIVETHREAD_HOME", "LIVETHREAD_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
async def thread_id(home: Path) -> AsyncIterator[str]:
    """A thread in the home, whose index is complete."""
    async with LocalThreadStore(Settings(home=home)) as store:
        thread_id = await new_thread(store, cwd="/repo")
        await append(store, thread_id, said("Is <b>this</b> safe?"))
        yield thread_id


def serving(*databases: Path, **options: Any) -> Any:
    return Datasette([str(database) for database in databases], **options)


def index_of(home: Path) -> Path:
    return home / "livethread" / "index.sqlite"


async def test_a_table_links_to_a_threads_page(home: Path, thread_id: str) -> None:
    client = serving(index_of(home), settings={"base_url": "/prefix/"}).client

    table = await client.get("/index/threads?_col=thread_id")

    assert f'<a href="/prefix/-/thread/{thread_id}">{thread_id}</a>' in table.text
    page = await client.get(f"/-/thread/{thread_id}")
    assert page.status_code == 200
    assert "Is &lt;b&gt;this&lt;/b&gt; safe?" in page.text


@pytest.mark.parametrize("value", [None, 7, "thread", OTHER.upper()])
def test_nothing_else_is_linked(value: object, home: Path) -> None:
    served = serving(index_of(home), memory=True)

    assert plugin.render_cell(value, "thread_id", "index", served) is None
    assert plugin.render_cell(OTHER, "title", "index", served) is None
    assert plugin.render_cell(OTHER, "thread_id", "_memory", served) is None
    assert plugin.render_cell(OTHER, "forked_from_id", "index", served) is not None


async def test_a_copy_of_an_index_shows_no_threads(home: Path, thread_id: str, tmp_path: Path) -> None:
    copy = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(index_of(home))) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    client = serving(copy).client

    table = await client.get("/index/threads?_col=thread_id")

    assert thread_id in table.text
    assert "/-/thread/" not in table.text
    assert (await client.get(f"/-/thread/{thread_id}")).status_code == 403


async def test_a_missing_thread_is_not_found(home: Path, thread_id: str) -> None:
    client = serving(index_of(home)).client

    assert (await client.get(f"/-/thread/{OTHER}")).status_code == 404
    assert (await client.get("/-/thread/anything")).status_code == 404


async def test_a_thread_is_found_in_the_second_home(home: Path, thread_id: str, tmp_path: Path) -> None:
    Store(tmp_path / "empty").close()

    client = serving(index_of(tmp_path / "empty"), index_of(home)).client

    assert (await client.get(f"/-/thread/{thread_id}")).status_code == 200


ROOT_ALONE: dict[str, Any] = {"id": "root"}
RULES = {
    "the instance": {"allow": ROOT_ALONE},
    "the database": {"databases": {"index": {"allow": ROOT_ALONE}}},
    "the messages": {"databases": {"index": {"tables": {"messages": {"allow": ROOT_ALONE}}}}},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_a_page_needs_the_right_to_see_the_messages(rules: dict[str, Any], home: Path, thread_id: str) -> None:
    served = serving(index_of(home), metadata=rules)
    root = {"ds_actor": served.sign({"a": {"id": "root"}}, "actor")}

    refused = await served.client.get(f"/-/thread/{thread_id}")
    shown = await served.client.get(f"/-/thread/{thread_id}", cookies=root)

    assert (refused.status_code, shown.status_code) == (403, 200)


async def test_a_home_that_cannot_be_read_is_explained(home: Path, thread_id: str) -> None:
    (home / "livethread" / "home.json").write_text('{"id": "1", "key_prefix": "another"}')

    page = await serving(index_of(home)).client.get(f"/-/thread/{thread_id}")

    assert page.status_code == 503
    assert "belongs to the deployment 'another'" in page.text
