"""Flower with the shipped configuration, beside a real worker: what its pages say of ordered tasks."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.browser import Browser, chromium
from tests.nodes.items import append, flush, message, new_thread, update
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import wait_until

from livethread import ReadThreadParams, Settings, ThreadMetadataPatch, ThreadParked
from livethread_worker.embedded.deployment_files import deployment_root
from livethread_worker.embedded.processes import settings_env

PROGRAM = chromium()
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: apt-get install chromium")
CONFIG = deployment_root() / "config" / "flowerconfig.py"
APPENDS = 20


COMMAND = (sys.executable, "-P", "-m", "celery", "--quiet", "--app", "livethread_worker.entrypoint", "flower")


def flower(settings: Settings, folder: Path, *options: str, **env: str) -> ChildProcess:
    """Return a Flower that is not yet started, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = [*COMMAND, f"--conf={CONFIG}", *options]
    return ChildProcess(command, {**settings_env(settings), "PORT": port, **env}, folder, "flower")


def get(child: ChildProcess, path: str, form: dict[str, str | int] | None = None, *, login: str = "") -> str:
    """Return a page of Flower, which is sent *form*; "" while it does not listen."""
    body = urllib.parse.urlencode(form).encode() if form else None
    request = urllib.request.Request(f"http://127.0.0.1:{child.env['PORT']}{path}", body)
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as refusal:
        return f"status {refusal.code}"
    except OSError:
        return ""


def tasks(child: ChildProcess, search: str) -> list[dict[str, Any]]:
    """Return the rows of Flower's list for a *search*, the newest first."""
    form: dict[str, str | int] = {
        "draw": 1,
        "start": 0,
        "length": 100,
        "search[value]": search,
        "order[0][column]": 0,
    }
    form |= {"order[0][dir]": "desc", "columns[0][data]": "received"}
    answer = get(child, "/tasks/datatable", form)
    rows: list[dict[str, Any]] = json.loads(answer)["data"] if answer else []
    return rows


@dataclass
class Watched:
    """A Flower that has received what happened to two threads."""

    flower: ChildProcess
    thread_id: str
    #: A thread with a task that cannot be applied.
    parked: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.flower.env['PORT']}"


async def write(settings: Settings) -> tuple[str, str]:
    async with opened(settings) as store:
        thread_id, parked = await new_thread(store), await new_thread(store)
        # Together, so that many of them get one millisecond.
        await asyncio.gather(*(append(store, thread_id, *[message(f"{n}")] * (n + 1)) for n in range(APPENDS)))
        await update(store, thread_id, ThreadMetadataPatch(name="named"))
        await append(store, parked, message("before"))
        await asyncio.gather(flush(store, thread_id), flush(store, parked))
        path = (await store.read_thread(ReadThreadParams(thread_id=parked))).rollout_path
        assert path is not None
        path.rename(path.with_suffix(".away"))
        await append(store, parked, message("secret"))
        with pytest.raises(ThreadParked):
            await flush(store, parked)
        return thread_id, parked


@pytest.fixture(scope="module")
def watched(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    settings = Settings(redis_url=redis_server.url, home=folder / "home", key_prefix="flowered", reads="local")
    with ExitStack() as stack:
        worker, child = worker_process(settings, folder, "worker.1"), flower(settings, folder)
        for process in (worker, child):
            process.start()
            stack.callback(process.kill)
        worker.wait_for_log(READY)
        wait_until(lambda: "flower_worker_online{" in get(child, "/metrics"), "the worker in Flower")
        thread_id, parked = asyncio.run(write(settings))
        wait_until(lambda: tasks(child, f"kwargs:thread={parked} state:FAILURE"), "the failure in Flower")
        wait_until(lambda: len(tasks(child, f"kwargs:thread={thread_id} state:SUCCESS")) == APPENDS + 2, "the tasks")
        yield Watched(child, thread_id, parked)


def test_an_ordered_task_shows_its_size_and_its_position_before_the_thread(watched: Watched) -> None:
    rows = tasks(watched.flower, f"kwargs:thread={watched.thread_id} name:livethread.append_items")

    shown = [re.fullmatch(r"(\d+) items?, ([\d,]+) B at \d+-\d+ of (\S+)", row["kwargs"]) for row in rows]
    assert all(shown), rows
    assert {match[3] for match in shown if match} == {watched.thread_id}
    assert sorted(int(match[1]) for match in shown if match) == list(range(1, APPENDS + 1))
    assert {(row["name"], row["state"], row["result"]) for row in rows} == {("append_items", "SUCCESS", "durable")}


def test_tasks_are_listed_in_the_order_of_their_positions(watched: Watched) -> None:
    rows = tasks(watched.flower, f"kwargs:thread={watched.thread_id}")

    found = [re.search(r"at (\d+)-(\d+) of", row["kwargs"]) for row in rows]
    positions = [(int(match[1]), int(match[2])) for match in found if match]
    assert len(positions) == APPENDS + 2
    assert positions == sorted(positions, reverse=True)


def test_a_failed_task_shows_its_reason_in_the_list_and_all_of_it_on_its_page(watched: Watched) -> None:
    [row] = tasks(watched.flower, "state:FAILURE")

    assert row["result"].startswith("ThreadNotFound: not found: ")
    assert f"ThreadNotFound: thread {watched.parked} not found: " in get(watched.flower, f"/task/{row['uuid']}")


def test_the_page_of_a_worker_counts_ordered_tasks(watched: Watched) -> None:
    [row] = tasks(watched.flower, "state:FAILURE")

    page = get(watched.flower, f"/worker/{row['worker']}")

    counts = dict(re.findall(r"<td>(livethread\.\w+)</td>\s*<td>(\d+)</td>", page))
    assert counts.pop("livethread.drain").isdigit()
    assert (counts["livethread.create_thread"], counts["livethread.update_thread_metadata"]) == ("2", "1")
    assert counts["livethread.append_items"] == f"{APPENDS + 2}"


@needs_chromium
def test_the_list_fits_1280_pixels_and_says_that_it_may_be_a_sample(watched: Watched, tmp_path: Path) -> None:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path / "profile") as browser:
        browser.resize(1280, 800)
        for search in ("", "?state=FAILURE"):
            browser.goto(f"{watched.url}/tasks{search}")
            browser.wait_for("document.querySelectorAll('#tasks-table tbody a').length")
            body = "document.querySelector('.dataTables_scrollBody')"
            assert browser.evaluate(f"{body}.scrollWidth - {body}.clientWidth") == 0
        note = browser.evaluate("document.querySelector('#sampled').innerText")
        reason = browser.evaluate("document.querySelector('#tasks-table tbody').innerText")

    assert note == (
        "Each worker process reports at most 500 ordered tasks a second; above that, this list shows a sample. "
        "For totals, run livethread status or read livethread metrics."
    )
    assert "ThreadNotFound: not found: " in reason


# -- login ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [(), ("--address=0.0.0.0",)], ids=["variable", "command line"])
def test_outside_of_this_machine_flower_asks_for_a_password_that_it_prints(
    settings: Settings, tmp_path: Path, option: tuple[str, ...]
) -> None:
    child = flower(settings, tmp_path, *option, **({} if option else {"FLOWER_ADDRESS": "0.0.0.0"}))
    child.start()
    try:
        wait_until(lambda: get(child, "/healthcheck") == "OK", "Flower")
        [password] = re.findall(r"the user livethread and the password (\S+)", child.logs())
        pages = [get(child, "/tasks", login=login) for login in ("", "livethread:x", f"livethread:{password}")]
        api = get(child, "/api/workers")
    finally:
        child.kill()

    assert pages[:2] == ["status 401", "status 401"]
    assert "sampled" in pages[2]
    assert api == "status 401"


def test_a_login_of_ones_own_counts(settings: Settings, tmp_path: Path) -> None:
    child = flower(settings, tmp_path, FLOWER_ADDRESS="0.0.0.0", FLOWER_BASIC_AUTH="me:secret")
    child.start()
    try:
        wait_until(lambda: get(child, "/healthcheck") == "OK", "Flower")
        pages = [get(child, "/tasks", login=login) for login in ("", "me:secret")]
    finally:
        child.kill()

    assert pages[0] == "status 401"
    assert "sampled" in pages[1]
    assert "password" not in child.logs()


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "variable"])
def test_a_misspelt_option_is_refused_by_name(settings: Settings, tmp_path: Path, place: str) -> None:
    config, env = tmp_path / "flowerconfig.py", settings_env(settings)
    text = CONFIG.read_text(encoding="utf-8")
    if place == "file":
        config.write_text(text.replace("persistent = False", 'basic_auht = ["me:secret"]'), encoding="utf-8")
    else:
        config.write_text(text, encoding="utf-8")
        env |= {"FLOWER_BASIC_AUHT": "me:secret", "FLOWER_SERVICE_HOST": "10.0.0.1"}

    ended = subprocess.run(
        [*COMMAND, f"--conf={config}"], env=env, capture_output=True, text=True, timeout=60, check=False
    )

    names = ("basic_auht", "basic_auth") if place == "file" else ("FLOWER_BASIC_AUHT", "FLOWER_BASIC_AUTH")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [f"{config}: Flower has no option {names[0]}; did you mean {names[1]}?"]
