from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from tests.unit.client.web.conftest import Deployment, Queue

from livethread import InMemoryThreadStore
from livethread.web.app import create_app
from livethread.web.guard import COOKIE

TOKEN = "long-and-random"
WITH_TOKEN = {"Cookie": f"{COOKIE.format(port=5556)}={TOKEN}"}


@pytest.fixture
def guarded(store: InMemoryThreadStore, queue: Queue, deployment: Deployment) -> TestClient:
    app = create_app(store, queue, deployment, place="/somewhere", token=TOKEN, names={"threads.example"})
    return TestClient(app, base_url="http://10.0.0.1:5556", follow_redirects=False)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:5556", "127.0.0.1", "[::1]:5556", "192.168.1.7:80", "THREADS.example")),
        *(
            (host, 421)
            for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "a:b")
        ),
    ],
)
def test_only_our_host_names_are_answered(guarded: TestClient, host: str, status: int) -> None:
    for path in ("/static/page.js", "/"):
        assert guarded.get(path, headers={"Host": host, **WITH_TOKEN}).status_code == status


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=wrong", "/?token=lång", "/system", "/threads/x/live", "/static/page.js"]
)
def test_nothing_is_shown_without_the_token(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 401


def test_the_token_goes_from_the_address_into_a_cookie(guarded: TestClient) -> None:
    first = guarded.get("/", params={"q": "build & test", "token": TOKEN})

    assert (first.status_code, first.headers["location"]) == (303, "/?q=build+%26+test")
    assert "httponly" in first.headers["set-cookie"].lower()
    assert guarded.get(first.headers["location"]).status_code == 200


def test_two_servers_of_a_host_do_not_log_each_other_out(
    store: InMemoryThreadStore, queue: Queue, deployment: Deployment, guarded: TestClient
) -> None:
    app = create_app(store, queue, deployment, place="/elsewhere", token=TOKEN)
    other = TestClient(app, base_url="http://10.0.0.1:5557", follow_redirects=False)

    answers = [client.get("/", params={"token": TOKEN}) for client in (guarded, other)]

    # A browser sends both cookies to both.
    assert len({name for answer in answers for name in answer.cookies}) == 2


@pytest.mark.parametrize("path", ["/", "/nowhere", "/static/page.css", "/?token=wrong"])
def test_every_answer_forbids_inline_scripts_and_other_hosts(guarded: TestClient, path: str) -> None:
    headers = guarded.get(path, headers={} if "wrong" in path else WITH_TOKEN).headers

    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405
