"""``livethread browse`` as a person uses it: in a real browser."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nodes.browser import DEADLINE, Browser, chromium
from tests.nodes.processes import ChildProcess
from tests.nodes.waiting import wait_until
from tests.unit.client.web.items import call, event, output, turn

from livethread import CreateThreadParams, LiveThread, ResumeThreadParams, RolloutItem
from livethread_config import Settings
from livethread_worker.embedded.processes import settings_env
from livethread_worker.store import LocalThreadStore

PROGRAM = chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: apt-get install chromium")

INLINE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
LONG = "x" * 300


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A home with one thread of several long turns."""
    return Settings(home=tmp_path / "home", redis_url="redis://127.0.0.1:1", reads="local")


@pytest.fixture
def thread_id(home: Settings) -> str:
    async def write() -> str:
        async with LocalThreadStore(home) as store:
            thread = await LiveThread.create(store, CreateThreadParams(cwd="/repo"), collect_git=False)
            for n in range(6):
                said = (event("agent_message", message=f"answer {n} {line}") for line in range(20))
                await thread.append_items(turn(f"t{n}", f"prompt {n} {INLINE}", *said))
            await thread.append_items(
                turn("last", f"{LONG}\n\n```\n{LONG}\n```", call("c", "shell", command=LONG), ms=None)
            )
            return thread.thread_id

    return asyncio.run(write())


def append(home: Settings, thread_id: str, *items: RolloutItem) -> None:
    async def append() -> None:
        async with LocalThreadStore(home) as store:
            thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread_id))
            await thread.append_items(items)

    asyncio.run(append())


@pytest.fixture
def server(home: Settings, tmp_path: Path) -> Iterator[ChildProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "livethread", "browse"]
    server = ChildProcess(command, settings_env(home) | {"PORT": port}, tmp_path, "browse")
    server.start()
    server.wait_for_log("Threads: http://127.0.0.1")
    yield server
    server.kill()


@pytest.fixture
def page(server: ChildProcess, thread_id: str) -> str:
    return f"http://127.0.0.1:{server.env['PORT']}/threads/{thread_id}"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path / "profile") as browser:
        yield browser


def test_new_items_appear_and_none_is_missed_while_the_server_is_gone(
    browser: Browser, page: str, server: ChildProcess, home: Settings, thread_id: str
) -> None:
    said = "[...document.querySelectorAll('#t-last .agent .text')].map((text) => text.innerText.trim()).join()"
    browser.goto(page)
    browser.wait_for("document.getElementById('live').className === 'on'")
    browser.evaluate("document.querySelector('#t-last .call details').open = true")

    append(home, thread_id, output("c", "done at last"), event("agent_message", message="one"))
    browser.wait_for(f"{said} === 'one'")
    # What the reader unfolded stays unfolded, and the call has its output.
    assert (
        browser.evaluate("document.querySelector('#t-last .call details[open] .output').innerText") == "done at last"
    )

    server.kill()
    browser.wait_for("document.getElementById('live').className === 'off'")
    append(home, thread_id, event("agent_message", message="two"))
    server.start()

    browser.wait_for(f"{said} === 'one,two'")
    append(home, thread_id, event("agent_message", message="three"))
    browser.wait_for(f"{said} === 'one,two,three'")


def test_a_long_thread_opens_at_its_newest_turn(browser: Browser, page: str) -> None:
    browser.goto(page)

    top = browser.wait_for("scrollY > 0 && document.getElementById('t-last').getBoundingClientRect().top")

    assert 0 < top < 900


def test_texts_run_no_scripts_and_nothing_is_refused(browser: Browser, page: str) -> None:
    browser.goto(page)
    browser.evaluate(f"document.querySelector('main').insertAdjacentHTML('beforeend', {json.dumps(INLINE)})")
    # The policy refuses the picture and its handler, and the page itself needs nothing that it refuses.
    wait_until(lambda: browser.evaluate("1") and len(browser.complaints) >= 2, "two refusals", DEADLINE)

    assert browser.evaluate("document.title") != "taken"
    assert ["Content Security Policy" in each for each in browser.complaints] == [True, True]


def test_keys_move_fold_and_turn_the_lights_off(browser: Browser, page: str) -> None:
    browser.goto(page)
    browser.press("g")
    browser.wait_for("scrollY === 0")
    browser.press("j")
    browser.wait_for("document.activeElement.closest('.turn')?.id === 't-t0'")
    browser.press("j")
    browser.wait_for("document.activeElement.closest('.turn')?.id === 't-t1'")
    browser.press("k")
    browser.wait_for("document.activeElement.closest('.turn')?.id === 't-t0'")

    browser.press("t")
    assert browser.evaluate("document.querySelector('.call details').open")
    browser.press("d")
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.goto(page)  # it is remembered
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == dark == "rgb(21, 24, 28)"

    browser.press("/")
    browser.press("j")
    assert browser.evaluate("document.activeElement.value") == "j"


def test_the_system_page_updates_by_itself(browser: Browser, page: str) -> None:
    browser.goto(f"{page.partition('threads/')[0]}system")

    browser.wait_for("document.getElementById('live').className === 'on'")
    browser.evaluate("document.getElementById('status').remove()")  # the next status puts it back

    browser.wait_for("document.querySelector('#status .stuck')?.innerText.includes('Redis does not answer')")
    assert browser.complaints == []


def test_a_phone_shows_every_page_without_scrolling_sideways(browser: Browser, page: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared.html"
    urllib.request.urlretrieve(f"{page}/share.html", shared)

    root = page.partition("threads/")[0]
    for url in (page, shared.as_uri(), root, f"{root}system"):
        browser.goto(url)
        browser.resize(390, 844)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
    assert browser.complaints == []
