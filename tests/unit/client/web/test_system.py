"""The system page."""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest
from starlette.testclient import TestClient
from tests.nodes.statuses import NOW, THREAD, facts, shard, waits
from tests.unit.client.web.conftest import Deployment, Queue
from tests.unit.client.web.test_pages import ATTACKS, Elements

from livethread import InMemoryThreadStore
from livethread.status.facts import Facts
from livethread.status.findings import Finding, Sentence
from livethread.web import system
from livethread.web.app import create_app
from livethread.web.system import follow


def test_the_page_says_how_it_is_and_what_to_do(client: TestClient, deployment: Deployment) -> None:
    deployment.facts = facts(shard(95), longest=(waits(95), waits(95, tasks=1)))

    html = client.get("/system").text

    assert "BEHIND: workers are behind: 30 unapplied tasks, the oldest for 95 s" in html
    assert Sentence.BEHIND.advice in html
    assert "<dt>Redis memory</dt><dd>47 MB of 1.0 GB</dd>" in html
    assert f"/threads/{THREAD}" in Elements(html).links()
    assert "95 s · 3 tasks" in html
    assert "95 s · 1 task<" in html


def test_every_page_links_to_it_and_it_links_to_flower(client: TestClient) -> None:
    assert "/system" in Elements(client.get("/").text).links()
    assert "http://127.0.0.1:5555/" in Elements(client.get("/system").text).links()


def test_without_an_address_of_flower_there_is_no_link(store: InMemoryThreadStore, queue: Queue) -> None:
    client = TestClient(create_app(store, queue, Deployment(), place="here"), base_url="http://localhost")

    assert "Flower" not in client.get("/system").text


def test_the_page_is_there_without_redis(client: TestClient, deployment: Deployment) -> None:
    deployment.facts = Facts(NOW, "here", silence=Finding(Sentence.REDIS_AWAY, "it timed out"))

    answer = client.get("/system")

    assert (answer.status_code, "Redis does not answer: it timed out" in answer.text) == (200, True)


@pytest.mark.parametrize("text", ATTACKS)
def test_a_reason_cannot_change_the_page(client: TestClient, deployment: Deployment, text: str) -> None:
    deployment.facts = facts(shard(95, parked_threads=1), longest=(waits(95, reason=text, is_parked=True),))

    html = client.get("/system").text
    found = Elements(html).found

    assert "alert(1)" in html or "example.com" in html
    assert {tag for tag, _ in found}.isdisjoint({"iframe", "svg", "img", "object"})
    assert [attributes for tag, attributes in found if tag == "script"] == [{"src": "/static/page.js", "defer": None}]


async def test_an_open_page_gets_the_status_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "INTERVAL", 0)
    deployment = Deployment()
    async with aclosing(follow(deployment, lambda: False)) as events:
        retry, well = await anext(events), await anext(events)
        deployment.facts = facts(shard(95))
        behind = await anext(events)

    assert retry == "retry: 1000\n\n"
    for event, state in ((well, "WELL"), (behind, "BEHIND")):
        [[name, parent, html]] = json.loads(event.removeprefix("data: "))
        assert (name, parent) == ("status", "system")
        assert f">{state}: " in html
        assert Elements(html).found[0] == ("section", {"id": "status"})


async def test_a_server_that_stops_ends_its_streams() -> None:
    assert [event async for event in follow(Deployment(), lambda: True)] == ["retry: 1000\n\n"]
