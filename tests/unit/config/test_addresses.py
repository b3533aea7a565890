"""When servers ask for a token or a password."""

from __future__ import annotations

import pytest

from livethread_config.addresses import is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.7", "threads.example", "localhost.example", "")),
    ],
)
def test_only_this_machine_is_trusted(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
