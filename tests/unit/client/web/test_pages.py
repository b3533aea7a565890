from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.client.web.conftest import Queue
from tests.unit.client.web.items import call, event, message, output, turn

from livethread import GitInfo, HomesUnavailable, InMemoryThreadStore
from livethread.errors import SilentHome
from livethread.web import transcript

Write = Callable[..., str]

#: What a text could do to a page that trusted it.
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "[click](javascript:alert(1)) [or](data:text/html,x) [or](vbscript:x)",
    "![](https://example.com/spy.png)",
    "</style></pre></details><iframe src=//example.com>",
)


class Elements(HTMLParser):
    """The elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.found if "id" in attributes]

    def links(self) -> list[str]:
        return [attributes.get("href") or "" for tag, attributes in self.found if tag == "a"]


def test_a_thread_is_shown_with_its_turns(client: TestClient, write: Write) -> None:
    thread_id = write(
        *turn("t1", "Fix the **build**", call("c", "shell", command="make"), output("c", "ok"), ms=65_000),
        *turn("t2", "Thanks", event("turn_aborted", turn_id="t2", reason="interrupted"), ms=None),
        cwd="/repo",
    )

    html = client.get(f"/threads/{thread_id}").text

    assert "<strong>build</strong>" in html
    assert "<b>shell</b> <code>make</code>" in html
    assert "65 s" in html
    assert '<strong class="interrupted">interrupted</strong>' in html
    assert {"t-t1", "t-t2", "b-t1-1", "b-t1-2"} <= set(Elements(html).ids())
    assert f"/threads/{thread_id}?turn=t1#b-t1-2" in Elements(html).links()


@pytest.mark.parametrize("path", ["/threads/{}", "/threads/{}/share.html", "/", "/?q=e&words="])
@pytest.mark.parametrize("text", ATTACKS)
def test_a_text_cannot_change_the_page(client: TestClient, write: Write, queue: Queue, text: str, path: str) -> None:
    thread_id = write(
        *turn(
            text,
            text,
            *(event(kind, message=text, text=text, reason=text) for kind in ("agent_message", "agent_reasoning", "error")),
            call(text, text, command=text),
            output(text, text),
            call("c2", "apply_patch", input=text),
            message("developer", text),
            event(text, value=text),
        ),
        cwd=text,
        agent_nickname=text,
        source={"custom": text},
        git=GitInfo(branch=text),
    )  # fmt: skip
    queue.parked_threads[thread_id] = text

    html = client.get(path.format(thread_id)).text
    found = Elements(html).found

    assert "alert(1)" in html or "example.com" in html
    assert {tag for tag, _ in found}.isdisjoint({"iframe", "svg", "img", "object"})
    assert [attributes for tag, attributes in found if tag == "script"] == (
        [] if path.endswith("share.html") else [{"src": "/static/page.js", "defer": None}]
    )
    assert not [attributes for _, attributes in found if any(name.startswith("on") for name in attributes)]
    assert not [link for link in Elements(html).links() if re.match(r"(?i)\s*(javascript|data|vbscript):", link)]


def test_a_search_for_html_stays_text(client: TestClient, write: Write) -> None:
    thread_id = write(*turn("t1", "a <b>bold</b> claim"))

    for path in ("/", f"/threads/{thread_id}"):
        html = client.get(path, params={"q": "<b>bold</b>"}).text
        assert "<mark>&lt;b&gt;bold&lt;/b&gt;</mark>" in html


def test_a_long_thread_shows_its_newest_turns_and_leads_to_the_others(client: TestClient, write: Write) -> None:
    count = 2 * transcript.TURNS + 5
    thread_id = write(*(item for n in range(count) for item in turn(f"t{n}", f"prompt {n}")))
    seen: list[str] = []
    path = f"/threads/{thread_id}"
    while path:
        page = Elements(client.get(path).text)
        shown = [name for name in page.ids() if name.startswith("t-")]
        seen = shown + seen
        earlier = [attributes["href"] for tag, attributes in page.found if attributes.get("rel") == "prev"]
        path = f"/threads/{thread_id}{earlier[0]}" if earlier else ""

    assert seen == [f"t-t{n}" for n in range(count)]


def test_a_link_to_an_old_message_leads_to_its_page(client: TestClient, write: Write) -> None:
    thread_id = write(*(item for n in range(60) for item in turn(f"t{n}", f"prompt {n}")))
    newest = Elements(client.get(f"/threads/{thread_id}").text)
    (link,) = (link for link in newest.links() if link.endswith("#t-t3"))

    page = client.get(f"/threads/{thread_id}{link}").text

    assert "b-t3-1" in Elements(page).ids()
    assert "data-live" not in page


def test_a_link_to_a_missing_turn_is_not_found(client: TestClient, write: Write) -> None:
    thread_id = write(*turn("t1", "hello"))

    answer = client.get(f"/threads/{thread_id}?turn=t9")

    assert (answer.status_code, "it has no turn t9" in answer.text) == (404, True)


def test_messages_without_turns_are_shown(client: TestClient, write: Write) -> None:
    thread_id = write(message("user", "What is 2 + 2?"), message("assistant", "Four."))

    html = client.get(f"/threads/{thread_id}").text

    assert "What is 2 + 2?" in html
    assert "Four." in html


def test_a_thread_leads_to_its_parent_and_its_children(client: TestClient, write: Write) -> None:
    parent = write(*turn("t1", "root"))
    child = write(*turn("t1", "leaf"), parent_thread_id=parent, thread_source="subagent")

    assert f"/threads/{child}" in Elements(client.get(f"/threads/{parent}").text).links()
    assert f"/threads/{parent}" in Elements(client.get(f"/threads/{child}").text).links()


def test_the_raw_items_are_json_lines(client: TestClient, write: Write) -> None:
    thread_id = write(*turn("t1", "one"), *turn("t2", "två"))

    def kinds(query: str) -> list[str]:
        lines = client.get(f"/threads/{thread_id}/items.jsonl{query}").text.splitlines()
        return [json.loads(line)["payload"].get("type", "meta") for line in lines]

    each = ["task_started", "user_message", "task_complete"]
    assert kinds("") == ["meta", *each, *each]
    assert kinds("?turn=t2") == each


def test_a_shared_file_needs_nothing_else(client: TestClient, write: Write) -> None:
    thread_id = write(*(item for n in range(30) for item in turn(f"t{n}", f"prompt {n}")))

    answer = client.get(f"/threads/{thread_id}/share.html")
    page = Elements(answer.text)

    assert answer.headers["content-disposition"] == f'attachment; filename="{thread_id}.html"'
    assert {f"t-t{n}" for n in range(30)} <= set(page.ids())
    assert {link[:1] for link in page.links()} == {"#"}
    assert not [tag for tag, attributes in page.found if tag in ("link", "script") or "src" in attributes]


def test_a_running_turn_is_in_progress_while_a_client_has_the_thread_open(
    client: TestClient, write: Write, queue: Queue
) -> None:
    thread_id = write(*turn("t1", "go", ms=None))
    closed = client.get(f"/threads/{thread_id}").text
    queue.open_threads.add(thread_id)

    opened = client.get(f"/threads/{thread_id}").text

    assert '<strong class="interrupted">' in closed
    assert '<strong class="in_progress">' in opened


def test_a_parked_thread_says_why(client: TestClient, write: Write, queue: Queue) -> None:
    thread_id = write(*turn("t1", "go"))
    queue.parked_threads[thread_id] = "No space left on device"

    assert "No space left on device" in client.get(f"/threads/{thread_id}").text


@pytest.mark.parametrize("path", ["/", "/?q=go", "/?q=go&words=1", "/threads/{}"])
def test_a_silent_home_is_named_beside_what_the_others_have(
    client: TestClient, store: InMemoryThreadStore, write: Write, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    thread_id = write(*turn("t1", "go"))
    silent = SilentHome("h2", "far", (1,), "<no worker>")

    def partial(read: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(params: Any) -> Any:
            if not params.allow_partial:
                raise HomesUnavailable([silent])
            return (await read(params)).model_copy(update={"unanswered": (silent,)})

        return answer

    for name in ("list_threads", "search_threads"):
        monkeypatch.setattr(store, name, partial(getattr(store, name)))

    html = client.get(path.format(thread_id)).text

    assert (html.count("home h2 on host far (shards: 1): &lt;no worker&gt;"), thread_id in html) == (1, True)


def test_without_any_home_the_list_is_unavailable(
    client: TestClient, store: InMemoryThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise HomesUnavailable([SilentHome("h1", "far", (0,), "no worker")])

    monkeypatch.setattr(store, "list_threads", fail)

    assert client.get("/").status_code == 503


#: The id of no thread; the names of tests must be the same in each process of pytest-xdist.
UNKNOWN = "01a22a07-a09a-7a27-9fdf-e5d965a7e491"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/threads/{UNKNOWN}", 404),
        (f"/threads/{UNKNOWN}/share.html", 404),
        (f"/threads/{UNKNOWN}/items.jsonl", 404),
        ("/threads/none", 400),
        ("/?cursor=none", 400),
        ("/nowhere", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/static/..%2fapp.py", 404),
        ("/static//etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_an_error(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


@pytest.mark.parametrize("place", ["", "x", "~-1", "~201", pytest.param("~" + "9" * 5_000, id="digits"), "~x"])
def test_changes_begin_at_a_place(client: TestClient, store: InMemoryThreadStore, write: Write, place: str) -> None:
    thread_id = write(*turn("t1", "hello"))

    assert client.get(f"/threads/{thread_id}/live", params={"after": place}).status_code == 400
