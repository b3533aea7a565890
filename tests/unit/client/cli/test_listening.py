"""Where the commands that serve pages listen."""

from __future__ import annotations

import socket

import pytest

from livethread.cli.listening import listening_errors_translated, url
from livethread.errors import Unavailable


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"127\.0\.0\.1, port {port}: .+; --port names another port"

        with pytest.raises(Unavailable, match=message), listening_errors_translated("127.0.0.1", port):
            socket.create_server(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", "http://127.0.0.1:5557/"), ("::1", "http://[::1]:5557/")]
)
def test_the_address_is_one_that_browsers_take(host: str, expected: str) -> None:
    assert url(host, 5557) == expected
